"""``sdc.spike_matmul``: a product of two activations, both as spike counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te

from sdc.ir.ops._register import call, register, shape_of, tensor
from sdc.ir.ops.spike_accumulate import integer_product

__all__ = ["reference", "spike_matmul"]

DOC = """Product of two encoded activations, for graphs without weights on either side.

a_counts [..., M, K], a_theta [..., M, 1], b_counts [..., N, K], b_theta [..., N, 1] with equal leading
dimensions -> [..., M, N] float32: (a_theta * b_theta) * float32(int32 sum_k a_counts * b_counts)."""


def spike_matmul(
    a: tuple[relax.Expr, relax.Expr], b: tuple[relax.Expr, relax.Expr], *, name: str
) -> relax.Call:
    """Builds ``sdc.spike_matmul`` from (counts, theta) of a [..., M, K] and b [..., N, K] -> [..., M, N]."""
    return call("spike_matmul", [*a, *b], {"name": name})


def reference(
    a_counts: NDArray, a_theta: NDArray, b_counts: NDArray, b_theta: NDArray, *, name: str = ""
) -> NDArray:
    """Exact integer products, scaled in float32."""
    lead = a_counts.shape[:-2]
    a = a_counts.reshape(-1, *a_counts.shape[-2:])
    b = b_counts.reshape(-1, *b_counts.shape[-2:])
    sums = np.stack([integer_product(x, y) for x, y in zip(a, b, strict=True)]) if len(a) else np.zeros(0)
    acc = sums.reshape(*lead, a_counts.shape[-2], b_counts.shape[-2]).astype(np.float32)
    return (a_theta * np.swapaxes(b_theta, -1, -2)) * acc


def _infer(node: relax.Call) -> Any:
    a, b = shape_of(node.args[0], "spike_matmul"), shape_of(node.args[2], "spike_matmul")
    if len(a) != len(b) or str(a[-1]) != str(b[-1]):
        raise ValueError(f"sdc.spike_matmul: shapes {a} and {b} do not meet")
    return tensor([*a[:-1], b[-2]], "float32")


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    def compute(a: te.Tensor, a_theta: te.Tensor, b: te.Tensor, b_theta: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, a.shape[-1]), "k")
        shape = (*a.shape[:-1], b.shape[-2])

        def dot(*i: Any) -> Any:
            lead, m, n = i[:-2], i[-2], i[-1]
            return te.sum(a(*lead, m, k).astype("int32") * b(*lead, n, k).astype("int32"), axis=k)

        def scaled(*i: Any) -> Any:
            lead, m, n = i[:-2], i[-2], i[-1]
            return a_theta(*lead, m, 0) * b_theta(*lead, n, 0) * acc(*i).astype("float32")

        acc = te.compute(shape, dot, name="accumulate")
        return te.compute(shape, scaled, name="spike_matmul")

    return builder.call_te(compute, *node.args, primfunc_name_hint="spike_matmul")


register("spike_matmul", _infer, reference, _legalize, DOC)
