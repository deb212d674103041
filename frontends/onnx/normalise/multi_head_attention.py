"""MultiHeadAttention and Attention of ``com.microsoft`` become the standard Attention.

Onnxruntime's optimiser and the GenAI model builder write them. ``MultiHeadAttention`` takes queries, keys and
values [batch, n, heads * channels]; ``Attention`` computes them from its input with one packed weight.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from sdc.frontends.onnx.normalise.rewriting import (
    Outputs,
    allow,
    constant,
    given,
    places,
    refuse,
    replace_nodes,
)

__all__ = ["split_multi_head_attention"]

HANDLED = ("num_heads", "scale", "unidirectional", "mask_filter_value")


def split_multi_head_attention(model: ir.Model) -> int:
    """Replaces every match; returns how many."""
    rules = {"MultiHeadAttention": _multi_head}
    return replace_nodes(model, rules) + replace_nodes(model, {"Attention": _packed}, ("com.microsoft",))


def _multi_head(tape: Tape, node: ir.Node) -> Outputs:
    allow(node, HANDLED, inputs=range(8))
    query, key, value = node.inputs[:3]
    if key is None or value is None:
        raise refuse(node, "packed queries, keys and values")
    if len(key.shape or ()) == 4 or len(value.shape or ()) == 4:
        raise refuse(node, "keys and values of cross attention")
    rows = [query, key, value]
    bias = given(node, 3)
    if bias is not None:
        rows = [tape.op("Add", [x, b]) for x, b in zip(rows, _thirds(tape, node, bias), strict=True)]
    mask = _mask(tape, node, padding=given(node, 4), added=given(node, 5))
    return _attention(tape, node, [*rows, mask, given(node, 6), given(node, 7)])


def _packed(tape: Tape, node: ir.Node) -> Outputs:
    allow(node, (*HANDLED, "qkv_hidden_sizes"), inputs=(0, 1, 2, 3, 5))
    x, weight, bias = node.inputs[0], node.inputs[1], given(node, 2)
    rows = tape.op("MatMul", [x, weight])
    if bias is not None:
        rows = tape.op("Add", [rows, bias])
    width = weight.shape[1] if weight is not None and weight.shape is not None else None
    if not isinstance(width, int):
        raise refuse(node, "a weight of unknown width")
    sizes = list(node.attributes.get_ints("qkv_hidden_sizes", [])) or [width // 3] * 3
    parts = tape.op_multi_out("Split", [rows, constant(tape, sizes)], {"axis": -1}, num_outputs=3)
    mask = _mask(tape, node, padding=given(node, 3), added=given(node, 5))
    return _attention(tape, node, [*parts, mask])[:1]


def _attention(tape: Tape, node: ir.Node, inputs: Outputs) -> Outputs:
    heads = node.attributes.get_int("num_heads", 0)
    attributes = {
        "q_num_heads": heads,
        "kv_num_heads": heads,
        "is_causal": node.attributes.get_int("unidirectional", 0),
    }
    scale = node.attributes.get_float("scale", 0.0)
    if scale:
        attributes["scale"] = scale
    while inputs[-1] is None:
        inputs = inputs[:-1]
    return tape.op_multi_out("Attention", inputs, attributes, num_outputs=3, name=f"{node.name}_standard")


def _thirds(tape: Tape, node: ir.Node, bias: ir.Value) -> Outputs:
    """The bias [3 * width] of queries, keys and values."""
    width = bias.shape[0] if bias.shape is not None else None
    if not isinstance(width, int) or width % 3:
        raise refuse(node, f"a bias of width {width}")
    return tape.op_multi_out("Split", [bias, constant(tape, [width // 3] * 3)], {"axis": 0}, num_outputs=3)


def _mask(tape: Tape, node: ir.Node, padding: ir.Value | None, added: ir.Value | None) -> ir.Value | None:
    """What is added to the scores, of a padding mask int32 and what is added anyway.

    [batch, total] hides keys where it is 0; [batch], where a sum made it, says how many keys are seen.
    """
    if padding is None:
        return added
    rank, made = len(padding.shape or ()), padding.producer()
    if rank == 1 and made is not None and made.op_type == "ReduceSum" and node.op_type == "Attention":
        seen = _before(tape, node.inputs[0], padding)
    elif rank == 2:
        zero = tape.op("Cast", [constant(tape, 0)], {"to": padding.dtype or ir.DataType.INT32})
        seen = tape.op("Not", [tape.op("Equal", [padding, zero])])
    else:
        raise refuse(node, f"a padding mask of shape {padding.shape}")
    seen = tape.op("Unsqueeze", [seen, constant(tape, [1, 2])])
    if added is None:
        return seen
    hidden = node.attributes.get_float("mask_filter_value", -10000.0)
    numbers = [tape.op("Constant", [], {"value": ir.tensor(x)}) for x in (0.0, hidden)]
    return tape.op("Add", [added, tape.op("Where", [seen, *numbers])])


def _before(tape: Tape, x: ir.Value | None, counts: ir.Value) -> ir.Value:
    """bool [batch, total]: whether a key's place is before the number of keys; x is [batch, total, width]."""
    numbers = tape.op("Cast", [counts], {"to": ir.DataType.INT64})
    return tape.op("Less", [places(tape, x), tape.op("Unsqueeze", [numbers, constant(tape, [1])])])
