"""Where intermediate tensors lie in one block of memory: those that live at once do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Slot", "place"]

_ALIGNMENT = 64


@dataclass
class Slot:
    """A tensor that a step makes.

    Attributes:
        size: Bytes.
        first: The step that writes it.
        last: The last step that reads it.
        offset: Where it lies; set by :func:`place`.
    """

    size: int
    first: int
    last: int
    offset: int = -1


def place(slots: Sequence[Slot], start: int = 0) -> int:
    """Sets the offsets, all at least ``start``; returns where the block ends.

    Slots come in the order of their first step; each takes the lowest gap that is free while it lives.
    """
    end, placed = start, list[Slot]()
    for slot in slots:
        busy = sorted((p.offset, p.offset + p.size) for p in placed if p.last >= slot.first)
        slot.offset = start
        for low, high in busy:
            if slot.offset + slot.size <= low:
                break
            slot.offset = max(slot.offset, -(-high // _ALIGNMENT) * _ALIGNMENT)
        placed.append(slot)
        end = max(end, slot.offset + slot.size)
    return -(-end // _ALIGNMENT) * _ALIGNMENT
