"""``sdc.linear``: a dense layer before it is rewritten to spikes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te

from sdc.ir.ops._register import call, register, shape_of, tensor

__all__ = ["linear", "reference"]

DOC = """Dense layer y = x W^T + b.

x [..., K] float32, weight [N, K] float32, bias [N] float32 (optional) -> [..., N] float32.
Attribute ``name``: the operation's name in tables, statistics and encodings."""


def linear(x: relax.Expr, weight: relax.Expr, bias: relax.Expr | None = None, *, name: str) -> relax.Call:
    """Builds ``sdc.linear``: x [..., K], weight [N, K], bias [N] -> [..., N], all float32."""
    return call("linear", [x, weight, *([bias] if bias is not None else [])], {"name": name})


def reference(x: NDArray, weight: NDArray, bias: NDArray | None = None, *, name: str = "") -> NDArray:
    """The product in float32 (the summation order is BLAS's)."""
    y = x.reshape(-1, x.shape[-1]) @ weight.T
    if bias is not None:
        y = y + bias
    return y.reshape(*x.shape[:-1], weight.shape[0]).astype(np.float32, copy=False)


def _infer(node: relax.Call) -> Any:
    x, weight = shape_of(node.args[0], "linear"), shape_of(node.args[1], "linear")
    if len(weight) != 2:
        raise ValueError(f"sdc.linear: weight must be [N, K], got rank {len(weight)}")
    if int(weight[1]) != int(x[-1]):
        raise ValueError(f"sdc.linear: x has {x[-1]} channels, weight {weight[1]}")
    return tensor([*x[:-1], weight[0]], "float32")


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    def compute(x: te.Tensor, weight: te.Tensor, *bias: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, weight.shape[1]), "k")
        y = te.compute(
            (*x.shape[:-1], weight.shape[0]),
            lambda *i: te.sum(x(*i[:-1], k) * weight[i[-1], k], axis=k),
            name="linear",
        )
        if not bias:
            return y
        return te.compute(y.shape, lambda *i: y(*i) + bias[0][i[-1]], name="linear_bias")

    return builder.call_te(compute, *node.args, primfunc_name_hint="linear")


register("linear", _infer, reference, _legalize, DOC)
