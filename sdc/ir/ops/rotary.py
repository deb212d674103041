"""``sdc.rotary``: rotary position embedding from tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te, tirx

from sdc.ir.ops._register import attributes, call, register, shape_of, static, tensor

__all__ = ["reference", "rotary"]

DOC = """Rotary position embedding (Su et al., RoFormer, arXiv 2104.09864, section 3.4).

x [batch, n, heads, d], cos and sin [S, r/2] float32, position int64 (rank 0: token i of the call is at
position + i; rank 2 [batch, n]: explicit) -> [batch, n, heads, d] float32. The first r channels turn in
pairs (i, i + r/2), or (2i, 2i + 1) where ``interleaved``; the others pass."""


def rotary(
    x: relax.Expr, cos: relax.Expr, sin: relax.Expr, position: relax.Expr, *, interleaved: bool = False
) -> relax.Call:
    """Builds ``sdc.rotary``: x [batch, n, heads, d] and tables [S, r/2] -> [batch, n, heads, d]."""
    return call("rotary", [x, cos, sin, position], {"interleaved": interleaved})


def reference(
    x: NDArray, cos: NDArray, sin: NDArray, position: NDArray, *, interleaved: bool = False
) -> NDArray:
    """Each pair (a, b) at angle t becomes (a cos t - b sin t, b cos t + a sin t), float32."""
    half = cos.shape[1]
    position = np.asarray(position)
    rows = position if position.ndim == 2 else (int(position) + np.arange(x.shape[1]))[None]
    c, s = cos[rows][:, :, None, :], sin[rows][:, :, None, :]
    y = x.astype(np.float32, copy=True)
    first = slice(0, 2 * half, 2) if interleaved else slice(0, half)
    second = slice(1, 2 * half, 2) if interleaved else slice(half, 2 * half)
    a, b = x[..., first], x[..., second]
    y[..., first] = a * c - b * s
    y[..., second] = b * c + a * s
    return y


def _infer(node: relax.Call) -> Any:
    x, cos = shape_of(node.args[0], "rotary"), shape_of(node.args[1], "rotary")
    if len(x) != 4:
        raise ValueError(f"sdc.rotary: x must be [batch, n, heads, d], got rank {len(x)}")
    if 2 * static(cos[1], "rotary", "the table width") > static(x[3], "rotary", "the head size"):
        raise ValueError(f"sdc.rotary: tables turn {cos[1]} pairs, but a head has {x[3]} channels")
    return tensor(x, "float32")


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    interleaved = attributes(node)["interleaved"]
    by_token = len(shape_of(node.args[3], "rotary")) == 2

    def compute(x: te.Tensor, cos: te.Tensor, sin: te.Tensor, position: te.Tensor) -> te.Tensor:
        half = int(cos.shape[1])

        def element(b: Any, n: Any, h: Any, d: Any) -> Any:
            row = position[b, n] if by_token else position() + n
            pair = d // 2 if interleaved else d % half
            is_first = d % 2 == 0 if interleaved else d < half
            step = 1 if interleaved else half
            partner = tirx.if_then_else(is_first, d + step, d - step)
            sign = tirx.if_then_else(is_first, tirx.const(-1.0, "float32"), tirx.const(1.0, "float32"))
            turned = x[b, n, h, d] * cos[row, pair] + sign * x[b, n, h, partner] * sin[row, pair]
            return tirx.if_then_else(d < 2 * half, turned, x[b, n, h, d])

        return te.compute(x.shape, element, name="rotary")

    return builder.call_te(compute, *node.args, primfunc_name_hint="rotary")


register("rotary", _infer, reference, _legalize, DOC)
