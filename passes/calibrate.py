"""Calibrate: clip ratio and dead zone of every encoder, by least error of what follows it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sdc.errors import PostconditionError
from sdc.ir.model import Encoding, Model
from sdc.ir.ops import attributes
from sdc.ir.params import Param
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.graph import Graph, op_name
from sdc.passes.spikes import dequantised, share_of_zeros
from sdc.passes.statistics import collect_statistics
from sdc.passes.stored_grids import kept_grid

__all__ = [
    "CLIP_RATIOS",
    "DEAD_ZONES",
    "ROWS",
    "Calibrate",
    "best_clip_ratio",
    "best_dead_zone",
    "fit_group",
    "fit_thresholds",
    "fit_weight_group",
    "sampled_outputs",
    "with_floor",
]

CLIP_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
DEAD_ZONES = (0.0, 0.6, 0.75)  # |x| below half a threshold rounds to 0 without one
ROWS = 512  # sample tokens an operation; of 192, the choice fits the sample and not the text
OUTPUTS = 1024  # sample outputs an operation: enough to weigh the channels of a wide head


class Calibrate:
    """Chooses an encoding for each linear and each operand of an attention, into ``Model.encodings``.

    The share of a linear's counts that are then 0 goes into ``Model.zeros``. Its clip ratio, and then its
    dead zone, is the one with the least squared error of its *output* on sample tokens,
    ||(dequantised(x) - x) W^T||^2, over W's rows (a sample where there are many). Attention
    operands are per head and token and are not clipped. Their names are ``name:q``, ``name:k``, ``name:v``
    and ``name:p`` (the probabilities). Without calibration inputs nothing is clipped. Where weights are
    quantised layer by layer, the ratio is left to that pass, which sees the spiking inputs.
    """

    name = "calibrate"

    def run(self, model: Model, ctx: PassContext) -> Model:
        options = ctx.options
        graph = Graph(model)
        linears = {linear.name: linear for linear in graph.linears()}
        encodings = {name: _start(graph.param(n.weight), options) for name, n in linears.items()}
        zeros: dict[str, float] = {}

        def fit(name: str, rows: NDArray, weight: NDArray) -> None:
            ctx.progress("choosing thresholds", len(zeros), len(linears))
            weight = sampled_outputs(weight, ctx.random(name))
            encodings[name] = fit_thresholds(rows, weight, encodings[name], options)
            zeros[name] = share_of_zeros(rows, encodings[name])

        if ctx.calibration and options.quantiser == "rtn":
            collect_statistics(model, ctx, ROWS, fit)
        for _, call in graph.calls("sdc.attention"):
            name = op_name(call)
            per_head = Encoding(coding=options.coding, group=0)
            encodings[f"{name}:q"] = replace(per_head, levels=options.q_levels)
            encodings[f"{name}:k"] = replace(per_head, levels=options.kv_levels)
            encodings[f"{name}:v"] = replace(per_head, levels=options.kv_levels)
            encodings[f"{name}:p"] = replace(per_head, levels=options.prob_levels)
        return replace(model, encodings={**model.encodings, **encodings}, zeros={**model.zeros, **zeros})

    def check(self, model: Model, ctx: PassContext) -> None:
        for linear in Graph(model).linears():
            if linear.name not in model.encodings:
                raise PostconditionError(self.name, f"{linear.name} has no encoding")
        for _, call in Graph(model).calls("sdc.attention"):
            if f"{attributes(call)['name']}:q" not in model.encodings:
                raise PostconditionError(self.name, f"{op_name(call)} has no encoding")


def _start(weight: Param, options: PassOptions) -> Encoding:
    """The encoding before calibration; a weight's groups lie within the groups of its input."""
    width, bits = weight.shape[1], options.weight_bits
    group = fit_group(width, options.group)
    weight_group = 0 if bits == 8 else fit_weight_group(width, group, options.weight_group)
    grid = kept_grid(weight, options, group)
    if grid is not None:
        bits, weight_group = grid.bits, grid.group
    return Encoding(
        levels=options.levels,
        coding=options.coding,
        group=group,
        dead_zone=options.dead_zone,
        weight_bits=bits,
        weight_group=weight_group,
    )


