"""One spiking linear layer: encode core -> multicast trains -> accumulate cores -> readout -> back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sdc.errors import TargetError
from sdc.ir.coding import time_steps
from sdc.ir.model import Coding
from sdc.targets.neuro.codegen.builder import INDICES, CoreBuilder, ProgramBuilder
from sdc.targets.neuro.isa.fields import Ref

__all__ = ["Result", "Spikes", "SynapticLayer", "Tile", "emit_linear", "pack_rows", "tiles_by_memory"]


@dataclass(frozen=True)
class Spikes:
    """Counts and thresholds in a core's neuron memory.

    Attributes:
        counts: int32 words [width].
        theta: float32 words [width / group].
        group: Channels that share a threshold.
    """

    counts: Ref
    theta: Ref
    width: int
    group: int
    levels: int
    coding: Coding

    @property
    def steps(self) -> int:
        """Time steps of a train."""
        return time_steps(self.coding, self.levels)


@dataclass(frozen=True)
class SynapticLayer:
    """Weights of one linear layer.

    Attributes:
        weight: int8 [N, K].
        scale: float32 [N, Gw].
        bias: float32 [N], or None.
        group: Channels of one accumulator; G = K / group.
        weight_bits: Bits of a stored weight: 2, 4 or 8.
    """

    name: str
    weight: NDArray
    scale: NDArray
    bias: NDArray | None
    group: int
    weight_bits: int = 8


@dataclass(frozen=True)
class Tile:
    """The part of a weight matrix that one core keeps: rows [start, stop) by channels [first, last)."""

    core: int
    start: int
    stop: int
    first: int
    last: int


def tiles_by_memory(layer: SynapticLayer, budget: int, first_core: int) -> list[Tile]:
    """A plain partition for lack of a mapping: tiles of at most ``budget`` bytes, on consecutive cores.

    Rows are split first; where even one row is too long, its channels are split at group boundaries.
    """
    rows, width = layer.weight.shape
    groups_per_tile = max(1, min(width // layer.group, budget * 8 // layer.weight_bits // layer.group))
    channels = groups_per_tile * layer.group
    height = max(1, min(rows, budget * 8 // layer.weight_bits // channels))
    tiles: list[Tile] = []
    for start in range(0, rows, height):
        for first in range(0, width, channels):
            core = first_core + len(tiles)
            tiles.append(Tile(core, start, min(rows, start + height), first, min(width, first + channels)))
    return tiles


@dataclass(frozen=True)
class Result:
    """The words y [rows] float32 of a layer on their way: under ``tag``, from ``sources`` cores."""

    tag: int
    rows: int
    sources: int


def emit_linear(
    program: ProgramBuilder,
    source: CoreBuilder,
    spikes: Spikes,
    layer: SynapticLayer,
    tiles: Sequence[Tile],
    sink: int,
    streamed: bool = False,
) -> Result:
    """Emits a layer on the core that holds its spikes and on its tiles' cores; the results go to ``sink``.

    Tiles of the same rows are a chain, channels ascending: each adds its groups to the sums of the one
    before it, so that float32 rounding is that of ``sdc.readout``, whatever the partition.

    Args:
        streamed: Whether the tiles' weights, scales and biases take turns with those of other layers in the
            memory of their cores.

    Raises:
        TargetError: The tiles do not cover the matrix, cut through a group, or are too many rows to count.
    """
    chains = _chains(layer, tiles)
    rows, cores = layer.weight.shape[0], [tile.core for tile in tiles]
    if {source.core, sink} & set(cores) or len(set(cores)) != len(cores):
        raise TargetError(
            f"{layer.name}: every tile needs a core of its own, apart from those that encode and receive"
        )
    if rows > INDICES:
        raise TargetError(f"{layer.name}: {rows} outputs; a packet counts to {INDICES}")
    trains, thetas, result = program.tag(*cores), program.tag(*cores), program.tag(sink)
    source.note(f"{layer.name}: trains of {spikes.width} channels, {spikes.coding}, {spikes.steps} steps")
    _send_parts(source, spikes, (trains, thetas), tiles)
    for chain in chains:
        arrived: int | None = None
        for tile, following in zip(chain, [*(t.core for t in chain[1:]), sink], strict=True):
            tag = result if tile is chain[-1] else program.tag(following)
            name = "weights" if streamed else f"{layer.name} rows {tile.start}..{tile.stop - 1}"
            core = program.core(tile.core, name)
            own = (_stream if streamed else _keep)(program, core, layer, tile)
            _emit_tile(core, spikes, layer, own, (trains, thetas, arrived, tag), following)
            arrived = tag
    return Result(result, rows, len(chains))


def pack_rows(weight: NDArray, bits: int) -> NDArray:
    """Rows of signed integers [K, N] as packed bytes [K, ceil(N bits / 8)] uint8, low bits first.

    Raises:
        TargetError: A weight does not fit into ``bits``.
    """
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    if weight.size and (weight.min() < low or weight.max() > high):
        raise TargetError(f"weights {weight.min()}..{weight.max()} do not fit into {bits} bits")
    if bits == 8:
        return np.ascontiguousarray(weight.astype(np.int8)).view(np.uint8)
    per_byte = 8 // bits
    padded = np.pad(weight.astype(np.int8), ((0, 0), (0, -weight.shape[1] % per_byte)))
    fields = (padded.view(np.uint8) & ((1 << bits) - 1)).reshape(len(weight), -1, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    return np.bitwise_or.reduce(fields << shifts, axis=2).astype(np.uint8)


def _chains(layer: SynapticLayer, tiles: Sequence[Tile]) -> list[list[Tile]]:
    """Tiles by rows, each list with ascending channels."""
    rows, width = layer.weight.shape
    chains: dict[tuple[int, int], list[Tile]] = {}
    for tile in sorted(tiles, key=lambda t: (t.start, t.first)):
        chains.setdefault((tile.start, tile.stop), []).append(tile)
    ends = [(0, 0), *chains]
    gaps = any(a[1] != b[0] for a, b in pairwise(ends)) or ends[-1][1] != rows
    for chain in chains.values():
        edges = [0, *(tile.last for tile in chain)]
        gaps |= edges[:-1] != [tile.first for tile in chain] or edges[-1] != width
        gaps |= any(edge % layer.group for edge in edges)
    if gaps:
        raise TargetError(
            f"{layer.name}: the tiles do not cover {rows} x {width} in whole groups of {layer.group}"
        )
    return list(chains.values())


def _send_parts(source: CoreBuilder, spikes: Spikes, tags: tuple[int, int], tiles: Sequence[Tile]) -> None:
    """Every slice of channels goes to the cores with weights for it, and then its thresholds.

    Axons count from the slice's start.
    """
    trains, thetas = tags
    parts: dict[tuple[int, int], list[int]] = {}
    for tile in tiles:
        parts.setdefault((tile.first, tile.last), []).append(tile.core)
    source.emit("loop", spikes.steps)
    for (first, last), cores in sorted(parts.items()):
        counts = Ref(spikes.counts.address + first, spikes.counts.base)
        source.emit("send", counts, last - first, spikes.coding, source.route(trains, *cores), 0)
    source.emit("endl")
    for (first, last), cores in sorted(parts.items()):
        low, count = _thetas(spikes, first, last)
        theta = Ref(spikes.theta.address + low, spikes.theta.base)
        source.emit("sendw", theta, count, source.route(thetas, *cores), 0)


def _thetas(spikes: Spikes, first: int, last: int) -> tuple[int, int]:
    """The first threshold of some channels, and how many they have."""
    low = first // spikes.group
    return low, -(-last // spikes.group) - low


@dataclass(frozen=True)
class _Held:
    """A tile in its core's memories.

    Attributes:
        synapses: Rows of weights, ``stride`` bytes each.
        scale: float32 words [scales of the tile, rows].
        bias: float32 words [rows]; None where there is none, or another tile of the chain adds it.
        release: Words to be given back afterwards.
    """

    tile: Tile
    synapses: Ref
    stride: int
    scale: Ref
    bias: Ref | None
    release: int = 0


def _parts(layer: SynapticLayer, tile: Tile) -> tuple[NDArray, NDArray, NDArray | None]:
    """Packed weights, scales [scales, rows] and bias [rows] of a tile."""
    packed = pack_rows(layer.weight[tile.start : tile.stop, tile.first : tile.last].T, layer.weight_bits)
    which = _scales(layer, tile)
    scale = layer.scale[tile.start : tile.stop, which[0] : which[-1] + 1].T.astype(np.float32)
    biased = layer.bias is not None and tile.last == layer.weight.shape[1]
    bias = (
        layer.bias[tile.start : tile.stop].astype(np.float32) if biased and layer.bias is not None else None
    )
    return packed, scale, bias


def _scales(layer: SynapticLayer, tile: Tile) -> list[int]:
    """The column of scales of each of the tile's groups."""
    total = layer.weight.shape[1] // layer.group
    return [
        g * layer.scale.shape[1] // total for g in range(tile.first // layer.group, tile.last // layer.group)
    ]


