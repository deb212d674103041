"""Numbers that 16 bits hold: float32 values with the mantissa of bfloat16."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from sdc.ir.params import Param

__all__ = ["RoundToBFloat16", "is_bfloat16", "round_to_bfloat16", "upper_halves"]


def round_to_bfloat16(array: NDArray) -> NDArray:
    """The nearest bfloat16 numbers (ties to even), as float32: their lower 16 bits are zero."""
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def upper_halves(array: NDArray) -> NDArray:
    """The upper 16 bits of float32 numbers, uint16: all that a bfloat16 number has."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)


@dataclass(frozen=True)
class RoundToBFloat16:
    """Rounds to bfloat16; as the last step of a parameter it says that 16 bits an element hold it."""

    def __call__(self, array: NDArray) -> NDArray:
        return round_to_bfloat16(array)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return "in bfloat16"


def is_bfloat16(param: Param) -> bool:
    """Whether every value of a float32 parameter is a bfloat16 number, by how it is made."""
    return bool(param.transforms) and isinstance(param.transforms[-1], RoundToBFloat16)
