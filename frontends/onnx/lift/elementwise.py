"""Element-wise operations and reductions."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from tvm import relax

from sdc.frontends.onnx.lift.lifter import Lifter, converter
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
    "Floor": relax.op.floor,
    "Swish": relax.op.nn.silu,
}

_BINARY: dict[str, Callable[[relax.Expr, relax.Expr], relax.Expr]] = {
    "Sub": relax.op.subtract,
    "Div": relax.op.divide,
    "Pow": relax.op.power,
}


@converter(*_UNARY)
def _unary(lifter: Lifter, node: ir.Node) -> relax.Expr:
    return lifter.emit(_UNARY[node.op_type](lifter.expr(node.inputs[0])))  # type: ignore[arg-type]


@converter(*_BINARY)
def _binary(lifter: Lifter, node: ir.Node) -> relax.Expr:
    a, b = (lifter.expr(v) for v in node.inputs if v is not None)
    return lifter.emit(_BINARY[node.op_type](a, b))


@converter("Reciprocal")
def _reciprocal(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])  # type: ignore[arg-type]
    return lifter.emit(relax.op.divide(relax.const(1.0, "float32"), x))


@converter("Gelu")
def _gelu(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])  # type: ignore[arg-type]
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
            return lifter.emit(linear(*bound.args, lifter.weight(lifter.param(other)), name=name))
    a, b = (lifter.expr(v) for v in node.inputs if v is not None)
    return lifter.emit(relax.op.add(a, b))


@converter("Softmax")
def _softmax(lifter: Lifter, node: ir.Node) -> relax.Expr:
    axis = node.attributes.get_int("axis", -1)
    return lifter.emit(relax.op.nn.softmax(lifter.expr(node.inputs[0]), axis=axis))  # type: ignore[arg-type]


@converter("ReduceMean")
def _mean(lifter: Lifter, node: ir.Node) -> relax.Expr:
    axes = lifter.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    which = None if axes is None else [int(a) for a in axes]
    keep = bool(node.attributes.get_int("keepdims", 1))
    return lifter.emit(relax.op.mean(lifter.expr(node.inputs[0]), which, keepdims=keep))  # type: ignore[arg-type]


@converter("Cast")
def _cast(lifter: Lifter, node: ir.Node) -> relax.Expr:
    kind = ir.DataType(node.attributes.get_int("to"))
    dtype = str(kind.numpy())
    dtype = "float32" if dtype in ("float16", "bfloat16", "float64") else dtype
    return lifter.emit(relax.op.astype(lifter.expr(node.inputs[0]), dtype))  # type: ignore[arg-type]
