"""Float32 functions with prescribed bits: how close they are to the truth, and the order of their sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdc.ir import float32


def test_exponentials_are_within_one_unit_in_the_last_place() -> None:
    x = np.linspace(-103, 88.7, 200_001).astype(np.float32)
    truth = np.exp(x.astype(np.float64))
    unit = np.spacing(truth.astype(np.float32)).astype(np.float64)
    assert (np.abs(float32.exp(x) - truth) / unit).max() < 1


def test_ends_of_the_exponential() -> None:
    got = float32.exp(np.array([0.0, -0.0, -np.inf, -200, np.nan, np.inf, 89], np.float32))
    assert got[:4].tolist() == [1, 1, 0, 0]
    assert np.isnan(got[4])
    assert got[5] == got[6]
    assert got[6] == pytest.approx(np.exp(88.72283), rel=1e-5)


def test_tanh_silu_and_softcap_are_close() -> None:
    x = np.linspace(-100, 100, 10_001).astype(np.float32)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(float32.tanh(x), np.tanh(wide), atol=2e-7)
    np.testing.assert_allclose(float32.silu(x), wide / (1 + np.exp(-wide)), rtol=4e-7, atol=1e-36)
    np.testing.assert_allclose(float32.softcap(x, 30.0), 30 * np.tanh(wide / 30), atol=6e-6)


def test_a_large_array_is_what_its_parts_are() -> None:
    x = np.random.default_rng(0).normal(size=(3, 5 * float32.PIECE // 2 + 7)).astype(np.float32)
    for function in (float32.exp, float32.silu):
        alone = [function(part) for part in np.array_split(x.reshape(-1), 50)]
        np.testing.assert_array_equal(function(x).reshape(-1), np.concatenate(alone))


@given(st.integers(0, 100), st.integers(0, 2**32 - 1))
def test_a_lane_sum_has_the_order_that_it_says(count: int, seed: int) -> None:
    x = (np.random.default_rng(seed).normal(size=count) * 1e3).astype(np.float32)
    lanes = [np.float32(0)] * 16
    for k, value in enumerate(x):
        lanes[k % 16] = lanes[k % 16] + value
    while len(lanes) > 1:
        lanes = [a + b for a, b in zip(lanes[::2], lanes[1::2], strict=True)]
    assert float32.lane_sum(x).tobytes() == np.float32(lanes[0]).tobytes()
    assert float32.lane_sum(np.stack([x, -x]))[0].tobytes() == np.float32(lanes[0]).tobytes()


def test_a_norm_is_the_formula() -> None:
    rng = np.random.default_rng(1)
    x, gain = rng.normal(size=(3, 40)).astype(np.float32), rng.normal(size=40).astype(np.float32)
    wide = x.astype(np.float64)
    truth = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * gain
    np.testing.assert_allclose(float32.rms_norm(x, gain, 1e-5), truth, rtol=1e-6)
