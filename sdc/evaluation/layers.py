"""Layer by layer: how far the spiking module's outputs lie from the float module's, errors accumulating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.evaluation.module import run_decoder
from sdc.ir.evaluate import Evaluator, Event, Hook
from sdc.ir.model import Model

__all__ = ["LayerFidelity", "compare_layers"]

SPIKING_OUTPUTS = {"linear": "readout", "attention": "spike_attention"}


@dataclass(frozen=True)
class LayerFidelity:
    """One linear or attention.

    Attributes:
        snr_db: 10 log10 of the energy of the float output over the energy of the difference; None where
            there is no difference.
        cosine: Cosine of float and spiking output, mean over tokens.
    """

    name: str
    kind: str
    snr_db: float | None
    cosine: float

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def compare_layers(aligned: Model, spiking: Model, windows: Sequence[NDArray]) -> list[LayerFidelity]:
    """Runs both modules on the same tokens; every operation's output is compared under its name.

    The spiking module sees its own, already inexact activations: errors of earlier layers are included.

    Args:
        aligned: The float module after the alignment passes, whose operations have the spiking ones' names.
        spiking: What the spike passes made of it.
        windows: Tokens [n] each; outputs of one window are held at a time.
    """
    sums: dict[str, _Sums] = {}
    wanted: dict[str, NDArray] = {}
    float_run = Evaluator(aligned, _keep(wanted), keep_params=True)
    spiking_run = Evaluator(spiking, _compare(wanted, sums), keep_params=True)
    for tokens in windows:
        wanted.clear()
        run_decoder(aligned, float_run, tokens)
        run_decoder(spiking, spiking_run, tokens)
    return [each.result(name) for name, each in sums.items()]


def _keep(outputs: dict[str, NDArray]) -> Hook:
    def see(event: Event) -> None:
        if event.op in SPIKING_OUTPUTS:
            outputs[str(event.attrs["name"])] = event.result

    return see


def _compare(wanted: dict[str, NDArray], sums: dict[str, _Sums]) -> Hook:
    latest = [""]  # a readout follows its accumulation, and has no name of its own

    def see(event: Event) -> None:
        if event.op == "spike_accumulate":
            latest[0] = str(event.attrs["name"])
        elif event.op == "readout":
            record(latest[0], "linear", event.result)
        elif event.op == "spike_attention":
            record(str(event.attrs["name"]), "attention", event.result)

    def record(name: str, kind: str, result: NDArray) -> None:
        target = wanted.pop(name)
        width = target.shape[-1] if kind == "linear" else target.shape[-1] * target.shape[-2]
        sums.setdefault(name, _Sums(kind)).add(target.reshape(-1, width), result.reshape(-1, width))

    return see


@dataclass
class _Sums:
    kind: str
    signal: float = 0.0
    noise: float = 0.0
    cosines: float = 0.0
    tokens: int = 0

    def add(self, wanted: NDArray, got: NDArray) -> None:
        """Adds outputs [n, N]."""
        norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(got, axis=1)
        dots = np.einsum("tn,tn->t", wanted, got)
        self.signal += float(np.square(wanted, dtype=np.float64).sum())
        self.noise += float(np.square(wanted - got, dtype=np.float64).sum())
        self.cosines += float((dots / np.maximum(norms, np.finfo(np.float32).tiny)).sum())
        self.tokens += len(wanted)

    def result(self, name: str) -> LayerFidelity:
        """Over all that was added."""
        ratio = 10 * float(np.log10(self.signal / self.noise)) if self.noise and self.signal else None
        return LayerFidelity(name, self.kind, ratio, self.cosines / max(1, self.tokens))
