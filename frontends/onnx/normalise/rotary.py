"""Decomposed rotary embeddings that the stock fusion leaves, as where cos and sin are scaled (YaRN).

x * cos + Concat(-x[half:], x[:half]) * sin becomes the standard ``RotaryEmbedding`` with the first half of
the tables, where both halves are shown to be the same: cos and sin are taken of Concat(f, f).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["fuse_rotary"]


def fuse_rotary(model: ir.Model) -> int:
    """Replaces every match; returns how many."""
    count = 0
    for add in list(model.graph):
        if add.op_type != "Add" or add.domain:
            continue
        match = _match(add)
        if match is None:
            continue
        x, cos, sin, half = match
        nodes = [_first_half(t, half, f"{add.name}_{n}") for t, n in ((cos, "cos"), (sin, "sin"))]
        tables = [n.outputs[0] for group in nodes for n in group[-1:]]
        fused = ir.node("RotaryEmbedding", [x, *tables], name=f"{add.name}_rotary")
        out, old = fused.outputs[0], add.outputs[0]
        out.name, out.shape, out.dtype = f"{old.name}_rotary", old.shape, old.dtype
        model.graph.insert_after(add, [*nodes[0], *nodes[1], fused])
        ir.convenience.replace_all_uses_with(old, out)
        count += 1
    return count


def _match(add: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value, int] | None:
    """The input [batch, heads, seq, d], cos and sin [.., seq, d], and d / 2."""
    for straight, turned in (add.inputs, reversed(add.inputs)):
        left, right = _producer(straight, "Mul"), _producer(turned, "Mul")
        if left is None or right is None:
            continue
        for half_turn, sin in (right.inputs, reversed(right.inputs)):
            found = _rotate_half(half_turn)
            if found is None or sin is None or found[0] not in left.inputs:
                continue
            x, half = found
            cos = left.inputs[1] if left.inputs[0] is x else left.inputs[0]
            if cos is not None and _repeats(cos, "Cos") and _repeats(sin, "Sin"):
                return x, _without_head_axis(cos), _without_head_axis(sin), half
    return None


def _rotate_half(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """x and d / 2 from Concat(Neg(x[.., d / 2:]), x[.., :d / 2])."""
    joined = _producer(value, "Concat")
    if joined is None or len(joined.inputs) != 2 or joined.attributes.get_int("axis", 0) not in (-1, 3):
        return None
    negated = _producer(joined.inputs[0], "Neg")
    second, first = (
        _producer(negated.inputs[0] if negated else None, "Slice"),
        _producer(joined.inputs[1], "Slice"),
    )
    if first is None or second is None or first.inputs[0] is not second.inputs[0]:
        return None
    x = first.inputs[0]
    if x is None or x.shape is None or len(x.shape) != 4 or not isinstance(x.shape[3], int):
        return None
    half, bounds = x.shape[3] // 2, (_bounds(first), _bounds(second))
    if bounds[0] != (0, half, 3) or bounds[1] is None or bounds[1][0] != half or bounds[1][1] < 2 * half:
        return None
    return (x, half) if bounds[1][2] == 3 else None


def _bounds(node: ir.Node) -> tuple[int, int, int] | None:
    """(start, end, axis) of a slice of one axis of four with step 1."""
    numbers = [_integer(v) for v in node.inputs[1:]]
    if len(numbers) < 3 or any(n is None for n in numbers) or numbers[3:] not in ([], [1]):
        return None
    start, end, axis = (int(n) for n in numbers[:3] if n is not None)
    return start, end, axis % 4


def _repeats(value: ir.Value | None, function: str) -> bool:
    """Whether a table is cos or sin of Concat(f, f), perhaps scaled by a number or with axes added."""
    while value is not None:
        node = value.producer()
        if node is None:
            return False
        if node.op_type == function:
            return _joins_twice(node.inputs[0])
        scaled = node.op_type == "Mul" and _is_number(node.inputs[1])
        if not scaled and node.op_type not in ("Unsqueeze", "Cast"):
            return False
        value = node.inputs[0]
    return False


def _joins_twice(value: ir.Value | None) -> bool:
    """Whether a value [batch, seq, d] is Concat(f, f) along d, perhaps joined before a Transpose."""
    axes = [0, 1, 2]
    moved = _producer(value, "Transpose")
    if moved is not None:
        axes, value = list(moved.attributes.get_ints("perm", [2, 1, 0])), moved.inputs[0]
    joined = _producer(value, "Concat")
    if joined is None or len(joined.inputs) != 2 or joined.inputs[0] is not joined.inputs[1]:
        return False
    return len(axes) == 3 and joined.attributes.get_int("axis", 0) % 3 == axes[2]


def _without_head_axis(value: ir.Value) -> ir.Value:
    node = _producer(value, "Unsqueeze")
    return value if node is None or node.inputs[0] is None else node.inputs[0]


def _first_half(table: ir.Value, half: int, name: str) -> list[ir.Node]:
    """Nodes that cut a table [.., seq, d] to its first d / 2 columns."""
    numbers = []
    for what, number in (("start", 0), ("end", half), ("axis", -1)):
        constant = ir.node("Constant", [], {"value": ir.tensor(np.array([number], np.int64))})
        constant.name, constant.outputs[0].name = f"{name}_{what}", f"{name}_{what}"
        numbers.append(constant)
    cut = ir.node("Slice", [table, *(n.outputs[0] for n in numbers)], name=f"{name}_half")
    cut.outputs[0].name = f"{name}_half"
    return [*numbers, cut]


def _producer(value: ir.Value | None, op: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op and not node.domain else None


def _integer(value: ir.Value | None) -> int | None:
    constant = ir.convenience.get_const_tensor(value) if value is not None else None
    return int(constant.numpy().reshape(())) if constant is not None and constant.size == 1 else None


def _is_number(value: ir.Value | None) -> bool:
    constant = ir.convenience.get_const_tensor(value) if value is not None else None
    return constant is not None and constant.size == 1
