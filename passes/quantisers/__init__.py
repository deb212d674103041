"""Numeric quantisers of weights."""

from sdc.passes.quantisers.gptq import (
    Moments,
    align_to_spikes,
    inverse_factor,
    quantise_gptq,
    token_weights,
)
from sdc.passes.quantisers.rtn import on_grid, quantise_rtn

__all__ = [
    "Moments",
    "align_to_spikes",
    "inverse_factor",
    "on_grid",
    "quantise_gptq",
    "quantise_rtn",
    "token_weights",
]
