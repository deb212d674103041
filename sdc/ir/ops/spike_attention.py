"""``sdc.spike_attention``: both attention products as integer accumulation over spikes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te, tirx

from sdc.ir.float32 import exp, lane_sum
from sdc.ir.ops._register import attributes, call, register, tensor
from sdc.ir.ops.attention import (
    check_shapes,
    exponentials,
    head_mask,
    score_te,
    scores_to_visible,
    visible,
)
from sdc.ir.ops.spike_accumulate import integer_product

__all__ = ["reference", "spike_attention"]

DOC = """Attention over spike counts; K and V are kept as integers.

q_counts [batch, n, h, d], q_theta [batch, n, h, 1], k_counts [batch, hk, S, d], k_theta [batch, hk, S, 1],
v_counts [batch, hk, S, dv], v_theta [batch, hk, S, 1], position int64 (rank 0), mask (optional, additive)
-> [batch, n, h, dv] float32. Visibility, softcap and mask as in sdc.attention;
score_j = scale * q_theta * k_theta_j * (int32 dot); e_j = exp(score_j - max); w_j = e_j * v_theta_j;
theta_p = max_j w_j * float32(1 / levels); c_j = clip(round_half_even(w_j / theta_p), 0, levels);
y = (theta_p / sum_j e_j) * (int32 sum_j c_j v_counts_j). Probabilities are positive, so their counts are
unsigned; V's threshold, which differs by token, is folded into them so that the sum stays integer."""


def spike_attention(
    q: tuple[relax.Expr, relax.Expr],
    k: tuple[relax.Expr, relax.Expr],
    v: tuple[relax.Expr, relax.Expr],
    position: relax.Expr,
    mask: relax.Expr | None = None,
    *,
    scale: float,
    causal: bool,
    levels: int,
    window: int = 0,
    softcap: float = 0.0,
    coding: str = "ternary",
    name: str,
) -> relax.Call:
    """Builds ``sdc.spike_attention`` from (counts, theta) pairs of q, k and v -> [batch, n, h, dv]."""
    attrs = {
        "scale": scale,
        "causal": causal,
        "levels": levels,
        "window": window,
        "softcap": softcap,
        "coding": coding,
        "name": name,
    }
    return call("spike_attention", [*q, *k, *v, position, *([mask] if mask is not None else [])], attrs)


def reference(
    q_counts: NDArray,
    q_theta: NDArray,
    k_counts: NDArray,
    k_theta: NDArray,
    v_counts: NDArray,
    v_theta: NDArray,
    position: NDArray,
    mask: NDArray | None = None,
    *,
    scale: float,
    causal: bool,
    levels: int,
    window: int = 0,
    softcap: float = 0.0,
    coding: str = "ternary",
    name: str = "",
    on_probabilities: Any = None,
) -> NDArray:
    """Float32 outputs; ``on_probabilities(counts, seen)`` is shown each head's unsigned counts [n, S]."""
    batch, n, heads, _ = q_counts.shape
    share = heads // k_counts.shape[1]
    keys = min(k_counts.shape[2], int(position) + n) if causal else k_counts.shape[2]
    seen = visible(n, keys, int(position), causal, window)
    out = np.empty((batch, n, heads, v_counts.shape[-1]), np.float32)
    for b in range(batch):
        for h in range(heads):
            kv = h // share
            dots = integer_product(q_counts[b, :, h], k_counts[b, kv, :keys]).astype(np.float32)
            thetas = (np.float32(scale) * q_theta[b, :, h]) * k_theta[b, kv, :keys, 0]
            row_mask = head_mask(mask, b, h, (batch, heads, n))
            scores = scores_to_visible(thetas * dots, seen, row_mask, softcap)
            counts, factor = encode_probabilities(scores, v_theta[b, kv, :keys, 0], levels)
            if on_probabilities is not None:
                on_probabilities(counts, seen)
            out[b, :, h] = factor * integer_product(counts, v_counts[b, kv, :keys].T).astype(np.float32)
    return out


