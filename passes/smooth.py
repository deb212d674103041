"""Smooth: a scale per channel moves outliers from activations into weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from sdc.errors import PassError, PostconditionError
from sdc.ir.model import Model
from sdc.ir.ops import is_op, shape_of
from sdc.ir.params import Param, ScaleColumns, ScaleRows, array_param
from sdc.passes.base import PassContext
from sdc.passes.calibrate import sampled_outputs
from sdc.passes.exponents import ROWS, best_exponent
from sdc.passes.fold_norm_gamma import norms
from sdc.passes.graph import Graph, Linear
from sdc.passes.rewriter import Rewriter, rewrite
from sdc.passes.statistics import InputStatistics, collect_statistics
from sdc.passes.trace import Rows, ValuePath, made_by, value_path
from sdc.passes.weights import WeightEdits

__all__ = ["Smooth", "smoothing_scales"]

_FLOOR = 1e-5  # of the largest channel: silent channels and dead columns are no reason to divide by zero
_SUFFIX = ".smooth"
WINDOWS = 8  # of the calibration's, at most: maxima of channels settle long before GPTQ's moments do


class Smooth:
    """x becomes x / s and W becomes W diag(s), with s_j = max|x_j|^a / max_n|w_nj|^(1 - a).

    SmoothQuant (arXiv 2211.10438, equation 4), with s over its mean. 1 / s goes where it costs nothing: into
    the gain and shift of the norm before; into the rows that make V before an output projection (query heads
    of one group share them, so they share s); into the rows of ``up`` where x = activation(gate) * up; into
    the rows of u where x = relu(u). Elsewhere it is an ``R.multiply`` before the linear. The exponent a is
    the same for all, or (``search``) the best for each input by the error of what is computed from it.
    """

    name = "smooth"

    def run(self, model: Model, ctx: PassContext) -> Model:
        if ctx.options.smoothing == 0:
            return model
        if not ctx.calibration:
            raise PassError(
                self.name, "there is no calibration input; give a calibration text, or set smoothing 0"
            )
        rows = ROWS if ctx.options.smoothing == "search" else 0
        few = ctx.calibration[:: -(-len(ctx.calibration) // WINDOWS)]
        statistics = collect_statistics(model, replace(ctx, calibration=few), rows)
        plan = _Plan(Graph(model), statistics, ctx)
        return rewrite(model, plan.visit, graph=plan.graph)

    def check(self, model: Model, ctx: PassContext) -> None:
        if ctx.options.smoothing == 0:
            return
        graph = Graph(model)
        for linear in graph.linears():
            steps = graph.param(linear.weight).transforms
            if not any(isinstance(s, ScaleColumns) and s.by.name.endswith(_SUFFIX) for s in steps):
                raise PostconditionError(self.name, f"{linear.name} is not smoothed")


def smoothing_scales(
    activation: NDArray, weight: NDArray, exponent: float, share: Sequence[int] | None = None
) -> NDArray:
    """s_j = max|x_j|^a / max|w_j|^(1 - a), divided by its mean; [K] float32.

    Args:
        activation: [K] float32, max |x_j|.
        weight: [K] float32, max |w_nj| over n.
        exponent: a, within (0, 1].
        share: A shape whose product is K and whose axis 1 shares a scale (maxima are taken over it).
    """
    tops = []
    for top in (activation, weight):
        top = np.maximum(top.astype(np.float64), max(_FLOOR * float(top.max()), 1e-30))
        if share is not None:
            grid = top.reshape(share)
            top = np.broadcast_to(grid.max(1, keepdims=True), grid.shape).reshape(-1)
        tops.append(top)
    scales = tops[0] ** exponent / tops[1] ** (1 - exponent)
    return (scales / scales.mean()).astype(np.float32)


@dataclass(frozen=True)
class _Explicit:
    """An input that is multiplied by 1 / s when it runs."""

    inverse: Param


class _Plan:
    """Decides for each linear's input where 1 / s goes, and collects the edits."""

    def __init__(self, graph: Graph, statistics: dict[str, InputStatistics], ctx: PassContext) -> None:
        self.graph, self.statistics, self.ctx = graph, statistics, ctx
        self.edits = WeightEdits(graph)
        self.explicit: dict[relax.Expr, _Explicit] = {}
        self.norms = {var for var, _ in norms(graph)}
        by_input: dict[relax.Expr, list[Linear]] = {}
        for linear in graph.linears():
            by_input.setdefault(linear.x, []).append(linear)
        for linears in by_input.values():
            self.smooth(linears)

    def smooth(self, linears: list[Linear]) -> None:
        """One input and all linears that read it."""
        name, values = linears[0].name, None
        if len(linears) == 1:
            values = value_path(self.graph, linears[0])
        scales = array_param(name + _SUFFIX, self.scales(linears, values))
        for linear in linears:
            self.edits.append_step(linear.var, 1, ScaleColumns(scales))
        if values is not None:
            first_head = scales.value().reshape(values.kv_heads, -1, values.head_dim)[:, 0].reshape(-1)
            self.divide_rows(values.rows, name, first_head)
        elif self.in_norm(linears):
            self.divide_norm(linears[0].x, scales)
        else:
            self.divide_producer(linears, name, scales)

    def scales(self, linears: list[Linear], values: ValuePath | None) -> NDArray:
        seen = [self.statistics[linear.name] for linear in linears]
        weight = np.max([s.weight_absmax for s in seen], axis=0)
        share = None
        if values is not None:
            share = (values.kv_heads, values.heads // values.kv_heads, values.head_dim)

        def with_exponent(exponent: float) -> NDArray:
            return smoothing_scales(seen[0].absmax, weight, exponent, share)

        exponent = self.ctx.options.smoothing
        if exponent == "search":
            weights = [
                sampled_outputs(self.graph.param(n.weight).value(), self.ctx.random(n.name)) for n in linears
            ]
            exponent = best_exponent(seen[0].rows, weights, with_exponent, self.ctx.options)
        return with_exponent(exponent)

    def in_norm(self, linears: list[Linear]) -> bool:
        """Whether the input is a norm that nothing but these linears reads."""
        x = linears[0].x
        if x not in self.norms or x in self.graph.returned:
            return False
        return self.graph.consumers[x] == [n.var for n in linears]

    def divide_norm(self, norm: relax.Var, scales: Param) -> None:
        """Gain and shift of a norm over s."""
        stem = scales.name.removesuffix(_SUFFIX)
        for index, role in ((1, "gain"), (2, "shift"))[: len(self.graph.producer[norm].args) - 1]:
            self.edits.append_step(norm, index, ScaleColumns(scales, inverse=True), f"{stem}.norm_{role}")

    def divide_producer(self, linears: list[Linear], name: str, scales: Param) -> None:
        """Rows of ``up`` or of relu's input over s; else an explicit product."""
        x = linears[0].x
        alone = len(linears) == 1 and self.graph.sole_user(x) is not None
        rows = self.scalable_rows(self.graph.producer_of(x), len(scales.value())) if alone else None
        if rows is not None:
            self.divide_rows(rows, name, scales.value())
        else:
            self.explicit[x] = _Explicit(array_param(f"{name}.smooth_inverse", 1 / scales.value()))

    def scalable_rows(self, producer: Any, width: int) -> Rows | None:
        """The rows whose scale passes through to ``producer`` unchanged: of a factor, or behind a relu."""
        if is_op(producer, "nn.relu"):
            return made_by(self.graph, producer.args[0])
        if not is_op(producer, "multiply"):
            return None
        for factor in reversed(producer.args):
            rows = made_by(self.graph, factor)
            if rows is not None and rows.stop - rows.start == width:
                return rows
        return None

    def divide_rows(self, rows: Rows, name: str, scales: NDArray) -> None:
        """Rows of a weight and of its bias over s (the other rows over 1)."""
        var = rows.linear.var
        every = np.ones(shape_of(rows.linear.weight, "linear")[0], np.float32)
        every[rows.start : rows.stop] = scales
        step = ScaleRows(array_param(f"{name}.smooth_rows", every), inverse=True)
        for index in (1, 2):
            self.edits.append_step(var, index, step)

    def visit(self, rewriter: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if not is_op(value, "sdc.linear") or value.args[0] not in self.explicit:
            return self.edits.visit(rewriter, var, value)
        x, *rest = self.edits.copy(rewriter, var, value).args
        inverse = rewriter.weight(self.explicit[value.args[0]].inverse)
        return relax.Call(value.op, [rewriter.emit(relax.op.multiply(x, inverse)), *rest], value.attrs)
