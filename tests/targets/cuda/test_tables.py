"""Embedding, sums and the last row, in the emulator."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.simt import run_kernel

from sdc.ir.ops import OPS
from sdc.targets.cuda.kernels.tables import AddRows, GatherRows, LastRow


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


def test_rows_of_bytes_are_scaled() -> None:
    rng = np.random.default_rng(3)
    table, scales = rng.integers(-127, 128, (7, 33)).astype(np.int8), rng.normal(size=(7, 1)).astype("f4")
    kernel = GatherRows(7, 33, scaled=True).generate()
    got = run_kernel(kernel, table, scales, np.array([6, 0, 9]), out=[((3, 33), "float32")])
    np.testing.assert_array_equal(got, (table.astype(np.float32) * scales)[[6, 0, 6]])


@pytest.mark.parametrize("scaled", [False, True])
def test_rows_of_a_share_are_those_of_the_operation(scaled) -> None:
    rng = np.random.default_rng(4)
    table = rng.integers(-127, 128, (5, 20)).astype(np.float32)
    index = np.array([4, 5, 9, 10, 0])
    held = (table.astype(np.int8), np.ones((5, 1), np.float32)) if scaled else (table,)
    kernel = GatherRows(5, 20, scaled=scaled, shared=True).generate()
    for worker in (np.array([n], np.int32) for n in range(3)):
        got = run_kernel(kernel, *held, index, worker, out=[((5, 20), "float32")])
        np.testing.assert_array_equal(got, OPS["take_share"].reference(table, index, worker))


@pytest.mark.parametrize("vector", [False, True])
def test_rows_are_added(vector) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(3, 140)).astype("f4"), rng.normal(size=140 if vector else (3, 140)).astype("f4")
    got = run_kernel(AddRows(140, vector).generate(), a, b, out=[((3, 140), "float32")])
    np.testing.assert_array_equal(got, a + b)
