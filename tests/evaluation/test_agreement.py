"""Divergence and greedy agreement against scipy; bootstrap intervals against the normal approximation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from sdc.evaluation import Agreement, Perplexity, compare_logits
from sdc.evaluation.bootstrap import interval_of_mean

rng = np.random.default_rng(0)


def test_divergence_is_scipys():
    p, q = rng.normal(0, 5, (2, 70, 30)).astype(np.float32)
    divergence, agreed = compare_logits(p, q)
    probabilities = softmax(p.astype(np.float64), 1), softmax(q.astype(np.float64), 1)
    assert divergence == pytest.approx(rel_entr(*probabilities).sum(1).mean())
    assert agreed == np.mean(p.argmax(1) == q.argmax(1))


def test_equal_models_do_not_diverge():
    logits = rng.normal(0, 50, (5, 9)).astype(np.float32)
    assert compare_logits(logits, logits + np.float32(3)) == (pytest.approx(0, abs=1e-6), 1)


def test_an_interval_is_as_wide_as_the_normal_one():
    values = rng.normal(3, 2, 400)
    low, high = interval_of_mean(values)
    assert (low, high) == pytest.approx(values.mean() + np.array([-1.96, 1.96]) * values.std() / 20, abs=0.03)
    json = Agreement(tuple(values), tuple(values)).to_json()
    assert json["kl_divergence_interval"] == [low, high]


def test_a_ratio_is_compared_window_by_window():
    hard_and_easy = tuple(rng.uniform(1, 5, 12))
    worse = Perplexity(tuple(x + 0.1 for x in hard_and_easy))
    assert worse.ratio_interval(Perplexity(hard_and_easy)) == pytest.approx((np.exp(0.1), np.exp(0.1)))
