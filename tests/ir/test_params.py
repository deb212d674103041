"""Lazy weights: transforms compose, nothing is computed early, damage is named."""

from __future__ import annotations

import numpy as np
import pytest

from sdc.errors import NumericsError
from sdc.ir.params import (
    AddVector,
    Cast,
    Concat,
    FunctionSource,
    MatVec,
    Param,
    Permute,
    Reshape,
    ScaleColumns,
    ScaleRows,
    SliceRows,
    Transpose,
    array_param,
)

rng = np.random.default_rng(0)
W = rng.normal(size=(4, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("transform", "want"),
    [
        (Transpose(), W.T),
        (Permute((1, 0)), W.T),
        (Reshape((2, 12)), W.reshape(2, 12)),
        (SliceRows(1, 3), W[1:3]),
        (ScaleColumns(array_param("g", np.arange(1, 7, dtype=np.float32))), W * np.arange(1, 7)),
        (ScaleColumns(array_param("g", np.full(6, 2, np.float32)), inverse=True), W / 2),
        (ScaleRows(array_param("r", np.arange(1, 5, dtype=np.float32))), W * np.arange(1, 5)[:, None]),
        (ScaleRows(array_param("r", np.full(4, 4, np.float32)), inverse=True), W / 4),
        (MatVec(array_param("b", np.ones(6, np.float32))), W.sum(1)),
        (AddVector(array_param("w2", W)), 2 * W),
    ],
)
def test_a_transform_gives_its_value_and_announces_its_shape(transform, want) -> None:
    param = array_param("w", W).then(transform, name="out")
    assert param.name == "out"
    assert param.shape == want.shape
    np.testing.assert_allclose(param.value(), want, rtol=1e-6)
    assert param.describe().startswith("out [")


def test_transforms_compose_in_order_and_the_source_stays_as_it_was() -> None:
    before = W.copy()
    gain = array_param("gain", np.arange(1, 7, dtype=np.float32))
    param = array_param("w", W).then(ScaleColumns(gain)).then(Transpose())
    np.testing.assert_allclose(param.value(), (W * np.arange(1, 7)).T)
    np.testing.assert_array_equal(W, before)
    assert param.describe() == "w [6, 4] float32: scale columns by gain, transpose"


def test_nothing_is_read_before_the_value_is_asked_for() -> None:
    reads: list[int] = []

    def read() -> np.ndarray:
        reads.append(1)
        return W

    param = Param("w", W.shape, "float32", FunctionSource(read)).then(Transpose())
    joined = Concat.param("both", [param, param])
    assert not reads
    assert joined.shape == (12, 4)
    np.testing.assert_array_equal(joined.value(), np.concatenate([W.T, W.T]))
    assert len(reads) == 2


def test_casts_change_the_dtype() -> None:
    param = array_param("w", W.astype(np.float16)).then(Cast("float32"), dtype="float32")
    assert param.value().dtype == np.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(bad) -> None:
    damaged = W.copy()
    damaged[1, 2] = bad
    with pytest.raises(NumericsError, match=r"layers\.3\.up: the weight holds NaN or infinite"):
        array_param("layers.3.up", damaged).value()


@pytest.mark.parametrize("shape", [(1, 1), (130, 17), (16, 512), (1057, 300)])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_turned_matrix_is_stored_row_by_row(shape, dtype) -> None:
    array = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    value = array_param("w", array).then(Transpose()).value()
    assert value.flags.c_contiguous
    assert np.array_equal(value, array.T)
