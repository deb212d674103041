"""What a variable of the module is while its program is generated: a place in memory, or a promise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sdc.ir.model import Coding
from sdc.targets.neuro.codegen.linear import SynapticLayer, Tile, tiles_by_memory
from sdc.targets.neuro.isa.fields import Ref

__all__ = [
    "Array",
    "Cache",
    "Input",
    "Pending",
    "Placement",
    "PlainPlacement",
    "Position",
    "Room",
    "Sent",
    "Value",
    "Weight",
    "rooms_of",
]


@dataclass(frozen=True)
class Room:
    """Words of a core's neuron memory that are given back when no value lies in them any more."""

    core: int
    start: int
    count: int


@dataclass(frozen=True)
class Array:
    """Words in a core's neuron memory.

    Attributes:
        room: Where they were allocated; None for constants, which stay.
        train: (levels, coding) where these are spike counts.
        made: Index of the ``count`` that made them, there.
    """

    core: int
    ref: Ref
    shape: tuple[int, ...]
    room: Room | None = None
    train: tuple[int, Coding] | None = None
    made: int = -1

    @property
    def size(self) -> int:
        """Number of words."""
        return math.prod(self.shape)

    def part(self, first: int, count: int) -> Ref:
        """The address of some of the words; ``count`` must lie within."""
        assert first + count <= self.size
        return Ref(self.ref.address + first, self.ref.base)


@dataclass(frozen=True)
class Input:
    """What the host sends for every token, as long as no core has asked for it."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Weight:
    """A parameter of the model, not yet in any memory."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Position:
    """The number of tokens before this one: every core counts them itself."""


@dataclass(frozen=True)
class Cache:
    """A cache [batch, heads, S, d]; after ``kv_append`` with the row to be appended."""

    name: str
    shape: tuple[int, ...]
    row: Array | None = None


@dataclass(frozen=True)
class Pending:
    """An accumulation whose readout has not been met yet."""

    counts: Array
    weight: Weight
    group: int
    bits: int
    name: str


@dataclass(frozen=True)
class Sent:
    """A result that is on its way to the host already."""


Value = Array | Input | Weight | Position | Cache | Pending | Sent | tuple["Value", ...]


def rooms_of(value: object) -> Iterator[Room]:
    """The rooms that a value keeps in use."""
    if isinstance(value, tuple):
        for item in value:
            yield from rooms_of(item)
    elif isinstance(value, Cache | Pending):
        yield from rooms_of(value.row if isinstance(value, Cache) else value.counts)
    elif isinstance(value, Array) and value.room is not None:
        yield value.room


class Placement(Protocol):
    """Which cores do what.

    Attributes:
        synapse_bytes: Weights or cache that one core holds.
        external: Whether cores can read memory outside; else the host sends what lies there.
        streamed: Whether weights are loaded from there for every token.
    """

    synapse_bytes: int
    external: bool
    streamed: bool

    def vector(self, layer: str) -> int:
        """The core that computes and encodes the input of a linear layer; of the outputs where ""."""
        ...

    def tiles(self, layer: SynapticLayer) -> Sequence[Tile]:
        """The cores that hold a linear layer's weights."""
        ...

    def attention(self, name: str, kv_heads: int, cores: int) -> Sequence[Sequence[int]]:
        """``cores`` cores for each KV head of an attention."""
        ...

    def stored_bits(self, bits: int) -> int:
        """Bits in which a core stores weights of ``bits``."""
        ...

    def spare(self, near: int) -> int:
        """A core that nothing else uses."""
        ...


class PlainPlacement:
    """Everything goes to the next free core, in the order of the program.

    Args:
        synapse_bytes: Weights that one core holds.
        external: Whether cores can read memory outside.
    """

    def __init__(self, synapse_bytes: int, external: bool = True) -> None:
        self.synapse_bytes, self.external, self.streamed = synapse_bytes, external, False
        self._next = 0

    def vector(self, layer: str) -> int:
        """The next core."""
        return self.spare(0)

    def tiles(self, layer: SynapticLayer) -> Sequence[Tile]:
        """Tiles of at most ``synapse_bytes``."""
        tiles = tiles_by_memory(layer, self.synapse_bytes, self._next)
        self._next += len(tiles)
        return tiles

    def stored_bits(self, bits: int) -> int:
        """The same."""
        return bits

    def attention(self, name: str, kv_heads: int, cores: int) -> Sequence[Sequence[int]]:
        """Consecutive cores."""
        return [[self.spare(0) for _ in range(cores)] for _ in range(kv_heads)]

    def spare(self, near: int) -> int:
        """The next core."""
        self._next += 1
        return self._next - 1
