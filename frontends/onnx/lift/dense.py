"""Matrix products and norms."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tvm import relax

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx.lift.lazy import transposed
from sdc.frontends.onnx.lift.lifter import Lifter, converter
from sdc.frontends.onnx.lift.values import Constant, Weight, number
from sdc.ir.ops import linear
from sdc.ir.params import array_param

__all__: list[str] = []


@converter("MatMul")
def _matmul(lifter: Lifter, node: ir.Node) -> relax.Expr:
    a, b = node.inputs
    assert a is not None
    assert b is not None
    right = lifter.values[id(b)]
    if isinstance(right, Constant | Weight) and len(lifter.param(b).shape) == 2:
        weight = transposed(lifter.param(b))
        return lifter.emit(linear(lifter.expr(a), lifter.weight(weight), name=lifter.op_name(b, node)))
    return lifter.emit(relax.op.matmul(lifter.expr(a), lifter.expr(b)))


@converter("Gemm")
def _gemm(lifter: Lifter, node: ir.Node) -> relax.Expr:
    """alpha A' B' + beta C; a constant B is the weight of a linear layer."""
    a, b = node.inputs[:2]
    c = node.inputs[2] if len(node.inputs) > 2 else None
    attrs = node.attributes
    assert a is not None
    assert b is not None
    x = lifter.expr(a)
    if attrs.get_int("transA", 0):
        x = lifter.permute(x, [1, 0])
    plain = attrs.get_float("alpha", 1.0) == 1.0 and (c is None or attrs.get_float("beta", 1.0) == 1.0)
    if isinstance(lifter.values[id(b)], Constant | Weight):
        param = lifter.param(b)
        weight = lifter.weight(param if attrs.get_int("transB", 0) else transposed(param))
        name = lifter.op_name(b, node)
        if plain and (c is None or _is_vector(lifter, c)):
            bias = None if c is None else lifter.weight(lifter.param(c))
            return lifter.emit(linear(x, weight, bias, name=name))
        y = lifter.emit(linear(x, weight, name=name))
    else:
        right = lifter.expr(b)
        y = lifter.emit(
            relax.op.matmul(x, lifter.permute(right, [1, 0]) if attrs.get_int("transB", 0) else right)
        )
    y = _scaled(lifter, y, attrs.get_float("alpha", 1.0))
    if c is None:
        return y
    return lifter.emit(relax.op.add(y, _scaled(lifter, lifter.expr(c), attrs.get_float("beta", 1.0))))


def _is_vector(lifter: Lifter, value: ir.Value) -> bool:
    """Whether a value is a constant with one number per output channel."""
    fixed = isinstance(lifter.values[id(value)], Constant | Weight)
    return fixed and len(lifter.param(value).shape) == 1 and lifter.param(value).shape[0] > 1


def _scaled(lifter: Lifter, x: relax.Expr, factor: float) -> relax.Expr:
    if factor == 1.0:
        return x
    return lifter.emit(relax.op.multiply(x, number(factor, "float32")))


@converter("RMSNormalization")
def _rms_norm(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])
    _last_axis(node, len(x.ty.shape.values))
    gain = lifter.weight(lifter.param(node.inputs[1]))
    return lifter.emit(relax.op.nn.rms_norm(x, gain, -1, node.attributes.get_float("epsilon", 1e-5)))


@converter("LayerNormalization")
def _layer_norm(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])
    _last_axis(node, len(x.ty.shape.values))
    gain = lifter.weight(lifter.param(node.inputs[1]))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        shift = lifter.weight(lifter.param(node.inputs[2]))
    else:
        zeros = np.zeros(int(x.ty.shape.values[-1]), np.float32)
        shift = lifter.weight(array_param(f"{node.name}.shift", zeros))
    return lifter.emit(relax.op.nn.layer_norm(x, gain, shift, -1, node.attributes.get_float("epsilon", 1e-5)))


def _last_axis(node: ir.Node, rank: int) -> None:
    if node.attributes.get_int("axis", -1) not in (-1, rank - 1):
        raise UnsupportedOpError([f'node "{node.name}" (op {node.op_type}) over more than the last axis'])
