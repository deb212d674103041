"""Floating-point casts vanish: activations are float32 throughout, whatever a model was exported in."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["FLOATS", "drop_float_casts"]

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


def drop_float_casts(model: ir.Model) -> int:
    """Removes casts from one floating-point type to another, and ``Identity``; returns how many.

    A model exported in float16 is thus computed in float32; its weights stay as stored until they are used.
    """
    dropped = 0
    graph = model.graph
    outputs = set(graph.outputs)
    for node in list(graph):
        is_cast = node.op_type in ("Cast", "CastLike") and node.domain == ""
        source = node.inputs[0] if node.inputs else None
        if source is None or not (is_cast or node.op_type == "Identity"):
            continue
        if is_cast and not (source.dtype in FLOATS and node.outputs[0].dtype in FLOATS):
            continue
        if node.outputs[0] in outputs:
            continue
        ir.convenience.replace_all_uses_with(node.outputs[0], source)
        graph.remove(node, safe=True)
        dropped += 1
    for node in graph:
        for value in node.outputs:
            if value.dtype in FLOATS:
                value.dtype = ir.DataType.FLOAT
    return dropped
