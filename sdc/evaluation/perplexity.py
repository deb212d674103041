"""Perplexity of a language model on windows of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sdc.errors import ModelError

__all__ = ["Perplexity", "Scorer", "onnx_scorer", "perplexity"]

Scorer = Callable[[NDArray], NDArray]
"""Logits [n, vocab] of tokens [n], from an empty cache."""


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean natural-log cross-entropy of tokens 2..n of each window.

    Attributes:
        windows: Mean cross-entropy of each window, nats per token.
    """

    windows: tuple[float, ...]

    @property
    def value(self) -> float:
        """The perplexity (windows are of one length)."""
        return float(np.exp(np.mean(self.windows)))

    def interval(self, seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
        """95 % bootstrap interval over windows (Efron and Tibshirani 1993, chapter 13: percentiles)."""
        losses = np.asarray(self.windows)
        picks = np.random.default_rng(seed).integers(0, len(losses), (resamples, len(losses)))
        low, high = np.percentile(np.exp(losses[picks].mean(1)), [2.5, 97.5])
        return float(low), float(high)


def perplexity(
    score: Scorer, windows: Sequence[NDArray], progress: Callable[[int, int], None] | None = None
) -> Perplexity:
    """Scores windows of tokens [n], each on its own."""
    losses = []
    for done, window in enumerate(windows):
        if progress is not None:
            progress(done, len(windows))
        logits = score(window)[:-1].astype(np.float64)
        top = logits.max(-1, keepdims=True)
        total = top[:, 0] + np.log(np.exp(logits - top).sum(-1))
        losses.append(float((total - logits[np.arange(len(logits)), window[1:]]).mean()))
    return Perplexity(tuple(losses))


def onnx_scorer(path: str | Path) -> Scorer:
    """The original model under onnxruntime: the yardstick.

    Raises:
        ModelError: onnxruntime cannot run it as a language model.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise ModelError(f"onnxruntime cannot open {path}: {error}") from error

    def score(tokens: NDArray) -> NDArray:
        feeds = {i.name: _feed(i, tokens[None]) for i in session.get_inputs()}
        logits = np.asarray(session.run(None, feeds)[0], np.float32)
        return logits[0]

    return score


def _feed(value: onnxruntime.NodeArg, ids: NDArray) -> NDArray:
    """One input of a language model: ids, a mask of ones, positions, or an empty cache."""
    if "past" in value.name:
        dtype = np.float16 if "16" in value.type else np.float32
        shape = [1, *(d if isinstance(d, int) else 0 for d in value.shape[1:])]
        return np.zeros(shape, dtype)
    if "mask" in value.name:
        return np.ones(ids.shape, np.int64)
    if "position" in value.name:
        return np.arange(ids.shape[1], dtype=np.int64)[None]
    return ids.astype(np.int64)
