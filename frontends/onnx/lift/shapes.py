"""Operations that move data without computing."""

from __future__ import annotations

from functools import reduce
from operator import mul
from typing import Any

import onnx_ir as ir
from tvm import relax, tirx

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx.lift.lifter import Lifter, converter
from sdc.frontends.onnx.lift.values import Grown, Past

__all__: list[str] = []

MOST_AXES = 64


def _axes(lifter: Lifter, node: ir.Node, index: int = 1) -> list[int] | None:
    array = lifter.constant(node.inputs[index]) if len(node.inputs) > index else None
    return None if array is None else [int(a) for a in array.reshape(-1)]


def _few_axes(lifter: Lifter, node: ir.Node, index: int) -> list[int] | None:
    """Axes of a tensor; TVM would cut their numbers to 32 bits."""
    axes = _axes(lifter, node, index)
    if any(abs(a) > MOST_AXES for a in axes or ()):
        raise ValueError(f"axes {axes}")
    return axes


def _expressions(dims: Any) -> list[Any]:
    return [tirx.IntImm("int64", d) if isinstance(d, int) else d for d in dims]


@converter("Reshape")
def _reshape(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])
    dims = lifter.elements(node.inputs[1])
    if dims is None:
        raise UnsupportedOpError([f'node "{node.name}" (op Reshape): its shape is not a shape computation'])
    if not node.attributes.get_int("allowzero", 0):
        old = list(x.ty.shape.values)
        dims = tuple(old[i] if isinstance(d, int) and d == 0 else d for i, d in enumerate(dims))
    return lifter.emit(relax.op.reshape(x, _expressions(dims)))


@converter("Transpose")
def _transpose(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])
    rank = len(x.ty.shape.values)
    return lifter.permute(x, list(node.attributes.get_ints("perm", list(range(rank))[::-1])))


@converter("Squeeze")
def _squeeze(lifter: Lifter, node: ir.Node) -> relax.Expr:
    return lifter.emit(relax.op.squeeze(lifter.expr(node.inputs[0]), _few_axes(lifter, node, 1)))


@converter("Unsqueeze")
def _unsqueeze(lifter: Lifter, node: ir.Node) -> relax.Expr:
    return lifter.emit(relax.op.expand_dims(lifter.expr(node.inputs[0]), _few_axes(lifter, node, 1)))


@converter("Expand")
def _expand(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])
    dims = lifter.elements(node.inputs[1])
    if dims is None:
        raise UnsupportedOpError([f'node "{node.name}" (op Expand): its shape is not a shape computation'])
    old = [None] * (len(dims) - len(x.ty.shape.values)) + list(x.ty.shape.values)
    wide = [
        o if isinstance(d, int) and d == 1 and o is not None else d for d, o in zip(dims, old, strict=True)
    ]
    return lifter.emit(relax.op.broadcast_to(x, _expressions(wide)))


@converter("Concat")
def _concat(lifter: Lifter, node: ir.Node) -> Any:
    axis = node.attributes.get_int("axis")
    first = lifter.values[id(node.inputs[0])]
    if isinstance(first, Past):
        rows = lifter.expr(node.inputs[1])
        if len(node.inputs) != 2 or axis not in (2, -2):
            raise UnsupportedOpError([f'node "{node.name}" (op Concat) joins a cache along axis {axis}'])
        new = list(rows.ty.shape.values)
        return Grown(rows, (new[0], new[1], first.dims[2] + new[2], new[3]))
    parts = [lifter.expr(v) for v in node.inputs if v is not None]
    return lifter.emit(relax.op.concat(parts, axis=axis))


@converter("Slice")
def _slice(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])
    begin, end = _axes(lifter, node, 1), _axes(lifter, node, 2)
    axes = _few_axes(lifter, node, 3)
    strides = _axes(lifter, node, 4)
    if begin is not None and end is not None:
        return lifter.emit(relax.op.strided_slice(x, axes or list(range(len(begin))), begin, end, strides))
    return _slice_to_dimension(lifter, node, x, axes, strides)


def _slice_to_dimension(
    lifter: Lifter, node: ir.Node, x: relax.Expr, axes: list[int] | None, strides: list[int] | None
) -> relax.Expr:
    """The first n of a fixed axis, n a symbolic dimension; whether there are so many is checked at run time.

    Raises:
        UnsupportedOpError: The bounds are anything else.
    """
    begin, end = lifter.elements(node.inputs[1]), lifter.elements(node.inputs[2])
    known = begin is not None and end is not None and len(begin) == len(end) == 1
    if not known or begin != (0,) or axes is None or strides not in (None, [1]):
        raise UnsupportedOpError([f'node "{node.name}" (op Slice) with bounds that are not constants'])
    assert end is not None
    cut = lifter.emit(relax.op.strided_slice(x, axes, [0], _expressions(end)))
    shape = list(x.ty.shape.values)
    shape[axes[0]] = end[0]
    return lifter.builder.match_cast(cut, relax.TensorType(shape, x.ty.dtype))


@converter("Split")
def _split(lifter: Lifter, node: ir.Node) -> tuple[relax.Expr, ...]:
    x = lifter.expr(node.inputs[0])
    sizes, axis = _axes(lifter, node), node.attributes.get_int("axis", 0)
    at: int | list[int] = len(node.outputs)
    if sizes is not None:
        at = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    elif isinstance(x.ty.shape.values[axis], tirx.IntImm):
        each = -(-int(x.ty.shape.values[axis]) // len(node.outputs))  # the last part may be smaller
        at = [each * (i + 1) for i in range(len(node.outputs) - 1)]
    parts = lifter.emit(relax.op.split(x, at, axis))
    return tuple(lifter.emit(parts[i]) for i in range(len(node.outputs)))


@converter("Flatten")
def _flatten(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])
    dims = list(x.ty.shape.values)
    axis = node.attributes.get_int("axis", 1)
    axis += len(dims) if axis < 0 else 0
    one = tirx.IntImm("int64", 1)
    rows, columns = reduce(mul, dims[:axis], one), reduce(mul, dims[axis:], one)
    return lifter.emit(relax.op.reshape(x, [rows, columns]))


@converter("Tile")
def _tile(lifter: Lifter, node: ir.Node) -> relax.Expr:
    repeats = _axes(lifter, node)
    if repeats is None:
        raise UnsupportedOpError([f'node "{node.name}" (op Tile): repeats known only at run time'])
    return lifter.emit(relax.op.tile(lifter.expr(node.inputs[0]), repeats))


@converter("Identity")
def _identity(lifter: Lifter, node: ir.Node) -> relax.Expr:
    return lifter.expr(node.inputs[0])
