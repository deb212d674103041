"""Rotations of any width: orthogonal, +-1 where Paley's constructions allow, folded along either axis."""

from __future__ import annotations

import numpy as np
import pytest

from sdc.ir.params import array_param
from sdc.passes.orthogonal import Rotate, factor, rotated

rng = np.random.default_rng(0)
WIDTHS = (1, 2, 7, 12, 20, 28, 30, 36, 48, 64, 72, 576, 896, 1536, 2304)


def matrix(width: int) -> np.ndarray:
    signs = rng.choice([-1.0, 1.0], width).astype(np.float32)
    return rotated(np.eye(width, dtype=np.float32), signs)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_rotation_is_orthogonal(width) -> None:
    q = matrix(width).astype(np.float64)
    np.testing.assert_allclose(q @ q.T, np.eye(width), atol=2e-6)


@pytest.mark.parametrize("width", [12, 20, 28, 36, 64, 72, 576, 896, 1536, 2304])
def test_entries_are_plus_or_minus_one_where_a_hadamard_matrix_is_known(width) -> None:
    np.testing.assert_allclose(np.abs(matrix(width)) * width**0.5, 1, atol=1e-5)


@pytest.mark.parametrize(("width", "order"), [(576, 36), (1536, 12), (896, 28), (640, 20), (30, 15), (64, 1)])
def test_the_factor_is_the_smallest_that_is_known(width, order) -> None:
    assert factor(width).shape == (order, order)


def test_no_entry_is_large_where_none_is_known() -> None:
    assert np.abs(matrix(30)).max() * 30**0.5 <= 2**0.5 + 1e-5


def test_a_weight_is_rotated_along_either_axis() -> None:
    signs = array_param("s", rng.choice([-1.0, 1.0], 12).astype(np.float32))
    q = rotated(np.eye(12, dtype=np.float32), signs.value())
    wide, tall, bias = (rng.normal(size=s).astype(np.float32) for s in ((5, 12), (12, 5), 12))
    np.testing.assert_allclose(Rotate(signs, 1)(wide), wide @ q, atol=1e-5)
    np.testing.assert_allclose(Rotate(signs, 0)(tall), q.T @ tall, atol=1e-5)
    np.testing.assert_allclose(Rotate(signs, 0)(bias), bias @ q, atol=1e-5)
    x = rng.normal(size=12).astype(np.float32)
    np.testing.assert_allclose(Rotate(signs, 1)(wide) @ (x @ q), wide @ x, atol=1e-5)
