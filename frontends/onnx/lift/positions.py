"""Learned or sinusoidal position embeddings of a decoder: a row per position, added to the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tvm import relax

from sdc.errors import InvalidModelError

if TYPE_CHECKING:
    from sdc.frontends.onnx.lift.lifter import Lifter

__all__ = ["TRIALS", "ShortPositionsError", "position_rows", "reads_past"]

TRIALS = ((1, 0), (3, 0), (1, 3), (3, 2))  # (tokens of the call, tokens before it)


class ShortPositionsError(InvalidModelError):
    """A model has fewer positions than the cache has rows.

    Args:
        where: What ends too early.
        rows: How many positions there are.
        max_seq: How many were asked for.
    """

    def __init__(self, where: str, rows: int, max_seq: int) -> None:
        self.rows = rows
        super().__init__(
            f"{where} holds {rows} positions, but max_seq is {max_seq}; compile with max_seq {rows} or less"
        )


def position_rows(lifter: Lifter, value: ir.Value, position: relax.Expr, max_seq: int) -> relax.Expr | None:
    """A value [1 or batch, seq, channels] of positions alone, as rows of a table that ``position`` indexes.

    Returns:
        [1, seq, channels] float32, or None where the value is not of this kind.

    Raises:
        ShortPositionsError: The embedding has fewer rows than the cache.
    """
    if value.shape is None or len(value.shape) != 3 or value.dtype != ir.DataType.FLOAT:
        return None
    longest = _longest(lifter, value, max_seq)
    if longest < max_seq:
        raise ShortPositionsError(f'the position embedding "{value.name}"', longest, max_seq)
    table = _evaluated(lifter, value, max_seq, 0)[0]
    for seq, past in TRIALS:
        if past and not reads_past(lifter):
            continue
        rows = _evaluated(lifter, value, seq, past)
        if rows.shape[1] != seq or not (rows == table[past : past + seq]).all():
            return None
    ids = lifter.emit(relax.op.arange(0, lifter.symbol("seq"), 1, "int64"))
    ids = lifter.emit(relax.op.add(ids, position))
    picked = lifter.emit(relax.op.take(lifter.table("position_embedding", table), ids, axis=0))
    return lifter.emit(relax.op.expand_dims(picked, [0]))


def _longest(lifter: Lifter, value: ir.Value, max_seq: int) -> int:
    """The most tokens, ``max_seq`` or less, for which the value can be computed."""

    def works(seq: int) -> bool:
        try:
            return _evaluated(lifter, value, seq, 0).shape[1] == seq
        except (IndexError, ValueError):  # a row beyond the table, or shapes that do not meet any more
            return False

    if works(max_seq):
        return max_seq
    low, high = 0, max_seq
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if works(middle) else (low, middle)
    return low


def reads_past(lifter: Lifter) -> bool:
    """Whether the graph knows of earlier tokens: from past inputs, or from position ids given to it."""
    names = [str(i.name) for i in lifter.model.graph.inputs]
    return any("past" in n or "position" in n for n in names)


def _evaluated(lifter: Lifter, value: ir.Value, seq: int, past: int) -> NDArray:
    return np.asarray(lifter.interpreter({"batch": 1, "seq": seq, "past": past}).number(value), np.float32)
