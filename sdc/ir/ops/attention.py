"""``sdc.attention``: scaled dot-product attention in float, before it is rewritten to spikes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te, tirx

from sdc.ir import float32
from sdc.ir.ops._register import attributes, call, register, shape_of, tensor

__all__ = ["attention", "reference", "scores_to_visible", "visible"]

DOC = """Attention with grouped heads (Vaswani et al., arXiv 1706.03762; grouped queries, arXiv 2305.13245).

q [batch, n, h, d], k [batch, hk, S, d], v [batch, hk, S, dv] float32, position int64 (rank 0: tokens before
the first query), mask (optional, additive, broadcast to [batch, h, n, S]) -> [batch, n, h, dv] float32.
Query head i reads key head i // (h / hk). Query i sits at position + i; key j is visible to it iff
(not causal or j <= position + i) and (window == 0 or j > position + i - window). A softcap c > 0 turns a
score x into c tanh(x / c) (Gemma 2, arXiv 2408.00118, section 2). Rows of the cache past the last query
of a causal call are never read."""


def attention(
    q: relax.Expr,
    k: relax.Expr,
    v: relax.Expr,
    position: relax.Expr,
    mask: relax.Expr | None = None,
    *,
    scale: float,
    causal: bool,
    window: int = 0,
    softcap: float = 0.0,
    name: str,
) -> relax.Call:
    """Builds ``sdc.attention``: q [batch, n, h, d], k and v [batch, hk, S, d] -> [batch, n, h, dv]."""
    attrs = {"scale": scale, "causal": causal, "window": window, "softcap": softcap, "name": name}
    return call("attention", [q, k, v, position, *([mask] if mask is not None else [])], attrs)


def reference(
    q: NDArray,
    k: NDArray,
    v: NDArray,
    position: NDArray,
    mask: NDArray | None = None,
    *,
    scale: float,
    causal: bool,
    window: int = 0,
    softcap: float = 0.0,
    name: str = "",
) -> NDArray:
    """Softmax(scale q k^T) v over the visible keys, float32."""
    batch, n, heads, _ = q.shape
    groups = heads // k.shape[1]
    keys = min(k.shape[2], int(position) + n) if causal else k.shape[2]
    out = np.empty((batch, n, heads, v.shape[-1]), np.float32)
    seen = visible(n, keys, int(position), causal, window)
    for b in range(batch):
        for h in range(heads):
            dots = q[b, :, h] @ k[b, h // groups, :keys].T
            row_mask = head_mask(mask, b, h, (batch, heads, n))
            scores = scores_to_visible(dots * np.float32(scale), seen, row_mask, softcap)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            out[b, :, h] = weights @ v[b, h // groups, :keys]
    return out


def visible(n: int, keys: int, position: int, causal: bool, window: int) -> NDArray:
    """Which keys each query sees, bool [n, keys]."""
    query, key = position + np.arange(n)[:, None], np.arange(keys)[None]
    seen = np.ones((n, keys), bool)
    if causal:
        seen &= key <= query
    if window:
        seen &= key > query - window
    return seen


def head_mask(mask: NDArray | None, b: int, h: int, shape: tuple[int, int, int]) -> NDArray | None:
    """The mask of one head, broadcast to [n, S]; ``shape`` is (batch, heads, n)."""
    return None if mask is None else np.broadcast_to(mask, (*shape, mask.shape[-1]))[b, h]


def scores_to_visible(scores: NDArray, seen: NDArray, mask: NDArray | None, softcap: float) -> NDArray:
    """Softcap, mask, and -inf at keys that are not visible; float32 [n, keys]."""
    if softcap:
        scores = float32.softcap(scores, softcap)
    if mask is not None:
        scores = scores + mask[:, : scores.shape[1]]
    return np.where(seen, scores, np.float32(-np.inf)).astype(np.float32)


def check_shapes(node: relax.Call, op: str, k_index: int, v_index: int) -> list[Any]:
    """The output shape [batch, n, h, dv] after checking heads and ranks.

    Raises:
        ValueError: Ranks or head counts do not fit.
    """
    q, k, v = (shape_of(node.args[i], op) for i in (0, k_index, v_index))
    if not len(q) == len(k) == len(v) == 4:
        raise ValueError(f"sdc.{op}: q, k, v must have rank 4, got {len(q)}, {len(k)}, {len(v)}")
    if int(q[2]) % int(k[1]):
        raise ValueError(f"sdc.{op}: {q[2]} query heads cannot share {k[1]} key heads evenly")
    return [q[0], q[1], q[2], v[3]]


def _infer(node: relax.Call) -> Any:
    return tensor(check_shapes(node, "attention", 1, 2), "float32")


def score_te(
    dots: te.Tensor, position: te.Tensor, mask: te.Tensor | None, attrs: dict[str, Any]
) -> te.Tensor:
    """Softcap, mask and visibility of scaled scores [batch, h, n, S] as a tensor expression."""

    def element(b: Any, h: Any, i: Any, j: Any) -> Any:
        score = dots[b, h, i, j]
        if attrs["softcap"]:
            cap = tirx.const(attrs["softcap"], "float32")
            score = cap * tirx.tanh(score / cap)
        if mask is not None:
            at = (b, h, i, j)
            score = score + mask(*[0 if _is_one(d) else x for x, d in zip(at, mask.shape, strict=True)])
        seen = [tirx.const(True, "bool")]
        if attrs["causal"]:
            seen.append(j <= position() + i)
        if attrs["window"]:
            seen.append(j > position() + i - attrs["window"])
        return tirx.if_then_else(tirx.all(*seen), score, tirx.min_value("float32"))

    return te.compute(dots.shape, element, name="visible_scores")


def _is_one(dimension: Any) -> bool:
    return isinstance(dimension, tirx.IntImm) and int(dimension.value) == 1


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    attrs = attributes(node)

    def compute(q: te.Tensor, k: te.Tensor, v: te.Tensor, position: te.Tensor, *mask: te.Tensor) -> te.Tensor:
        batch, n, heads, width = q.shape
        share = int(heads) // int(k.shape[1])
        keys = k.shape[2]
        d = te.reduce_axis((0, width), "d")
        scale = tirx.const(attrs["scale"], "float32")
        dots = te.compute(
            (batch, heads, n, keys),
            lambda b, h, i, j: te.sum(q[b, i, h, d] * k[b, h // share, j, d], axis=d),
            name="dots",
        )
        scaled = te.compute(dots.shape, lambda *i: dots(*i) * scale, name="scaled")
        scores = score_te(scaled, position, mask[0] if mask else None, attrs)
        weights, total = exponentials(scores)
        j = te.reduce_axis((0, keys), "j")
        mixed = te.compute(
            (batch, n, heads, v.shape[3]),
            lambda b, i, h, e: te.sum(weights[b, h, i, j] * v[b, h // share, j, e], axis=j),
            name="mixed",
        )
        return te.compute(
            mixed.shape, lambda b, i, h, e: mixed[b, i, h, e] / total[b, h, i], name="attention"
        )

    return builder.call_te(compute, *node.args, primfunc_name_hint="attention")


def exponentials(scores: te.Tensor) -> tuple[te.Tensor, te.Tensor]:
    """exp(score - max) [batch, h, n, S] and its sum [batch, h, n]; hidden keys give 0."""
    batch, heads, n, keys = scores.shape
    j = te.reduce_axis((0, keys), "j")
    top = te.compute((batch, heads, n), lambda b, h, i: te.max(scores[b, h, i, j], axis=j), name="top")
    weights = te.compute(
        scores.shape,
        lambda b, h, i, j: tirx.if_then_else(
            scores[b, h, i, j] == tirx.min_value("float32"),
            tirx.const(0.0, "float32"),
            tirx.exp(scores[b, h, i, j] - top[b, h, i]),
        ),
        name="exponentials",
    )
    j2 = te.reduce_axis((0, keys), "j")
    total = te.compute((batch, heads, n), lambda b, h, i: te.sum(weights[b, h, i, j2], axis=j2), name="total")
    return weights, total


register("attention", _infer, reference, _legalize, DOC)
