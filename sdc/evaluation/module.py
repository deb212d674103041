"""Scoring a spiking module by the NumPy evaluator: no target, no build, the same integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.ir.evaluate import Evaluator, Event
from sdc.ir.model import Model
from sdc.ir.ops import OPS
from sdc.targets.firing import Firing, OpFiring

__all__ = ["ModuleScorer", "run_decoder"]


class ModuleScorer:
    """A :data:`sdc.evaluation.evaluate.Scorer` of a spiking decoder.

    Args:
        model: After the spike rewrite.
        probabilities: Count attention probabilities too, which computes each attention twice.
    """

    def __init__(self, model: Model, *, probabilities: bool = True) -> None:
        self.model, self.probabilities = model, probabilities
        self.evaluator = Evaluator(model, self._see, keep_params=True)
        self.firing = Firing()

    def __call__(self, tokens: NDArray) -> tuple[NDArray, Firing]:
        """Logits [n, vocab] of tokens [n] from an empty cache, and what fired."""
        self.firing = Firing(tokens=len(tokens))
        return run_decoder(self.model, self.evaluator, tokens), self.firing

    def _see(self, event: Event) -> None:
        if event.op == "spike_accumulate":
            counts, weight = event.args
            fired = OpFiring()
            fired.add(counts.reshape(-1, counts.shape[-1]), np.ones(1), len(weight))
            self.firing.linears.append(fired)
        elif event.op == "spike_attention":
            self._see_attention(event)

    def _see_attention(self, event: Event) -> None:
        counts, theta, position = event.args[0], event.args[1], int(event.args[6])
        keys = position + 1 + np.arange(counts.shape[1])
        queries = OpFiring()
        queries.add(counts[0], theta, keys)
        self.firing.attentions.append(queries)
        if not self.probabilities:
            return
        fired, width = OpFiring(), event.args[4].shape[3]

        def count(counts: NDArray, seen: NDArray) -> None:
            fired.add_visible(counts, seen, width)

        OPS["spike_attention"].reference(*event.args, **event.attrs, on_probabilities=count)
        self.firing.probabilities.append(fired)


def run_decoder(model: Model, evaluator: Evaluator, tokens: NDArray) -> NDArray:
    """Logits [n, vocab] of tokens [n] from empty caches."""
    function = model.module[model.entry]
    caches: list[Any] = list(function.params)[2 : int(function.attrs["num_input"])]
    empty = [np.zeros((1, *[int(d) for d in c.ty.shape.values[1:]]), str(c.ty.dtype)) for c in caches]
    logits: NDArray = evaluator.run(model.entry, tokens[None], np.asarray(0, np.int64), *empty)[0][0]
    return logits
