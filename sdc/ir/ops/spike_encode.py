"""``sdc.spike_encode``: activations become signed spike counts and thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, te, tirx

from sdc.ir.ops._register import attributes, call, register, shape_of, static, tensor

__all__ = ["count_dtype", "reference", "spike_encode", "threshold_factor"]

DOC = """Symmetric quantisation of gamma-SQP (SDLLM, arXiv 2604.16475): a spike count per channel.

x [..., K] float32 -> counts [..., K], theta [..., K / group] float32. Per token and group,
theta = max(floor, max|x| * float32(clip_ratio / levels)); count = clip(round_half_even(x / theta), -levels,
levels), and 0 where |x| < dead_zone * theta or theta = 0. Not ``signed``: the lower bound is 0. Division
and rounding are IEEE
float32. NaN or infinity in x makes theta NaN or infinite and the counts 0. ``coding`` says how the count
becomes a train; it does not change the count. A floor silences what is quiet beside other tokens; with
clip_ratio 0 it is a static threshold. Counts are int8 (uint8 where unsigned, int16 above)."""


def spike_encode(
    x: relax.Expr,
    *,
    levels: int,
    group: int,
    clip_ratio: float = 1.0,
    dead_zone: float = 0.0,
    floor: float = 0.0,
    coding: str = "ternary",
    signed: bool = True,
    name: str = "",
) -> relax.Call:
    """Builds ``sdc.spike_encode``: x [..., K] -> (counts [..., K], theta [..., K / group])."""
    attrs = {
        "levels": levels,
        "group": group,
        "clip_ratio": float(clip_ratio),
        "dead_zone": float(dead_zone),
        "floor": float(floor),
        "coding": coding,
        "signed": signed,
        "name": name,
    }
    return call("spike_encode", [x], attrs)


def count_dtype(levels: int, signed: bool = True) -> str:
    """The smallest of int8, uint8 (unsigned only) and int16 that holds ``levels``.

    Raises:
        ValueError: No such count fits int16.
    """
    if levels < 1 or levels > 32767:
        raise ValueError(f"sdc.spike_encode: levels must be within 1..32767, got {levels}")
    if signed:
        return "int8" if levels <= 127 else "int16"
    return "uint8" if levels <= 255 else "int16"


def threshold_factor(levels: int, clip_ratio: float) -> np.float32:
    """The float32 constant that a group's largest magnitude is multiplied by to give theta."""
    return np.float32(clip_ratio / levels)


def reference(
    x: NDArray,
    *,
    levels: int,
    group: int,
    clip_ratio: float = 1.0,
    dead_zone: float = 0.0,
    floor: float = 0.0,
    coding: str = "ternary",
    signed: bool = True,
    name: str = "",
) -> tuple[NDArray, NDArray]:
    """Counts and thresholds, float32 arithmetic throughout."""
    groups = x.astype(np.float32, copy=False).reshape(*x.shape[:-1], x.shape[-1] // group, group)
    magnitude = np.abs(groups)
    top = magnitude.max(-1, initial=0.0) if groups.size else np.zeros(groups.shape[:-1], np.float32)
    with np.errstate(invalid="ignore"):
        theta = np.maximum(top * threshold_factor(levels, clip_ratio), np.float32(floor)).astype(np.float32)
    usable = np.isfinite(theta) & (theta > 0)
    divisor = np.where(usable, theta, np.float32(1))[..., None]
    with np.errstate(invalid="ignore"):
        counts = np.rint(groups / divisor)
        low = -levels if signed else 0
        counts = np.clip(counts, low, levels)
        silent = ~usable[..., None] | (magnitude < np.float32(dead_zone) * divisor)
    counts = np.where(silent, np.float32(0), counts).astype(count_dtype(levels, signed))
    return counts.reshape(x.shape), theta


def _infer(node: relax.Call) -> Any:
    x, attrs = shape_of(node.args[0], "spike_encode"), attributes(node)
    width, group = static(x[-1], "spike_encode", "the channel count"), attrs["group"]
    if group < 1 or width % group:
        raise ValueError(f"sdc.spike_encode: groups of {group} do not divide {width} channels")
    counts = tensor(x, count_dtype(attrs["levels"], attrs["signed"]))
    return tvm.ir.TupleType([counts, tensor([*x[:-1], width // group], "float32")])


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    attrs = attributes(node)
    levels, group = attrs["levels"], attrs["group"]
    dtype = count_dtype(levels, attrs["signed"])
    factor = tirx.const(float(threshold_factor(levels, attrs["clip_ratio"])), "float32")
    floor = tirx.const(float(np.float32(attrs["floor"])), "float32")
    zone = tirx.const(float(np.float32(attrs["dead_zone"])), "float32")
    low = tirx.const(-float(levels) if attrs["signed"] else 0.0, "float32")

    def compute(x: te.Tensor) -> list[te.Tensor]:
        theta = _theta(x, group, factor, floor)

        def count(*i: Any) -> Any:
            value, limit = x(*i), theta(*i[:-1], i[-1] // group)
            usable = tirx.all(limit > 0, limit < tirx.infinity("float32"))
            safe = tirx.if_then_else(usable, limit, tirx.const(1.0, "float32"))
            rounded = tirx.nearbyint(value / safe)
            clipped = tirx.max(tirx.min(rounded, tirx.const(float(levels), "float32")), low)
            heard = tirx.all(usable, tirx.Not(tirx.abs(value) < zone * safe))
            return tirx.if_then_else(heard, clipped, tirx.const(0.0, "float32")).astype(dtype)

        return [te.compute(x.shape, count, name="counts"), theta]

    return builder.call_te(compute, *node.args, primfunc_name_hint="spike_encode")


def _theta(x: te.Tensor, group: int, factor: Any, floor: Any) -> te.Tensor:
    """max|x| per group times the factor, at least the floor; a NaN in the group survives both maxima."""
    nan_max = te.comm_reducer(
        lambda a, b: tirx.if_then_else(tirx.any(tirx.isnan(a), a >= b), a, b),
        lambda dtype: tirx.const(0.0, dtype),
        name="nan_max",
    )
    shape = (*x.shape[:-1], int(x.shape[-1]) // group)
    k = te.reduce_axis((0, group), "k")
    top = te.compute(shape, lambda *i: nan_max(tirx.abs(x(*i[:-1], i[-1] * group + k)), axis=k), name="top")

    def least(*i: Any) -> Any:
        theta = top(*i) * factor
        return tirx.if_then_else(theta < floor, floor, theta)

    return te.compute(shape, least, name="theta")


register("spike_encode", _infer, reference, _legalize, DOC)
