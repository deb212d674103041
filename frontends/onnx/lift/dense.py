"""Matrix products, embeddings and norms."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tvm import relax

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx.lift.lifter import Lifter, converter, transposed
from sdc.frontends.onnx.lift.values import Constant, Weight
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
    a, b = node.inputs[:2]
    c = node.inputs[2] if len(node.inputs) > 2 else None
    attrs = node.attributes
    assert a is not None
    assert b is not None
    if attrs.get_int("transA", 0) or not isinstance(lifter.values[id(b)], Constant | Weight):
        raise UnsupportedOpError([f'node "{node.name}" (op Gemm) with transA or without a constant weight'])
    if attrs.get_float("alpha", 1.0) != 1.0 or (c is not None and attrs.get_float("beta", 1.0) != 1.0):
        raise UnsupportedOpError([f'node "{node.name}" (op Gemm) with alpha or beta other than 1'])
    param = lifter.param(b)
    weight = param if attrs.get_int("transB", 0) else transposed(param)
    bias = None if c is None else lifter.weight(lifter.param(c))
    x = lifter.expr(a)
    return lifter.emit(linear(x, lifter.weight(weight), bias, name=lifter.op_name(b, node)))


@converter("Gather")
def _gather(lifter: Lifter, node: ir.Node) -> relax.Expr:
    table, index = node.inputs
    assert table is not None
    assert index is not None
    axis = node.attributes.get_int("axis", 0)
    picked = lifter.constant(index)
    data = lifter.expr(table)
    if picked is None:
        return lifter.emit(relax.op.take(data, lifter.expr(index), axis=axis))
    size = int(data.ty.shape.values[axis])
    positive = np.where(picked < 0, picked + size, picked).astype(np.int64)
    taken = relax.op.take(data, relax.const(positive.reshape(-1)), axis=axis)
    if picked.ndim == 1:
        return lifter.emit(taken)
    return lifter.emit(relax.op.squeeze(lifter.emit(taken), [axis]))


@converter("RMSNormalization")
def _rms_norm(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])  # type: ignore[arg-type]
    _last_axis(node, len(x.ty.shape.values))
    gain = lifter.weight(lifter.param(node.inputs[1]))  # type: ignore[arg-type]
    return lifter.emit(relax.op.nn.rms_norm(x, gain, -1, node.attributes.get_float("epsilon", 1e-5)))


@converter("LayerNormalization")
def _layer_norm(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])  # type: ignore[arg-type]
    _last_axis(node, len(x.ty.shape.values))
    gain = lifter.weight(lifter.param(node.inputs[1]))  # type: ignore[arg-type]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        shift = lifter.weight(lifter.param(node.inputs[2]))
    else:
        zeros = np.zeros(int(x.ty.shape.values[-1]), np.float32)
        shift = lifter.weight(array_param(f"{node.name}.shift", zeros))
    return lifter.emit(relax.op.nn.layer_norm(x, gain, shift, -1, node.attributes.get_float("epsilon", 1e-5)))


def _last_axis(node: ir.Node, rank: int) -> None:
    if node.attributes.get_int("axis", -1) not in (-1, rank - 1):
        raise UnsupportedOpError([f'node "{node.name}" (op {node.op_type}) over more than the last axis'])
