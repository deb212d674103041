"""A program beside its original model on a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdc.errors import NumericsError
from sdc.evaluation.perplexity import Perplexity, negative_log_likelihood, windows_of
from sdc.evaluation.reference import Reference
from sdc.runtime.program import Program, score_with_firing
from sdc.targets.firing import Firing

__all__ = ["Evaluation", "evaluate"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        spiking: Of the program.
        reference: Of the original model; None where it was not at hand.
        reference_kind: What ran the original.
        tokens: Tokens that ran.
        firing: See :meth:`sdc.targets.firing.Firing.summary`.
    """

    spiking: Perplexity
    reference: Perplexity | None
    reference_kind: str
    tokens: int
    firing: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON values; the reference's are None where there is none."""
        reference = self.reference
        return {
            "perplexity_reference": reference.value if reference else None,
            "perplexity_reference_interval": list(reference.interval()) if reference else None,
            "perplexity_spiking": self.spiking.value,
            "perplexity_spiking_interval": list(self.spiking.interval()),
            "ratio": self.spiking.value / reference.value if reference else None,
            "reference": self.reference_kind,
            **{
                k: self.firing[k]
                for k in ("spikes_per_neuron", "zero_fraction", "firing_rate", "synops_per_token")
            },
            "windows": len(self.spiking.window_means),
            "window_means_reference": list(reference.window_means) if reference else None,
            "window_means_spiking": list(self.spiking.window_means),
            "tokens": self.tokens,
            "ops": self.firing["ops"],
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
    """Perplexity of both on the first windows of a text, and the program's firing.

    Args:
        tokens: Token ids of the text, without special tokens.
        windows: How many windows at most.
        window: Tokens of each; they must fit into the program's cache.

    Raises:
        ConfigError: The text is too short.
        NumericsError: A threshold is NaN or infinite; the operation is named.
        TargetError: A window does not fit into the cache.
    """
    pieces = windows_of(tokens, windows, window)
    ops = program.manifest["ops"]
    spiking, original, firing = [], [], Firing()
    for number, piece in enumerate(pieces):
        progress("spiking program", number, len(pieces))
        program.decoder.reset()
        logits, fired = score_with_firing(program.decoder, piece)
        _check(fired, ops)
        firing.merge(fired)
        spiking.append(negative_log_likelihood(logits, piece))
    progress("spiking program", len(pieces), len(pieces))
    for number, piece in enumerate(pieces if reference else ()):
        progress("original model", number, len(pieces))
        assert reference is not None
        original.append(negative_log_likelihood(reference.logits(piece), piece))
    if reference:
        progress("original model", len(pieces), len(pieces))
    return Evaluation(
        Perplexity(tuple(spiking)),
        Perplexity(tuple(original)) if reference else None,
        reference.kind if reference else "none: the original model is not at hand",
        sum(map(len, pieces)),
        firing.summary(ops),
    )


def _check(firing: Firing, ops: Sequence[Mapping[str, Any]]) -> None:
    for op, fired in firing.pairs(ops):
        if not fired.finite:
            raise NumericsError(str(op["name"]), "a firing threshold is NaN or infinite: its input is")
