"""sdc.take_share: the sum over workers is the whole table's rows; bit-equal lowering."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.run_op import inferred, lowered
from tvm import relax

from sdc.ir.ops import OPS, take_share

reference = OPS["take_share"].reference


def test_the_sum_over_workers_is_the_rows_of_the_whole_table() -> None:
    table = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    index = np.array([[0, 11, 4], [7, 3, 8]])
    parts = [reference(table[4 * w : 4 * w + 4], index, np.array([w], np.int32)) for w in range(3)]
    np.testing.assert_array_equal(sum(parts), table[index])
    worker = np.array([1], np.int32)
    np.testing.assert_array_equal(lowered(take_share, table[4:8], index, worker), parts[1])


def test_other_shapes_are_refused() -> None:
    types = [((4,), "float32"), ((1, 2), "int64"), ((1,), "int32")]
    with pytest.raises(Exception, match=r"wants a table \[R, C\] and a worker \[1\], got \[4\]"):
        inferred(take_share, *(relax.TensorType(shape, dtype) for shape, dtype in types))
