"""Activation functions beyond one Relax operation; formulas from the ONNX operator specification."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from tvm import relax

from sdc.frontends.onnx.lift.lifter import Lifter, converter
from sdc.frontends.onnx.lift.values import number

__all__: list[str] = []

op = relax.op
Formula = Callable[[relax.Expr, Callable[[str, float], relax.Expr]], relax.Expr]


def _f32(value: float) -> relax.Expr:
    return number(value, "float32")


def _zero_below(x: relax.Expr, low: relax.Expr) -> relax.Expr:
    """low where x < 0, else x."""
    return op.where(op.less(x, _f32(0)), low, x)


def _softplus(x: relax.Expr) -> relax.Expr:
    """log(1 + e^x) as max(x, 0) + log(1 + e^-|x|), which does not overflow."""
    tail = op.log(op.add(_f32(1), op.exp(op.negative(op.abs(x)))))
    return op.add(op.nn.relu(x), tail)


def _unit(x: relax.Expr, alpha: relax.Expr, beta: relax.Expr) -> relax.Expr:
    """max(0, min(1, alpha x + beta))."""
    return op.minimum(op.maximum(op.add(op.multiply(alpha, x), beta), _f32(0)), _f32(1))


def _exponential(x: relax.Expr, alpha: relax.Expr) -> relax.Expr:
    return op.multiply(alpha, op.subtract(op.exp(op.minimum(x, _f32(0))), _f32(1)))


_FORMULAS: dict[str, Formula] = {
    "LeakyRelu": lambda x, a: _zero_below(x, op.multiply(a("alpha", 0.01), x)),
    "Elu": lambda x, a: _zero_below(x, _exponential(x, a("alpha", 1.0))),
    "Selu": lambda x, a: op.multiply(
        a("gamma", 1.0507010221481323), _zero_below(x, _exponential(x, a("alpha", 1.6732631921768188)))
    ),
    "Celu": lambda x, a: _zero_below(x, _exponential(op.divide(x, a("alpha", 1.0)), a("alpha", 1.0))),
    "ThresholdedRelu": lambda x, a: op.where(op.greater(x, a("alpha", 1.0)), x, _f32(0)),
    "HardSigmoid": lambda x, a: _unit(x, a("alpha", 0.2), a("beta", 0.5)),
    "HardSwish": lambda x, _: op.multiply(x, _unit(x, _f32(1 / 6), _f32(0.5))),
    "Softplus": lambda x, _: _softplus(x),
    "Softsign": lambda x, _: op.divide(x, op.add(_f32(1), op.abs(x))),
    "Mish": lambda x, _: op.multiply(x, op.tanh(_softplus(x))),
    "Swish": lambda x, a: op.multiply(x, op.sigmoid(op.multiply(a("alpha", 1.0), x))),
}


@converter(*_FORMULAS)
def _activation(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])
    if node.op_type == "Swish" and node.attributes.get_float("alpha", 1.0) == 1.0:
        return lifter.emit(op.nn.silu(x))

    def attribute(name: str, default: float) -> relax.Expr:
        return _f32(node.attributes.get_float(name, default))

    return lifter.emit(lifter.builder.normalize(_FORMULAS[node.op_type](x, attribute)))


@converter("PRelu")
def _prelu(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x, slope = (lifter.expr(v) for v in node.inputs if v is not None)
    return lifter.emit(lifter.builder.normalize(_zero_below(x, op.multiply(slope, x))))


@converter("Clip")
def _clip(lifter: Lifter, node: ir.Node) -> relax.Expr:
    y = lifter.expr(node.inputs[0])
    for bound, limit in zip(node.inputs[1:], (op.maximum, op.minimum), strict=False):
        if bound is not None:
            y = lifter.emit(limit(y, lifter.expr(bound)))
    return y


@converter("LogSoftmax")
def _log_softmax(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])
    return lifter.emit(op.nn.log_softmax(x, axis=node.attributes.get_int("axis", -1)))
