"""Rotary embeddings: the angles are evaluated for every position, and proved to depend on nothing else."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tvm import relax

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx.lift.lifter import Lifter, converter
from sdc.frontends.onnx.lift.positions import TRIALS, ShortPositionsError, reads_past
from sdc.frontends.onnx.lift.rotary_kind import rotary_kind
from sdc.frontends.onnx.lift.values import Constant, Structural, Weight, number
from sdc.ir.ops import rotary

__all__ = ["TABLES"]

TABLES = "rotary."  # prefix of the tables' names: they are computed, and no parameters of the model
STATELESS_POSITIONS = 512  # rows of a table that a graph without a cache computes from its own shapes


@converter("RotaryEmbedding")
def _rotary(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])
    shape = list(x.ty.shape.values)
    if len(shape) == 3:
        heads = node.attributes.get_int("num_heads", 0)
        if not heads:
            raise _refuse(node, "its number of heads is not said")
        rows = lifter.emit(relax.op.reshape(x, [*shape[:2], heads, int(shape[2]) // heads]))
    else:
        rows = lifter.permute(x, [0, 2, 1, 3])
    tables, position = _tables(lifter, node)
    cos, sin = (lifter.table(f"{TABLES}{n}", t) for n, t in zip(("cos", "sin"), tables, strict=True))
    interleaved = bool(node.attributes.get_int("interleaved", 0))
    turned = lifter.emit(rotary(rows, cos, sin, position, interleaved=interleaved))
    _remember(lifter, "interleaved" if interleaved else "half-split", tables)
    return (
        lifter.emit(relax.op.reshape(turned, shape))
        if len(shape) == 3
        else lifter.permute(turned, [0, 2, 1, 3])
    )


def _remember(lifter: Lifter, order: str, tables: list[NDArray]) -> None:
    """Says the kind of embedding among the facts; a model may have several (Gemma 3: one for its windows)."""
    kinds: dict[str, None] = lifter.memo.setdefault("rope", {})
    kinds[", ".join(filter(None, (order, rotary_kind(*tables))))] = None


def _tables(lifter: Lifter, node: ir.Node) -> tuple[list[NDArray], relax.Expr]:
    """cos and sin [positions, r / 2], and the position that indexes them."""
    start = lifter.decoding.position if lifter.decoding else number(0, "int64")
    cos, sin = node.inputs[1:3]
    ids = node.inputs[3] if len(node.inputs) > 3 else None
    assert cos is not None
    assert sin is not None
    memo: dict[tuple[int, ...], list[NDArray]] = lifter.memo.setdefault("rotary", {})
    key = (id(cos), id(sin), id(ids))
    if key in memo:
        return memo[key], start
    kinds = [lifter.values[id(v)] for v in (cos, sin)]
    if ids is not None and all(isinstance(k, Constant | Weight) for k in kinds):
        stored = [lifter.array(v) for v in (cos, sin)]
        if isinstance(lifter.values[id(ids)], Constant):
            return stored, number(lifter.array(ids), "int64")
        if not isinstance(lifter.values[id(ids)], Structural):
            return stored, lifter.emit(relax.op.astype(lifter.expr(ids), "int64"))
        tables = _by_position(lifter, node, stored, ids)
    elif ids is None and all(isinstance(k, Structural | Constant | Weight) for k in kinds):
        if lifter.decoding is None and all(isinstance(k, Constant | Weight) for k in kinds):
            return _by_batch([lifter.array(v) for v in (cos, sin)])
        tables = [_evaluated(lifter, node, v) for v in (cos, sin)]
    else:
        raise _refuse(node, "its angles depend on activations")
    memo[key] = tables
    return tables, start


def _by_batch(stored: list[NDArray]) -> tuple[list[NDArray], relax.Expr]:
    """Tables [batch, seq, r / 2] of fixed lengths as rows, and the row of each token."""
    batch, seq, width = stored[0].shape
    rows = [t.reshape(-1, width) for t in stored]
    return rows, number(np.arange(batch * seq).reshape(batch, seq), "int64")


def _by_position(lifter: Lifter, node: ir.Node, stored: list[NDArray], ids: ir.Value) -> list[NDArray]:
    """The stored tables as far as they are read, where the ids are proved to be the tokens' positions.

    Raises:
        UnsupportedOpError: The ids are something else.
        ShortPositionsError: The tables end before the last position that the cache holds.
    """
    for seq, past in TRIALS if lifter.decoding else TRIALS[:2]:
        found = lifter.interpreter({"batch": 2, "seq": seq, "past": past}).number(ids)
        offset = past if reads_past(lifter) else 0
        if not (found == offset + np.arange(seq)).all():
            raise _refuse(node, "its position ids are not the positions of the tokens")
    length = lifter.decoding.max_seq if lifter.decoding else len(stored[0])
    if len(stored[0]) < length:
        where = f'node "{node.name}" (op RotaryEmbedding), whose tables'
        raise ShortPositionsError(where, len(stored[0]), length)
    return [t[:length] for t in stored]


def _evaluated(lifter: Lifter, node: ir.Node, value: ir.Value) -> NDArray:
    """The table behind cos or sin [batch, seq, r / 2] that the graph computes or stores for a fixed length.

    Raises:
        UnsupportedOpError: Row i is not the same for every length, batch and number of tokens before.
    """
    if isinstance(lifter.values[id(value)], Constant | Weight):
        array = lifter.array(value)
        if array.ndim == 3 and not (array == array[:1]).all():
            raise _refuse(node, "its angles differ within a batch")
        return array.reshape(-1, *array.shape[-2:])[0]
    length = lifter.decoding.max_seq if lifter.decoding else STATELESS_POSITIONS
    table = _rows(lifter, value, length, 0)[0]
    trials = [t for t in TRIALS if t[1] == 0 or (lifter.decoding and reads_past(lifter))]
    for seq, past in (t for t in trials if sum(t) <= length):
        rows = _rows(lifter, value, seq, past)
        if rows.shape[1] != seq or not np.allclose(rows, table[past : past + seq], atol=1e-5):
            raise _refuse(node, "its angles depend on more than the position")
    return table


def _rows(lifter: Lifter, value: ir.Value, seq: int, past: int) -> NDArray:
    array = lifter.interpreter({"batch": 2, "seq": seq, "past": past}).number(value)
    return array.reshape(-1, *array.shape[-2:])


def _refuse(node: ir.Node, why: str) -> UnsupportedOpError:
    return UnsupportedOpError([f'node "{node.name}" (op RotaryEmbedding): {why}'])
