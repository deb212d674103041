"""Where a model goes whose weights do not fit into the cores: caches stay, weights come from outside.

Cores have one of three duties. Vector cores and the cores of attentions hold what lives on between tokens,
each for several layers. The others hold weights: each works off tiles of many layers in turn, and as soon as
it has sent a tile's results, it loads its next tile, while other cores are at work on the layers between.
Tiles are dealt out in turn, so that successive layers lie on different cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sdc.errors import TargetError
from sdc.targets.neuro.codegen.linear import SynapticLayer, Tile
from sdc.targets.neuro.machine import Grid, Machine
from sdc.targets.neuro.mapping.from_model import layer_of
from sdc.targets.neuro.mapping.graph import Attention, Encode
from sdc.targets.neuro.mapping.tiles import Partition
from sdc.targets.neuro.place.curve import curves

__all__ = ["StreamedPlacement"]

WORD = 4
LEAST_ROWS = 64
"""Outputs below which another core for a layer is not worth its share of the spikes."""
SHARE = 4
"""A layer takes at most one in so many of the weight cores, where it fits: the others load meanwhile."""


class StreamedPlacement:
    """Cores by duty.

    Args:
        partition: Of the module's own spike graph; only its operations matter.

    Raises:
        TargetError: The cores do not even suffice for what must stay; needed and available are named.
    """

    def __init__(self, partition: Partition, machine: Machine) -> None:
        self.synapse_bytes = machine.core.synapse_memory_bytes
        self.external, self.streamed = True, True
        self._machine = machine
        self._order: Iterator[int] = iter(_compact(machine))
        self._taken = 0
        self._vectors = {layer: self._next() for layer in _stretches(partition)}
        self._shared: dict[tuple[int, int], tuple[int, int]] = {}  # duty: (core, bytes left)
        self._heads = {op.name: self._attention(op) for op in partition.ops if isinstance(op, Attention)}
        self._tables = [self._next() for _ in range(self._table_cores(partition))]
        left = machine.board.cores - self._taken
        if left < 1:
            raise TargetError(
                f"{machine.name}: vector operations and caches take {self._taken:,} cores of "
                f"{machine.board.cores:,}, and weights that are streamed need some too; "
                "a smaller --max-seq makes caches smaller"
            )
        self._weights = [self._next() for _ in range(left)]
        self._turn = 0

    def vector(self, layer: str) -> int:
        """One core for all stretches of a decoder layer."""
        return self._vectors[layer_of(layer, -1)]

    def stored_bits(self, bits: int) -> int:
        """The narrowest format of the machine that holds them."""
        return self._machine.core.stored_bits(bits)

    def attention(self, name: str, kv_heads: int, cores: int) -> Sequence[Sequence[int]]:
        """The cores of an attention, which they share with those of other layers."""
        heads = self._heads[name]
        if len(heads) != kv_heads or any(len(own) != cores for own in heads):
            raise TargetError(f"{name}: {kv_heads} heads of {cores} cores, planned were {heads}")
        return heads

    def tiles(self, layer: SynapticLayer) -> Sequence[Tile]:
        """Rows of a layer on as many weight cores as they need, and some more where that is faster.

        Raises:
            TargetError: All weight cores together are too small for this one layer.
        """
        rows, width = layer.weight.shape
        height = self._height(layer)
        most = len(self._weights)
        count = max(-(-rows // max(height, 1)), min(most // SHARE, rows // LEAST_ROWS), 1)
        if not height or count > most:
            core = self._machine.core
            raise TargetError(
                f"{self._machine.name}: {layer.name} needs {rows * width * layer.weight_bits // 8:,} bytes "
                f"of weights at once, {most:,} cores of {core.synapse_memory_bytes:,} bytes (and "
                f"{core.neuron_memory_bytes:,} of neuron memory) are left for weights"
            )
        edges = [rows * i // count for i in range(count + 1)]
        cores = [self._weights[(self._turn + i) % most] for i in range(count)]
        self._turn = (self._turn + count) % most
        return [Tile(cores[i], edges[i], edges[i + 1], 0, width) for i in range(count)]

    def _height(self, layer: SynapticLayer) -> int:
        """Rows that a core has room for: packed weights with scale and bias, sums, results."""
        core, (_, width) = self._machine.core, layer.weight.shape
        scales = layer.scale.shape[1] + (layer.bias is not None)
        synapses = (core.synapse_memory_bytes - 2 * WORD - width) // (
            width * layer.weight_bits // 8 + WORD * scales
        )
        groups = width // layer.group
        neurons = (core.neuron_memory_bytes // WORD - groups) // (groups + 1 + scales)
        return max(0, min(synapses, neurons))

    def spare(self, near: int) -> int:
        """A core for a table that the layers share.

        Raises:
            TargetError: All are taken.
        """
        return self._tables.pop() if self._tables else self._next()

    def _next(self) -> int:
        """The next core along the curve."""
        core = next(self._order, None)
        if core is None:
            cores = self._machine.board.cores
            raise TargetError(
                f"{self._machine.name}: caches and vectors alone need more than {cores:,} cores"
            )
        self._taken += 1
        return core

    def _attention(self, op: Attention) -> list[list[int]]:
        """Cores of each KV head: the one of the softmax, then parts of keys, then parts of values."""
        fitting = max(1, min(op.head_dim, self.synapse_bytes // op.max_seq))
        parts = -(-op.head_dim // fitting)
        main, part = 2 * WORD * op.max_seq, fitting * op.max_seq
        return [
            [self._room((head, role), part if role else main) for role in range(1 + 2 * parts)]
            for head in range(op.kv_heads)
        ]

    def _room(self, duty: tuple[int, int], size: int) -> int:
        """A core of a duty with that much synapse memory left: that of the layer before, or a new one."""
        core, left = self._shared.get(duty, (0, 0))
        if left < size:
            core, left = self._next(), self.synapse_bytes
        self._shared[duty] = core, left - size
        return core

    def _table_cores(self, partition: Partition) -> int:
        """Cores for two rotary tables by position."""
        shapes = [(op.max_seq, op.head_dim // 2) for op in partition.ops if isinstance(op, Attention)]
        length, width = max(shapes, default=(1, 0))
        return 2 * -(-width // max(1, self.synapse_bytes // (WORD * length)))


def _compact(machine: Machine) -> list[int]:
    """All cores along a space-filling curve."""
    grid = Grid.of(machine)
    order: list[int] = next(curves(grid, grid.cores)).tolist()
    return order


def _stretches(partition: Partition) -> list[int]:
    """The layers that have stretches of vector operations; -1 stands for what belongs to none."""
    names = [op.name.removesuffix(".encode") for op in partition.ops if isinstance(op, Encode)]
    return list(dict.fromkeys([*(layer_of(name, -1) for name in names), -1]))
