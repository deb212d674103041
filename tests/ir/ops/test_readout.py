"""sdc.readout: sums in ascending groups, scales that serve several groups."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.run_op import inferred, lowered
from tvm import relax

from sdc.ir.ops import OPS, readout

reference = OPS["readout"].reference


def case(groups: int, thetas: int, scales: int, tokens: int = 3, rows: int = 4):
    rng = np.random.default_rng(groups * 10 + thetas)
    acc = rng.integers(-1000, 1000, (tokens, groups, rows)).astype(np.int32)
    theta, scale = rng.random((tokens, thetas), np.float32), rng.random((rows, scales), np.float32)
    return acc, theta, scale, rng.random(rows, np.float32)


@pytest.mark.parametrize(
    ("groups", "thetas", "scales"), [(1, 1, 1), (6, 6, 1), (6, 1, 6), (6, 2, 3), (6, 3, 2)]
)
@pytest.mark.parametrize("biased", [False, True])
def test_readout_is_the_scaled_sum(groups, thetas, scales, biased) -> None:
    acc, theta, scale, bias = case(groups, thetas, scales)
    wide_theta = np.repeat(theta, groups // thetas, -1)
    wide_scale = np.repeat(scale, groups // scales, -1)
    want = np.zeros((3, 4), np.float32)
    for g in range(groups):
        want += (wide_theta[:, g, None] * wide_scale[None, :, g]) * acc[:, g].astype(np.float32)
    want = want + bias if biased else want
    args = (acc, theta, scale, *([bias] if biased else []))
    np.testing.assert_array_equal(reference(*args), want)
    np.testing.assert_allclose(lowered(readout, *args), want, rtol=2e-6, atol=1e-4)


def test_a_threshold_that_is_not_finite_reaches_the_output() -> None:
    acc, theta, scale, _ = case(2, 2, 1)
    theta[0, 1] = np.nan
    y = reference(acc, theta, scale)
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1:]).all()


def test_scales_that_do_not_divide_the_groups_are_refused() -> None:
    with pytest.raises(Exception, match="thresholds do not divide 6 groups"):
        inferred(
            readout,
            relax.TensorType([3, 6, 4], "int32"),
            relax.TensorType([3, 4], "float32"),
            relax.TensorType([4, 1], "float32"),
        )
