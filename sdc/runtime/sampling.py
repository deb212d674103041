"""Choosing the next token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdc.errors import ConfigError

__all__ = ["Sampler"]


class Sampler:
    """Greedy, or nucleus sampling (Holtzman et al., arXiv 1904.09751) with a seed.

    Args:
        temperature: 0 is greedy.
        top_p: Total probability of the tokens to choose among, within (0, 1].
        seed: Seed of the generator.

    Raises:
        ConfigError: A value is out of range.
    """

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        if temperature < 0 or not 0 < top_p <= 1:
            raise ConfigError(
                f"temperature must be >= 0 and top-p within (0, 1], got {temperature} and {top_p}"
            )
        self.temperature, self.top_p = temperature, top_p
        self.generator = np.random.default_rng(seed)

    def __call__(self, logits: NDArray) -> int:
        """A token id from logits [vocab]."""
        if self.temperature == 0:
            return int(np.argmax(logits))
        scaled = logits.astype(np.float64) / self.temperature
        weights = np.exp(scaled - scaled.max())
        order = np.argsort(-weights, kind="stable")
        cumulative = np.cumsum(weights[order]) / weights.sum()
        keep = order[: int(np.searchsorted(cumulative, self.top_p)) + 1]
        chosen = weights[keep] / weights[keep].sum()
        return int(self.generator.choice(keep, p=chosen))
