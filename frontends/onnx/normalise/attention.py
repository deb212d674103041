"""Decomposed scaled dot-product attention becomes the standard ``Attention`` operation.

Matched backwards from each Softmax over the last axis: scores = MatMul(q, k transposed), scaled by constants
before or after, perhaps capped by c tanh(x / c), perhaps masks and biases added, perhaps NaN rows silenced
(as in torch's safe softmax), then MatMul with v.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sdc.frontends.onnx.normalise.sizes import Sizes, same_sizes

__all__ = ["fuse_attention"]


@dataclass
class _Match:
    query: ir.Value
    key: ir.Value
    value: ir.Value
    masks: tuple[ir.Value, ...]
    scale: float
    softcap: float
    output: ir.Value


def fuse_attention(model: ir.Model) -> int:
    """Replaces every match; returns how many."""
    count = 0
    for node in list(model.graph):
        if node.op_type != "Softmax" or node.domain:
            continue
        match = _match(node)
        if match is None:
            continue
        name = f"{match.output.producer().name}_fused"
        sums = _sums(match.masks, name)
        mask = [sums[-1].outputs[0]] if sums else list(match.masks)
        fused = ir.node(
            "Attention",
            [match.query, match.key, match.value, *mask],
            {"scale": match.scale, "softcap": match.softcap, "is_causal": 0},
            name=name,
        )
        fused.outputs[0].name = f"{match.output.name}_fused"
        fused.outputs[0].shape, fused.outputs[0].dtype = match.output.shape, match.output.dtype
        model.graph.insert_after(match.output.producer(), [*sums, fused])
        ir.convenience.replace_all_uses_with(match.output, fused.outputs[0])
        count += 1
    return count


def _sums(masks: tuple[ir.Value, ...], name: str) -> list[ir.Node]:
    """Nodes that add several masks; none for one."""
    nodes: list[ir.Node] = []
    for index, mask in enumerate(masks[1:], 1):
        left = nodes[-1].outputs[0] if nodes else masks[0]
        node = ir.node("Add", [left, mask], name=f"{name}_mask_{index}")
        node.outputs[0].name, node.outputs[0].dtype = node.name, mask.dtype
        nodes.append(node)
    return nodes


def _match(softmax: ir.Node) -> _Match | None:
    axis = softmax.attributes.get_int("axis", -1)
    if axis not in (-1, 3):
        return None
    after = _skip_nan_guard(softmax.outputs[0])
    users = [u for u, i in after.uses() if u.op_type == "MatMul" and i == 0]
    if len(users) != 1:
        return None
    scores, masks = _split_masks(softmax.inputs[0])
    scores, softcap, inside = _split_softcap(scores)
    scores, scale = _split_scale(scores)
    product = _producer(scores, "MatMul")
    if product is None:
        return None
    query, before_query = _split_scale(product.inputs[0])
    transposed, before_key = _split_scale(product.inputs[1])
    key = _untranspose(transposed)
    if key is None or query is None or len(query.shape or ()) != 4:
        return None
    value = users[0].inputs[1]
    if value is None:
        return None
    return _Match(
        query, key, value, masks, inside * scale * before_query * before_key, softcap, users[0].outputs[0]
    )


def _producer(value: ir.Value | None, op: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op and not node.domain else None


def _skip_nan_guard(probabilities: ir.Value) -> ir.Value:
    """Where(IsNaN(p), 0, p) is p wherever a query sees a key at all."""
    for user, index in probabilities.uses():
        if user.op_type != "Where" or index != 2 or _scalar(user.inputs[1]) != 0:
            continue
        test = _producer(user.inputs[0], "IsNaN")
        if test is not None and test.inputs[0] is probabilities:
            return user.outputs[0]
    return probabilities


def _split_masks(value: ir.Value | None) -> tuple[ir.Value | None, tuple[ir.Value, ...]]:
    """The scores, and what is added to them (T5 adds a bias of positions and a mask)."""
    add = _producer(value, "Add")
    if add is None:
        return value, ()
    for left, mask in (add.inputs, reversed(add.inputs)):
        scores, masks = _split_masks(left)
        inner, _ = _split_scale(_split_softcap(scores)[0])
        if mask is not None and _producer(inner, "MatMul") is not None:
            return scores, (*masks, mask)
    return value, ()


def _split_softcap(value: ir.Value | None) -> tuple[ir.Value | None, float, float]:
    """x, c and f of Mul(Tanh(Mul(x, f / c)), c) (Gemma 2, arXiv 2408.00118, section 2); c is 0 for none.

    f is 1, or the scale of the scores where an optimiser joined the two constants.
    """
    inner, cap = _split_scale(value)
    tanh = _producer(inner, "Tanh")
    if tanh is None or cap <= 0:
        return value, 0.0, 1.0
    scores, factor = _split_scale(tanh.inputs[0])
    return scores, cap, 1.0 if abs(factor * cap - 1) < 1e-5 else factor * cap


def _split_scale(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """Peels a multiplication or division by a constant scalar."""
    for op in ("Mul", "Div"):
        node = _producer(value, op)
        if node is None:
            continue
        right = _scalar(node.inputs[1])
        if right is not None:
            return node.inputs[0], right if op == "Mul" else 1 / right
        left = _scalar(node.inputs[0])
        if left is not None and op == "Mul":
            return node.inputs[1], left
    return value, 1.0


def _scalar(value: ir.Value | None) -> float | None:
    constant = ir.convenience.get_const_tensor(value) if value is not None else None
    if constant is None or constant.size != 1:
        return None
    return float(np.asarray(constant.numpy(), np.float64).reshape(()))


def _untranspose(value: ir.Value | None) -> ir.Value | None:
    """k from Transpose(k), or from Reshape(Transpose(Reshape(k))) with batch and heads flattened.

    Where k was brought to heads and transposed in one, it is brought to heads alone.
    """
    plain = _producer(value, "Transpose")
    perm = list(plain.attributes.get_ints("perm", [])) if plain is not None else []
    if plain is not None and perm == [0, 1, 3, 2]:
        return plain.inputs[0]
    if plain is not None and len(perm) == 4:
        return _transposed(plain, [*perm[:2], perm[3], perm[2]])
    outer = _producer(value, "Reshape")
    inner = _producer(outer.inputs[0], "Transpose") if outer is not None else None
    if inner is None or list(inner.attributes.get_ints("perm", [])) != [0, 2, 1]:
        return None
    flat = _producer(inner.inputs[0], "Reshape")
    if flat is None or flat.inputs[0] is None or len(flat.inputs[0].shape or ()) != 4:
        return None
    return flat.inputs[0] if _flattens(flat, outer) else None


def _flattens(flat: ir.Node, back: ir.Node) -> bool:
    """Whether keys [b, h, n, d] become [b h, n, d], and what [b h, d, n] becomes is [b, h, d, n]."""
    keys, sizes = flat.inputs[0], Sizes()
    wanted = [sizes.elements(node.inputs[1]) for node in (flat, back)]
    if keys is None or wanted[0] is None or wanted[1] is None or len(wanted[0]) != 3 or len(wanted[1]) != 4:
        return False
    _, heads, rows, channels = sizes.shape(keys) or (None,) * 4
    # What is left of the first axis, batch or batch times heads, follows from these.
    return same_sizes((*wanted[0][1:], *wanted[1][1:]), (rows, channels, heads, channels, rows))


def _transposed(node: ir.Node, perm: list[int]) -> ir.Value:
    """The input of a Transpose, permuted in another way beside it."""
    other = ir.node("Transpose", [node.inputs[0]], {"perm": perm}, name=f"{node.name}_heads")
    out, old = other.outputs[0], node.outputs[0]
    out.name, out.dtype = other.name, old.dtype
    out.shape = None if old.shape is None else ir.Shape([*old.shape[:2], old.shape[3], old.shape[2]])
    assert node.graph is not None
    node.graph.insert_after(node, other)
    return out
