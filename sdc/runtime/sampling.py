"""Choosing the next token from logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdc.errors import ConfigError
from sdc.ir.drawing import draw

__all__ = ["Sampler"]


class Sampler:
    """Greedy where the temperature is 0; else draws from the smallest set of tokens with mass ``top_p``.

    :mod:`sdc.ir.drawing` defines the draw, which is the same on every target.

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
        return draw(logits, self.temperature, self.top_p, self.random.random())
