"""Grouped-query attention: keys and values repeated for every query head are taken before the repetition.

``Reshape(Expand(Unsqueeze(k, 2)))`` (Hugging Face's ``repeat_kv``) in front of ``Attention``, which shares
heads by itself, perhaps with the heads merged into the channels after it.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["drop_repeated_heads"]


def drop_repeated_heads(model: ir.Model) -> int:
    """Rewires the key and value inputs of every Attention; returns how many inputs changed."""
    changed = 0
    for node in model.graph:
        if node.op_type != "Attention" or node.domain:
            continue
        for index in (1, 2):
            original = _before_repetition(node.inputs[index])
            if original is not None:
                node.replace_input_with(index, original)
                changed += 1
    return changed


def _before_repetition(value: ir.Value | None) -> ir.Value | None:
    value = _with_heads(value)
    chain: ir.Value | None = value
    for op in ("Reshape", "Expand", "Unsqueeze"):
        node = _producer(chain, op)
        if node is None:
            return None
        chain = node.inputs[0]
        axes = node.inputs[1]
    constant = ir.convenience.get_const_tensor(axes) if axes is not None else None
    if constant is None or constant.numpy().reshape(-1).tolist() != [2] or chain is None:
        return None
    return chain if len(chain.shape or ()) == 4 else None


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
