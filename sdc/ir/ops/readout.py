"""``sdc.readout``: integer accumulators become float activations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te

from sdc.ir.ops._register import call, register, shape_of, static, tensor

__all__ = ["readout", "reference"]

DOC = """Scales accumulators by thresholds and weight scales.

acc [..., G, N] int32, theta [..., Gt] float32, weight_scale [N, Gw] float32, bias [N] float32 (optional)
-> y [..., N] float32; Gt and Gw divide G (their entries serve contiguous runs of groups).
y[n] = sum over g ascending of (theta_g * weight_scale[n, g]) * float32(acc[g, n]), then + bias[n]."""


def readout(
    acc: relax.Expr, theta: relax.Expr, weight_scale: relax.Expr, bias: relax.Expr | None = None
) -> relax.Call:
    """Builds ``sdc.readout``: acc [..., G, N], theta [..., Gt], weight_scale [N, Gw] -> [..., N]."""
    return call("readout", [acc, theta, weight_scale, *([bias] if bias is not None else [])], {})


def reference(acc: NDArray, theta: NDArray, weight_scale: NDArray, bias: NDArray | None = None) -> NDArray:
    """The sum over groups, ascending, in float32."""
    groups = acc.shape[-2]
    y = np.zeros((*acc.shape[:-2], acc.shape[-1]), np.float32)
    for g in range(groups):
        y += group_term(acc[..., g, :], theta, weight_scale, g, groups)
    return y if bias is None else y + bias


def group_term(acc: NDArray, theta: NDArray, weight_scale: NDArray, g: int, groups: int) -> NDArray:
    """(theta_g * weight_scale[:, g]) * acc for one group's accumulators [..., N], float32."""
    threshold = theta[..., g * theta.shape[-1] // groups, None]
    scale = weight_scale[:, g * weight_scale.shape[1] // groups]
    return (threshold * scale) * acc.astype(np.float32)


def _infer(node: relax.Call) -> Any:
    acc, theta, scale = (shape_of(node.args[i], "readout") for i in range(3))
    groups = static(acc[-2], "readout", "the group count")
    for what, count in (("thresholds", theta[-1]), ("weight scales", scale[1])):
        if groups % static(count, "readout", what):
            raise ValueError(f"sdc.readout: {count} {what} do not divide {groups} groups")
    return tensor([*acc[:-2], acc[-1]], "float32")


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    def compute(acc: te.Tensor, theta: te.Tensor, scale: te.Tensor, *bias: te.Tensor) -> te.Tensor:
        groups = int(acc.shape[-2])
        per_theta, per_scale = groups // int(theta.shape[-1]), groups // int(scale.shape[1])
        g = te.reduce_axis((0, groups), "g")

        def term(*i: Any) -> Any:
            lead, n = i[:-1], i[-1]
            factor = theta(*lead, g // per_theta) * scale[n, g // per_scale]
            return te.sum(factor * acc(*lead, g, n).astype("float32"), axis=g)

        y = te.compute((*acc.shape[:-2], acc.shape[-1]), term, name="readout")
        if not bias:
            return y
        return te.compute(y.shape, lambda *i: y(*i) + bias[0][i[-1]], name="readout_bias")

    return builder.call_te(compute, *node.args, primfunc_name_hint="readout")


register("readout", _infer, reference, _legalize, DOC)
