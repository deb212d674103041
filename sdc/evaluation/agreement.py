"""How far two models' next-token distributions lie apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.evaluation.bootstrap import interval_of_mean

__all__ = ["Agreement", "compare_logits"]

ROWS = 32  # tokens at a time: a vocabulary's row in float64 is large


@dataclass(frozen=True)
class Agreement:
    """One value a window each.

    Attributes:
        divergences: Mean over tokens of KL(reference || program), in nats.
        greedy: Fraction of tokens after which both find the same token likeliest.
    """

    divergences: tuple[float, ...]
    greedy: tuple[float, ...]

    def to_json(self) -> dict[str, float | list[float]]:
        """Means over windows, and their intervals."""
        return {
            "kl_divergence": float(np.mean(self.divergences)),
            "kl_divergence_interval": list(interval_of_mean(self.divergences)),
            "greedy_agreement": float(np.mean(self.greedy)),
            "greedy_agreement_interval": list(interval_of_mean(self.greedy)),
        }


def compare_logits(reference: NDArray, program: NDArray) -> tuple[float, float]:
    """Mean KL(reference || program) in nats, and greedy agreement, of logits [n, vocab]."""
    divergence = 0.0
    for start in range(0, len(reference), ROWS):
        log_p, log_q = (_log_softmax(x[start : start + ROWS]) for x in (reference, program))
        divergence += float((np.exp(log_p) * (log_p - log_q)).sum())
    agreed = reference.argmax(-1) == program.argmax(-1)
    return divergence / len(reference), float(agreed.mean())


def _log_softmax(logits: NDArray) -> NDArray:
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