def encode_probabilities(scores: NDArray, v_theta: NDArray, levels: int) -> tuple[NDArray, NDArray]:
    """Unsigned counts [n, S] (int32) and the factor [n, 1] that turns their sums into outputs."""
    exponential = exp(scores - scores.max(-1, keepdims=True))
    weights = exponential * v_theta
    theta = weights.max(-1, keepdims=True) * np.float32(1 / levels)
    safe = np.where(theta > 0, theta, np.float32(1))
    with np.errstate(invalid="ignore"):
        counts = np.nan_to_num(np.clip(np.rint(weights / safe), 0, levels)).astype(np.int32)
    return counts, theta / lane_sum(exponential)[..., None]


def _infer(node: relax.Call) -> Any:
    return tensor(check_shapes(node, "spike_attention", 2, 4), "float32")


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    attrs = attributes(node)

    def compute(*args: te.Tensor) -> te.Tensor:
        q, q_theta, k, k_theta, v, v_theta, position = args[:7]
        batch, n, heads, width = q.shape
        share, keys = int(heads) // int(k.shape[1]), k.shape[2]
        d = te.reduce_axis((0, width), "d")
        dots = te.compute(
            (batch, heads, n, keys),
            lambda b, h, i, j: te.sum(
                q[b, i, h, d].astype("int32") * k[b, h // share, j, d].astype("int32"), axis=d
            ),
            name="dots",
        )
        scale = tirx.const(attrs["scale"], "float32")
        scaled = te.compute(
            dots.shape,
            lambda b, h, i, j: (
                scale
                * q_theta[b, i, h, 0]
                * k_theta[b, h // share, j, 0]
                * dots[b, h, i, j].astype("float32")
            ),
            name="scaled",
        )
        scores = score_te(scaled, position, args[7] if len(args) > 7 else None, attrs)
        exponential, total = exponentials(scores)
        counts, theta = _probability_counts(exponential, v_theta, share, attrs["levels"])
        j = te.reduce_axis((0, keys), "j")
        mixed = te.compute(
            (batch, n, heads, v.shape[3]),
            lambda b, i, h, e: te.sum(counts[b, h, i, j] * v[b, h // share, j, e].astype("int32"), axis=j),
            name="mixed",
        )
        return te.compute(
            mixed.shape,
            lambda b, i, h, e: theta[b, h, i] / total[b, h, i] * mixed[b, i, h, e].astype("float32"),
            name="spike_attention",
        )

    return builder.call_te(compute, *node.args, primfunc_name_hint="spike_attention")


def _probability_counts(
    exponential: te.Tensor, v_theta: te.Tensor, share: int, levels: int
) -> tuple[te.Tensor, te.Tensor]:
    """Unsigned counts [batch, h, n, S] int32 and theta_p [batch, h, n]; unread cache rows weigh nothing."""
    batch, heads, n, keys = exponential.shape
    zero = tirx.const(0.0, "float32")
    weights = te.compute(
        exponential.shape,
        lambda b, h, i, j: tirx.if_then_else(
            exponential[b, h, i, j] == zero, zero, exponential[b, h, i, j] * v_theta[b, h // share, j, 0]
        ),
        name="weights",
    )
    j = te.reduce_axis((0, keys), "j")
    top = te.compute(
        (batch, heads, n), lambda b, h, i: te.max(weights[b, h, i, j], axis=j), name="top_weight"
    )
    factor = tirx.const(float(np.float32(1 / levels)), "float32")
    theta = te.compute(top.shape, lambda *i: top(*i) * factor, name="theta_p")

    def count(b: Any, h: Any, i: Any, j: Any) -> Any:
        limit = theta[b, h, i]
        safe = tirx.if_then_else(limit > 0, limit, tirx.const(1.0, "float32"))
        rounded = tirx.nearbyint(weights[b, h, i, j] / safe)
        return tirx.min(rounded, tirx.const(float(levels), "float32")).astype("int32")

    return te.compute(exponential.shape, count, name="probability_counts"), theta


register("spike_attention", _infer, reference, _legalize, DOC)
