"""The standard Attention, with the caches that a decoder of ours always has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, tirx

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx.lift.lifter import Decoding, Lifter, converter
from sdc.frontends.onnx.lift.masks import BiasError, NotCausalError, visibility
from sdc.frontends.onnx.lift.values import number
from sdc.ir.ops import attention, kv_append

__all__: list[str] = []


@converter("Attention")
def _attention(lifter: Lifter, node: ir.Node) -> Any:
    _check_attributes(node)
    q, k, v = (_rows_of_heads(lifter, node, i) for i in range(3))
    sizes = (int(q.ty.shape.values[2]), int(k.ty.shape.values[2]), int(k.ty.shape.values[3]))
    lifter.memo.setdefault("attentions", []).append(sizes)
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    attrs: dict[str, Any] = {
        "scale": node.attributes.get_float("scale", 0.0) or 1 / math.sqrt(int(q.ty.shape.values[3])),
        "softcap": node.attributes.get_float("softcap", 0.0),
        "name": lifter.op_name(None, node),
    }
    if lifter.decoding is not None:
        _check_heads(node, q, k, v)
        seen = visibility(lifter, node, mask)
        if not seen.causal:
            raise NotCausalError
        k, v = (_append(lifter, lifter.decoding, x) for x in (k, v))
        attrs |= {"causal": True, "window": seen.window}
        out = lifter.emit(attention(q, k, v, lifter.decoding.position, **attrs))
    else:
        out, k, v = _stateless(lifter, node, (q, k, v), mask, attrs)
    if len(lifter.expr(node.inputs[0]).ty.shape.values) == 4:
        return (lifter.permute(out, [0, 2, 1, 3]), k, v)
    batch, seq, heads, width = out.ty.shape.values
    return (lifter.emit(relax.op.reshape(out, [batch, seq, heads * width])), k, v)


def _check_attributes(node: ir.Node) -> None:
    """Refuses what opset 24 and later add: keys padded per sequence, and the scores as an output.

    Raises:
        UnsupportedOpError: The node asks for one of these.
    """
    where = f'node "{node.name}" (op Attention)'
    if len(node.inputs) > 6 and node.inputs[6] is not None:
        raise UnsupportedOpError([f"{where}: keys padded per sequence (nonpad_kv_seqlen)"])
    if len(node.outputs) > 3 and node.outputs[3].name:
        raise UnsupportedOpError([f"{where}: the scores as an output (qk_matmul_output)"])
    known = {"scale", "softcap", "is_causal", "q_num_heads", "kv_num_heads", "softmax_precision"}
    other = set(node.attributes) - known - {"qk_matmul_output_mode"}
    if other:
        raise UnsupportedOpError([f"{where}: attributes {', '.join(sorted(other))}"])


def _check_heads(node: ir.Node, *rows: relax.Expr) -> None:
    """Refuses heads and channels that depend on the sizes of inputs: a cache has rows of one size.

    Raises:
        UnsupportedOpError: They do.
    """
    if not all(isinstance(d, int | tirx.IntImm) for x in rows for d in x.ty.shape.values[2:]):
        raise UnsupportedOpError([f'node "{node.name}" (op Attention): heads whose number is not known'])


def _stateless(
    lifter: Lifter, node: ir.Node, qkv: tuple[relax.Expr, ...], mask: ir.Value | None, attrs: dict[str, Any]
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Attention without a cache of ours; keys may follow those of the node's own past inputs."""
    q, *rows = qkv
    k, v = (lifter.permute(x, [0, 2, 1, 3]) for x in rows)
    past: Any = 0
    if len(node.inputs) > 5 and node.inputs[4] is not None:
        old = [lifter.expr(node.inputs[i]) for i in (4, 5)]
        past = old[0].ty.shape.values[2]
        k, v = (lifter.emit(relax.op.concat([o, x], 2)) for o, x in zip(old, (k, v), strict=True))
    if not isinstance(past, int | tirx.IntImm):
        raise UnsupportedOpError(
            [f'node "{node.name}" (op Attention): a past of symbolic length in no decoder']
        )
    bias = None
    try:
        seen = visibility(lifter, node, mask)
        attrs |= {"causal": seen.causal, "window": seen.window}
    except BiasError:
        assert mask is not None
        bias = _additive(lifter, mask, k)
        attrs["causal"] = bool(node.attributes.get_int("is_causal", 0))
    position = number(int(past), "int64")
    return lifter.emit(attention(q, k, v, position, bias, **attrs)), k, v


def _additive(lifter: Lifter, mask: ir.Value, k: relax.Expr) -> relax.Expr:
    """A mask of activations, [.., n, S] bool or float, as float32 of rank 4 that is added to the scores."""
    x = lifter.expr(mask)
    if x.ty.dtype == "bool":
        hidden = number(np.finfo(np.float32).min, "float32")
        x = lifter.emit(relax.op.where(x, number(0, "float32"), hidden))
    missing = 4 - len(x.ty.shape.values)
    if missing:
        x = lifter.emit(relax.op.expand_dims(x, list(range(missing))))
    shape, keys = list(x.ty.shape.values), k.ty.shape.values[2]
    if isinstance(shape[3], int | tirx.IntImm) and int(shape[3]) == 1:
        x = lifter.emit(relax.op.broadcast_to(x, [*shape[:3], keys]))
    return x


def _rows_of_heads(lifter: Lifter, node: ir.Node, index: int) -> relax.Expr:
    """Query, key or value as [batch, seq, heads, channels]."""
    x = lifter.expr(node.inputs[index])
    if len(x.ty.shape.values) == 4:
        return lifter.permute(x, [0, 2, 1, 3])
    heads = node.attributes.get_int("kv_num_heads" if index else "q_num_heads", 0)
    return _split_heads(lifter, x, heads, node)


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
