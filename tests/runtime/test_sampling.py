"""Sampling: greedy, tempered, from a nucleus, and repeatable."""

from __future__ import annotations

import numpy as np
import pytest

from sdc.errors import ConfigError
from sdc.runtime.sampling import Sampler

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def test_greedy_takes_the_likeliest():
    assert Sampler()(LOGITS) == 0


def test_draws_follow_the_probabilities():
    sampler = Sampler(1.0, 1.0, 7)
    found = np.bincount([sampler(LOGITS) for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(found, np.exp(LOGITS), atol=0.012)


def test_a_low_temperature_sharpens():
    sampler = Sampler(0.5, 1.0, 7)
    found = np.bincount([sampler(LOGITS) for _ in range(20_000)], minlength=4) / 20_000
    squared = np.exp(LOGITS) ** 2
    np.testing.assert_allclose(found, squared / squared.sum(), atol=0.012)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.499, {0}), (0.51, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})]
)
def test_the_nucleus_is_the_smallest_set_of_that_mass(top_p, kept):
    sampler = Sampler(1.0, top_p, 1)
    exact = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    assert {sampler(exact - 1e-12) for _ in range(600)} == kept


@pytest.mark.parametrize(("top_p", "kept"), [(0.25, {0}), (0.5, {0, 1}), (0.75, {0, 1, 2})])
def test_a_set_that_has_the_mass_exactly_is_large_enough(top_p, kept):
    sampler = Sampler(1.0, top_p, 1)
    assert {sampler(np.zeros(4, np.float32)) for _ in range(600)} == kept


def test_the_same_seed_draws_the_same():
    one, two = Sampler(1.0, 0.9, 5), Sampler(1.0, 0.9, 5)
    assert [one(LOGITS) for _ in range(50)] == [two(LOGITS) for _ in range(50)]


@pytest.mark.parametrize("bad", [(-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1.0, 1.1)])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ConfigError):
        Sampler(*bad)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("spread", [0.0, 0.1, 2.0, 12.0])
def test_draws_are_those_of_the_definition(top_p, spread) -> None:
    """The whole vocabulary sorted, cut where the mass is reached."""
    logits = (spread * np.random.default_rng(1).normal(size=3000)).astype(np.float32)
    sampler, random = Sampler(0.8, top_p, seed=5), np.random.default_rng(5)
    weights = np.exp((logits.astype(np.float64) - logits.max()) / 0.8)
    order = np.argsort(-weights, kind="stable")
    mass = np.cumsum(weights[order])
    last = int(np.searchsorted(mass, top_p * mass[-1] * (1 - 1e-7)))
    drawn = [sampler(logits) for _ in range(200)]
    within = set(order[: last + 2].tolist())
    assert set(drawn) <= within
    nucleus = np.sort(order[: last + 1])
    mass = np.cumsum(weights[nucleus])
    expected = [int(nucleus[np.searchsorted(mass, random.random() * mass[-1], side="right")]) for _ in drawn]
    assert (
        np.mean([a == b for a, b in zip(drawn, expected, strict=True)]) > 0.97
    )  # but for the cut's rounding
