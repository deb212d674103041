"""How much a program fires: spikes, zeros and synaptic operations by encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.ir.coding import spikes_per_count, time_steps
from sdc.ir.evaluate import Evaluator, Event
from sdc.ir.model import Model
from sdc.passes.base import PassContext
from sdc.passes.statistics import calibration_inputs

__all__ = ["FiringStatistics", "measure_firing"]


@dataclass
class _Encoder:
    neurons: int = 0
    zeros: int = 0
    spikes: int = 0
    synops: int = 0
    steps: int = 0


@dataclass
class FiringStatistics:
    """Counts over the tokens that were run.

    Attributes:
        tokens: How many tokens.
        encoders: By encoder name: neurons (counts made), zeros among them, spikes, synops, time steps.
    """

    tokens: int = 0
    encoders: dict[str, _Encoder] = field(default_factory=dict)

    def total(self, what: str) -> int:
        """A sum over all encoders."""
        return sum(int(getattr(e, what)) for e in self.encoders.values())

    def summary(self) -> dict[str, Any]:
        """What tables show.

        ``firing_rate`` is spikes / (neurons * T), each encoder with its own T; ``synops_per_token`` counts one
        addition for every spike and synapse it meets.
        """
        neurons = max(1, self.total("neurons"))
        slots = max(1, sum(e.neurons * e.steps for e in self.encoders.values()))
        return {
            "tokens": self.tokens,
            "spikes_per_neuron": self.total("spikes") / neurons,
            "zero_fraction": self.total("zeros") / neurons,
            "firing_rate": self.total("spikes") / slots,
            "synops_per_token": self.total("synops") / max(1, self.tokens),
        }

    def as_json(self) -> dict[str, Any]:
        """Summary and one entry an encoder."""
        return {"summary": self.summary(), "encoders": {k: vars(e) for k, e in self.encoders.items()}}


def measure_firing(model: Model, windows: Sequence[NDArray]) -> FiringStatistics:
    """Runs a spiking decoder on windows of tokens and counts every spike.

    Probabilities of the attention are left out of ``neurons``: their number depends on the context, and so are
    their synaptic operations; those of queries (one per spike and visible key) count.
    """
    collector = _Collector()
    evaluator = Evaluator(model, collector)
    for _, inputs in calibration_inputs(model, PassContext(calibration=tuple(windows))):
        evaluator.run(model.entry, *inputs)
        if model.info.kind == "decoder":
            collector.statistics.tokens += int(inputs[0].size)
    return collector.statistics


class _Collector:
    def __init__(self) -> None:
        self.statistics = FiringStatistics()
        self.coding: Any = "ternary"

    def __call__(self, event: Event) -> None:
        if event.op == "spike_encode":
            self.encode(event)
        elif event.op == "spike_accumulate":
            spikes = self.spikes(event.args[0])
            self.of(event.attrs["name"]).synops += spikes * int(event.args[1].shape[0])
        elif event.op == "spike_attention":
            self.attend(event)

    def encode(self, event: Event) -> None:
        counts, attrs = event.result[0], event.attrs
        self.coding = attrs["coding"]
        entry = self.of(attrs["name"])
        entry.neurons += counts.size
        entry.zeros += int((counts == 0).sum())
        entry.spikes += self.spikes(counts)
        entry.steps = time_steps(attrs["coding"], attrs["levels"])

    def attend(self, event: Event) -> None:
        """Queries meet every visible key: a spike of one channel is one addition a key."""
        q, k = event.args[0], event.args[2]
        batch, n, heads, _ = q.shape
        position = int(event.args[6])
        causal = event.attrs["causal"]
        keys = position + 1 + np.arange(n) if causal else np.full(n, k.shape[2])
        per_query = spikes_per_count(q, self.coding).reshape(batch, n, -1).sum((0, 2))
        self.of(f"{event.attrs['name']}:q").synops += int((per_query * keys).sum())

    def spikes(self, counts: NDArray) -> int:
        return int(spikes_per_count(counts, self.coding).sum())

    def of(self, name: str) -> _Encoder:
        return self.statistics.encoders.setdefault(name, _Encoder())
