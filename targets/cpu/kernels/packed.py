"""How a linear reads its packed weights and scales: streamed from memory, unpacked for many tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tvm
from tvm import tirx

from sdc.targets.cpu.dot import QUAD
from sdc.targets.cpu.emit import const, lane_type, load, loop, scratch, store
from sdc.targets.cpu.kernels.cache import LINE, prefetch

if TYPE_CHECKING:
    from sdc.targets.cpu.kernels.linear import LinearKernel

__all__ = ["ROW_BLOCK", "Packed", "Streamed", "Unpacked", "weights_in"]

# Output rows of one packed block: two 512-bit, four 256-bit or eight 128-bit registers.
ROW_BLOCK = 32

# How far ahead of its use a line is asked for: 1.5 KiB of weights, and four groups' scales. On Zen 3, 1 to
# 2 KiB serve equally well, half a KiB and 4 KiB hardly.
_WORDS_AHEAD = 12
_SCALES_AHEAD = 4


def weights_in(packed: list[Any], bits: int, quad: int, lanes: int) -> list[Any]:
    """Of words that hold ``8 / bits`` weights a byte (int32 x lanes), the ``quad``-th of every byte."""
    mask = const(((1 << bits) - 1) * 0x01010101, "int32", lanes)
    if quad == 0:
        return [w & mask for w in packed]
    return [tirx.shift_right(w, const(bits * quad, "int32", lanes)) & mask for w in packed]


class Packed:
    """All rows of a block as they are stored: narrow weights are unpacked, and scales widened, in registers.

    Attributes:
        block: The block's number.
        row: The first row, within the block.
        wide: Vectors of rows.
        quads: Quads of channels in one stored word of a row.
    """

    def __init__(self, kernel: LinearKernel, block: Any, row: Any = 0, wide: int | None = None) -> None:
        self.kernel, self.block, self.row = kernel, block, row
        self.wide = kernel.vectors if wide is None else wide
        self.quads = kernel.spec.quads

    def weights(self, g: Any, word: Any) -> list[list[Any]]:
        """The quads of word ``word`` of group ``g``, each a vector of four bytes of every row."""
        kernel, lanes = self.kernel, self.kernel.lanes
        places = [(self.block, g, word, self.row + v * lanes) for v in range(self.wide)]
        packed = [load(kernel.weight, at, lanes) for at in places]
        if self.quads == 1:
            return [packed]
        return [weights_in(packed, kernel.spec.bits, quad, lanes) for quad in range(self.quads)]

    def scale(self, g: Any, vector: int) -> Any:
        """The scales of one vector of rows in group ``g``; a bfloat16 is the upper half of a float32."""
        kernel, lanes = self.kernel, self.kernel.lanes
        stored = load(kernel.scale, (self.block, g, self.row + vector * lanes), lanes)
        if not kernel.spec.short_scales:
            return stored
        wide = stored.astype(lane_type("uint32", lanes))
        bits = tirx.shift_left(wide, const(16, "uint32", lanes))
        return tirx.reinterpret(lane_type("float32", lanes), bits)


class Streamed(Packed):
    """Rows of a block as the memory gives them: each line is asked for ahead, and used once.

    What the processor fetches ahead by itself leaves a tenth of the bandwidth unused on Zen 3, and more in
    short steps; of 8 bits, asking gains nothing.
    """

    def weights(self, g: Any, word: Any) -> list[list[Any]]:
        """As of the base class."""
        if self.kernel.spec.quads > 1:
            self._ask(self.kernel.weight, (self.block, g, word + _WORDS_AHEAD))
        return super().weights(g, word)

    def scale(self, g: Any, vector: int) -> Any:
        """As of the base class."""
        if self.kernel.spec.quads > 1 and self.kernel.spec.scale_groups > 1 and vector == 0:
            self._ask(self.kernel.scale, (self.block, g + _SCALES_AHEAD))
        return super().scale(g, vector)

    def _ask(self, stored: Any, at: tuple[Any, ...]) -> None:
        """Asks for all rows' elements; those after a block's last are the next one's."""
        for row in range(0, ROW_BLOCK, LINE // (tvm.DataType(stored.dtype).bits // 8)):
            prefetch(stored, (*at, row))


class Unpacked(Streamed):
    """Some rows of a block, unpacked into a work array for as many tokens as there are."""

    def __init__(self, kernel: LinearKernel, block: Any, row: Any, wide: int) -> None:
        super().__init__(kernel, block, row, wide)
        spec, size = kernel.spec, wide * kernel.lanes
        self.copied, self.widened = None, None
        if spec.quads > 1:
            copied = scratch((spec.groups, spec.padded_group // QUAD, size), "int32")
            with loop(spec.groups) as g, loop(spec.words) as word:
                for quad, weights in enumerate(super().weights(g, word)):
                    for v, weight in enumerate(weights):
                        at = (g, word * self.quads + quad, v * kernel.lanes)
                        store(copied, at, weight, kernel.lanes)
            self.copied, self.quads = copied, 1
        if spec.short_scales and not spec.raw:
            widened = scratch((spec.scale_groups, size), "float32")
            with loop(spec.scale_groups) as g:
                for v in range(wide):
                    store(widened, (g, v * kernel.lanes), super().scale(g, v), kernel.lanes)
            self.widened = widened

    def weights(self, g: Any, word: Any) -> list[list[Any]]:
        """As of the base class."""
        if self.copied is None:
            return super().weights(g, word)
        lanes = self.kernel.lanes
        return [[load(self.copied, (g, word, v * lanes), lanes) for v in range(self.wide)]]

    def scale(self, g: Any, vector: int) -> Any:
        """As of the base class."""
        if self.widened is None:
            return Packed.scale(self, g, vector)  # read again for every tile: no need to ask
        return load(self.widened, (g, vector * self.kernel.lanes), self.kernel.lanes)
