"""What a decoder loses when all its operations spike, measured before any weight is rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from sdc.ir.coding import spikes_per_count
from sdc.ir.model import Encoding, Model
from sdc.passes.base import PassContext
from sdc.passes.calibrate import with_floor
from sdc.passes.graph import Graph
from sdc.passes.layerwise import LayerInputs, QuantisedLayer, sweep
from sdc.passes.quantisers import quantise_rtn
from sdc.passes.spikes import dequantised, encode

__all__ = ["WholeLoss", "measure_whole"]

TOKENS = 1024  # of the calibration windows; two runs of them
CHUNK = 128  # rows of logits worked on together: they are wide


@dataclass(frozen=True)
class WholeLoss:
    """Attributes:
    loss: KL(float || spiking) of the next token, nats a token.
    spikes: Spikes of a token by the name of the linear.
    """

    loss: float
    spikes: Mapping[str, float]


def measure_whole(model: Model, ctx: PassContext, encodings: Mapping[str, Encoding]) -> WholeLoss:
    """Runs the float model and the spiking one over the first calibration windows.

    Weights have the settings' bits, to the nearest; those that GPTQ makes later have 8 bits here, so what
    they lose is not in it. Raises as :func:`sdc.passes.layerwise.sweep`.
    """
    last = list(Graph(model).linears())[-1].name
    size = len(np.asarray(ctx.calibration[0]).reshape(-1))
    few = ctx.calibration[: max(1, TOKENS // size)]
    state = _Whole(ctx, encodings, last)
    sweep(replace(model, encodings=encodings), replace(ctx, calibration=few), state.linear)
    return WholeLoss(state.loss, state.spikes)


@dataclass
class _Whole:
    ctx: PassContext
    encodings: Mapping[str, Encoding]
    last: str
    loss: float = 0.0
    spikes: dict[str, float] = field(default_factory=dict)

    def linear(self, seen: LayerInputs) -> QuantisedLayer:
        name, options = seen.linear.name, self.ctx.options
        encoding = with_floor(seen.exact, self.encodings[name], options.spikes)
        counts, _ = encode(seen.spiking, encoding)
        each = spikes_per_count(counts, encoding.coding)
        self.spikes[name] = float(each.sum(dtype=np.float64)) / len(counts)
        spiking = dequantised(seen.spiking, encoding)
        bits, group = (8, 0) if options.quantiser == "gptq" else (encoding.weight_bits, encoding.weight_group)
        layer = QuantisedLayer(encoding, *quantise_rtn(seen.weight, bits, group), spiking)
        if name == self.last:
            self.loss = _divergence(seen.exact, seen.weight, spiking, layer.weight())
        return layer


def _divergence(x: NDArray, weight: NDArray, y: NDArray, other: NDArray) -> float:
    """KL of softmax(x W^T) from softmax(y W'^T), mean over rows."""
    total = 0.0
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        exact = log_softmax(x[rows] @ weight.T, axis=-1)
        gap = exact - log_softmax(y[rows] @ other.T, axis=-1)
        total += float((np.exp(exact) * gap).sum(dtype=np.float64))
    return max(0.0, total / len(x))
