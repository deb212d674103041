"""sdc.spike_encode: reference, lowering, shapes, and the inputs that break encoders."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.run_op import inferred, lowered
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tvm import relax, tirx

from sdc.ir.ops import OPS, count_dtype, spike_encode

reference = OPS["spike_encode"].reference
FINITE = st.floats(-1e6, 1e6, width=32)


def both(x: np.ndarray, **attrs):
    counts, theta = reference(x, **attrs)
    low_counts, low_theta = lowered(lambda v: spike_encode(v, **attrs), x)
    np.testing.assert_array_equal(low_counts, counts)
    np.testing.assert_array_equal(low_theta, theta)
    return counts, theta


def test_counts_are_the_rounded_multiples_of_the_threshold() -> None:
    x = np.array([[7.0, 3.4, -3.6, 0.2], [0.0, -14.0, 1.0, 2.0]], np.float32)
    counts, theta = both(x, levels=7, group=4)
    np.testing.assert_array_equal(theta, np.float32([[1], [2]]) * 7 * np.float32(1 / 7))
    np.testing.assert_array_equal(counts, np.int8([[7, 3, -4, 0], [0, -7, 0, 1]]))


def test_ties_round_to_even() -> None:
    x = np.array([[4.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.5]], np.float32)
    counts, _ = both(x, levels=4, group=8)
    np.testing.assert_array_equal(counts, np.int8([[4, 0, 2, 2, 0, -2, -2, 4]]))


def test_clipping_saturates_outliers_and_the_dead_zone_silences_weak_inputs() -> None:
    x = np.array([[8.0, 3.0, 1.2, -0.9]], np.float32)
    counts, theta = both(x, levels=4, group=4, clip_ratio=0.5, dead_zone=1.1)
    assert theta[0, 0] == 1.0
    np.testing.assert_array_equal(counts, np.int8([[4, 3, 1, 0]]))


def test_a_floor_silences_quiet_tokens_and_is_a_static_threshold_where_nothing_else_is() -> None:
    x = np.array([[8.0, 3.0, 1.2, -0.9], [0.8, 0.3, -1.1, 0.0]], np.float32)
    counts, theta = both(x, levels=4, group=4, floor=1.5)
    np.testing.assert_array_equal(theta, np.float32([[2], [1.5]]))
    np.testing.assert_array_equal(counts, np.int8([[4, 2, 1, 0], [1, 0, -1, 0]]))
    counts, theta = both(x, levels=4, group=2, clip_ratio=0.0, floor=1.5)
    np.testing.assert_array_equal(theta, np.full((2, 2), 1.5, np.float32))
    np.testing.assert_array_equal(counts, np.int8([[4, 2, 1, -1], [1, 0, -1, 0]]))
    for broken in (np.nan, np.inf):
        counts, theta = both(np.array([[broken, 1.0]], np.float32), levels=4, group=2, floor=1.5)
        assert not np.isfinite(theta).any()
        assert not counts.any()


def test_unsigned_counts_stop_at_zero_and_fit_uint8() -> None:
    x = np.array([[255.0, -3.0, 1.0, 200.4]], np.float32)
    counts, _ = both(x, levels=255, group=4, signed=False)
    assert counts.dtype == np.uint8
    np.testing.assert_array_equal(counts, np.uint8([[255, 0, 1, 200]]))


def test_all_zero_and_one_element() -> None:
    counts, theta = both(np.zeros((2, 4), np.float32), levels=7, group=2)
    assert not counts.any()
    assert not theta.any()
    counts, theta = both(np.array([[-3.0]], np.float32), levels=7, group=1)
    np.testing.assert_array_equal(counts, np.int8([[-7]]))


def test_empty_input_gives_empty_counts() -> None:
    counts, theta = reference(np.zeros((0, 8), np.float32), levels=7, group=4)
    assert counts.shape == (0, 8)
    assert theta.shape == (0, 2)


def test_nan_and_infinity_reach_the_threshold() -> None:
    x = np.array([[1.0, np.nan, 2.0, 0.0], [1.0, 1.0, np.inf, 0.0], [1.0, 2.0, 3.0, 4.0]], np.float32)
    counts, theta = both(x, levels=7, group=4)
    assert np.isnan(theta[0, 0])
    assert np.isinf(theta[1, 0])
    assert not counts[:2].any()
    assert counts[2].any()


@settings(max_examples=60)
@given(
    x=arrays(np.float32, (3, 8), elements=FINITE),
    levels=st.sampled_from([1, 3, 7, 15, 127, 500]),
    group=st.sampled_from([1, 2, 4, 8]),
    clip=st.floats(0.3, 1.0),
    zone=st.floats(0.0, 1.5),
)
def test_counts_stay_within_levels_and_near_the_input(x, levels, group, clip, zone) -> None:
    counts, theta = reference(x, levels=levels, group=group, clip_ratio=clip, dead_zone=zone)
    assert np.abs(counts.astype(int)).max() <= levels
    wide = np.repeat(theta, group, -1).astype(np.float64)
    error = np.abs(counts * wide - x)
    inside = np.abs(x) <= levels * wide
    assert (error[inside] <= (max(0.5, zone) * wide * (1 + 1e-5))[inside]).all()
    assert (np.sign(counts) * np.sign(x) >= 0).all()


@settings(max_examples=15)
@given(x=arrays(np.float32, (2, 6), elements=FINITE), levels=st.sampled_from([7, 127]))
def test_lowering_gives_the_same_bits(x, levels) -> None:
    both(x, levels=levels, group=3, clip_ratio=0.9, dead_zone=0.6)


@pytest.mark.parametrize(
    ("levels", "signed", "dtype"),
    [
        (1, True, "int8"),
        (127, True, "int8"),
        (128, True, "int16"),
        (255, False, "uint8"),
        (256, False, "int16"),
    ],
)
def test_counts_take_the_smallest_dtype(levels: int, signed: bool, dtype: str) -> None:
    assert count_dtype(levels, signed) == dtype


def test_levels_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="levels must be within"):
        count_dtype(0)
    with pytest.raises(ValueError, match="levels must be within"):
        count_dtype(40000)


def test_shapes_stay_symbolic() -> None:
    n = tirx.Var("n", "int64")
    types = inferred(
        lambda v: spike_encode(v, levels=7, group=16), relax.TensorType([1, n, 64], "float32")
    ).fields
    assert [str(d) for d in types[0].shape.values] == ["T.int64(1)", "n", "T.int64(64)"]
    assert str(types[1].shape.values[2]) == "T.int64(4)"
    assert str(types[0].dtype) == "int8"


def test_a_group_that_does_not_divide_the_channels_is_refused() -> None:
    with pytest.raises(Exception, match="groups of 5 do not divide 64 channels"):
        inferred(lambda v: spike_encode(v, levels=7, group=5), relax.TensorType([1, 64], "float32"))
