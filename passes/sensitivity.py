"""Sensitivity: what the loss of a decoder owes to the spikes of each operation, measured one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from tvm import relax

from sdc.errors import PassError
from sdc.ir.coding import spikes_per_count
from sdc.ir.evaluate import Lockstep
from sdc.ir.model import Encoding, Model
from sdc.ir.ops import OPS, attributes, is_op
from sdc.passes.base import PassContext
from sdc.passes.calibrate import sampled_outputs, with_floor
from sdc.passes.graph import Graph, Linear
from sdc.passes.spikes import dequantised, encode
from sdc.passes.statistics import appended_rows, calibration_inputs

__all__ = ["Choice", "Site", "measure_sites"]

TOKENS = 192  # of one calibration window: one run for each operation
ROWS = 96  # of those tokens, for the errors of encodings that are not run

Candidates = Callable[[NDArray, Encoding], Sequence[Encoding]]
"""Encodings to choose from, given inputs [rows, K] and the encoding so far (which is among them, first)."""


@dataclass(frozen=True)
class Choice:
    """One encoding of an operation's inputs.

    Attributes:
        encoding: The encoding.
        spikes: Spikes of one token, by the encoding's coding.
        synops: Synapses that these spikes meet: additions of one token.
        loss: Nats a token that the model is expected to lose by it.
        zeros: Share of the counts that are 0.
    """

    encoding: Encoding
    spikes: float
    synops: float
    loss: float
    zeros: float = 0.0


@dataclass(frozen=True)
class Site:
    """An operation whose inputs become spikes. The first choice is the encoding so far; its loss is measured.

    Attributes:
        name: As in ``Model.encodings``.
        neurons: Inputs of one token.
        fan_out: Synapses of each: outputs of a linear; keys that a query meets, on average.
        choices: At least one.
    """

    name: str
    neurons: int
    fan_out: float
    choices: tuple[Choice, ...]


def measure_sites(model: Model, ctx: PassContext, candidates: Candidates) -> list[Site]:
    """All linears, and the queries of all attentions, with measured and predicted losses.

    A loss is the divergence of the next token's distribution, KL(float || one operation spiking), with
    everything else in float. It is run for the encoding so far; that of another encoding is taken to grow
    with the squared error of the operation's output, as it does for small errors.

    Raises:
        PassError: The model is no decoder, or there is no calibration input.
    """
    if model.info.kind != "decoder" or not ctx.calibration:
        raise PassError("allocate", "a budget needs a decoder and a calibration text")
    window = np.asarray(ctx.calibration[0]).reshape(-1)[:TOKENS]
    ((_, inputs),) = calibration_inputs(model, replace(ctx, calibration=(window,)))
    graph = Graph(model)
    linears = {n.var: n for n in graph.linears()}
    last = list(linears)[-1]
    state = _Measure(graph, model.encodings, linears, last, candidates, ctx)
    Lockstep(model, [inputs]).run(state, last)
    return state.sites()


@dataclass
class _Measure:
    """The replacement: run 0 is the float model; every operation forks one in which it alone spikes."""

    graph: Graph
    encodings: Mapping[str, Encoding]
    linears: Mapping[relax.Var, Linear]
    last: relax.Var
    candidates: Candidates
    ctx: PassContext
    errors: dict[str, list[tuple[Encoding, float, float, float]]] = field(default_factory=dict)
    neurons: dict[str, int] = field(default_factory=dict)
    fan_out: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    def __call__(self, var: relax.Var, call: relax.Call, runs: Lockstep) -> Sequence[Any] | None:
        if var in self.linears:
            self.ctx.progress("measuring sensitivity", len(self.neurons), 0)
            return self.linear(self.linears[var], runs)
        if is_op(call, "sdc.kv_append"):
            return appended_rows(call, runs)
        if is_op(call, "sdc.attention"):
            return self.attention(call, runs)
        return None

    def linear(self, linear: Linear, runs: Lockstep) -> Sequence[Any]:
        weight = self.graph.param(linear.weight).value()
        bias = 0 if linear.bias is None else self.graph.param(linear.bias).value()
        x = runs.values(linear.x)
        some = sampled_outputs(weight, self.ctx.random(linear.name))
        start = with_floor(x[0], self.encodings[linear.name], self.ctx.options.spikes)
        self.fan_out[linear.name] = len(weight)
        self.consider(linear.name, x[0].reshape(-1, x[0].shape[-1]), some.T @ some, start)
        x.append(dequantised(x[0], start))
        runs.fork()
        if linear.var.same_as(self.last):
            self.compare([each.reshape(-1, each.shape[-1]) for each in x], weight, bias)
            return [None] * len(x)
        out = np.concatenate(x).reshape(-1, weight.shape[1]) @ weight.T + bias
        return list(out.reshape(len(x), *x[0].shape[:-1], -1))

    def attention(self, call: relax.Call, runs: Lockstep) -> list[Any]:
        arguments, attrs = [runs.values(a) for a in call.args], attributes(call)
        name, q = f"{attrs['name']}:q", arguments[0][0]
        self.consider(name, q.reshape(-1, q.shape[-1]), None, self.encodings[name])
        self.neurons[name] = int(np.prod(q.shape[2:]))
        self.fan_out[name] = (q.shape[1] + 1) / 2
        each = list(zip(*arguments, strict=True))
        each.append((dequantised(q, self.encodings[name]), *each[0][1:]))
        runs.fork()
        return [OPS["attention"].reference(*one, **attrs) for one in each]

    def consider(self, name: str, x: NDArray, gram: NDArray | None, start: Encoding) -> None:
        """Spikes and errors of all candidates for inputs [rows, K], on a sample of the rows."""
        rows = x[np.linspace(0, len(x) - 1, min(ROWS, len(x))).astype(int)]
        self.neurons[name] = x.shape[-1]
        self.errors[name] = []
        for encoding in self.candidates(rows, start):
            counts, _ = encode(rows, encoding)
            gap = dequantised(rows, encoding) - rows
            error = np.einsum("rk,rk->", gap if gram is None else gap @ gram, gap)
            spikes = float(spikes_per_count(counts, encoding.coding).mean())
            zeros = 1 - np.count_nonzero(counts) / counts.size
            self.errors[name].append((encoding, spikes, float(error), zeros))

    def compare(self, x: list[NDArray], weight: NDArray, bias: NDArray | int) -> None:
        """The divergence of every run's logits, one run at a time: they are large."""
        exact = log_softmax(x[0] @ weight.T + bias, axis=-1)
        likely = np.exp(exact)
        for each in x[1:]:
            other = log_softmax(each @ weight.T + bias, axis=-1)
            self.losses.append(max(0.0, float((likely * (exact - other)).sum(-1).mean())))

    def sites(self) -> list[Site]:
        return [
            Site(name, self.neurons[name], self.fan_out[name], tuple(self.choices(name, loss)))
            for name, loss in zip(self.errors, self.losses, strict=True)
        ]

    def choices(self, name: str, loss: float) -> list[Choice]:
        known, neurons = max(self.errors[name][0][2], 1e-30), self.neurons[name]
        return [
            Choice(
                encoding, spikes * neurons, spikes * neurons * self.fan_out[name], loss * error / known, zeros
            )
            for encoding, spikes, error, zeros in self.errors[name]
        ]
