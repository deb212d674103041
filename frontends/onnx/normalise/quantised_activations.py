"""Activations that a file quantises: float again, since encoding them as spikes takes the place of that.

What onnxruntime's quantisers write (and Olive, which calls them):

- dynamic: ``MatMulInteger`` of a ``DynamicQuantizeLinear``, cast and multiplied by both scales;
- the same as onnxruntime's optimiser fuses it: ``MatMulIntegerToFloat``, ``DynamicQuantizeMatMul``;
- static, QDQ: ``QuantizeLinear`` and ``DequantizeLinear`` with the same scale around every tensor;
- static, operators: ``QLinearMatMul``;
- embeddings: ``DequantizeLinear`` of the rows that ``Gather`` picked;
- as the optimiser saves static ones: integers are moved (``Transpose``, ``Slice``, ...) between the two.

Weights become ``DequantizeLinear`` of their stored integers, which the lifting keeps lazy.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

from sdc.frontends.onnx.normalise.rewriting import Outputs, allow, given, refuse, replace_nodes

__all__ = ["drop_quantised_activations"]


# Operations that put elements elsewhere, and change none.
MOVES = frozenset(
    {"Concat", "Expand", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)


def drop_quantised_activations(model: ir.Model) -> int:
    """Rewrites every match; returns how many."""
    count = replace_nodes(model, {"QLinearMatMul": _apart}, domains=("",))
    fused = {"MatMulIntegerToFloat": _scaled_product, "DynamicQuantizeMatMul": _quantising_product}
    count += replace_nodes(model, fused, domains=("com.microsoft",))
    while found := _rewritten(model):  # what is moved forward meets what it belongs to in the next round
        count += found
    if count:  # what several nodes read has been moved once for each of them
        common.CommonSubexpressionEliminationPass()(model)
    return count


def _rewritten(model: ir.Model) -> int:
    """One round of the rules for nodes that something reads; returns how many matched."""
    count = 0
    for node in list(model.graph):
        rule = _RULES.get(node.op_type) if not node.domain else None
        old = node.outputs[0]
        if rule is None or not (old.uses() or old.is_graph_output()) or (found := rule(node)) is None:
            continue
        nodes, value = found
        value.dtype, value.shape = value.dtype or old.dtype, value.shape or old.shape
        model.graph.insert_before(node, nodes)
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        count += 1
    return count


def _apart(tape: Tape, node: ir.Node) -> Outputs:
    """A product of quantised matrices: both made float, the product, quantised."""
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.inputs
    left = tape.op("DequantizeLinear", [a, a_scale, a_zero])
    right = tape.op("DequantizeLinear", [b, b_scale, b_zero], {"axis": 1})
    left.dtype = right.dtype = ir.DataType.FLOAT
    product = tape.op("MatMul", [left, right], name=f"{node.name}_product")
    product.dtype, product.shape = ir.DataType.FLOAT, node.outputs[0].shape
    return [tape.op("QuantizeLinear", [product, y_scale, y_zero])]


def _scaled_product(tape: Tape, node: ir.Node) -> Outputs:
    """MatMulIntegerToFloat(q, w, q_scale, w_scale, q_zero, w_zero, bias): x times w where q is made of x."""
    allow(node, (), inputs=range(7))
    q, q_scale, q_zero = node.inputs[0], node.inputs[2], given(node, 4)
    source = _producer(q, "DynamicQuantizeLinear")
    if source is None:
        x = tape.op("DequantizeLinear", [q, q_scale, q_zero])
    elif q_scale is source.outputs[1] and q_zero is source.outputs[2]:
        x = source.inputs[0]
    else:
        raise refuse(node, "a scale or zero point of another tensor")
    return _with_weight(tape, node, x, (node.inputs[1], node.inputs[3], given(node, 5)), given(node, 6))


def _quantising_product(tape: Tape, node: ir.Node) -> Outputs:
    """DynamicQuantizeMatMul(x, w, w_scale, w_zero, bias)."""
    allow(node, (), inputs=range(5))
    weight = (node.inputs[1], node.inputs[2], given(node, 3))
    return _with_weight(tape, node, node.inputs[0], weight, given(node, 4))


def _with_weight(
    tape: Tape, node: ir.Node, x: ir.Value | None, weight: Outputs, bias: ir.Value | None
) -> Outputs:
    """The float product with a stored weight (integers, scale, zero point)."""
    if x is None or weight[1] is None or not _is_stored(weight[0]):
        raise refuse(node, "a product of two quantised activations")
    matrix = tape.op("DequantizeLinear", weight, {"axis": 1})
    matrix.name = _float_name(weight[0])
    matrix.dtype, matrix.shape = ir.DataType.FLOAT, None if weight[0] is None else weight[0].shape
    out = tape.op("MatMul", [x, matrix], name=f"{node.name}_float")
    out.dtype, out.shape = ir.DataType.FLOAT, node.outputs[0].shape
    return [out if bias is None else tape.op("Add", [out, bias])]


Rewritten = tuple[list[ir.Node], ir.Value]


def _dynamic_product(scaled: ir.Node) -> Rewritten | None:
    """Mul(Cast(MatMulInteger(q, w, q_zero, w_zero)), Mul(q_scale, w_scale)), q made of x: x times w."""
    for sums, scales in (scaled.inputs, reversed(scaled.inputs)):
        cast, both = _producer(sums, "Cast"), _producer(scales, "Mul")
        product = _producer(cast.inputs[0], "MatMulInteger") if cast is not None else None
        source = _producer(product.inputs[0], "DynamicQuantizeLinear") if product is not None else None
        if product is None or source is None or both is None:
            continue
        scale = _other(both, source.outputs[1])
        if scale is None or given(product, 2) is not source.outputs[2] or not _is_stored(product.inputs[1]):
            continue
        weight = _dequantised(product.inputs[1], scale, given(product, 3))
        out = ir.node("MatMul", [source.inputs[0], weight.outputs[0]], name=f"{product.name}_float")
        out.outputs[0].name = out.name
        return [weight, out], out.outputs[0]
    return None


def _dequantised(integers: ir.Value | None, scale: ir.Value, zero: ir.Value | None) -> ir.Node:
    """A stored weight [in, out] with a scale for all, or one for each output."""
    assert integers is not None
    name = _float_name(integers)
    node = ir.node("DequantizeLinear", [integers, scale, zero], {"axis": 1}, name=name)
    node.outputs[0].name, node.outputs[0].dtype, node.outputs[0].shape = (
        name,
        ir.DataType.FLOAT,
        integers.shape,
    )
    return node


def _float_name(integers: ir.Value | None) -> str:
    return "" if integers is None else str(integers.name).removesuffix("_quantized")


def _pair(node: ir.Node) -> Rewritten | None:
    """DequantizeLinear(QuantizeLinear(x)) with one scale and zero point: x, where it is an activation."""
    quantise = _producer(node.inputs[0], "QuantizeLinear")
    if quantise is None or quantise.inputs[0] is None or _is_stored(quantise.inputs[0]):
        return None
    same = all(_equal(given(node, i), given(quantise, i)) for i in (1, 2))
    return ([], quantise.inputs[0]) if same else None


def _rows(node: ir.Node) -> Rewritten | None:
    """DequantizeLinear(Gather(w, ids)) with one scale for all: Gather(DequantizeLinear(w), ids)."""
    gather = _producer(node.inputs[0], "Gather")
    scale = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] is not None else None
    if gather is None or scale is None or scale.size != 1 or not _is_stored(gather.inputs[0]):
        return None
    assert node.inputs[1] is not None
    table = _dequantised(gather.inputs[0], node.inputs[1], given(node, 2))
    axis = {"axis": gather.attributes.get_int("axis", 0)}
    picked = ir.node("Gather", [table.outputs[0], gather.inputs[1]], axis, name=f"{gather.name}_float")
    picked.outputs[0].name = picked.name
    return [table, picked], picked.outputs[0]


def _moved(node: ir.Node) -> Rewritten | None:
    """DequantizeLinear(move(q)) with one scale for all: move(DequantizeLinear(q))."""
    q, scale, zero = node.inputs[0], node.inputs[1], given(node, 2)
    mover = None if q is None else q.producer()
    stored = ir.convenience.get_const_tensor(scale) if scale is not None else None
    if q is None or mover is None or mover.domain or stored is None or stored.size != 1:
        return None
    if mover.op_type not in MOVES or any(_is_stored(v) for v in _data(mover)):
        return None
    floats = [ir.node("DequantizeLinear", [v, scale, zero], dict(node.attributes)) for v in _data(mover)]
    for each in floats:
        source = each.inputs[0]
        each.outputs[0].dtype, each.outputs[0].shape = (
            ir.DataType.FLOAT,
            None if source is None else source.shape,
        )
    inputs = [*(n.outputs[0] for n in floats), *mover.inputs[len(floats) :]]
    clone = ir.node(mover.op_type, inputs, dict(mover.attributes), num_outputs=len(mover.outputs))
    for old, new in zip(mover.outputs, clone.outputs, strict=True):
        new.dtype, new.shape = ir.DataType.FLOAT, old.shape
    return [*floats, clone], clone.outputs[q.index() or 0]


def _data(mover: ir.Node) -> list[ir.Value | None]:
    """The inputs whose elements a node moves."""
    return list(mover.inputs) if mover.op_type == "Concat" else list(mover.inputs[:1])


def _dequantise(node: ir.Node) -> Rewritten | None:
    return _pair(node) or _rows(node) or _moved(node)


_RULES = {"Mul": _dynamic_product, "DequantizeLinear": _dequantise}


def _producer(value: ir.Value | None, op: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op and not node.domain else None


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The operand beside ``value``; None where it is none of the two."""
    a, b = node.inputs
    return b if a is value else a if b is value else None


def _is_stored(value: ir.Value | None) -> bool:
    return value is not None and ir.convenience.get_const_tensor(value) is not None


def _equal(a: ir.Value | None, b: ir.Value | None) -> bool:
    if a is b:
        return True
    tensors = [ir.convenience.get_const_tensor(v) if v is not None else None for v in (a, b)]
    if tensors[0] is None or tensors[1] is None:
        return False
    return bool(np.array_equal(tensors[0].numpy(), tensors[1].numpy()))
