"""Comparisons, logic and choice."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import onnx_ir as ir
from tvm import relax

from sdc.frontends.onnx.lift.lifter import Lifter, converter

__all__: list[str] = []

_BINARY: dict[str, Callable[[relax.Expr, relax.Expr], relax.Expr]] = {
    "Equal": relax.op.equal,
    "Less": relax.op.less,
    "LessOrEqual": relax.op.less_equal,
    "Greater": relax.op.greater,
    "GreaterOrEqual": relax.op.greater_equal,
    "And": relax.op.logical_and,
    "Or": relax.op.logical_or,
    "Xor": relax.op.logical_xor,
}

_UNARY: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "Not": relax.op.logical_not,
    "IsNaN": relax.op.isnan,
}

_CHAINS: dict[str, Callable[[relax.Expr, relax.Expr], relax.Expr]] = {
    "Max": relax.op.maximum,
    "Min": relax.op.minimum,
    "Sum": relax.op.add,
}


@converter(*_BINARY)
def _binary(lifter: Lifter, node: ir.Node) -> relax.Expr:
    a, b = (lifter.expr(v) for v in node.inputs if v is not None)
    return lifter.emit(_BINARY[node.op_type](a, b))


@converter(*_UNARY)
def _unary(lifter: Lifter, node: ir.Node) -> relax.Expr:
    return lifter.emit(_UNARY[node.op_type](lifter.expr(node.inputs[0])))


@converter(*_CHAINS)
def _chain(lifter: Lifter, node: ir.Node) -> relax.Expr:
    """Operations on any number of inputs."""
    parts = [lifter.expr(v) for v in node.inputs if v is not None]
    return reduce(lambda a, b: lifter.emit(_CHAINS[node.op_type](a, b)), parts)


@converter("Where")
def _where(lifter: Lifter, node: ir.Node) -> relax.Expr:
    condition, a, b = (lifter.expr(v) for v in node.inputs if v is not None)
    return lifter.emit(relax.op.where(condition, a, b))
