"""Lazy weights: a named handle to a tensor plus a short list of transforms.

Passes append transforms; values are computed when a layer is calibrated or packaged, one at a time, and
are never kept here. So a pass costs nothing on a large model and is testable on a tiny one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sdc.errors import NumericsError

__all__ = [
    "AddVector",
    "ArraySource",
    "Cast",
    "Concat",
    "FunctionSource",
    "HadamardColumns",
    "MatVec",
    "Param",
    "Permute",
    "Reshape",
    "ScaleColumns",
    "ScaleRows",
    "SliceRows",
    "Source",
    "Transform",
    "Transpose",
    "array_param",
    "hadamard_transform",
    "row_major",
]

Array = NDArray

# Two arrays of such rows of 64 channels fit a third-level cache; with fewer, threads side by side would wait
# for Python's lock. It is no power of two: channels would lie at multiples of 4 KiB, which a first-level
# cache keeps in a few places only, and take three times as long.
_HADAMARD_ROWS = 4000

# A piece of a matrix that is turned: as many cache lines of float32 to write as a first-level cache holds.
_TRANSPOSED_ROWS = 16
_TRANSPOSED_RUN = 512


class Source(Protocol):
    """Where a tensor's values come from."""

    def load(self) -> Array:
        """The tensor, freshly read (callers must not write to it)."""
        ...


class Transform(Protocol):
    """One step from a tensor to the next; pure, and cheap to describe."""

    def __call__(self, array: Array) -> Array:
        """The transformed tensor."""
        ...

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape after this step."""
        ...

    def describe(self) -> str:
        """A few words for listings, e.g. ``scale columns by norm.weight``."""
        ...


@dataclass(frozen=True)
class Param:
    """A weight by name: ``source`` and the ``transforms`` on the way to its value.

    Attributes:
        name: The key in ``Model.params`` and the name hint of the Relax function parameter.
        shape: Shape after all transforms.
        dtype: Dtype after all transforms, a NumPy / ml_dtypes name.
        source: Where the values come from.
        transforms: Steps applied in order.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    source: Source
    transforms: tuple[Transform, ...] = ()

    def value(self) -> Array:
        """Computes the tensor, shape ``self.shape`` and dtype ``self.dtype``.

        Raises:
            NumericsError: A floating-point value is NaN or infinite.
        """
        array = self.source.load()
        for transform in self.transforms:
            array = transform(array)
        array = row_major(array.astype(self.dtype, copy=False))
        if array.shape != self.shape:
            raise AssertionError(f"{self.name}: value has shape {array.shape}, declared {self.shape}")
        if np.issubdtype(array.dtype, np.floating) and not _is_finite(array):
            raise NumericsError(self.name, "the weight holds NaN or infinite values; export the model again")
        return array

    def then(self, transform: Transform, name: str | None = None, dtype: str | None = None) -> Param:
        """The same tensor with one more step (and perhaps another name)."""
        return replace(
            self,
            name=name or self.name,
            shape=transform.shape(self.shape),
            dtype=dtype or self.dtype,
            transforms=(*self.transforms, transform),
        )

    def renamed(self, name: str) -> Param:
        """The same tensor under another name."""
        return replace(self, name=name)

    def describe(self) -> str:
        """``name [shape] dtype: step, step``."""
        steps = ", ".join(t.describe() for t in self.transforms) or "as stored"
        return f"{self.name} {list(self.shape)} {self.dtype}: {steps}"


def row_major(array: Array) -> Array:
    """The same values in C order; a turned matrix is copied a few columns at a time, in half NumPy's time."""
    if array.ndim != 2 or array.flags.c_contiguous or not array.flags.f_contiguous:
        return np.asarray(array, order="C")
    out = np.empty(array.shape, array.dtype)
    for start in range(0, array.shape[1], _TRANSPOSED_ROWS):
        columns = slice(start, start + _TRANSPOSED_ROWS)
        for row in range(0, len(array), _TRANSPOSED_RUN):
            rows = slice(row, row + _TRANSPOSED_RUN)
            out[rows, columns] = array[rows, columns]
    return out


def _is_finite(array: Array) -> bool:
    """Whether all values are finite, by the extremes: both are NaN where one value is."""
    return bool(np.isfinite(array.min(initial=0)) and np.isfinite(array.max(initial=0)))


