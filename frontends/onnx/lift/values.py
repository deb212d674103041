"""What an ONNX value becomes while a graph is lifted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike
from tvm import relax

from sdc.ir.params import Param

__all__ = ["TOKEN_INPUTS", "Constant", "Grown", "Lifted", "Past", "Structural", "Weight", "number"]

TOKEN_INPUTS = ("input_ids", "tokens", "input")  # names of the input of a language model that holds token ids


@dataclass(frozen=True)
class Constant:
    """A constant of the graph, not read yet."""

    value: ir.Value


@dataclass(frozen=True)
class Weight:
    """A constant with lazy transforms on it."""

    param: Param


@dataclass(frozen=True)
class Structural:
    """Depends on shapes, positions and the padding mask alone: masks, angles, sizes.

    Attributes:
        value: The ONNX value; its number is found by interpreting the nodes that make it.
        dims: Its elements as expressions over symbolic dimensions, where it is a small integer tensor.
    """

    value: ir.Value
    dims: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class Past:
    """A cache that comes in as an input of the graph: [batch, heads, past, channels]."""

    dims: tuple[Any, ...]


@dataclass(frozen=True)
class Grown:
    """A past input with this call's rows [batch, heads, seq, channels] appended."""

    rows: relax.Expr
    dims: tuple[Any, ...]


Lifted = Constant | Weight | Structural | Past | Grown | relax.Expr


def number(value: ArrayLike, dtype: str | None = None) -> relax.Expr:
    """A constant of exactly this dtype (``relax.const`` alone narrows int64)."""
    array = np.asarray(value, dtype)
    return relax.const(array, str(array.dtype))
