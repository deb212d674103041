"""quantise-tables: rows on a grid of bytes, wherever a table is only looked up."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sketch import Sketch, assert_same_model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tvm import relax

from sdc.errors import PostconditionError
from sdc.ir.ops import linear
from sdc.ir.params import array_param
from sdc.ir.tables import ByteRows, byte_rows
from sdc.passes.base import PassContext
from sdc.passes.certificate import certify
from sdc.passes.quantise_tables import QuantiseTables

rng = np.random.default_rng(0)
TABLE = rng.standard_normal((6, 4)).astype(np.float32)


@settings(max_examples=60)
@given(table=arrays(np.float32, (3, 5), elements=st.floats(-10000, 10000, width=32)))
def test_bytes_times_scales_are_the_table_bit_for_bit(table) -> None:
    param = array_param("table", table).then(ByteRows())
    parts = byte_rows(param)
    assert parts is not None
    integers, scales = (p.value() for p in parts)
    assert (integers.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (3, 1))
    np.testing.assert_array_equal(integers.astype(np.float32) * scales, param.value())
    peak = np.abs(table).max(1, keepdims=True)
    assert (np.abs(param.value() - table) <= peak * np.float32(0.504 / 127) + 1e-37).all()


def test_a_row_of_zeros_stays() -> None:
    np.testing.assert_array_equal(ByteRows()(np.zeros((2, 3), np.float32)), np.zeros((2, 3)))


def picture(table) -> Sketch:
    sketch = Sketch(ids=((2,), "int64"), more=((3,), "int64"))
    sketch.weight("table", table)
    return sketch


def looked_up_twice(table):
    sketch = picture(table)
    a = sketch(relax.op.take(sketch.weights["table"], sketch["ids"], axis=0))
    b = sketch(relax.op.take(sketch.weights["table"], sketch["more"], axis=0))
    return sketch.model(a, b)


def tied(table):
    sketch = picture(table)
    x = sketch(relax.op.take(sketch.weights["table"], sketch["ids"], axis=0))
    return sketch.model(sketch(linear(x, sketch.weights["table"], name="head")))


def columns(table):
    sketch = picture(table)
    return sketch.model(sketch(relax.op.take(sketch.weights["table"], sketch["ids"], axis=1)))


def test_a_table_takes_the_grid_and_the_module_stays() -> None:
    before = looked_up_twice(TABLE)
    after = QuantiseTables(24).run(before, PassContext())
    QuantiseTables(24).check(after, PassContext())
    assert_same_model(after, looked_up_twice(ByteRows()(TABLE)), tolerance=0)
    assert QuantiseTables(24).run(after, PassContext()).params["table"].transforms == (ByteRows(),)
    with pytest.raises(PostconditionError, match="table could be quantised"):
        QuantiseTables(24).check(before, PassContext())


def test_the_certificate_counts_the_scaling_of_a_row() -> None:
    after = QuantiseTables(24).run(looked_up_twice(TABLE), PassContext())
    assert certify(looked_up_twice(TABLE)).ops == ()
    assert [(op.name, op.multiplications) for op in certify(after).ops] == [("table", 8), ("table", 12)]


@pytest.mark.parametrize(("make", "size"), [(tied, 1), (columns, 1), (looked_up_twice, 25)])
def test_what_is_multiplied_or_small_or_read_by_columns_stays(make, size) -> None:
    assert_same_model(QuantiseTables(size).run(make(TABLE), PassContext()), make(TABLE), tolerance=0)
