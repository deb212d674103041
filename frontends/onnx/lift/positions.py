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

__all__ = ["TRIALS", "position_rows", "reads_past"]

TRIALS = ((1, 0), (3, 0), (1, 3), (3, 2))  # (tokens of the call, tokens before it)


def position_rows(lifter: Lifter, value: ir.Value, position: relax.Expr, max_seq: int) -> relax.Expr | None:
    """A value [1 or batch, seq, channels] of positions alone, as rows of a table that ``position`` indexes.

    Returns:
        [1, seq, channels] float32, or None where the value is not of this kind.

    Raises:
        InvalidModelError: The embedding has fewer rows than the cache.
    """
    if value.shape is None or len(value.shape) != 3 or value.dtype != ir.DataType.FLOAT:
        return None
    try:
        table = _evaluated(lifter, value, max_seq, 0)[0]
    except (IndexError, ValueError) as error:
        raise InvalidModelError(
            f'the position embedding "{value.name}" does not reach max_seq {max_seq} ({error}); '
            "compile with a smaller max_seq"
        ) from error
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


def reads_past(lifter: Lifter) -> bool:
    """Whether the graph knows of earlier tokens: from past inputs, or from position ids given to it."""
    names = [str(i.name) for i in lifter.model.graph.inputs]
    return any("past" in n or "position" in n for n in names)


def _evaluated(lifter: Lifter, value: ir.Value, seq: int, past: int) -> NDArray:
    return np.asarray(lifter.interpreter({"batch": 1, "seq": seq, "past": past}).number(value), np.float32)
