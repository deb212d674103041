"""onnxruntime's norms: SimplifiedLayerNormalization, and those that add to the residual stream first.

``SkipSimplifiedLayerNormalization`` and ``SkipLayerNormalization`` of ``com.microsoft`` are an addition and a
norm; the sum is their fourth output. ``SimplifiedLayerNormalization`` is an old name of ``RMSNormalization``.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from sdc.frontends.onnx.normalise.rewriting import Outputs, allow, given, replace_nodes

__all__ = ["split_skip_norms"]


def split_skip_norms(model: ir.Model) -> int:
    """Replaces every match; returns how many."""
    rules = {
        "SimplifiedLayerNormalization": _simplified,
        "SkipSimplifiedLayerNormalization": _skip_simplified,
        "SkipLayerNormalization": _skip,
    }
    return replace_nodes(model, rules)


def _simplified(tape: Tape, node: ir.Node) -> Outputs:
    allow(node, ("epsilon", "axis", "stash_type"), inputs=range(2))
    attributes = {"epsilon": _epsilon(node), "axis": node.attributes.get_int("axis", -1)}
    return [tape.op("RMSNormalization", node.inputs, attributes)]


def _skip_simplified(tape: Tape, node: ir.Node) -> Outputs:
    allow(node, ("epsilon",), inputs=range(4))
    total = _sum(tape, node, bias=given(node, 3))
    return [
        tape.op("RMSNormalization", [total, node.inputs[2]], {"epsilon": _epsilon(node)}),
        None,
        None,
        total,
    ]


def _skip(tape: Tape, node: ir.Node) -> Outputs:
    allow(node, ("epsilon",), inputs=range(5))
    total = _sum(tape, node, bias=given(node, 4))
    shift = given(node, 3)
    inputs = [total, node.inputs[2], *([shift] if shift is not None else [])]
    return [tape.op("LayerNormalization", inputs, {"epsilon": _epsilon(node)}), None, None, total]


def _sum(tape: Tape, node: ir.Node, bias: ir.Value | None) -> ir.Value:
    """input + skip + bias; the bias goes to the skip connection, so that it joins the layer before."""
    skip = node.inputs[1] if bias is None else tape.op("Add", [node.inputs[1], bias])
    return tape.op("Add", [node.inputs[0], skip])


def _epsilon(node: ir.Node) -> float:
    """The attribute's default is onnxruntime's (contrib_ops/cpu/skip_layer_norm.cc)."""
    default = 1e-5 if node.op_type == "SimplifiedLayerNormalization" else 1e-12
    return node.attributes.get_float("epsilon", default)
