"""The perplexity protocol against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax

from sdc.errors import ConfigError
from sdc.evaluation import Perplexity, negative_log_likelihood, windows_of


def test_uniform_logits_give_the_vocabulary_size():
    tokens = np.arange(8)
    mean = negative_log_likelihood(np.full((8, 50), 3.0, np.float32), tokens)
    assert Perplexity((mean,)).value == pytest.approx(50)


def test_against_scipy():
    random = np.random.default_rng(0)
    logits, tokens = random.normal(0, 30, (9, 20)).astype(np.float32), random.integers(0, 20, 9)
    wanted = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(8), tokens[1:]].mean()
    assert negative_log_likelihood(logits, tokens) == pytest.approx(wanted)


def test_windows_do_not_overlap_and_the_rest_is_left():
    assert [w.tolist() for w in windows_of(range(11), 8, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(windows_of(range(11), 1, 4)) == 1


@pytest.mark.parametrize(("tokens", "count", "size"), [(3, 8, 4), (10, 0, 4), (10, 1, 1)])
def test_what_cannot_be_measured_is_refused(tokens, count, size):
    with pytest.raises(ConfigError):
        windows_of(range(tokens), count, size)


def test_the_interval_holds_the_value_and_shrinks_with_windows():
    means = np.random.default_rng(3).normal(2.0, 0.2, 64)
    few, many = Perplexity(tuple(means[:8])), Perplexity(tuple(means))
    for each in (few, many):
        low, high = each.interval()
        assert low < each.value < high
    assert np.subtract(*many.interval()[::-1]) < np.subtract(*few.interval()[::-1])
