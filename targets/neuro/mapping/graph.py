"""The spiking program as a graph: what is computed, and what travels between the operations.

Nodes are typed dataclasses; edges carry a :class:`Traffic`. A linear layer is an ``Encode`` (membrane to
spikes, with the vector arithmetic before it), an ``Accumulate`` (spikes meet synapses) and a ``Readout``
(thresholds and weight scales turn sums into values).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import networkx as nx

from sdc.errors import TargetError
from sdc.ir.coding import time_steps
from sdc.ir.model import Coding

__all__ = ["Accumulate", "Attention", "Encode", "Op", "Readout", "SpikeGraph", "Traffic", "Vector"]


@dataclass(frozen=True)
class Encode:
    """Values to spikes: normalise, Hadamard, threshold, count.

    Attributes:
        width: Channels.
        levels, coding, group: As in :class:`sdc.ir.model.Encoding`; ``group`` is explicit and divides
            ``width``.
        spikes_per_neuron: Expected spikes of one channel for one token.
        ops_per_channel: Additions and multiplications of one channel (norm, Hadamard, division by theta).
        whole_row: A statistic of all channels is needed (root mean square, or one threshold per token).
        block: Channels that must stay on one core because a Hadamard block mixes them.
    """

    name: str
    layer: int
    width: int
    levels: int
    coding: Coding
    group: int
    spikes_per_neuron: float
    ops_per_channel: float = 8.0
    whole_row: bool = False
    block: int = 1

    @property
    def units(self) -> int:
        """Channels of the output."""
        return self.width

    @property
    def steps(self) -> int:
        """Time steps T of one train."""
        return time_steps(self.coding, self.levels)


@dataclass(frozen=True)
class Accumulate:
    """Spikes of ``width`` channels meet the synapses of ``rows`` neurons.

    Attributes:
        weight_bits: Bits of one weight.
        group: Input channels that share a threshold: each neuron has ``width / group`` accumulators.
    """

    name: str
    layer: int
    rows: int
    width: int
    weight_bits: int
    group: int

    @property
    def units(self) -> int:
        """Neurons."""
        return self.rows

    @property
    def synapses(self) -> int:
        """Weights."""
        return self.rows * self.width


@dataclass(frozen=True)
class Readout:
    """Sums times threshold and weight scale, groups ascending: float32 values of ``rows`` neurons."""

    name: str
    layer: int
    rows: int
    groups: int

    @property
    def units(self) -> int:
        """Neurons."""
        return self.rows


@dataclass(frozen=True)
class Attention:
    """Rotary embedding, KV cache, and both attention products as spikes.

    Attributes:
        context: Tokens in the cache for which time and energy are estimated.
        max_seq: Tokens for which memory is reserved.
        query_spikes: Spikes of one query channel.
        probability_spikes: Spikes of one probability (one head, one key).
        query_steps, probability_steps: Time steps of their trains.
        kv_bits: Bits of a stored key or value count.
    """

    name: str
    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    max_seq: int
    query_spikes: float
    probability_spikes: float
    query_steps: int
    probability_steps: int
    kv_bits: int = 8

    @property
    def units(self) -> int:
        """Channels of the output."""
        return self.heads * self.head_dim

    @property
    def synops(self) -> float:
        """Spikes times stored counts that they meet, for one token."""
        per_key = self.head_dim * (self.query_spikes + self.probability_spikes)
        return self.heads * self.context * per_key

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes that one token of one KV head takes: key, value and their two float32 thresholds."""
        return 2 * self.head_dim * self.kv_bits // 8 + 8


@dataclass(frozen=True)
class Vector:
    """Values to values: an embedding look-up, an element-wise operation, the choice of the next token.

    Attributes:
        external_bytes: Read from outside the cores for every token (the row of an embedding table).
    """

    name: str
    layer: int
    width: int
    ops_per_channel: float = 1.0
    external_bytes: int = 0

    @property
    def units(self) -> int:
        """Channels of the output."""
        return self.width


Op = Encode | Accumulate | Readout | Attention | Vector


@dataclass(frozen=True)
class Traffic:
    """What travels from a producer to a consumer for every token.

    Attributes:
        kind: ``spikes``; ``sums`` (accumulators to their readout, on the same core); ``values`` (float32
            words); ``summary`` (two words of each producing core: its largest value and where).
        parts: Slices (offset, length) of the producer's channels. Each is spread evenly over the consumer's
            inputs, so the consumer's share [a, b) of its inputs reads [offset + a * length, offset + b *
            length).
    """

    kind: Literal["spikes", "sums", "values", "summary"]
    parts: tuple[tuple[int, int], ...]


@dataclass
class SpikeGraph:
    """Operations in execution order, with their traffic.

    Attributes:
        name: What the graph was built from.
        net: networkx DiGraph; node attribute ``op``, edge attribute ``traffic``.
    """

    name: str
    net: nx.DiGraph = field(default_factory=nx.DiGraph)

    def add(self, op: Op) -> str:
        """Adds an operation; returns its name.

        Raises:
            ValueError: The name is taken.
        """
        if op.name in self.net:
            raise ValueError(f"two operations are called {op.name!r}")
        self.net.add_node(op.name, op=op)
        return op.name

    def connect(
        self,
        producer: str,
        consumer: str,
        kind: Literal["spikes", "sums", "values", "summary"] = "values",
        parts: tuple[tuple[int, int], ...] | None = None,
    ) -> None:
        """Adds an edge; by default all channels of the producer, in order."""
        whole = ((0, self.op(producer).units),)
        self.net.add_edge(producer, consumer, traffic=Traffic(kind, parts or whole))

    def op(self, name: str) -> Op:
        """The operation of a node."""
        op: Op = self.net.nodes[name]["op"]
        return op

    def traffic(self, producer: str, consumer: str) -> Traffic:
        """What travels along an edge."""
        traffic: Traffic = self.net.edges[producer, consumer]["traffic"]
        return traffic

    @property
    def ops(self) -> list[Op]:
        """All operations, producers first; ties in the order of adding.

        Raises:
            TargetError: The graph has a cycle.
        """
        order = {name: i for i, name in enumerate(self.net)}
        try:
            names = list(nx.lexicographical_topological_sort(self.net, key=order.__getitem__))
        except nx.NetworkXUnfeasible:
            raise TargetError(f"{self.name}: the operations depend on each other in a circle") from None
        return [self.op(name) for name in names]

    def edges(self) -> Iterator[tuple[str, str, Traffic]]:
        """Producer, consumer and traffic of every edge."""
        for producer, consumer, data in self.net.edges(data=True):
            yield producer, consumer, data["traffic"]

    @property
    def synapses(self) -> int:
        """Weights of all Accumulate operations."""
        return sum(op.synapses for op in self.ops if isinstance(op, Accumulate))

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return 1 + max((op.layer for op in self.ops), default=-1)
