"""Quantise weights: every linear's weight takes values that integers times scales can hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sdc.errors import PassError, PostconditionError
from sdc.ir.model import Model
from sdc.ir.params import Param
from sdc.passes.base import PassContext
from sdc.passes.graph import Graph
from sdc.passes.quantisers import quantise_rtn
from sdc.passes.rewriter import rewrite
from sdc.passes.weights import WeightEdits

__all__ = ["QuantiseWeights", "Quantised", "integer_params", "quantised_step"]


class QuantiseWeights:
    """Appends a quantisation to the weight of each linear, by its encoding; the module stays a float one.

    So the loss by weights alone can be evaluated, before spikes come in. The spike rewrite then takes the
    integers and the scales apart. Values are computed when they are asked for, one layer at a time.
    """

    name = "quantise-weights"

    def run(self, model: Model, ctx: PassContext) -> Model:
        graph = Graph(model)
        edits = WeightEdits(graph)
        for linear in graph.linears():
            if linear.name not in model.encodings:
                raise PassError(self.name, f"{linear.name} has no encoding; run calibrate first")
            encoding = model.encodings[linear.name]
            edits.append_step(linear.var, 1, Quantised(encoding.weight_bits, encoding.weight_group))
        return rewrite(model, edits.visit, graph=graph)

    def check(self, model: Model, ctx: PassContext) -> None:
        graph = Graph(model)
        for linear in graph.linears():
            if quantised_step(graph.param(linear.weight)) is None:
                raise PostconditionError(self.name, f"the weight of {linear.name} is not quantised")


@dataclass(frozen=True)
class Quantised:
    """Rounds a weight [N, K] to ``bits`` bits with a scale per row and ``group`` columns (0: all)."""

    bits: int
    group: int

    def __call__(self, array: NDArray) -> NDArray:
        integers, scale = quantise_rtn(array.astype(np.float32), self.bits, self.group)
        width = array.shape[1] // scale.shape[1]
        return integers.astype(np.float32) * np.repeat(scale, width, 1)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return f"int{self.bits}, a scale for every {self.group or 'row'}"


def quantised_step(param: Param) -> Quantised | None:
    """The quantisation that ends a parameter's transforms, if one does."""
    last = param.transforms[-1] if param.transforms else None
    return last if isinstance(last, Quantised) else None


def integer_params(param: Param, name: str) -> tuple[Param, Param]:
    """The integers ``name.q`` [N, K] int8 and scales ``name.scale`` [N, groups] of a quantised weight.

    Both come from one computation; the last one is kept, so that a layer is not quantised twice.

    Raises:
        PassError: The weight is not quantised.
    """
    step = quantised_step(param)
    if step is None:
        raise PassError("rewrite-matmul-to-spikes", f"the weight of {name} is not quantised")
    exact = replace(param, transforms=param.transforms[:-1])
    rows, width = param.shape
    shared = _Integers(exact, step)
    groups = width // (step.group or width)
    return (
        Param(f"{name}.q", (rows, width), "int8", _Part(shared, 0)),
        Param(f"{name}.scale", (rows, groups), "float32", _Part(shared, 1)),
    )


@dataclass(frozen=True)
class _Integers:
    exact: Param
    step: Quantised

    def compute(self) -> tuple[NDArray, NDArray]:
        if not _LAST or _LAST[0][0] is not self:
            weight = self.exact.value().astype(np.float32)
            _LAST[:] = [(self, quantise_rtn(weight, self.step.bits, self.step.group))]
        return _LAST[0][1]


_LAST: list[tuple[_Integers, tuple[NDArray, NDArray]]] = []  # at most one entry


@dataclass(frozen=True)
class _Part:
    of: _Integers
    index: int

    def load(self) -> NDArray:
        """The integers (0) or the scales (1)."""
        return self.of.compute()[self.index]
