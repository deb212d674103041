"""Numeric quantisers of weights."""

from sdc.passes.quantisers.rtn import quantise_rtn

__all__ = ["quantise_rtn"]