def _keep(program: ProgramBuilder, core: CoreBuilder, layer: SynapticLayer, tile: Tile) -> _Held:
    """The tile stays in its core."""
    packed, scale, bias = _parts(layer, tile)
    synapses = core.constant(packed, "s")
    kept = None if bias is None else core.constant(bias)
    return _Held(tile, synapses, packed.shape[1], core.constant(scale), kept)


def _stream(program: ProgramBuilder, core: CoreBuilder, layer: SynapticLayer, tile: Tile) -> _Held:
    """The tile takes turns with others: weights, then scales, then bias, from external memory."""
    packed, scale, bias = _parts(layer, tile)
    words = scale.size + (0 if bias is None else bias.size)
    padding = np.zeros(-packed.size % 4, np.uint8)
    floats = [
        part.reshape(-1).view(np.uint8) for part in (np.ascontiguousarray(scale), bias) if part is not None
    ]
    core.note(f"{layer.name} rows {tile.start}..{tile.stop - 1}: weights")
    at = program.stream(core, np.concatenate([packed.reshape(-1), padding, *floats]))
    held = core.words(words)
    core.emit("ldw", held, Ref(at.address + packed.size + len(padding)), words)
    own = None if bias is None else Ref(held.address + scale.size)
    return _Held(tile, at, packed.shape[1], held, own, words)


