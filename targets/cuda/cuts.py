"""Shares of weights: what one worker of a sharded program holds of a weight, and which worker it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sdc.ir.bfloat16 import is_bfloat16
from sdc.ir.params import Param, array_param
from sdc.ir.tables import byte_rows

__all__ = [
    "WORKER",
    "Cut",
    "LinearShare",
    "cut_param",
    "for_worker",
    "is_cut",
    "worker_param",
    "workers_of",
]

WORKER = "shard.worker"
"""The weight [1] int32 that tells a worker its number: all run the same module."""


@dataclass(frozen=True)
class Cut:
    """One worker's share of an axis that consists of segments, each of which all workers share evenly.

    Attributes:
        segments: Sizes along the axis. The last may reach beyond the axis' end: what is missing is 0.
    """

    axis: int
    segments: tuple[int, ...]
    worker: int
    workers: int

    def __call__(self, array: NDArray) -> NDArray:
        starts = np.cumsum([0, *self.segments[:-1]])
        parts = []
        for start, size in zip(starts, self.segments, strict=True):
            share = size // self.workers
            first, end = int(start) + share * self.worker, array.shape[self.axis]
            held = np.take(array, np.arange(first, min(first + share, end)), self.axis)
            missing = [(0, 0)] * array.ndim
            missing[self.axis] = (0, share - held.shape[self.axis])
            parts.append(np.pad(held, missing) if missing[self.axis][1] else held)
        return np.ascontiguousarray(np.concatenate(parts, self.axis))

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        made = list(shape)
        made[self.axis] = sum(self.segments) // self.workers
        return tuple(made)

    def describe(self) -> str:
        return f"worker {self.worker} of {self.workers}: axis {self.axis} in segments of {self.segments}"


@dataclass(frozen=True)
class LinearShare:
    """What workers hold of one linear.

    Attributes:
        rows: Outputs of the whole.
        by_inputs: Every worker has a share of the input channels; else all have the same inputs.
    """

    rows: int
    by_inputs: bool


def cut_param(param: Param, cut: Cut) -> Param:
    """A share of a weight. Numbers, or rows, that are rounded each by itself are cut before: they keep their
    last step, which tells how they may be stored."""
    if byte_rows(param) is None and not is_bfloat16(param):
        return param.then(cut)
    before = replace(param, transforms=param.transforms[:-1]).then(cut)
    return before.then(param.transforms[-1])


def worker_param(worker: int, workers: int) -> Param:
    """:data:`WORKER` of one worker."""
    return array_param(WORKER, np.arange(workers, dtype=np.int32)).then(Cut(0, (workers,), worker, workers))


def workers_of(params: Mapping[str, Param]) -> int:
    """How many workers share the weights; 1 where they are whole."""
    steps = params[WORKER].transforms if WORKER in params else ()
    return next((step.workers for step in steps if isinstance(step, Cut)), 1)


def is_cut(param: Param) -> bool:
    """Whether every worker has another share of a weight."""
    return any(isinstance(step, Cut) for step in param.transforms)


def for_worker(params: Mapping[str, Param], worker: int) -> dict[str, Param]:
    """One worker's weights from another's, whatever was done to them after the cut."""

    def moved(param: Param) -> Param:
        steps = (replace(s, worker=worker) if isinstance(s, Cut) else s for s in param.transforms)
        return replace(param, transforms=tuple(steps))

    return {name: moved(param) for name, param in params.items()}
