"""Grouped-query attention: keys and values repeated for every query head are taken before the repetition.

``Reshape(Expand(Unsqueeze(k, 2)))`` (Hugging Face's ``repeat_kv``) in front of ``Attention``, which shares
heads by itself, perhaps with the heads merged into the channels after it.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from sdc.frontends.onnx.normalise.sizes import Sizes, same_sizes, small_array

__all__ = ["drop_repeated_heads"]


def drop_repeated_heads(model: ir.Model) -> int:
    """Rewires the key and value inputs of every Attention whose heads are repeated; returns how many."""
    changed = 0
    for node in model.graph:
        if node.op_type != "Attention" or node.domain:
            continue
        of_keys, of_values = (_before_repetition(node.inputs[index]) for index in (1, 2))
        if of_keys is None or of_values is None:
            continue
        (keys, heads, repeats), (values, others, again) = of_keys, of_values
        if same_sizes([repeats], [again]) and not (isinstance(heads, int) and heads != others):
            node.replace_input_with(1, keys)
            node.replace_input_with(2, values)
            changed += 2
    return changed


def _before_repetition(value: ir.Value | None) -> tuple[ir.Value, Any, Any] | None:
    """k [b, h, n, d], h and r where the value is Reshape(Expand(Unsqueeze(k, 2))) to [b, h r, n, d]."""
    value = _with_heads(value)
    merge = _producer(value, "Reshape")
    expand = _producer(merge.inputs[0], "Expand") if merge is not None else None
    split = _producer(expand.inputs[0], "Unsqueeze") if expand is not None else None
    if merge is None or expand is None or split is None:
        return None
    keys, axes = split.inputs
    sizes, known = Sizes(), small_array(axes)
    dims = sizes.shape(keys)
    if keys is None or dims is None or len(dims) != 4 or known is None or known.reshape(-1).tolist() != [2]:
        return None
    wide, merged = sizes.elements(expand.inputs[1]), sizes.elements(merge.inputs[1])
    if wide is None or merged is None or len(wide) != 5 or len(merged) != 4:
        return None
    # The third axis of four, which may be a sum of sizes, follows from the others.
    batch, heads, repeats, channels = *wide[:3], wide[4]
    kept = same_sizes((batch, heads, channels), (dims[0], dims[1], dims[3]))
    together = (merged[0], merged[1], merged[3])
    return (
        (keys, heads, repeats) if kept and same_sizes(together, (batch, heads * repeats, channels)) else None
    )


def _with_heads(value: ir.Value | None) -> ir.Value | None:
    """[batch, heads, n, channels] behind [batch, n, heads * channels]."""
    merged = _producer(value, "Reshape")
    turned = _producer(merged.inputs[0], "Transpose") if merged is not None else None
    if turned is None or list(turned.attributes.get_ints("perm", [])) != [0, 2, 1, 3]:
        return value
    return turned.inputs[0] if value is not None and len(value.shape or ()) == 3 else value


def _producer(value: ir.Value | None, op: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op and not node.domain else None
