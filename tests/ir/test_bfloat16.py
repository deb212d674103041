"""Rounding to bfloat16, and knowing from a parameter that 16 bits hold it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sdc.ir.bfloat16 import RoundToBFloat16, is_bfloat16, round_to_bfloat16
from sdc.ir.params import array_param

FINITE = st.floats(-(2.0**127), 2.0**127, width=32)


@given(arrays(np.float32, 16, elements=FINITE))
def test_the_upper_half_of_the_bits_is_the_number(values) -> None:
    rounded = round_to_bfloat16(values)
    assert not np.any(rounded.view(np.uint32) & 0xFFFF)
    np.testing.assert_array_equal(round_to_bfloat16(rounded), rounded)


@given(arrays(np.float32, 16, elements=FINITE.filter(lambda x: abs(x) > 2.0**-120)))
def test_no_neighbour_is_nearer(values) -> None:
    rounded = round_to_bfloat16(values)
    gap = np.abs(rounded.astype(np.float64)) * 2.0**-7  # at most: a mantissa has 8 bits, one of them implied
    assert np.all(np.abs(rounded.astype(np.float64) - values) <= gap / 2)


def test_ties_go_to_the_even_mantissa() -> None:
    np.testing.assert_array_equal(
        round_to_bfloat16(np.float32([1 + 2.0**-8, 1 + 3 * 2.0**-8])), np.float32([1, 1 + 2.0**-6])
    )


def test_a_parameter_says_so_by_its_last_step() -> None:
    param = array_param("scale", np.float32([[0.1, 3.0]]))
    assert not is_bfloat16(param)
    short = param.then(RoundToBFloat16())
    assert is_bfloat16(short)
    assert is_bfloat16(short.renamed("other"))
    np.testing.assert_array_equal(short.value(), round_to_bfloat16(param.value()))
