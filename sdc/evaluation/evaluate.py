"""A program beside its original model on a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from sdc.errors import NumericsError
from sdc.evaluation.agreement import Agreement, compare_logits
from sdc.evaluation.perplexity import Perplexity, negative_log_likelihood, windows_of
from sdc.evaluation.reference import Reference
from sdc.runtime.program import Program, score_with_firing
from sdc.targets.firing import Firing

__all__ = ["Evaluation", "Scorer", "evaluate", "evaluate_windows"]

AGREEMENT_KEYS = ("kl_divergence", "kl_divergence_interval", "greedy_agreement", "greedy_agreement_interval")

Progress = Callable[[str, int, int], None]


Scorer = Callable[[NDArray], tuple[NDArray, Firing]]
"""From tokens [n] to their logits [n, vocab], each window from an empty cache, and what fired."""


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        spiking: Of the program.
        reference: Of the original model; None where it was not at hand.
        agreement: Of the two models' next-token distributions; None likewise.
        reference_kind: What ran the original.
        tokens: Tokens that ran.
        firing: See :meth:`sdc.targets.firing.Firing.summary`.
    """

    spiking: Perplexity
    reference: Perplexity | None
    agreement: Agreement | None
    reference_kind: str
    tokens: int
    firing: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON values; what needs the original model is None without it."""
        reference, agreement = self.reference, self.agreement
        means = ("spikes_per_neuron", "zero_fraction", "firing_rate", "synops_per_token")
        return {
            "perplexity_reference": reference.value if reference else None,
            "perplexity_reference_interval": list(reference.interval()) if reference else None,
            "perplexity_spiking": self.spiking.value,
            "perplexity_spiking_interval": list(self.spiking.interval()),
            "ratio": self.spiking.value / reference.value if reference else None,
            "ratio_interval": list(self.spiking.ratio_interval(reference)) if reference else None,
            **(agreement.to_json() if agreement else dict.fromkeys(AGREEMENT_KEYS)),
            "reference": self.reference_kind,
            **{name: self.firing[name] for name in means},
            "windows": len(self.spiking.window_means),
            "window_means_reference": list(reference.window_means) if reference else None,
            "window_means_spiking": list(self.spiking.window_means),
            "tokens": self.tokens,
            "ops": self.firing["ops"],
            "probabilities": self.firing["probabilities"],
        }


def evaluate(
    program: Program,
    reference: Reference | None,
    tokens: Sequence[int],
    *,
    windows: int = 8,
    window: int = 512,
    progress: Progress = lambda _what, _done, _total: None,
) -> Evaluation:
    """Perplexity of both on the first windows of a text, how far they differ, and the program's firing.

    Args:
        tokens: Token ids of the text, without special tokens.
        windows: How many windows at most.
        window: Tokens of each; they must fit into the program's cache.

    Raises:
        ConfigError: The text is too short.
        NumericsError: A threshold is NaN or infinite; the operation is named.
        TargetError: A window does not fit into the cache.
    """

    def score(piece: NDArray) -> tuple[NDArray, Firing]:
        program.decoder.reset()
        return score_with_firing(program.decoder, piece)

    pieces = windows_of(tokens, windows, window)
    return evaluate_windows(score, program.manifest["ops"], reference, pieces, progress)


def evaluate_windows(
    score: Scorer,
    ops: Sequence[Mapping[str, Any]],
    reference: Reference | None,
    pieces: Sequence[NDArray],
    progress: Progress = lambda _what, _done, _total: None,
) -> Evaluation:
    """As :func:`evaluate`, of anything that gives logits and firing.

    Args:
        ops: The operation table that the firing belongs to.
        pieces: Tokens of each window, all of one length.
    """
    spiking, original, apart, firing = [], [], [], Firing()
    for number, piece in enumerate(pieces):
        progress("measuring", number, len(pieces))
        logits, fired = score(piece)
        _check(fired, ops)
        firing.merge(fired)
        spiking.append(negative_log_likelihood(logits, piece))
        if reference:
            wanted = reference.logits(piece)
            original.append(negative_log_likelihood(wanted, piece))
            apart.append(compare_logits(wanted, logits))
    progress("measuring", len(pieces), len(pieces))
    return Evaluation(
        Perplexity(tuple(spiking)),
        Perplexity(tuple(original)) if reference else None,
        Agreement(*map(tuple, zip(*apart, strict=True))) if apart else None,
        reference.kind if reference else "none: the original model is not at hand",
        sum(map(len, pieces)),
        firing.summary(ops),
    )


def _check(firing: Firing, ops: Sequence[Mapping[str, Any]]) -> None:
    for op, fired in firing.pairs(ops):
        if not fired.finite:
            raise NumericsError(str(op["name"]), "a firing threshold is NaN or infinite: its input is")
