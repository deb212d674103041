"""``sdc.spike_accumulate``: integer sums of weights over spikes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te

from sdc.ir.ops._register import attributes, call, dtype_of, register, shape_of, static, tensor

__all__ = ["integer_product", "reference", "spike_accumulate"]

DOC = """Signed spike accumulation, collapsed over the time steps (exact by linearity).

counts [..., K] int8 / uint8 / int16, weight [N, K] int8 -> acc [..., K / group, N] int32,
acc[g, n] = sum over k in group g of counts[k] * weight[n, k]: every spike adds or subtracts one weight,
and the sum is exact. ``weight_bits`` says how many bits of a weight are used (targets pack by it)."""


def spike_accumulate(
    counts: relax.Expr, weight: relax.Expr, *, group: int, weight_bits: int = 8, name: str = ""
) -> relax.Call:
    """Builds ``sdc.spike_accumulate``: counts [..., K], weight [N, K] int8 -> int32 [..., K / group, N]."""
    return call(
        "spike_accumulate", [counts, weight], {"group": group, "weight_bits": weight_bits, "name": name}
    )


def reference(
    counts: NDArray, weight: NDArray, *, group: int, weight_bits: int = 8, name: str = ""
) -> NDArray:
    """Exact int32 sums per group."""
    rows, width = weight.shape
    groups = width // group
    flat = counts.reshape(-1, groups, group)
    out = np.empty((flat.shape[0], groups, rows), np.int32)
    for g in range(groups):
        out[:, g] = integer_product(flat[:, g], weight[:, g * group : (g + 1) * group])
    return out.reshape(*counts.shape[:-1], groups, rows)


def integer_product(counts: NDArray, weight: NDArray) -> NDArray:
    """counts [T, k] times weight [N, k] transposed, exact, int32 [T, N].

    BLAS does the work: float32 holds every integer below 2^24, float64 below 2^53.

    Raises:
        OverflowError: A sum could leave int32.
    """
    if not counts.size or not weight.size:
        return np.zeros((counts.shape[0], weight.shape[0]), np.int32)
    bound = int(np.abs(counts.astype(np.int64)).max()) * int(np.abs(weight.astype(np.int64)).max())
    bound *= weight.shape[1]
    if bound >= 2**31:
        raise OverflowError(f"sums of up to {bound} do not fit int32")
    work: Any = np.float32 if bound < 2**24 else np.float64
    return np.matmul(counts.astype(work), weight.astype(work).T).astype(np.int32)


def _infer(node: relax.Call) -> Any:
    counts = shape_of(node.args[0], "spike_accumulate")
    weight = shape_of(node.args[1], "spike_accumulate")
    group = attributes(node)["group"]
    width = static(weight[1], "spike_accumulate", "the weight's width")
    if static(counts[-1], "spike_accumulate", "the channel count") != width:
        raise ValueError(f"sdc.spike_accumulate: {counts[-1]} channels meet weights for {width}")
    if width % group:
        raise ValueError(f"sdc.spike_accumulate: groups of {group} do not divide {width} channels")
    if dtype_of(node.args[1]) != "int8":
        raise ValueError(f"sdc.spike_accumulate: weights must be int8, got {dtype_of(node.args[1])}")
    return tensor([*counts[:-1], width // group, weight[0]], "int32")


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    group = attributes(node)["group"]

    def compute(counts: te.Tensor, weight: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, group), "k")
        shape = (*counts.shape[:-1], int(weight.shape[1]) // group, weight.shape[0])

        def element(*i: Any) -> Any:
            lead, g, n = i[:-2], i[-2], i[-1]
            spikes = counts(*lead, g * group + k).astype("int32")
            return te.sum(spikes * weight[n, g * group + k].astype("int32"), axis=k)

        return te.compute(shape, element, name="accumulate")

    return builder.call_te(compute, *node.args, primfunc_name_hint="spike_accumulate")


register("spike_accumulate", _infer, reference, _legalize, DOC)
