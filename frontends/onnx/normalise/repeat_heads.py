"""Grouped-query attention: keys and values repeated for every query head are taken before the repetition.

``Reshape(Expand(Unsqueeze(k, 2)))`` (Hugging Face's ``repeat_kv``) in front of ``Attention``, which shares
heads by itself.
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
    chain: ir.Value | None = value
    for op in ("Reshape", "Expand", "Unsqueeze"):
        node = None if chain is None else chain.producer()
        if node is None or node.op_type != op or node.domain:
            return None
        chain = node.inputs[0]
        axes = node.inputs[1]
    constant = ir.convenience.get_const_tensor(axes) if axes is not None else None
    if constant is None or constant.numpy().reshape(-1).tolist() != [2] or chain is None:
        return None
    return chain if len(chain.shape or ()) == 4 else None
