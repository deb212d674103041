"""What a variable of the module is while its program is generated: a place in memory, or a promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sdc.ir.model import Coding
from sdc.targets.neuro.codegen.linear import SynapticLayer, Tile, tiles_by_memory
from sdc.targets.neuro.isa.fields import Ref

__all__ = ["Array", "Cache", "Pending", "Placement", "PlainPlacement", "Position", "Value", "Weight"]


@dataclass(frozen=True)
class Array:
    """Words in the hub's neuron memory.

    Attributes:
        train: (levels, coding) where these are spike counts.
    """

    ref: Ref
    shape: tuple[int, ...]
    train: tuple[int, Coding] | None = None

    @property
    def size(self) -> int:
        """Number of words."""
        return math.prod(self.shape)

    def part(self, first: int, count: int) -> Ref:
        """The address of some of the words; ``count`` must lie within."""
        assert first + count <= self.size
        return Ref(self.ref.address + first, self.ref.base)


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


Value = Array | Weight | Position | Cache | Pending | tuple["Value", ...]


class Placement(Protocol):
    """Which cores do what."""

    @property
    def hub(self) -> int:
        """The core that holds the residual stream, encodes, and talks to the host."""
        ...

    def tiles(self, layer: SynapticLayer) -> Sequence[Tile]:
        """The cores that hold a linear layer's weights."""
        ...

    def attention(self, name: str, kv_heads: int) -> Sequence[int]:
        """One core for each KV head of an attention."""
        ...


class PlainPlacement:
    """Core 0 is the hub; everything else goes to the next free core, in the order of the program.

    Args:
        synapse_bytes: Weights that one core holds.
    """

    hub = 0

    def __init__(self, synapse_bytes: int) -> None:
        self._budget = synapse_bytes
        self._next = 1

    def tiles(self, layer: SynapticLayer) -> Sequence[Tile]:
        """Tiles of at most ``synapse_bytes``."""
        tiles = tiles_by_memory(layer, self._budget, self._next)
        self._next += len(tiles)
        return tiles

    def attention(self, name: str, kv_heads: int) -> Sequence[int]:
        """Consecutive cores."""
        first, self._next = self._next, self._next + kv_heads
        return range(first, first + kv_heads)
