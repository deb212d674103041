"""Transforms from a layer's integer weights and scales to the order in which the kernels read them.

The packed form is the same for all instruction sets, so one artefact serves every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.ir.bfloat16 import upper_halves
from sdc.targets.cpu.dot import QUAD
from sdc.targets.cpu.kernels.event import LINE_BYTES, blocks_per_line, lines
from sdc.targets.cpu.kernels.linear import LinearSpec
from sdc.targets.cpu.kernels.packed import ROW_BLOCK

__all__ = ["PackBias", "PackColumns", "PackScale", "PackWeight"]


@dataclass(frozen=True)
class PackWeight:
    """int8 [N, K] -> int32 [blocks, G, words, ROW_BLOCK]: 4, 8 (of 4 bits) or 16 (of 2) channels a word.

    Byte b of a word holds channels b, 4 + b, ... of the word's, the first in the lowest bits.
    """

    spec: LinearSpec

    def __call__(self, array: NDArray) -> NDArray:
        spec = self.spec
        full: NDArray = np.zeros((spec.blocks * ROW_BLOCK, spec.groups, spec.padded_group), np.uint8)
        shifted = array.astype(np.int16) + spec.offset
        full[:] = spec.offset
        full[: spec.rows, :, : spec.group] = shifted.reshape(spec.rows, spec.groups, spec.group).astype(
            np.uint8
        )
        parts = full.reshape(-1, spec.groups, spec.words, spec.quads, QUAD)
        joined = _joined(np.moveaxis(parts, 3, 0), spec.bits)
        quads = np.ascontiguousarray(joined).view("<i4")[..., 0]
        by_block = quads.reshape(spec.blocks, ROW_BLOCK, spec.groups, spec.words)
        return np.ascontiguousarray(by_block.transpose(0, 2, 3, 1))

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.spec.blocks, self.spec.groups, self.spec.words, ROW_BLOCK)

    def describe(self) -> str:
        return f"pack {self.spec.bits}-bit weights in blocks of {ROW_BLOCK} rows"


def _joined(parts: NDArray, bits: int) -> NDArray:
    """Bytes whose lowest bits are the first part's numbers, the next ones the second part's, and so on."""
    joined = parts[0]
    for number, part in enumerate(parts[1:], 1):
        joined = joined | (part << (bits * number))
    return joined


@dataclass(frozen=True)
class PackScale:
    """float32 [N, Gw] -> [blocks, Gw, ROW_BLOCK]; rows that do not exist get 0.

    Short scales become the upper halves of their bits, uint16: all that a bfloat16 number has.
    """

    spec: LinearSpec

    def __call__(self, array: NDArray) -> NDArray:
        spec = self.spec
        full: NDArray = np.zeros((spec.blocks * ROW_BLOCK, spec.scale_groups), np.float32)
        full[: spec.rows] = array
        packed = np.ascontiguousarray(full.reshape(spec.blocks, ROW_BLOCK, -1).transpose(0, 2, 1))
        return upper_halves(packed) if spec.short_scales else packed

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.spec.blocks, self.spec.scale_groups, ROW_BLOCK)

    def describe(self) -> str:
        return f"pack scales in blocks of {ROW_BLOCK} rows"


@dataclass(frozen=True)
class PackBias:
    """float32 [N] -> [blocks * ROW_BLOCK], zeros after N."""

    spec: LinearSpec

    def __call__(self, array: NDArray) -> NDArray:
        return np.pad(array, (0, self.spec.blocks * ROW_BLOCK - self.spec.rows))

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.spec.blocks * ROW_BLOCK,)

    def describe(self) -> str:
        return f"pad to blocks of {ROW_BLOCK} rows"


@dataclass(frozen=True)
class PackColumns:
    """int8 [N, K] -> int32 [lines, K, 16] for the event-driven kernel: 64 bytes of rows of one channel.

    Of 8 bits, row 8 i + 4 h + e of a block of 32 lies where unpacking within 128 bits leaves rows in their
    order: at byte 16 h + 4 i + e. Narrower ones lie in order, the block's first rows in the lowest bits.
    """

    spec: LinearSpec

    def __call__(self, array: NDArray) -> NDArray:
        spec = self.spec
        rows, width = array.shape
        count = lines(spec) * blocks_per_line(spec) * ROW_BLOCK
        full = np.full((count, width), spec.offset, np.uint8)
        full[:rows] = (array.astype(np.int16) + spec.offset).astype(np.uint8)
        if spec.bits == 8:
            parts: NDArray = full.reshape(-1, 4, 2, 4, width).swapaxes(1, 2)  # block, h, i, e, channel
        else:
            rows_in_turn = full.reshape(-1, spec.quads, ROW_BLOCK // spec.quads, width)
            parts = _joined(np.moveaxis(rows_in_turn, 1, 0), spec.bits)
        by_line = parts.reshape(lines(spec), LINE_BYTES, width)
        return np.ascontiguousarray(by_line.transpose(0, 2, 1)).view("<i4")

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (lines(self.spec), shape[1], LINE_BYTES // 4)

    def describe(self) -> str:
        return f"pack {self.spec.bits}-bit weights by input channel"
