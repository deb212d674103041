"""Scores that are replaced by a very negative number where a key is hidden become scores with a mask added.

Where(seen, scores, lowest) before a Softmax, as GPT-2 has it, is scores + Where(seen, 0, lowest): what is
left of a hidden score vanishes in the softmax all the same.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

__all__ = ["add_masks"]

HIDDEN = -1e4  # exporters write -inf, the lowest float16 or float32, or -10000 for "not visible"


def add_masks(model: ir.Model) -> int:
    """Replaces every match; returns how many."""
    count = 0
    for node in list(model.graph):
        if node.op_type != "Where" or node.domain or not _reaches_softmax(node.outputs[0]):
            continue
        seen, scores, lowest = node.inputs
        constant = ir.convenience.get_const_tensor(lowest) if lowest is not None else None
        if constant is None or constant.size != 1 or constant.numpy().reshape(()) > HIDDEN:
            continue
        tape = Tape()
        zero = tape.op("Constant", [], {"value": ir.tensor(np.zeros((), np.float32))})
        total = tape.op("Add", [scores, tape.op("Where", [seen, zero, lowest])])
        total.shape, total.dtype = node.outputs[0].shape, node.outputs[0].dtype
        model.graph.insert_before(node, tape.nodes)
        ir.convenience.replace_all_uses_with(node.outputs[0], total)
        count += 1
    return count


def _reaches_softmax(value: ir.Value) -> bool:
    """Whether a value is only read by a Softmax, perhaps after one more mask is added."""
    users = {user for user, _ in value.uses()}
    if len(users) != 1:
        return False
    (user,) = users
    if user.op_type == "Add" and not user.domain:
        users = {after for after, _ in user.outputs[0].uses()}
    return len(users) == 1 and next(iter(users)).op_type == "Softmax"
