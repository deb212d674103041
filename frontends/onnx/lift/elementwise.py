"""Element-wise arithmetic, casts and softmax."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from tvm import relax

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx.lift.lifter import Lifter, computed_in, converter
from sdc.frontends.onnx.lift.values import number
from sdc.ir.ops import attributes, is_op, linear

__all__: list[str] = []

_UNARY: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "Neg": relax.op.negative,
    "Abs": relax.op.abs,
    "Exp": relax.op.exp,
    "Log": relax.op.log,
    "Sqrt": relax.op.sqrt,
    "Tanh": relax.op.tanh,
    "Erf": relax.op.erf,
    "Sigmoid": relax.op.sigmoid,
    "Relu": relax.op.nn.relu,
    "Cos": relax.op.cos,
    "Sin": relax.op.sin,
    "Tan": relax.op.tan,
    "Asin": relax.op.asin,
    "Acos": relax.op.acos,
    "Atan": relax.op.atan,
    "Sinh": relax.op.sinh,
    "Cosh": relax.op.cosh,
    "Asinh": relax.op.asinh,
    "Acosh": relax.op.acosh,
    "Atanh": relax.op.atanh,
    "Floor": relax.op.floor,
    "Ceil": relax.op.ceil,
    "Round": relax.op.round,
    "Sign": relax.op.sign,
}

_BINARY: dict[str, Callable[[relax.Expr, relax.Expr], relax.Expr]] = {
    "Sub": relax.op.subtract,
}


@converter(*_UNARY)
def _unary(lifter: Lifter, node: ir.Node) -> relax.Expr:
    return lifter.emit(_UNARY[node.op_type](lifter.expr(node.inputs[0])))


@converter(*_BINARY)
def _binary(lifter: Lifter, node: ir.Node) -> relax.Expr:
    a, b = (lifter.expr(v) for v in node.inputs if v is not None)
    return lifter.emit(_BINARY[node.op_type](a, b))


@converter("Div")
def _divide(lifter: Lifter, node: ir.Node) -> relax.Expr:
    """Integers are divided towards zero."""
    a, b = (lifter.expr(v) for v in node.inputs if v is not None)
    if str(a.ty.dtype).startswith("float"):
        return lifter.emit(relax.op.divide(a, b))
    if str(a.ty.dtype).startswith("uint"):
        return lifter.emit(relax.op.floor_divide(a, b))
    size = lifter.emit(relax.op.floor_divide(*(lifter.emit(relax.op.abs(x)) for x in (a, b))))
    signs = lifter.emit(relax.op.multiply(*(lifter.emit(relax.op.sign(x)) for x in (a, b))))
    return lifter.emit(relax.op.multiply(size, signs))


@converter("Pow")
def _power(lifter: Lifter, node: ir.Node) -> relax.Expr:
    """The result has the type of the base; an exponent of another type is computed with in float32."""
    base, exponent = (lifter.expr(v) for v in node.inputs if v is not None)
    dtype = str(base.ty.dtype)
    if str(exponent.ty.dtype) == dtype:
        return lifter.emit(relax.op.power(base, exponent))
    wide = [lifter.emit(relax.op.astype(x, "float32")) for x in (base, exponent)]
    return lifter.emit(relax.op.astype(lifter.emit(relax.op.power(*wide)), dtype))


@converter("Reciprocal")
def _reciprocal(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])
    return lifter.emit(relax.op.divide(number(1, "float32"), x))


@converter("Gelu")
def _gelu(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])
    tanh = node.attributes.get_string("approximate", "none") == "tanh"
    return lifter.emit(relax.op.nn.gelu_tanh(x) if tanh else relax.op.nn.gelu(x))


@converter("Mul")
def _mul(lifter: Lifter, node: ir.Node) -> relax.Expr:
    """x * sigmoid(x) is SiLU (Elfwing et al., arXiv 1702.03118)."""
    a, b = (lifter.expr(v) for v in node.inputs if v is not None)
    for x, other in ((a, b), (b, a)):
        bound = lifter.binding(other)
        if is_op(bound, "sigmoid") and bound is not None and bound.args[0].same_as(x):
            return lifter.emit(relax.op.nn.silu(x))
    return lifter.emit(relax.op.multiply(a, b))


@converter("Add")
def _add(lifter: Lifter, node: ir.Node) -> relax.Expr:
    """A dense layer plus a constant vector is a dense layer with a bias."""
    for x, other in (node.inputs, reversed(node.inputs)):
        if x is None or other is None:
            continue
        bias = lifter.constant(other)
        made = lifter.values[id(x)]
        bound = lifter.binding(made) if isinstance(made, relax.Expr) else None
        if bias is None or not is_op(bound, "sdc.linear") or bound is None or len(bound.args) != 2:
            continue
        if bias.shape == (int(bound.args[1].ty.shape.values[0]),) and len(x.uses()) == 1:
            name = attributes(bound)["name"]
            rows, weight = bound.args
            return lifter.emit(linear(rows, weight, lifter.weight(lifter.param(other)), name=name))
    a, b = (lifter.expr(v) for v in node.inputs if v is not None)
    return lifter.emit(relax.op.add(a, b))


@converter("Softmax")
def _softmax(lifter: Lifter, node: ir.Node) -> relax.Expr:
    axis = node.attributes.get_int("axis", -1)
    return lifter.emit(relax.op.nn.softmax(lifter.expr(node.inputs[0]), axis=axis))


@converter("Cast")
def _cast(lifter: Lifter, node: ir.Node) -> relax.Expr:
    kind = ir.DataType(node.attributes.get_int("to"))
    dtype = computed_in(kind)
    if dtype is None:
        raise UnsupportedOpError([f'node "{node.name}" (op Cast) to {kind.name}'])
    return lifter.emit(relax.op.astype(lifter.expr(node.inputs[0]), dtype))
