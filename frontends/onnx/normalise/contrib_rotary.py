"""RotaryEmbedding of ``com.microsoft`` becomes the standard one: its inputs stand in another order."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from sdc.frontends.onnx.normalise.known_shapes import infer_known_shapes
from sdc.frontends.onnx.normalise.rewriting import Outputs, allow, constant, refuse, replace_nodes

__all__ = ["standardise_rotary"]


def standardise_rotary(model: ir.Model) -> int:
    """Replaces every match; returns how many."""
    count = replace_nodes(model, {"RotaryEmbedding": _rotary}, ("com.microsoft",))
    if (
        count
    ):  # attention is looked for by its shapes, which no inference finds behind onnxruntime's operation
        infer_known_shapes(model)
    return count


def _rotary(tape: Tape, node: ir.Node) -> Outputs:
    """Position ids may be one number, the position of the first token."""
    attributes = ("interleaved", "num_heads", "rotary_embedding_dim", "scale", "is_packed_batching")
    allow(node, attributes, inputs=range(4))
    x, ids, cos, sin = node.inputs
    if node.attributes.get_float("scale", 1.0) != 1.0 or node.attributes.get_int("is_packed_batching", 0):
        raise refuse(node, "scaled positions, or batches packed without padding")
    if x is None or cos is None or cos.shape is None or not isinstance(cos.shape[-1], int):
        raise refuse(node, "tables of unknown width")
    if ids is not None and len(ids.shape or ()) == 1:
        ids = _counted(tape, x, ids)
    heads = node.attributes.get_int("num_heads", 0)
    if not heads and len(x.shape or ()) == 3:
        # Then a head is as wide as the angles reach (onnxruntime, cpu/bert/rotary_embedding_helper.h).
        width = x.shape[2] if x.shape is not None else None
        if not isinstance(width, int):
            raise refuse(node, "its number of heads is not said")
        heads = width // (2 * cos.shape[-1])
    turned = {"num_heads": heads, "interleaved": node.attributes.get_int("interleaved", 0)}
    return [tape.op("RotaryEmbedding", [x, cos, sin, ids], turned)]


def _counted(tape: Tape, x: ir.Value, first: ir.Value) -> ir.Value:
    """[1, seq] positions from the first one on; x is [batch, seq, width] or [batch, heads, seq, channels]."""
    axis = len(x.shape or ()) - 2
    seq = tape.op("Squeeze", [tape.op("Shape", [x], {"start": axis, "end": axis + 1})])
    steps = tape.op("Range", [constant(tape, 0), seq, constant(tape, 1)])
    return tape.op("Unsqueeze", [tape.op("Add", [steps, first]), constant(tape, [0])])
