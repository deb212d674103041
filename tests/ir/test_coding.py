"""Codings: trains are what they claim, and give the counts back."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.run_op import lowered
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.ir.coding import expand, integrate, spikes_per_count, step_weights, time_steps
from sdc.ir.ops import spike_train

CODINGS = ["ternary", "bitwise", "binary"]


@pytest.mark.parametrize(
    ("coding", "levels", "steps"),
    [
        ("ternary", 7, 7),
        ("bitwise", 7, 3),
        ("bitwise", 8, 4),
        ("bitwise", 15, 4),
        ("binary", 7, 14),
        ("bitwise", 1, 1),
    ],
)
def test_time_steps(coding, levels, steps) -> None:
    assert time_steps(coding, levels) == steps
    assert step_weights(coding, levels).shape == (steps,)


def test_trains_written_out() -> None:
    counts = np.int8([3, -2, 0])
    np.testing.assert_array_equal(expand(counts, "ternary", 3), [[1, -1, 0], [1, -1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(expand(counts, "bitwise", 3), [[1, 0, 0], [1, -1, 0]])
    np.testing.assert_array_equal(
        expand(counts, "binary", 3), [[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]]
    )


@settings(max_examples=100)
@given(coding=st.sampled_from(CODINGS), levels=st.integers(1, 40), data=st.data())
def test_integrating_a_train_gives_its_count_and_the_spikes_are_counted(coding, levels, data) -> None:
    counts = np.int8(data.draw(st.lists(st.integers(-levels, levels), max_size=6)))
    trains = expand(counts, coding, levels)
    np.testing.assert_array_equal(integrate(trains, coding, levels), counts)
    np.testing.assert_array_equal(np.abs(trains.astype(int)).sum(0), spikes_per_count(counts, coding))


@pytest.mark.parametrize("coding", CODINGS)
def test_the_operation_lowers_to_the_same_trains(coding) -> None:
    counts = np.arange(-9, 10, dtype=np.int8)
    np.testing.assert_array_equal(
        lowered(lambda c: spike_train(c, coding=coding, levels=9), counts), expand(counts, coding, 9)
    )


def test_an_unknown_coding_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown coding 'phase'"):
        time_steps("phase", 7)
