"""GPTQ: less output error than rounding, equal to it where inputs are independent, exact on the grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from sdc.ir.bfloat16 import round_to_bfloat16
from sdc.passes.quantisers import (
    Moments,
    align_to_spikes,
    inverse_factor,
    on_grid,
    quantise_gptq,
    quantise_rtn,
    token_weights,
)
from sdc.passes.quantisers.rtn import integer_range

rng = np.random.default_rng(0)


def correlated(tokens: int, width: int) -> np.ndarray:
    mixing = rng.normal(size=(width, width)) / np.sqrt(width) + 0.5 * np.eye(width)
    return (rng.normal(size=(tokens, width)) @ mixing).astype(np.float32)


def output_error(weight: np.ndarray, quantised: np.ndarray, x: np.ndarray) -> float:
    return float(np.square(x @ (weight - quantised).T).sum())


@pytest.mark.parametrize(("bits", "group"), [(2, 32), (3, 16), (4, 32), (4, 0), (4, 128), (8, 0)])
@pytest.mark.parametrize("order", [True, False])
def test_outputs_keep_more_than_with_rounding(bits, group, order) -> None:
    x = correlated(600, 128)
    weight = rng.normal(size=(40, 128)).astype(np.float32)
    integers, scales = quantise_gptq(weight, x.T @ x, bits, group, order=order)
    low, top = integer_range(bits)
    assert integers.dtype == np.int8
    assert low <= integers.min()
    assert integers.max() <= top
    assert scales.shape == (40, 128 // (group or 128))
    plain = output_error(weight, on_grid(*quantise_rtn(weight, bits, group)), x)
    assert output_error(weight, on_grid(integers, scales), x) < 0.8 * plain


def test_a_weight_on_the_grid_stays() -> None:
    x = correlated(200, 64)
    grid = rng.integers(-7, 8, (8, 64)).astype(np.float32)
    grid[:, ::16] = 7  # every group's largest
    scale = round_to_bfloat16(rng.uniform(0.5, 2, (8, 4)))
    weight = on_grid(grid, scale)
    integers, scales = quantise_gptq(weight, x.T @ x, 4, 16)
    np.testing.assert_allclose(on_grid(integers, scales), weight, rtol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_scales_below_8_bits_are_bfloat16_numbers(bits) -> None:
    x = correlated(200, 64)
    weight = rng.normal(size=(8, 64)).astype(np.float32)
    for _, scales in (quantise_gptq(weight, x.T @ x, bits, 16), quantise_rtn(weight, bits, 16)):
        assert np.array_equal(round_to_bfloat16(scales), scales) == (bits < 8)


def test_independent_inputs_leave_nothing_to_make_good() -> None:
    weight = rng.normal(size=(8, 64)).astype(np.float32)
    ours = quantise_gptq(weight, np.eye(64, dtype=np.float32), 4, 16)
    for got, want in zip(ours, quantise_rtn(weight, 4, 16), strict=True):
        assert (got == want).mean() > 0.95  # the searches differ in one ratio


@settings(max_examples=30)
@given(seed=st.integers(0, 2**16), width=st.sampled_from([3, 8, 65]), damp=st.sampled_from([0.01, 1.0]))
def test_the_factor_is_that_of_the_inverse(seed, width, damp) -> None:
    x = np.random.default_rng(seed).normal(size=(2 * width, width))
    hessian = x.T @ x
    factor = inverse_factor(hessian, damp)
    assert np.array_equal(factor, np.triu(factor))
    damped = hessian + damp * hessian.diagonal().mean() * np.eye(width)
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(width), atol=1e-8)


def test_silent_channels_and_zero_weights_are_harmless() -> None:
    x = correlated(100, 32)
    x[:, 5] = 0
    weight = rng.normal(size=(4, 32)).astype(np.float32)
    weight[2] = 0
    integers, scales = quantise_gptq(weight, x.T @ x, 4, 16)
    assert np.isfinite(scales).all()
    assert not integers[2].any()
    inverse_factor(np.zeros((4, 4)))


def test_a_matrix_that_is_no_second_moment_is_refused() -> None:
    with pytest.raises(ValueError, match="not positive definite"):
        inverse_factor(np.array([[1.0, 5.0], [5.0, 1.0]]))


def test_the_weight_for_spikes_is_the_ridge_solution() -> None:
    """Against a general minimiser, on a problem small enough for one."""
    x = rng.normal(size=(50, 3)).astype(np.float32)
    s = np.rint(x).astype(np.float32)
    weight, moments = rng.normal(size=(1, 3)).astype(np.float32), Moments.of(x, s)
    ridge = 0.3 * moments.spikes.diagonal().mean()

    def loss(w: np.ndarray) -> float:
        return float(np.square(x @ weight[0] - s @ w).sum() + ridge * np.square(w - weight[0]).sum())

    best = minimize(loss, weight[0].astype(np.float64), tol=1e-12).x
    got = align_to_spikes(weight, moments, 0.3, 1.0)
    np.testing.assert_allclose(got[0], best, atol=1e-4)
    assert align_to_spikes(weight, moments, 0.3, 0.0) is weight


def test_an_error_counts_relative_to_the_outputs_of_its_token() -> None:
    outputs = np.ones((9, 4), np.float32)
    outputs[3] = 1000  # an attention sink
    counts = token_weights(outputs)
    assert counts.mean() == pytest.approx(1)
    assert counts[3] / counts[0] == pytest.approx(2 / (1e6 + 1), rel=1e-3)
    assert np.isfinite(token_weights(np.zeros((3, 4), np.float32))).all()


def test_counts_of_tokens_weigh_the_moments() -> None:
    x = rng.normal(size=(6, 3)).astype(np.float32)
    s, counts = np.rint(x).astype(np.float32), np.float32([0, 2, 1, 1, 0, 3])
    got = Moments.of(x, s, counts)
    want = sum(c * np.outer(a, a) for c, a in zip(counts, s, strict=True))
    np.testing.assert_allclose(got.spikes, want, rtol=1e-6)
    wanted = sum(c * np.outer(a, b) for c, a, b in zip(counts, x, s, strict=True))
    np.testing.assert_allclose(got.cross, wanted, rtol=1e-5)
