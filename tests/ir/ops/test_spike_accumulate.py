"""sdc.spike_accumulate: exact sums, by every coding and by the lowering."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.run_op import inferred, lowered
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, tirx

from sdc.ir.coding import expand, step_weights
from sdc.ir.ops import OPS, spike_accumulate
from sdc.ir.ops.spike_accumulate import integer_product

reference = OPS["spike_accumulate"].reference


def random_case(seed: int, tokens: int, width: int, rows: int, levels: int):
    rng = np.random.default_rng(seed)
    dtype = np.int8 if levels <= 127 else np.int16
    counts = rng.integers(-levels, levels + 1, (tokens, width)).astype(dtype)
    return counts, rng.integers(-128, 128, (rows, width)).astype(np.int8)


def exact(counts, weight, group):
    wide = counts.astype(np.int64).reshape(*counts.shape[:-1], -1, group)
    return np.einsum("...gk,ngk->...gn", wide, weight.astype(np.int64).reshape(len(weight), -1, group))


@pytest.mark.parametrize("levels", [1, 7, 127, 300])
@pytest.mark.parametrize("group", [1, 4, 12])
def test_sums_are_exact(levels: int, group: int) -> None:
    counts, weight = random_case(levels, 3, 12, 5, levels)
    want = exact(counts, weight, group)
    np.testing.assert_array_equal(reference(counts, weight, group=group), want)
    np.testing.assert_array_equal(
        lowered(lambda c, w: spike_accumulate(c, w, group=group), counts, weight), want
    )


def test_extreme_inputs_take_the_wider_arithmetic() -> None:
    counts = np.full((1, 4096), 127, np.int8)
    weight = np.full((2, 4096), -128, np.int8)
    np.testing.assert_array_equal(
        reference(counts, weight, group=4096), np.full((1, 1, 2), -127 * 128 * 4096)
    )


def test_sums_that_could_leave_int32_are_refused() -> None:
    with pytest.raises(OverflowError, match="do not fit int32"):
        integer_product(np.full((1, 70000), 300, np.int16), np.full((1, 70000), 127, np.int8))


def test_silent_and_empty_inputs() -> None:
    assert not reference(np.zeros((2, 4), np.int8), np.ones((3, 4), np.int8), group=2).any()
    assert reference(np.zeros((0, 4), np.int8), np.ones((3, 4), np.int8), group=2).shape == (0, 2, 3)
    one = reference(np.int8([[-3]]), np.int8([[5]]), group=1)
    np.testing.assert_array_equal(one, [[[-15]]])


@settings(max_examples=40)
@given(
    coding=st.sampled_from(["ternary", "bitwise", "binary"]),
    levels=st.sampled_from([1, 2, 7, 15, 31]),
    seed=st.integers(0, 2**16),
)
def test_accumulating_a_train_step_by_step_equals_the_collapsed_product(coding, levels, seed) -> None:
    counts, weight = random_case(seed, 2, 12, 5, levels)
    trains = expand(counts, coding, levels)
    potential = np.zeros((2, 3, 5), np.int32)
    for train, step in zip(trains, step_weights(coding, levels), strict=True):
        assert set(np.unique(train)) <= {-1, 0, 1}
        potential += step * reference(train, weight, group=4)
    np.testing.assert_array_equal(potential, reference(counts, weight, group=4))


def test_shape_inference_puts_groups_before_rows() -> None:
    n = tirx.Var("n", "int64")
    ty = inferred(
        lambda c, w: spike_accumulate(c, w, group=32),
        relax.TensorType([n, 64], "int8"),
        relax.TensorType([10, 64], "int8"),
    )
    assert [str(d) for d in ty.shape.values] == ["n", "T.int64(2)", "T.int64(10)"]
    assert str(ty.dtype) == "int32"


@pytest.mark.parametrize(
    ("shape", "dtype", "group", "message"),
    [
        ([10, 32], "int8", 32, "64 channels meet weights for 32"),
        ([10, 64], "int8", 48, "groups of 48 do not divide 64"),
        ([10, 64], "float32", 64, "weights must be int8"),
    ],
)
def test_wrong_operands_are_refused(shape, dtype, group, message) -> None:
    with pytest.raises(Exception, match=message):
        inferred(
            lambda c, w: spike_accumulate(c, w, group=group),
            relax.TensorType([2, 64], "int8"),
            relax.TensorType(shape, dtype),
        )
