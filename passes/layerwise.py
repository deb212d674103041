"""Layer by layer: what quantises a linear sees inputs that the layers before have already made spiking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from sdc.errors import NumericsError
from sdc.ir.evaluate import Lockstep
from sdc.ir.model import Encoding, Model
from sdc.ir.ops import OPS, attributes, is_op
from sdc.passes.base import PassContext
from sdc.passes.graph import Graph, Linear
from sdc.passes.quantisers import on_grid
from sdc.passes.spikes import encode
from sdc.passes.statistics import appended_rows, calibration_inputs

__all__ = ["LayerInputs", "QuantisedLayer", "sweep"]


@dataclass(frozen=True)
class LayerInputs:
    """What one linear sees over all calibration tokens.

    Attributes:
        linear: The operation.
        exact: Its inputs in the float model, [T, K] float32.
        spiking: Its inputs behind the layers that are quantised already, before encoding, [T, K] float32.
        weight: [N, K] float32.
    """

    linear: Linear
    exact: NDArray
    spiking: NDArray
    weight: NDArray


@dataclass(frozen=True)
class QuantisedLayer:
    """What became of a linear.

    Attributes:
        encoding: How its inputs are encoded.
        integers: [N, K] int8.
        scales: [N, groups] float32.
        spikes: The encoded inputs as floats, [T, K]: what the layer passes on is computed from them.
    """

    encoding: Encoding
    integers: NDArray
    scales: NDArray
    spikes: NDArray

    def weight(self) -> NDArray:
        """Integers times scales, float32 [N, K]."""
        return on_grid(self.integers, self.scales)


Quantise = Callable[[LayerInputs], QuantisedLayer]


def sweep(model: Model, ctx: PassContext, quantise: Quantise) -> None:
    """Runs the float model and the spiking one side by side over the calibration windows.

    ``quantise`` is called for every linear in the order of the program. Attentions of the spiking run are
    spiking ones, by the model's encodings. Memory: the activations between two operations, for all windows.

    Raises:
        NumericsError: An operation's input is NaN or infinite.
    """
    graph = Graph(model)
    linears = list(graph.linears())
    if not linears:
        return
    inputs = [each for _, each in calibration_inputs(model, ctx, all_together=True)]
    state = _Sweep(graph, model.encodings, {n.var: n for n in linears}, linears[-1].var, quantise, ctx)
    Lockstep(model, inputs + inputs).run(state, linears[-1].var)


@dataclass
class _Sweep:
    graph: Graph
    encodings: Mapping[str, Encoding]
    linears: Mapping[relax.Var, Linear]
    last: relax.Var
    quantise: Quantise
    ctx: PassContext
    done: int = 0

    def __call__(self, var: relax.Var, call: relax.Call, runs: Lockstep) -> Sequence[Any] | None:
        if var in self.linears:
            return self.linear(self.linears[var], runs)
        if is_op(call, "sdc.kv_append"):
            return appended_rows(call, runs)
        if is_op(call, "sdc.attention"):
            return self.attention(call, runs)
        return None

    def linear(self, linear: Linear, runs: Lockstep) -> Sequence[Any]:
        self.ctx.progress("quantising layer by layer", self.done, len(self.linears))
        self.done += 1
        x = runs.values(linear.x)
        half = len(x) // 2
        exact, spiking = (_rows(each) for each in (x[:half], x[half:]))
        if not np.isfinite(spiking).all():
            raise NumericsError(linear.name, "its input is NaN or infinite on the calibration text")
        weight = self.graph.param(linear.weight).value()
        made = self.quantise(LayerInputs(linear, exact, spiking, weight))
        if linear.var.same_as(self.last):
            return [None] * len(x)
        bias = 0 if linear.bias is None else self.graph.param(linear.bias).value()
        lead = [each.shape[:-1] for each in x[:half]]
        return [
            *_split(exact @ weight.T + bias, lead),
            *_split(made.spikes @ made.weight().T + bias, lead),
        ]

    def attention(self, call: relax.Call, runs: Lockstep) -> list[Any]:
        args, attrs = [runs.values(a) for a in call.args], attributes(call)
        name, half = attrs["name"], len(args[0]) // 2
        exact = [
            OPS["attention"].reference(*each, **attrs) for each in zip(*(a[:half] for a in args), strict=True)
        ]
        probabilities = self.encodings[f"{name}:p"]
        attrs |= {"levels": probabilities.levels, "coding": probabilities.coding}
        spiking = []
        for q, k, v, *rest in zip(*(a[half:] for a in args), strict=True):
            pairs = [
                part
                for kind, each in (("q", q), ("k", k), ("v", v))
                for part in encode(each, self.encodings[f"{name}:{kind}"])
            ]
            spiking.append(OPS["spike_attention"].reference(*pairs, *rest, **attrs))
        return exact + spiking


def _rows(arrays: Sequence[NDArray]) -> NDArray:
    flat = [a.reshape(-1, a.shape[-1]) for a in arrays]
    return flat[0] if len(flat) == 1 else np.concatenate(flat)


def _split(rows: NDArray, lead: Sequence[tuple[int, ...]]) -> list[NDArray]:
    """Rows [T, N] as the arrays [..., N] that they were joined from."""
    cuts = np.cumsum([int(np.prod(shape)) for shape in lead])[:-1]
    parts = np.split(rows, cuts)
    return [part.reshape(*shape, rows.shape[1]) for part, shape in zip(parts, lead, strict=True)]