def _emit_tile(
    core: CoreBuilder,
    spikes: Spikes,
    layer: SynapticLayer,
    held: _Held,
    tags: tuple[int, int, int | None, int],
    following: int,
) -> None:
    (trains, thetas, partial, result), tile = tags, held.tile
    rows, groups = tile.stop - tile.start, (tile.last - tile.first) // layer.group
    acc, y = core.words(groups * rows), core.words(rows)
    count = _thetas(spikes, tile.first, tile.last)[1]
    theta = core.words(count)
    bits = str(layer.weight_bits)
    core.describe(accumulators=acc, results=y, thresholds=theta)
    core.note(f"{layer.name} rows {tile.start}..{tile.stop - 1}, channels {tile.first}..{tile.last - 1}")
    core.emit("slot", 0, held.synapses, held.stride, rows, layer.group, bits, acc)
    core.emit("fill", acc, 0.0, groups * rows)
    core.emit("loop", spikes.steps)
    core.emit("accum", trains, 0, spikes.coding, 1)
    core.emit("endl")
    core.emit("recvw", theta, count, thetas, 1)
    if partial is None:
        core.emit("fill", y, 0.0, rows)
    else:
        core.emit("recvw", y, rows, partial, 1)
    _emit_readout(core, spikes, layer, held, (acc, y, theta))
    if held.bias is not None:
        core.emit("vadd", y, y, held.bias, rows)
    last = tile.last == layer.weight.shape[1]
    core.emit("sendw", y, rows, core.route(result, following), tile.start if last else 0)
    if held.release:
        for place, size in ((held.scale, held.release), (acc, groups * rows), (y, rows), (theta, count)):
            core.release(place.address, size)


def _emit_readout(
    core: CoreBuilder, spikes: Spikes, layer: SynapticLayer, held: _Held, places: tuple[Ref, Ref, Ref]
) -> None:
    """The tile's groups, ascending; a hardware loop where thresholds and scales advance by group or never."""
    (acc, y, theta), scale, tile = places, held.scale, held.tile
    rows = tile.stop - tile.start
    first, groups = tile.first // layer.group, (tile.last - tile.first) // layer.group
    which_theta = [g * layer.group // spikes.group for g in range(first, first + groups)]
    which_scale = _scales(layer, tile)
    if groups > 1 and _even(which_theta) and _even(which_scale):
        steps = (rows, which_theta[1] - which_theta[0], rows * (which_scale[1] - which_scale[0]))
        for register in (1, 2, 3):
            core.emit("base", register, 0)
        core.emit("loop", groups)
        core.emit("readout", y, Ref(acc.address, 1), Ref(theta.address, 2), Ref(scale.address, 3), rows)
        for register, step in zip((1, 2, 3), steps, strict=True):
            core.emit("adv", register, step)
        core.emit("endl")
        return
    for g in range(groups):
        here = Ref(acc.address + g * rows)
        limit = Ref(theta.address + which_theta[g] - which_theta[0])
        factor = Ref(scale.address + (which_scale[g] - which_scale[0]) * rows)
        core.emit("readout", y, here, limit, factor, rows)


def _even(numbers: list[int]) -> bool:
    """Whether they advance by the same step."""
    return len({b - a for a, b in pairwise(numbers)}) <= 1
