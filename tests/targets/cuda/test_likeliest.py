"""The likeliest token in the emulator: of all logits, and of shares that workers compare."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.simt import launch, run_kernel

from sdc.targets.cuda.kernels.likeliest import Likeliest, LikeliestOfShare, LikeliestOfShares


def likeliest(logits: np.ndarray) -> tuple[int, int]:
    token, position = np.zeros((1, 1), np.int64), np.array(4)
    launch(Likeliest(logits.size).generate(), [logits[None], token, position])
    return int(token.item()), int(position)


def test_the_likeliest_token_is_numpys() -> None:
    logits = np.random.default_rng(2).normal(size=5000).astype(np.float32)
    assert likeliest(logits) == (logits.argmax(), 5)
    logits[[77, 99, 4321]] = 9  # the first of equals
    assert likeliest(logits)[0] == 77
    assert likeliest(-1 - np.abs(logits))[0] == (-1 - np.abs(logits)).argmax()
    assert likeliest(np.array([-0.5], np.float32))[0] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_logit_gives_no_token(bad) -> None:
    logits = np.zeros(1500, np.float32)
    logits[1499] = bad
    assert likeliest(logits)[0] == -1


def of_shares(logits: np.ndarray, workers: int) -> tuple[int, int]:
    """What workers choose that hold even shares, filled up with zeros."""
    rows = -(-logits.size // workers)
    shares = np.pad(logits, (0, workers * rows - logits.size)).reshape(workers, 1, rows)
    kernel = LikeliestOfShare(logits.size, rows, workers).generate()
    numbers = np.arange(workers, dtype=np.int32)[:, None]
    out = [((workers, 2), "int32")]
    found = [run_kernel(kernel, s, n, out=out) for s, n in zip(shares, numbers, strict=True)]
    token, position = np.zeros((1, 1), np.int64), np.array(4)
    launch(LikeliestOfShares(workers).generate(), [np.sum(found, 0, np.int32), token, position])
    return int(token.item()), int(position)


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_agree_on_the_likeliest_token(workers) -> None:
    logits = np.random.default_rng(6).normal(size=100).astype(np.float32)
    assert of_shares(logits, workers) == (logits.argmax(), 5)
    assert of_shares(-1 - np.abs(logits), workers)[0] == (-1 - np.abs(logits)).argmax()  # 0 fills up
    logits[[20, 40, 99]] = 9  # the first of equals
    assert of_shares(logits, workers)[0] == 20
    logits[98] = np.nan
    assert of_shares(logits, workers)[0] == -1


def test_a_worker_may_hold_nothing() -> None:
    assert of_shares(np.array([-3, -1], np.float32), 4)[0] == 1
