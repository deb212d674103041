"""Reductions: axes are an attribute up to opset 17, an input after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from tvm import relax, tirx

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx.lift.lifter import Lifter, converter

__all__: list[str] = []

op = relax.op

_PLAIN: dict[str, Callable[..., relax.Expr]] = {
    "ReduceMean": op.mean,
    "ReduceSum": op.sum,
    "ReduceMax": op.max,
    "ReduceMin": op.min,
    "ReduceProd": op.prod,
}


@converter(*_PLAIN)
def _plain(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x, axes, keep = _arguments(lifter, node)
    if node.op_type in ("ReduceMax", "ReduceMin") and any(d == 0 for d in _sizes(x)):
        raise UnsupportedOpError([f'node "{node.name}" (op {node.op_type}) of an empty tensor'])
    return x if axes == [] else lifter.emit(_PLAIN[node.op_type](x, axes, keepdims=keep))


def _sizes(x: relax.Expr) -> list[int | None]:
    return [int(d) if isinstance(d, tirx.IntImm) else None for d in x.ty.shape.values]


@converter("ReduceL1", "ReduceL2", "ReduceSumSquare")
def _norm(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x, axes, keep = _arguments(lifter, node)
    terms = lifter.emit(op.abs(x) if node.op_type == "ReduceL1" else op.multiply(x, x))
    total = terms if axes == [] else lifter.emit(op.sum(terms, axes, keepdims=keep))
    return lifter.emit(op.sqrt(total)) if node.op_type == "ReduceL2" else total


def _arguments(lifter: Lifter, node: ir.Node) -> tuple[relax.Expr, list[int] | None, bool]:
    """The tensor, the axes (None: all; []: none), and whether reduced axes stay as ones.

    Raises:
        UnsupportedOpError: The axes are computed at run time.
    """
    x = lifter.expr(node.inputs[0])
    keep = bool(node.attributes.get_int("keepdims", 1))
    given: Any = node.attributes.get_ints("axes", None)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        constant = lifter.constant(node.inputs[1])
        if constant is None:
            raise UnsupportedOpError([f'node "{node.name}" (op {node.op_type}): axes known only at run time'])
        given = constant.reshape(-1)
    axes = [int(a) for a in given] if given is not None else []
    if axes:
        return x, axes, keep
    return x, ([] if node.attributes.get_int("noop_with_empty_axes", 0) else None), keep
