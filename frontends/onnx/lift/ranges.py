"""Values made from shapes alone, where a graph without a cache computes with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, tirx

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx.lift.lifter import Lifter, converter
from sdc.frontends.onnx.lift.values import number

__all__: list[str] = []


@converter("Range")
def _range(lifter: Lifter, node: ir.Node) -> relax.Expr:
    """start, start + step, ... before limit, as int64.

    Raises:
        UnsupportedOpError: The ends are neither constants nor dimensions.
    """
    ends = [lifter.elements(v) for v in node.inputs if v is not None]
    if any(e is None or len(e) != 1 for e in ends):
        raise UnsupportedOpError([f'node "{node.name}" (op Range): its ends are known only at run time'])
    start, limit, step = (e[0] for e in ends if e is not None)
    return lifter.emit(relax.op.arange(start, limit, step, "int64"))


@converter("Shape")
def _shape(lifter: Lifter, node: ir.Node) -> relax.Expr:
    """The sizes of a tensor as a tensor [rank] int64."""
    dims: list[Any] = list(lifter.expr(node.inputs[0]).ty.shape.values)
    start = node.attributes.get_int("start", 0)
    dims = dims[start : node.attributes.get_int("end", len(dims))]
    if not dims:
        return number(np.zeros(0, np.int64))
    one = tirx.IntImm("int64", 1)
    parts = [lifter.emit(relax.op.arange(d, d + one, one, "int64")) for d in dims]
    return parts[0] if len(parts) == 1 else lifter.emit(relax.op.concat(parts, 0))


@converter("CumSum")
def _cumulative(lifter: Lifter, node: ir.Node) -> relax.Expr:
    """Running sums along a constant axis.

    Raises:
        UnsupportedOpError: The axis is known only at run time, or the sums run backwards.
    """
    axis = lifter.constant(node.inputs[1])
    if axis is None or node.attributes.get_int("reverse", 0):
        raise UnsupportedOpError([f'node "{node.name}" (op CumSum): axis at run time, or in reverse'])
    exclusive = bool(node.attributes.get_int("exclusive", 0))
    return lifter.emit(
        relax.op.cumsum(lifter.expr(node.inputs[0]), int(axis.reshape(())), exclusive=exclusive)
    )


@converter("Trilu")
def _triangle(lifter: Lifter, node: ir.Node) -> relax.Expr:
    """The upper or lower triangle of the last two axes.

    Raises:
        UnsupportedOpError: The diagonal is known only at run time.
    """
    shift = lifter.constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else 0
    if shift is None:
        raise UnsupportedOpError([f'node "{node.name}" (op Trilu): its diagonal is known only at run time'])
    cut = relax.op.triu if node.attributes.get_int("upper", 1) else relax.op.tril
    return lifter.emit(cut(lifter.expr(node.inputs[0]), int(shift)))


@converter("ConstantOfShape")
def _filled(lifter: Lifter, node: ir.Node) -> relax.Expr:
    """One number in a shape of dimensions.

    Raises:
        UnsupportedOpError: The shape is no shape computation.
    """
    dims = lifter.elements(node.inputs[0])
    if dims is None:
        raise UnsupportedOpError([f'node "{node.name}" (op ConstantOfShape): not a shape computation'])
    given = node.attributes.get_tensor("value", None)
    value = number(given.numpy().reshape(())) if given is not None else number(0, "float32")
    shape = [tirx.IntImm("int64", d) if isinstance(d, int) else d for d in dims]
    return lifter.emit(relax.op.full(shape, value))
