"""Optimum's merged decoders: one ``If`` over ``use_cache_branch`` whose branches share their weights.

The branch with past keys and values is the whole decoder: with an empty past it computes what the other does.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["take_cached_branch"]


def take_cached_branch(model: ir.Model) -> int:
    """Replaces the one If of a merged decoder by its branch with past inputs; returns how many (0 or 1)."""
    nodes = list(model.graph)
    if len(nodes) != 1 or nodes[0].op_type != "If" or nodes[0].domain:
        return 0
    choice = nodes[0]
    condition = choice.inputs[0]
    if condition is None or not condition.is_graph_input():
        return 0
    branch = choice.attributes["then_branch"].as_graph()
    outputs, body = list(branch.outputs), list(branch)
    for name, value in list(branch.initializers.items()):
        branch.initializers.pop(name)
        model.graph.register_initializer(value)
    branch.outputs.clear()
    branch.remove(body)
    model.graph.insert_before(choice, body)
    for old, new in zip(choice.outputs, outputs, strict=True):
        new.shape, new.dtype = old.shape or new.shape, old.dtype or new.dtype
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    model.graph.remove(choice, safe=True)
    model.graph.inputs.remove(condition)
    return 1
