"""Calibrate: the clip ratio of every encoder, by least error of what follows it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sdc.errors import PostconditionError
from sdc.ir.model import Encoding, Model
from sdc.ir.ops import OPS, attributes
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.graph import Graph, op_name
from sdc.passes.statistics import collect_statistics

__all__ = ["CLIP_RATIOS", "Calibrate", "fit_group"]

CLIP_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
ROWS = 192  # sample tokens an operation
INT4_GROUP = 32  # input channels that share a 4-bit weight's scale
OUTPUTS = 1024  # sample outputs an operation: enough to weigh the channels of a wide head


class Calibrate:
    """Chooses an encoding for each linear and each operand of an attention, into ``Model.encodings``.

    A linear's clip ratio is the one with the least squared error of its *output* on sample tokens,
    ||(dequantised(x) - x) W^T||^2, over W's rows (a sample of them where there are many). Attention
    operands are per head and token and are not clipped. Their names are ``name:q``, ``name:k``, ``name:v``
    and ``name:p`` (the probabilities). Without calibration inputs nothing is clipped.
    """

    name = "calibrate"

    def run(self, model: Model, ctx: PassContext) -> Model:
        options = ctx.options
        statistics = collect_statistics(model, ctx, rows=ROWS) if ctx.calibration else {}
        graph = Graph(model)
        encodings: dict[str, Encoding] = {}
        linears = list(graph.linears())
        for done, linear in enumerate(linears):
            ctx.progress("choosing thresholds", done, len(linears))
            param = graph.param(linear.weight)
            encoding = _start(param.shape[1], options)
            if linear.name in statistics:
                rng = ctx.random(linear.name)
                weight = param.value()
                if len(weight) > OUTPUTS:
                    weight = weight[rng.choice(len(weight), OUTPUTS, replace=False)]
                ratio = best_clip_ratio(statistics[linear.name].rows, weight, encoding)
                encoding = replace(encoding, clip_ratio=ratio)
            encodings[linear.name] = encoding
        for _, call in graph.calls("sdc.attention"):
            name = op_name(call)
            per_head = Encoding(coding=options.coding, group=0)
            encodings[f"{name}:q"] = replace(per_head, levels=options.q_levels)
            encodings[f"{name}:k"] = replace(per_head, levels=options.kv_levels)
            encodings[f"{name}:v"] = replace(per_head, levels=options.kv_levels)
            encodings[f"{name}:p"] = replace(per_head, levels=options.prob_levels)
        return replace(model, encodings={**model.encodings, **encodings})

    def check(self, model: Model, ctx: PassContext) -> None:
        for linear in Graph(model).linears():
            if linear.name not in model.encodings:
                raise PostconditionError(self.name, f"{linear.name} has no encoding")
        for _, call in Graph(model).calls("sdc.attention"):
            if f"{attributes(call)['name']}:q" not in model.encodings:
                raise PostconditionError(self.name, f"{op_name(call)} has no encoding")


def _start(width: int, options: PassOptions) -> Encoding:
    """The encoding before calibration; a weight's groups lie within the groups of its input."""
    group = fit_group(width, options.group)
    return Encoding(
        levels=options.levels,
        coding=options.coding,
        group=group,
        weight_bits=8 if options.weights == "int8" else 4,
        weight_group=0 if options.weights == "int8" else fit_group(group, INT4_GROUP),
    )


def fit_group(width: int, group: int) -> int:
    """The largest divisor of ``width`` that is at most ``group``; the whole width where ``group`` is 0."""
    if group <= 0 or group >= width:
        return width
    return next(g for g in range(group, 0, -1) if width % g == 0)


def best_clip_ratio(x: NDArray, weight: NDArray, encoding: Encoding) -> float:
    """The ratio of :data:`CLIP_RATIOS` with the least squared output error.

    Args:
        x: Sample inputs [R, K].
        weight: [N, K].
        encoding: Levels, group and dead zone to try with.
    """
    gram = weight.T @ weight
    best, least = 1.0, np.inf
    for ratio in CLIP_RATIOS:
        counts, theta = OPS["spike_encode"].reference(
            x,
            levels=encoding.levels,
            group=encoding.group,
            clip_ratio=ratio,
            dead_zone=encoding.dead_zone,
        )
        error = counts * np.repeat(theta, encoding.group, -1) - x
        loss = float(np.einsum("rk,rk->", error @ gram, error))
        if loss < least:
            best, least = ratio, loss
    return best
