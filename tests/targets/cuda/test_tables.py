"""Embedding, the last row, and the likeliest token, in the emulator."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.simt import launch, run_kernel

from sdc.targets.cuda.kernels.tables import GatherRows, LastRow, Likeliest


def test_rows_are_gathered_and_indices_stay_in_the_table() -> None:
    table = np.random.default_rng(0).normal(size=(10, 200)).astype(np.float32)
    got = run_kernel(
        GatherRows(10, 200).generate(), table, np.array([3, -1, 12]), out=[((3, 200), "float32")]
    )
    np.testing.assert_array_equal(got, table[[3, 0, 9]])


def test_the_last_row_is_copied() -> None:
    rng = np.random.default_rng(1)
    counts, theta = rng.integers(-9, 9, (3, 300)).astype(np.int8), rng.normal(size=(3, 5)).astype("f4")
    out = [((1, 300), "int8"), ((1, 5), "float32")]
    got = run_kernel(LastRow("int8", 300, 5).generate(), counts, theta, out=out)
    np.testing.assert_array_equal(got[0][0], counts[2])
    np.testing.assert_array_equal(got[1][0], theta[2])


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
