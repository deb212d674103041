"""Drawing a token: the definition against one in whole numbers, token by token."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from sdc.ir.drawing import draw, inverse_temperature, token_weights, weight_bits
from sdc.ir.float32 import exp


def plain(logits: np.ndarray, temperature: float, top_p: float, uniform: float) -> int:
    """The words of the module's docstring, without a thought of speed."""
    scaled = (logits - logits.max()) * inverse_temperature(temperature)
    weights = [round(Fraction(float(e)) * 2 ** weight_bits(logits.size)) for e in exp(scaled)]
    wanted = math.ceil(top_p * float(sum(weights)))
    nucleus, mass = [], 0
    for token in sorted(range(logits.size), key=lambda token: (-weights[token], token)):
        if mass >= wanted:
            break
        nucleus.append(token)
        mass += weights[token]
    drawn = math.floor(uniform * float(mass))
    for token in sorted(nucleus):
        drawn -= weights[token]
        if drawn < 0:
            return token
    raise AssertionError("the mass was not passed")


@pytest.mark.parametrize("vocab", [1, 2, 700])
@pytest.mark.parametrize("top_p", [1e-12, 0.05, 0.5, 0.95, 1 - 2.0**-53, 1.0])
def test_tokens_are_those_of_the_definition(vocab, top_p) -> None:
    random = np.random.default_rng(vocab)
    for spread in (0.0, 0.1, 2.0, 12.0):
        for uniform in (0.0, *random.random(6), 1 - 2.0**-53):
            logits = (spread * random.normal(size=vocab)).astype(np.float32)
            logits = np.round(logits, 1) if random.random() < 0.5 else logits  # many are equal
            assert draw(logits, 0.7, top_p, uniform) == plain(logits, 0.7, top_p, uniform)


@pytest.mark.parametrize("vocab", [1, 2, 3, 49152, 2**18, 2**18 + 1])
def test_weights_are_integers_whose_sums_are_exact(vocab) -> None:
    most = token_weights(np.zeros(vocab, np.float32), 1.0)
    assert most.max() == 2.0 ** weight_bits(vocab)
    assert 2**52 < int(most.astype(np.int64).sum()) <= 2**53
    weights = token_weights(np.random.default_rng(1).normal(scale=9, size=vocab).astype(np.float32), 0.9)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, np.floor(weights))
    shuffled = np.random.default_rng(2).permutation(weights)
    assert weights.sum(dtype=np.float64) == np.cumsum(shuffled, dtype=np.float64)[-1]


@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-10])
def test_the_coldest_temperatures_take_the_likeliest(temperature) -> None:
    logits = np.array([1.0, 3.4e38, -3.4e38, 2.0], np.float32)
    for top_p in (0.5, 1.0):
        assert draw(logits, temperature, top_p, 0.999) == 1
