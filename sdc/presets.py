"""Named settings: points of accuracy against spikes, and the methods that they are measured against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """Settings by name.

    Attributes:
        summary: One line for listings.
        settings: Fields of :class:`sdc.config.CompileConfig`; what a user sets beside them wins.
    """

    summary: str
    settings: Mapping[str, Any]


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "accurate": Preset(
            "8-bit weights, many levels: nearly the float model's perplexity",
            {"weights": "int8", "levels": 63, "q_levels": 63, "group": 64},
        ),
        "balanced": Preset(
            "4-bit weights, about 3.3 spikes a neuron",
            {"weights": "int4", "levels": 127, "group": 64, "spikes": 2.95}
            | {"smoothing": 0.5, "q_levels": 15, "compensation": 1.0},
        ),
        "sparse": Preset(
            "4-bit weights, under 2 spikes a neuron",
            {"weights": "int4", "block": 0, "levels": 127, "group": 0, "spikes": 1.7}
            | {"smoothing": 0.5, "q_levels": 15, "prob_levels": 127, "compensation": 1.0},
        ),
        "rtn": Preset(
            "baseline: 4-bit weights and activations to the nearest, nothing aligned",
            {"weights": "int4", "quantiser": "rtn", "levels": 7, "q_levels": 7, "kv_levels": 7}
            | {"smoothing": 0.0, "block": 0},
        ),
        "spikellm": Preset(
            # arXiv 2407.04752: unsigned one-bit spikes, no rotation; salient channels have steps of 5 bits.
            # Here one threshold serves a token, so all channels are given those, and outliers use them.
            "baseline: 4-bit weights, unsigned spikes in two populations, twice the steps of 4 bits",
            {"weights": "int4", "weight_group": 128, "levels": 15, "q_levels": 15, "coding": "binary"}
            | {"smoothing": 0.5, "block": 0, "group": 0},
        ),
        "int8": Preset(
            "baseline: dense 8-bit weights and activations (SmoothQuant), one scale a token",
            {
                "weights": "int8",
                "levels": 127,
                "q_levels": 127,
                "smoothing": 0.5,
                "block": 0,
                "group": 0,
            },
        ),
        "quarot": Preset(
            # arXiv 2404.00456, sections 4 and 5: GPTQ, one threshold a token, 4-bit cache; weight scales for
            # 128 columns are its own variant "QuaRot-128G".
            "baseline: 4-bit weights (GPTQ), activations and cache, all rotated",
            {"weights": "int4", "weight_group": 128, "levels": 7, "q_levels": 127, "kv_levels": 7}
            | {"smoothing": 0.0, "rotate_residual": True, "block": 4096, "group": 0},
        ),
    }
)
