"""NumPy semantics of the Relax operations that language models use most (the others go through TVM)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from sdc.ir import float32
from sdc.ir.float32 import lane_sum

__all__ = ["NUMPY_OPS"]


def _matmul(a: NDArray, b: NDArray, **_: Any) -> NDArray:
    return np.matmul(a, b)


def _rms_norm(x: NDArray, gain: NDArray, *, axes: list[int], epsilon: float) -> NDArray:
    """:func:`sdc.ir.float32.rms_norm` over the trailing axes."""
    rows = _trailing(x, axes)
    return float32.rms_norm(rows, gain.reshape(-1), epsilon).reshape(x.shape)


def _layer_norm(
    x: NDArray, gain: NDArray, shift: NDArray, *, axes: list[int], epsilon: float, center: bool, scale: bool
) -> NDArray:
    """(x - mean) / sqrt(variance + epsilon) * gain + shift (Ba et al., arXiv 1607.06450, equation 4)."""
    rows = _trailing(x, axes)
    count, one = np.float32(rows.shape[-1]), np.float32(1)
    rows = rows - lane_sum(rows)[..., None] / count
    variance = lane_sum(np.square(rows))[..., None] / count
    y = (rows * (one / np.sqrt(variance + np.float32(epsilon)))).reshape(x.shape)
    y = y * gain if scale else y
    return (y + shift if center else y).astype(np.float32)


def _trailing(x: NDArray, axes: list[int]) -> NDArray:
    """The axes that are normalised, as one last axis; float32."""
    first = x.ndim - len(axes)
    if sorted(axis % x.ndim for axis in axes) != list(range(first, x.ndim)):
        raise ValueError(f"normalisation over axes {axes} of {x.ndim}: they must be the last ones")
    return x.astype(np.float32, copy=False).reshape(*x.shape[:first], -1)


def _sigmoid(x: NDArray) -> NDArray:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-x))).astype(x.dtype)


def _softmax(x: NDArray, *, axis: int) -> NDArray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _gelu(x: NDArray) -> NDArray:
    """x Phi(x) (Hendrycks and Gimpel, arXiv 1606.08415)."""
    return (x * 0.5 * (1 + erf(x / np.sqrt(2)))).astype(x.dtype)


def _gelu_tanh(x: NDArray) -> NDArray:
    """The tanh approximation of GELU (Hendrycks and Gimpel, arXiv 1606.08415, section 2)."""
    return (0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))).astype(x.dtype)


def _take(x: NDArray, indices: NDArray, *, axis: int | None = None, mode: str = "fast") -> NDArray:
    flat = x.reshape(-1) if axis is None else x
    if mode == "fast" and indices.size and (indices.min() < 0 or indices.max() >= flat.shape[axis or 0]):
        raise IndexError(f"index outside 0..{flat.shape[axis or 0] - 1}")
    out_of_range: Any = "raise" if mode == "fast" else mode
    return np.take(flat, indices, axis=axis or 0, mode=out_of_range)


def _split(x: NDArray, *, indices_or_sections: Any, axis: int) -> tuple[NDArray, ...]:
    return tuple(np.split(x, indices_or_sections, axis=axis))


def _strided_slice(
    x: NDArray,
    axes: tuple[int, ...],
    begin: tuple[int, ...],
    end: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    *,
    assume_inbound: bool = False,
) -> NDArray:
    at = [slice(None)] * x.ndim
    for i, axis in enumerate(axes):
        step = strides[i] if strides else 1
        stop = None if step < 0 and end[i] < -x.shape[axis] else end[i]
        at[axis] = slice(begin[i], stop, step)
    return x[tuple(at)]


def _reshape(x: NDArray, shape: tuple[int, ...]) -> NDArray:
    return x.reshape(shape)


def _permute(x: NDArray, *, axes: list[int] | None = None) -> NDArray:
    return np.transpose(x, axes)


def _expand_dims(x: NDArray, *, axis: list[int]) -> NDArray:
    return np.expand_dims(x, tuple(axis))


def _squeeze(x: NDArray, *, axis: list[int] | None = None) -> NDArray:
    return np.squeeze(x, None if axis is None else tuple(axis))


def _concat(tensors: tuple[NDArray, ...], *, axis: int | None = 0) -> NDArray:
    return np.concatenate(tensors, axis=axis)


def _astype(x: NDArray, *, dtype: Any) -> NDArray:
    return x.astype(str(dtype))


def _reduction(function: Callable[..., NDArray]) -> Callable[..., NDArray]:
    def reduce(x: NDArray, *, axis: list[int] | None = None, keepdims: bool = False) -> NDArray:
        return np.asarray(function(x, None if axis is None else tuple(axis), keepdims=keepdims), x.dtype)

    return reduce


def _arange(start: int, stop: int, step: int, *, dtype: Any) -> NDArray:
    return np.arange(start, stop, step).astype(str(dtype))


NUMPY_OPS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "power": np.power,
    "negative": np.negative,
    "abs": np.abs,
    "exp": lambda x: float32.exp(x) if x.dtype == np.float32 else np.exp(x),
    "log": np.log,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: (1 / np.sqrt(x)).astype(x.dtype),
    "square": np.square,
    "tanh": np.tanh,
    "cos": np.cos,
    "sin": np.sin,
    "erf": lambda x: erf(x).astype(x.dtype),
    "sigmoid": _sigmoid,
    "where": np.where,
    "clip": lambda x, low, high: np.clip(x, low, high).astype(x.dtype),
    "matmul": _matmul,
    "nn.relu": lambda x: np.maximum(x, 0),
    "nn.silu": lambda x: float32.silu(x) if x.dtype == np.float32 else x * _sigmoid(x),
    "nn.gelu": _gelu,
    "nn.gelu_tanh": _gelu_tanh,
    "nn.softmax": _softmax,
    "nn.rms_norm": _rms_norm,
    "nn.layer_norm": _layer_norm,
    "sum": _reduction(np.sum),
    "mean": _reduction(np.mean),
    "max": _reduction(np.max),
    "min": _reduction(np.min),
    "reshape": _reshape,
    "permute_dims": _permute,
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "concat": _concat,
    "split": _split,
    "strided_slice": _strided_slice,
    "take": _take,
    "arange": _arange,
    "astype": _astype,
    "broadcast_to": lambda x, shape: np.broadcast_to(x, shape),
    "shape_of": lambda x: tuple(x.shape),
}