def array_param(name: str, array: Array) -> Param:
    """A parameter whose values are at hand."""
    return Param(name, tuple(array.shape), str(array.dtype), ArraySource(array))


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Values in memory (or a ``numpy.memmap``)."""

    array: Array = field(repr=False)

    def load(self) -> Array:
        """The array itself."""
        return self.array


@dataclass(frozen=True, eq=False)
class FunctionSource:
    """Values that a function computes or reads when asked."""

    function: Callable[[], Array] = field(repr=False)
    description: str = "computed"

    def load(self) -> Array:
        """The result of the function."""
        return self.function()


@dataclass(frozen=True)
class Concat:
    """Several parameters joined along axis 0 (their other axes agree)."""

    parts: tuple[Param, ...]

    def load(self) -> Array:
        """The joined rows."""
        return np.concatenate([part.value() for part in self.parts], axis=0)

    @staticmethod
    def param(name: str, parts: Sequence[Param]) -> Param:
        """A parameter made of the rows of ``parts``, in order."""
        rows = sum(part.shape[0] for part in parts)
        return Param(name, (rows, *parts[0].shape[1:]), parts[0].dtype, Concat(tuple(parts)))


@dataclass(frozen=True)
class Transpose:
    """Swaps the last two axes."""

    def __call__(self, array: Array) -> Array:
        return np.swapaxes(array, -1, -2)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-2], shape[-1], shape[-2])

    def describe(self) -> str:
        return "transpose"


@dataclass(frozen=True)
class Permute:
    """Permutes all axes."""

    axes: tuple[int, ...]

    def __call__(self, array: Array) -> Array:
        return np.transpose(array, self.axes)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape[a] for a in self.axes)

    def describe(self) -> str:
        return f"permute {list(self.axes)}"


@dataclass(frozen=True)
class Reshape:
    """Gives the tensor another shape of the same size."""

    to: tuple[int, ...]

    def __call__(self, array: Array) -> Array:
        return array.reshape(self.to)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.to

    def describe(self) -> str:
        return f"reshape to {list(self.to)}"


@dataclass(frozen=True)
class Cast:
    """Converts to another dtype."""

    dtype: str

    def __call__(self, array: Array) -> Array:
        return array.astype(self.dtype)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return f"cast to {self.dtype}"


@dataclass(frozen=True)
class SliceRows:
    """Rows ``start`` to ``stop`` of axis 0."""

    start: int
    stop: int

    def __call__(self, array: Array) -> Array:
        return array[self.start : self.stop]

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.stop - self.start, *shape[1:])

    def describe(self) -> str:
        return f"rows {self.start}:{self.stop}"


@dataclass(frozen=True)
class ScaleColumns:
    """Multiplies column j (last axis) by ``by[j]``, or divides where ``inverse``."""

    by: Param
    inverse: bool = False

    def __call__(self, array: Array) -> Array:
        vector = self.by.value().astype(np.float32)
        return array / vector if self.inverse else array * vector

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return f"{'divide' if self.inverse else 'scale'} columns by {self.by.name}"


@dataclass(frozen=True)
class ScaleRows:
    """Multiplies row i (axis 0) by ``by[i]``, or divides where ``inverse``."""

    by: Param
    inverse: bool = False

    def __call__(self, array: Array) -> Array:
        vector = self.by.value().astype(np.float32).reshape(-1, *[1] * (array.ndim - 1))
        return array / vector if self.inverse else array * vector

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return f"{'divide' if self.inverse else 'scale'} rows by {self.by.name}"


@dataclass(frozen=True)
class HadamardColumns:
    """Folds the inverse of ``sdc.hadamard(x, signs)`` into a weight [N, K]: ``W diag(signs) H / block``.

    With y = H (signs * x) per block and H H^T = block * I, ``W x = (W diag(signs) H^T / block) y``.
    """

    signs: Param
    block: int

    def __call__(self, array: Array) -> Array:
        signed = array.astype(np.float32, copy=False) * self.signs.value()
        made = hadamard_transform(signed, self.block)
        made /= np.float32(self.block)
        return made

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return f"Hadamard of {self.block} columns"


@dataclass(frozen=True)
class MatVec:
    """Turns a matrix [N, K] into the vector ``W @ by`` [N]."""

    by: Param

    def __call__(self, array: Array) -> Array:
        return array.astype(np.float32) @ self.by.value().astype(np.float32)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:-1]

    def describe(self) -> str:
        return f"product with {self.by.name}"


@dataclass(frozen=True)
class AddVector:
    """Adds another parameter of the same shape."""

    by: Param

    def __call__(self, array: Array) -> Array:
        return array + self.by.value()

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return f"plus {self.by.name}"


def hadamard_transform(x: Array, block: int) -> Array:
    """The unnormalised Sylvester-Hadamard transform of every ``block`` channels of the last axis.

    Entries are +-1, so it takes ``log2(block)`` additions per channel. Butterflies run with strides
    1, 2, 4, ...: every target keeps this order, so that float32 sums agree bit for bit.

    Args:
        x: [..., K] float; ``block`` divides K.
        block: A power of two.
    """
    rows = x.reshape(-1, block)
    out = np.empty_like(rows)
    for start in range(0, len(rows), _HADAMARD_ROWS):
        _butterflies(rows[start : start + _HADAMARD_ROWS], out[start : start + _HADAMARD_ROWS])
    return out.reshape(x.shape)


def _butterflies(rows: Array, out: Array) -> None:
    """All stages for rows [R, block] that fit a cache, channels first: so every addition runs along R."""
    count, block = rows.shape
    y = np.array(rows.T, order="C")
    spare = np.empty_like(y)
    stride = 1
    while stride < block:
        shape = (block // (2 * stride), 2, stride, count)
        pairs, sums = y.reshape(shape), spare.reshape(shape)
        np.add(pairs[:, 0], pairs[:, 1], out=sums[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=sums[:, 1])
        y, spare = spare, y
        stride *= 2
    out[:] = y.T
