"""What kind of rotary embedding a table of angles is, for people: its base, and how positions are scaled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["rotary_kind"]

CLOSE = 0.02  # of a logarithm: tables in float16 have about three digits


def rotary_kind(cos: NDArray, sin: NDArray) -> str:
    """A few words on the angles in two tables [positions, r / 2].

    Channel i turns by f_i = base^(-2 i / r) a position (RoPE, arXiv 2104.09864). Linear scaling divides all
    of them by one number, NTK-aware scaling changes the base; YaRN (arXiv 2309.00071) and Llama 3 divide slow
    channels alone, and YaRN multiplies cos and sin by 0.1 ln(factor) + 1.
    """
    if len(cos) < 2 or cos.shape[1] < 2:
        return ""
    amplitude = float(np.hypot(cos[0], sin[0]).mean())
    turns = np.arctan2(sin[1], cos[1]).astype(np.float64)
    if not (turns > 0).all():
        return "of a kind of its own"
    logs = np.log(turns)
    places = np.arange(len(logs))
    slope, start = np.polyfit(places, logs, 1)
    scaled = abs(amplitude - 1) > CLOSE / 4
    words = [f"amplitude {_rounded(amplitude):g}"] if scaled else []
    if np.abs(start + slope * places - logs).max() > CLOSE:
        return ", ".join([f"slow channels scaled as for {'YaRN' if scaled else 'Llama 3 or YaRN'}", *words])
    if abs(start) > CLOSE:
        words = [f"positions divided by {_rounded(np.exp(-start)):g}", *words]
    return ", ".join([f"base {_rounded(np.exp(-slope * len(logs))):,.0f}", *words])


def _rounded(number: float) -> float:
    """Two digits where these are near enough, else four: tables in float16 hold no more for sure."""
    short = float(f"{number:.2g}")
    return short if abs(short / number - 1) < 2e-3 else float(f"{number:.4g}")
