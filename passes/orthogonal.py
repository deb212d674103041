"""Orthogonal matrices of any width, and the lazy transform that folds one into a weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.ir.params import Param, hadamard_transform

__all__ = ["Rotate", "factor", "rotated", "rotates_inputs"]


@dataclass(frozen=True)
class Rotate:
    """Rotates the vectors along one axis of a weight or a bias: v becomes (signs * v) (H x M) / sqrt(width).

    Axis 1 of a weight [N, K]: it then reads rotated inputs (W Q). Axis 0 of a weight or of a bias [N]: its
    outputs come out rotated (Q^T W). Rows of a table [V, K] are rotated by axis 1.
    """

    signs: Param
    axis: int

    def __call__(self, array: NDArray) -> NDArray:
        along = np.moveaxis(array.astype(np.float32, copy=False), self.axis, -1)
        return np.moveaxis(rotated(along, self.signs.value()), -1, self.axis)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return f"rotate {'rows' if self.axis == 0 else 'columns'} by {self.signs.name}"


def rotates_inputs(param: Param) -> bool:
    """Whether a weight reads a stream that is rotated as a whole."""
    return any(isinstance(step, Rotate) and step.axis == 1 for step in param.transforms)


def rotated(x: NDArray, signs: NDArray) -> NDArray:
    """x Q [..., K] float32, with Q = diag(signs) (M x H) / sqrt(K): :func:`factor` by Sylvester's."""
    width = x.shape[-1]
    small = factor(width)
    order = width // len(small)
    wide = hadamard_transform(np.ascontiguousarray(x * signs, np.float32), order)
    mixed = small.T @ wide.reshape(-1, len(small), order)
    return (mixed / np.float32(width**0.5)).reshape(x.shape)


def factor(width: int) -> NDArray:
    """M [m, m] float32, where width = m * 2^k and M M^T = m I.

    Entries are +-1 where Paley's constructions give such a matrix: m = 1, 12, 20, 28, ... (On Orthogonal
    Matrices, 1933). Else M is the discrete Hartley transform of the odd part, whose entries are at
    most sqrt(2): offline, any orthogonal matrix is right, and a flat one spreads outliers best.
    """
    odd, twos = width, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    if odd == 1:
        return np.ones((1, 1), np.float32)
    for power in range(2, twos + 1):
        found = _paley(odd << power)
        if found is not None:
            return found
    angles = 2 * np.pi * np.outer(np.arange(odd), np.arange(odd)) / odd
    return (np.cos(angles) + np.sin(angles)).astype(np.float32)


def _paley(order: int) -> NDArray | None:
    """A Hadamard matrix by Paley's first or second construction, over prime fields only."""
    if _is_prime(order - 1) and order % 4 == 0:
        core = _conference(order - 1, -1)
        return core + np.eye(order, dtype=np.float32)
    half = order // 2
    if order % 4 == 0 and _is_prime(half - 1) and (half - 1) % 4 == 1:
        plus, minus = np.array([[1, 1], [1, -1]]), np.array([[1, -1], [-1, -1]])
        made: NDArray = np.kron(_conference(half - 1, 1), plus) + np.kron(np.eye(half), minus)
        return made.astype(np.float32)
    return None


def _conference(q: int, sign: int) -> NDArray:
    """[q + 1, q + 1]: quadratic characters of differences, bordered by ones (below: ``sign``)."""
    squares = {i * i % q for i in range(1, q)}
    character = np.array([0, *(1 if i in squares else -1 for i in range(1, q))], np.float32)
    out = np.zeros((q + 1, q + 1), np.float32)
    out[0, 1:], out[1:, 0] = 1, sign
    out[1:, 1:] = character[(np.arange(q)[:, None] - np.arange(q)) % q]
    return out


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % i for i in range(2, int(number**0.5) + 1))
