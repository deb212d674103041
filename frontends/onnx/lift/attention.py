"""Rotary embeddings and attention: angles and masks are evaluated, and proved to be what they should be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tvm import relax, tirx

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx.lift.lifter import Decoding, Lifter, converter
from sdc.frontends.onnx.lift.values import Constant, Structural, Weight
from sdc.ir.ops import attention, kv_append, rotary
from sdc.ir.ops.attention import visible

__all__ = ["NotCausalError"]


class NotCausalError(Exception):
    """An attention sees later tokens: the graph is no decoder."""


@converter("RotaryEmbedding")
def _rotary(lifter: Lifter, node: ir.Node) -> relax.Expr:
    x = lifter.expr(node.inputs[0])  # type: ignore[arg-type]
    heads = node.attributes.get_int("num_heads", 0)
    flat = len(x.ty.shape.values) == 3
    rows = _split_heads(lifter, x, heads, node) if flat else lifter.permute(x, [0, 2, 1, 3])
    cos, sin = (_angles(lifter, node, i) for i in (1, 2))
    interleaved = bool(node.attributes.get_int("interleaved", 0))
    position = lifter.decoding.position if lifter.decoding else relax.const(np.array(0, np.int64))
    table = [lifter.table(f"rotary.{n}", a) for n, a in (("cos", cos), ("sin", sin))]
    turned = lifter.emit(rotary(rows, *table, position, interleaved=interleaved))
    if lifter.decoding:
        lifter.decoding.rope = "interleaved" if interleaved else "half-split"
    return lifter.emit(relax.op.reshape(turned, x.ty.shape)) if flat else lifter.permute(turned, [0, 2, 1, 3])


def _angles(lifter: Lifter, node: ir.Node, index: int) -> NDArray:
    """The table [max_seq, r / 2] behind a cos or sin input, checked to follow the position.

    Raises:
        UnsupportedOpError: The angles depend on more than the position.
    """
    value = node.inputs[index]
    assert value is not None
    length = lifter.decoding.max_seq if lifter.decoding else 512
    ids = node.inputs[3] if len(node.inputs) > 3 else None
    if ids is not None and isinstance(lifter.values[id(value)], Constant | Weight):
        table = lifter.array(value)
        found = lifter.interpreter({"batch": 1, "seq": 3, "past": 0}).number(ids).reshape(-1)
        if isinstance(lifter.values[id(ids)], Structural) and found.tolist() == [0, 1, 2]:
            return table[:length]
    elif ids is None and isinstance(lifter.values[id(value)], Structural):
        table = _rows(lifter, value, length, 0)
        if np.allclose(_rows(lifter, value, 3, 0), table[:3], atol=1e-5):
            return table
    raise UnsupportedOpError(
        [f'node "{node.name}" (op RotaryEmbedding): its angles depend on more than the position']
    )


def _rows(lifter: Lifter, value: ir.Value, seq: int, past: int) -> NDArray:
    array = lifter.interpreter({"batch": 1, "seq": seq, "past": past}).number(value)
    return array.reshape(-1, array.shape[-1])


@converter("Attention")
def _attention(lifter: Lifter, node: ir.Node) -> Any:
    q, k, v = (lifter.expr(node.inputs[i]) for i in range(3))  # type: ignore[arg-type]
    flat = len(q.ty.shape.values) == 3
    heads, kv_heads = (node.attributes.get_int(a, 0) for a in ("q_num_heads", "kv_num_heads"))
    if flat:
        q, k, v = (_split_heads(lifter, x, h, node) for x, h in ((q, heads), (k, kv_heads), (v, kv_heads)))
    else:
        q, k, v = (lifter.permute(x, [0, 2, 1, 3]) for x in (q, k, v))
    scale = node.attributes.get_float("scale", 0.0) or 1 / math.sqrt(int(q.ty.shape.values[3]))
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    causal = _is_causal(lifter, node, mask)
    attrs = {
        "scale": scale,
        "causal": causal,
        "softcap": node.attributes.get_float("softcap", 0.0),
        "name": lifter.op_name(None, node),
    }
    if lifter.decoding is None:
        k, v = (lifter.permute(x, [0, 2, 1, 3]) for x in (k, v))
        out = lifter.emit(attention(q, k, v, relax.const(np.array(0, np.int64)), **attrs))
    elif not causal:
        raise NotCausalError
    else:
        lifter.decoding.heads = int(q.ty.shape.values[2])
        k, v = (_append(lifter, lifter.decoding, x) for x in (k, v))
        out = lifter.emit(attention(q, k, v, lifter.decoding.position, **attrs))
    if flat:
        shape = list(out.ty.shape.values)
        result = lifter.emit(relax.op.reshape(out, [shape[0], shape[1], shape[2] * shape[3]]))
    else:
        result = lifter.permute(out, [0, 2, 1, 3])
    return (result, k, v)


def _append(lifter: Lifter, decoding: Decoding, rows: relax.Expr) -> relax.Expr:
    batch, _, heads, width = rows.ty.shape.values
    kind = "k" if len(decoding.caches) % 2 == 0 else "v"
    shape = [batch, heads, tirx.IntImm("int64", decoding.max_seq), width]
    cache = relax.Var(f"{kind}_cache_{len(decoding.caches) // 2}", relax.TensorType(shape, "float32"))
    decoding.caches.append(cache)
    grown = lifter.emit(kv_append(cache, rows, decoding.position))
    decoding.grown.append(grown)
    return grown


def _split_heads(lifter: Lifter, x: relax.Expr, heads: int, node: ir.Node) -> relax.Expr:
    batch, seq, width = x.ty.shape.values
    if not heads:
        raise UnsupportedOpError([f'node "{node.name}" (op {node.op_type}) does not say its number of heads'])
    return lifter.emit(relax.op.reshape(x, [batch, seq, heads, int(width) // heads]))


def _is_causal(lifter: Lifter, node: ir.Node, mask: ir.Value | None) -> bool:
    """Whether the mask, evaluated for several lengths, is the causal one.

    Raises:
        UnsupportedOpError: It is neither causal nor open.
    """
    if node.attributes.get_int("is_causal", 0):
        return True
    if mask is None:
        return False
    where = f'node "{node.name}" (op Attention)'
    if not isinstance(lifter.values[id(mask)], Structural | Constant):
        raise UnsupportedOpError([f"{where}: its mask depends on activations"])
    pasts = (0, 3) if lifter.decoding and _has_past(lifter) else (0,)
    answers = set()
    for seq, past in ((s, p) for s in (1, 6, 33) for p in pasts):
        number = lifter.interpreter({"batch": 1, "seq": seq, "past": past}).number(mask)
        seen = number if number.dtype == bool else number > -1e4
        seen = np.broadcast_to(seen, (*seen.shape[:-2], seq, seen.shape[-1])).reshape(
            -1, seq, seen.shape[-1]
        )[0]
        if seen.shape[-1] == past + seq and (seen == visible(seq, past + seq, past, True, 0)).all():
            answers.add("causal")
        if seen.all():
            answers.add("open")
    if answers == {"open"} or (answers and "causal" not in answers):
        return False
    if "causal" in answers:
        return True
    raise UnsupportedOpError([f"{where}: its mask is neither causal nor open"])


def _has_past(lifter: Lifter) -> bool:
    return any("past" in str(i.name) for i in lifter.model.graph.inputs)