def fit_group(width: int, group: int) -> int:
    """The largest divisor of ``width`` that is at most ``group``; the whole width where ``group`` is 0."""
    if group <= 0 or group >= width:
        return width
    return next(g for g in range(group, 0, -1) if width % g == 0)


def fit_weight_group(width: int, group: int, wanted: int) -> int:
    """The largest divisor of ``width`` up to ``wanted`` that divides ``group`` or is divided by it."""
    sizes = (g for g in range(min(wanted or width, width), 0, -1) if width % g == 0)
    return next(g for g in sizes if group % g == 0 or g % group == 0)


def sampled_outputs(weight: NDArray, random: np.random.Generator) -> NDArray:
    """Rows of a weight [N, K]: all, or :data:`OUTPUTS` of them."""
    if len(weight) <= OUTPUTS:
        return weight
    return weight[random.choice(len(weight), OUTPUTS, replace=False)]


def fit_thresholds(
    x: NDArray, weight: NDArray, encoding: Encoding, options: PassOptions, target: NDArray | None = None
) -> Encoding:
    """The encoding with floor, clip ratio and dead zone; arguments as for :func:`best_clip_ratio`.

    A dead zone that is set stays.
    """
    encoding = with_floor(x, encoding, options.spikes)
    ratio = 0.0 if options.static else best_clip_ratio(x, weight, encoding, target)
    encoding = replace(encoding, clip_ratio=ratio)
    if encoding.dead_zone:
        return encoding
    return replace(encoding, dead_zone=best_dead_zone(x, weight, encoding, target))


def with_floor(x: NDArray, encoding: Encoding, spikes: float) -> Encoding:
    """The encoding with a floor that makes counts of ``spikes`` on average; a floor that is set stays.

    A threshold of mean|x| / n makes counts of n whatever the distribution, but for rounding: the mean of
    |round(x / theta)| is near that of |x / theta|.
    """
    if not spikes or encoding.floor:
        return encoding
    return replace(encoding, floor=float(np.abs(x).mean()) / spikes)


def best_clip_ratio(x: NDArray, weight: NDArray, encoding: Encoding, target: NDArray | None = None) -> float:
    """The ratio of :data:`CLIP_RATIOS` with the least squared output error.

    Args:
        x: Sample inputs [R, K].
        weight: [N, K].
        encoding: Levels, group and dead zone to try with.
        target: The inputs [R, K] whose outputs are wanted; None where they are ``x``.
    """
    choices = [replace(encoding, clip_ratio=ratio) for ratio in CLIP_RATIOS]
    return _best(x, weight, choices, target).clip_ratio


def best_dead_zone(x: NDArray, weight: NDArray, encoding: Encoding, target: NDArray | None = None) -> float:
    """The zone of :data:`DEAD_ZONES` with the least squared output error; arguments as above.

    Where inputs are what is wanted, rounding to the nearest rarely loses to a zone; where they carry the
    noise of spiking layers before, silence may be nearer to the exact input.
    """
    choices = [replace(encoding, dead_zone=zone) for zone in DEAD_ZONES]
    return _best(x, weight, choices, target).dead_zone


def _best(x: NDArray, weight: NDArray, choices: list[Encoding], target: NDArray | None) -> Encoding:
    """The encoding whose outputs are nearest; the first of equals."""
    rows, width = weight.shape
    gram = weight.T @ weight if width < rows else None  # the smaller product of the two
    target = x if target is None else target

    def loss(encoding: Encoding) -> float:
        error = dequantised(x, encoding) - target
        if gram is not None:
            return float(np.einsum("rk,rk->", error @ gram, error))
        return float(np.square(error @ weight.T).sum(dtype=np.float64))

    return min(choices, key=loss)
