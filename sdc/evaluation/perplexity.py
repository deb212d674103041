"""Perplexity: windows that do not overlap, the first token of each is not predicted.

``exp`` of the mean natural-log cross-entropy of tokens 2 to n of each window. No special tokens are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.errors import ConfigError

__all__ = ["Perplexity", "negative_log_likelihood", "windows_of"]


@dataclass(frozen=True)
class Perplexity:
    """Of one model on one text.

    Attributes:
        window_means: Mean cross-entropy of each window, natural log.
    """

    window_means: tuple[float, ...]

    @property
    def value(self) -> float:
        """exp of the mean over windows (all have the same number of tokens)."""
        return float(np.exp(np.mean(self.window_means)))

    def interval(self, confidence: float = 0.95, draws: int = 2000) -> tuple[float, float]:
        """Bootstrap interval over windows (percentile method, Efron 1979), seeded."""
        means = np.asarray(self.window_means)
        picks = np.random.default_rng(0).integers(0, len(means), (draws, len(means)))
        edges = np.quantile(means[picks].mean(1), [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(np.exp(edges[0])), float(np.exp(edges[1]))


def windows_of(tokens: Sequence[int], count: int, size: int) -> list[NDArray[np.int64]]:
    """The first ``count`` windows of ``size`` tokens; fewer where the text is shorter.

    Raises:
        ConfigError: The text does not fill one window, or a window would predict nothing.
    """
    if size < 2 or count < 1:
        raise ConfigError(f"evaluation needs at least one window of at least 2 tokens, not {count} of {size}")
    if len(tokens) < size:
        raise ConfigError(
            f"the text has {len(tokens)} tokens, fewer than one window of {size}; give a longer text, "
            "or a smaller --window"
        )
    array = np.asarray(tokens, np.int64)
    return [array[i * size : (i + 1) * size] for i in range(min(count, len(array) // size))]


def negative_log_likelihood(logits: NDArray, tokens: NDArray) -> float:
    """Mean cross-entropy of tokens 2..n under logits [n, vocab] of the tokens before, natural log."""
    total = 0.0
    for row, token in zip(logits[:-1], tokens[1:], strict=True):
        wide = row.astype(np.float64)
        top = wide.max()
        total += top + np.log(np.exp(wide - top).sum()) - wide[token]
    return total / (len(tokens) - 1)
