"""A dense half-precision model in NumPy, for a row beside spiking programs: no target of sdc's runs one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from sdc.ir.evaluate import Lockstep
from sdc.ir.model import Model
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.graph import Graph
from sdc.passes.statistics import calibration_inputs
from sdc.targets.firing import Firing

__all__ = ["HalfScorer"]


class HalfScorer:
    """A :data:`sdc.evaluation.evaluate.Scorer` of a float decoder in dense half precision.

    Weights, inputs and results of linears are rounded to float16, sums are float32, as tensor cores do;
    norms, softmax and attention are float32, as in common half-precision runs.
    """

    def __init__(self, model: Model) -> None:
        self.model, graph = model, Graph(model)
        self.graph, self.linears = graph, {linear.var: linear for linear in graph.linears()}
        self.weights = {n.name: _half(graph.param(n.weight).value()) for n in self.linears.values()}
        self.logits = np.empty(0, np.float32)

    def __call__(self, tokens: NDArray) -> tuple[NDArray, Firing]:
        """Logits [n, vocab] of tokens [n] from an empty cache; nothing fires."""
        ((_, inputs),) = calibration_inputs(self.model, PassContext(PassOptions(), (tokens,)))
        Lockstep(self.model, [inputs]).run(self._replace, list(self.linears)[-1])
        return self.logits, Firing(tokens=len(tokens))

    def _replace(self, var: relax.Var, _call: relax.Call, runs: Lockstep) -> Sequence[Any] | None:
        linear = self.linears.get(var)
        if linear is None:
            return None
        (x,) = runs.values(linear.x)
        y = _half(x) @ self.weights[linear.name].T
        if linear.bias is not None:
            y += self.graph.param(linear.bias).value()
        y = _half(y)
        self.logits = y[0]
        return [y]


def _half(array: NDArray) -> NDArray:
    """Rounded to float16, as float32."""
    return array.astype(np.float16).astype(np.float32)
