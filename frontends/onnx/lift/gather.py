"""Rows and elements picked by index: embeddings, router choices, masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tvm import relax, tirx

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx.lift.lifter import Lifter, converter
from sdc.frontends.onnx.lift.values import TOKEN_INPUTS, number

__all__: list[str] = []


@converter("Gather")
def _gather(lifter: Lifter, node: ir.Node) -> relax.Expr:
    table, index = node.inputs
    assert table is not None
    assert index is not None
    axis = node.attributes.get_int("axis", 0)
    picked = lifter.constant(index)
    data = lifter.expr(table)
    if picked is None:
        if _is_tokens(index) and isinstance(data.ty.shape.values[0], tirx.IntImm):
            lifter.memo.setdefault("vocabulary", int(data.ty.shape.values[0]))
        rows = _from_the_end(lifter, lifter.expr(index), [data.ty.shape.values[axis]])
        return lifter.emit(relax.op.take(data, rows, axis=axis))
    size = int(data.ty.shape.values[axis])
    positive = _positive(picked, size)
    if picked.ndim:
        return lifter.emit(relax.op.take(data, number(positive), axis=axis))
    taken = lifter.emit(relax.op.take(data, number(positive.reshape(1)), axis=axis))
    return lifter.emit(relax.op.squeeze(taken, [axis]))


def _is_tokens(index: ir.Value) -> bool:
    """Whether indices are the ids of tokens, perhaps of another integer type."""
    made = index.producer()
    if made is not None and made.op_type == "Cast" and made.inputs[0] is not None:
        index = made.inputs[0]
    return index.producer() is None and index.name in TOKEN_INPUTS


def _from_the_end(lifter: Lifter, index: relax.Expr, sizes: list[Any]) -> relax.Expr:
    """Negative indices count from the end of their axes (a decoder has none: ids, router choices).

    Not where an axis has a symbolic length: such indices come from positions.
    """
    if lifter.decoding is not None or not all(isinstance(d, tirx.IntImm) for d in sizes):
        return index
    dtype = str(index.ty.dtype)
    lengths = np.array([int(d) for d in sizes], dtype)
    negative = lifter.emit(relax.op.less(index, number(0, dtype)))
    shifted = lifter.emit(relax.op.add(index, number(lengths if len(lengths) > 1 else lengths[0])))
    return lifter.emit(relax.op.where(negative, shifted, index))


@converter("GatherND")
def _gather_nd(lifter: Lifter, node: ir.Node) -> relax.Expr:
    """Rows by index tuples; one constant index into the first axis is an ordinary pick."""
    table, index = node.inputs
    batch_dims = node.attributes.get_int("batch_dims", 0)
    data = lifter.expr(table)
    picked = lifter.constant(index)
    if picked is not None and picked.shape[-1] == 1 and not batch_dims:
        size = int(data.ty.shape.values[0])
        rows = _positive(picked[..., 0], size)
        return lifter.emit(relax.op.take(data, number(rows), axis=0))
    rows = lifter.expr(index)
    sizes = data.ty.shape.values[batch_dims:][: int(rows.ty.shape.values[-1])]
    rows = _from_the_end(lifter, rows, list(sizes))
    return lifter.emit(relax.op.gather_nd(data, rows, batch_dims))


@converter("GatherElements")
def _gather_elements(lifter: Lifter, node: ir.Node) -> relax.Expr:
    data, index = (lifter.expr(v) for v in node.inputs)
    axis = node.attributes.get_int("axis", 0)
    index = _from_the_end(lifter, index, [data.ty.shape.values[axis]])
    return lifter.emit(relax.op.gather_elements(data, index, axis))


@converter("TopK")
def _top_k(lifter: Lifter, node: ir.Node) -> tuple[relax.Expr, relax.Expr]:
    """The k largest (or smallest) of an axis and where they are, in order.

    Raises:
        UnsupportedOpError: k is computed at run time, or the elements are of 8, 16 or unsigned 64 bits.
    """
    count = lifter.constant(node.inputs[1])
    if count is None:
        raise UnsupportedOpError([f'node "{node.name}" (op TopK): k known only at run time'])
    x, attrs = lifter.expr(node.inputs[0]), node.attributes
    if str(x.ty.dtype) not in ("float32", "int32", "int64"):
        raise UnsupportedOpError([f'node "{node.name}" (op TopK) of {x.ty.dtype}'])
    both = lifter.emit(
        relax.op.topk(
            x,
            int(count.reshape(())),
            attrs.get_int("axis", -1),
            "both",
            bool(attrs.get_int("largest", 1)),
            "int64",
        )
    )
    return lifter.emit(relax.TupleGetItem(both, 0)), lifter.emit(relax.TupleGetItem(both, 1))


def _positive(index: NDArray, size: int) -> NDArray:
    """Constant indices, counted from the start.

    Raises:
        IndexError: One lies outside.
    """
    if ((index < -size) | (index >= size)).any():
        raise IndexError(f"an index outside {-size}..{size - 1}")
    return np.where(index < 0, index + size, index).astype(np.int64)
