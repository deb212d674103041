"""Choosing the next token from logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdc.errors import ConfigError

__all__ = ["Sampler"]

_CUTS = (1e-2, 1e-3, 1e-4)  # of the likeliest token's weight
_ROUNDING = 1e-4  # more than a weight loses in float32
_COLDEST = 1e-30  # float32 holds it, and its reciprocal


class Sampler:
    """Greedy where the temperature is 0; else draws from the smallest set of tokens with mass ``top_p``.

    Args:
        temperature: Divides the logits; at least 0.
        top_p: Within (0, 1]; nucleus sampling (arXiv 1904.09751).
        seed: Of the draws; None for a different one each time.

    Raises:
        ConfigError: A value is out of range.
    """

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = 0) -> None:
        if not (np.isfinite(temperature) and temperature >= 0):
            raise ConfigError(f"temperature must be 0 (greedy) or more, not {temperature}")
        if not 0 < top_p <= 1:
            raise ConfigError(f"top-p must lie within 0 (exclusive) and 1, not {top_p}")
        self.temperature, self.top_p = temperature, top_p
        self.random = np.random.default_rng(seed)

    def __call__(self, logits: NDArray) -> int:
        """A token id from logits [vocab]."""
        if self.temperature == 0:
            return int(logits.argmax())
        tokens, weights = self._nucleus(logits)
        mass = np.cumsum(weights)
        drawn = self.random.random() * mass[-1]
        return int(tokens[min(int(np.searchsorted(mass, drawn, side="right")), len(mass) - 1)])

    def _nucleus(self, logits: NDArray) -> tuple[NDArray, NDArray]:
        """The tokens to draw from, by number, and their weights."""
        order, weights, rest = self._candidates(logits)
        if self.top_p == 1:
            return order, weights
        mass = np.cumsum(weights)
        last = min(int(np.searchsorted(mass, self.top_p * (mass[-1] + rest))), len(mass) - 1)
        by_number = np.argsort(order[: last + 1])
        return order[by_number], weights[by_number]

    def _candidates(self, logits: NDArray) -> tuple[NDArray, NDArray, float]:
        """Tokens by falling weight, their weights, and the weight of all others, none of which can be drawn.

        The likeliest of V tokens weighs 1. Those above a cut hold the set where they have its mass; above
        (1 - top_p) / V they do, as all below weigh less than 1 - top_p together. So a few hundred tokens are
        sorted, not a whole vocabulary.
        """
        top = logits.max()
        rough = np.exp((logits - top) / np.float32(max(self.temperature, _COLDEST)))
        if self.top_p == 1:
            return np.arange(len(logits)), rough.astype(np.float64), 0.0
        total = float(rough.sum(dtype=np.float64))
        for cut in (*_CUTS, (1 - self.top_p) / len(logits) * (1 - _ROUNDING)):
            kept = np.flatnonzero(rough >= cut)
            mass = float(rough[kept].sum(dtype=np.float64))
            if mass >= self.top_p * total * (1 + _ROUNDING):
                break
        order = kept[np.argsort(-rough[kept], kind="stable")]
        weights = np.exp((logits[order].astype(np.float64) - top) / max(self.temperature, _COLDEST))
        return order, weights, max(0.0, total - mass)
