"""The signs of a projection: random ones, or the best of several random ones by output error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sdc.ir.model import Encoding
from sdc.ir.params import hadamard_transform
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.calibrate import fit_group, sampled_outputs, with_floor
from sdc.passes.graph import Graph, Linear
from sdc.passes.spikes import dequantised
from sdc.passes.statistics import collect_statistics

__all__ = ["Sample", "best_signs", "projected_error", "random_signs", "samples_of", "start_encoding"]

ROWS = 96  # sample tokens an operation
CLIP = 0.8  # of most operations behind a projection; the choice hardly depends on it


@dataclass(frozen=True)
class Sample:
    """What one operation's signs are judged on.

    Attributes:
        x: Sample inputs [R, K] before projection.
        gram: W^T W [K, K].
    """

    x: NDArray
    gram: NDArray


def samples_of(graph: Graph, ctx: PassContext, linears: Sequence[Linear]) -> dict[str, Sample]:
    """Inputs and weights of linears, from the calibration windows."""
    statistics = collect_statistics(graph.model, ctx, ROWS)
    found = {}
    for linear in linears:
        weight = sampled_outputs(graph.param(linear.weight).value(), ctx.random(linear.name))
        found[linear.name] = Sample(statistics[linear.name].rows, weight.T @ weight)
    return found


def random_signs(ctx: PassContext, width: int, attempt: int = 0) -> NDArray:
    """+-1 float32 [width], by the seed, the width and the attempt."""
    name = f"signs.{width}" + (f".{attempt}" if attempt else "")
    return (2 * ctx.random(name).integers(0, 2, width) - 1).astype(np.float32)


def best_signs(ctx: PassContext, width: int, block: int, samples: Sequence[Sample]) -> NDArray:
    """Of ``options.sign_tries`` random vectors the one with the least output error, [width] float32.

    Errors of operations count relative to those of the first attempt, so that none decides by its size.
    """
    candidates = [random_signs(ctx, width, i) for i in range(ctx.options.sign_tries)]
    encoding = replace(start_encoding(ctx.options, width), clip_ratio=CLIP)

    def errors(signs: NDArray) -> NDArray:
        found = []
        for each in samples:
            error = projected_error(each.x, signs, block, encoding, ctx.options.spikes)
            found.append(np.einsum("rk,rk->", error @ each.gram, error))
        return np.array(found)

    first = np.maximum(errors(candidates[0]), 1e-30)
    return min(candidates, key=lambda signs: float(np.mean(errors(signs) / first)))


def start_encoding(options: PassOptions, width: int) -> Encoding:
    """The encoding that the options ask for, before calibration."""
    group = fit_group(width, options.group)
    return Encoding(levels=options.levels, group=group, dead_zone=options.dead_zone)


def projected_error(x: NDArray, signs: NDArray, block: int, encoding: Encoding, spikes: float) -> NDArray:
    """What encoding behind the projection changes, carried back through it: [R, K].

    H^T enc(H (signs * x)) / block * signs - x, with the floor that makes counts of ``spikes``.
    """
    turned = hadamard_transform(x * signs, block)
    encoding = with_floor(turned, encoding, spikes)
    back = hadamard_transform(dequantised(turned, encoding), block) / np.float32(block) * signs
    error: NDArray = back - x
    return error
