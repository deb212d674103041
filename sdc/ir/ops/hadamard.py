"""``sdc.hadamard``: the online block Hadamard transform, additions only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te, tirx

from sdc.ir.ops._register import attributes, call, register, shape_of, static, tensor
from sdc.ir.params import hadamard_transform

__all__ = ["hadamard", "reference"]

DOC = """Block Hadamard transform with signs: y = H (signs * x) in every block of ``block`` channels.

x [..., K] float32, signs [K] float32 of +-1 -> [..., K] float32. H is Sylvester's, entries +-1, not
normalised: H H^T = block * I, and 1 / block goes into the weights that follow. Butterflies run with
strides 1, 2, 4, ... (QuaRot, arXiv 2404.00456, section 3, uses the same transform on whole rows)."""


def hadamard(x: relax.Expr, signs: relax.Expr, *, block: int) -> relax.Call:
    """Builds ``sdc.hadamard``: x [..., K], signs [K] -> [..., K], float32; ``block`` divides K."""
    return call("hadamard", [x, signs], {"block": block})


def reference(x: NDArray, signs: NDArray, *, block: int) -> NDArray:
    """The transform in float32, in the fixed butterfly order."""
    return hadamard_transform((x * signs).astype(np.float32), block)


def _infer(node: relax.Call) -> Any:
    x = shape_of(node.args[0], "hadamard")
    block = attributes(node)["block"]
    width = static(x[-1], "hadamard", "the channel count")
    if block < 1 or block & (block - 1) or width % block:
        raise ValueError(f"sdc.hadamard: block {block} must be a power of two that divides {width} channels")
    return tensor(x, "float32")


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    block = attributes(node)["block"]

    def compute(x: te.Tensor, signs: te.Tensor) -> te.Tensor:
        y = te.compute(x.shape, lambda *i: x(*i) * signs[i[-1]], name="hadamard_signs")
        stride = 1
        while stride < block:
            y = _butterfly(y, stride)
            stride *= 2
        return y

    return builder.call_te(compute, *node.args, primfunc_name_hint="hadamard")


def _butterfly(x: te.Tensor, stride: int) -> te.Tensor:
    def element(*i: Any) -> Any:
        lead, k = i[:-1], i[-1]
        upper = k // stride % 2 == 0
        return tirx.if_then_else(
            upper, x(*lead, k) + x(*lead, k + stride), x(*lead, k - stride) - x(*lead, k)
        )

    return te.compute(x.shape, element, name=f"butterfly_{stride}")


register("hadamard", _infer, reference, _legalize, DOC)
