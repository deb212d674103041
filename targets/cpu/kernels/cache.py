"""Reading and writing the cache, which lies as :mod:`sdc.targets.cpu.layout` says."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from sdc.targets.cpu.emit import const, lane_type, store
from sdc.targets.cpu.layout import KEY_BLOCK, KEY_OFFSET

__all__ = ["LINE", "load_words", "prefetch", "store_key", "store_value"]


def store_key(cache: Any, head: Any, token: Any, channel: Any, counts: Any, lanes: int) -> None:
    """Writes ``lanes`` counts (int32) of one key, from ``channel`` on; lanes is 1 or a multiple of 4."""
    block, slot = tirx.floordiv(token, KEY_BLOCK), tirx.floormod(token, KEY_BLOCK)
    for word in range(max(1, lanes // 4)):
        width = min(lanes, 4)
        part = [tirx.const(4 * word + i, "int32") for i in range(width)]
        value = counts if lanes == width else tirx.Shuffle([counts], part)
        shifted = (value + const(KEY_OFFSET, "int32", width)).astype(lane_type("uint8", width))
        at = channel + 4 * word
        store(cache, (head, block, tirx.floordiv(at, 4), slot, tirx.floormod(at, 4)), shifted, width)


def store_value(cache: Any, head: Any, token: Any, channel: Any, counts: Any, lanes: int) -> None:
    """Writes ``lanes`` counts (int32) of one value, from ``channel`` on."""
    row, slot = tirx.floordiv(token, 4), tirx.floormod(token, 4)
    for lane in range(lanes):
        count = counts if lanes == 1 else tirx.Shuffle([counts], [tirx.const(lane, "int32")])
        store(cache, (head, row, channel + lane, slot), count.astype("int8"))


def load_words(cache: Any, index: tuple[Any, ...], lanes: int) -> Any:
    """``lanes`` neighbouring 4-byte words as int32; the last two indices are (word, 0)."""
    *lead, word, _ = index
    flat = cache[(*lead, word, tirx.Ramp(tirx.const(0, "int32"), tirx.const(1, "int32"), 4 * lanes))]
    return tirx.reinterpret(lane_type("int32", lanes), flat)


LINE = 64
"""Bytes that the memory gives at once."""


def prefetch(cache: Any, index: tuple[Any, ...]) -> None:
    """Asks for the line of an element, which may lie beyond the last."""
    hints = [tirx.const(hint, "int32") for hint in (0, 3, 1)]  # to be read, kept, data
    T.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", tirx.address_of(cache[index]), *hints))
