"""Perplexity: windows that do not overlap, the first token of each is not predicted.

``exp`` of the mean natural-log cross-entropy of tokens 2 to n of each window. No special tokens are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.errors import ConfigError
from sdc.evaluation.bootstrap import interval_of_mean

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

    def interval(self) -> tuple[float, float]:
        """95 % of bootstrap draws over windows lie within."""
        low, high = interval_of_mean(self.window_means)
        return float(np.exp(low)), float(np.exp(high))

    def ratio_interval(self, reference: Perplexity) -> tuple[float, float]:
        """The same of the ratio to another model's perplexity, window by window."""
        pairs = zip(self.window_means, reference.window_means, strict=True)
        low, high = interval_of_mean([mine - its for mine, its in pairs])
        return float(np.exp(low)), float(np.exp(high))


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
