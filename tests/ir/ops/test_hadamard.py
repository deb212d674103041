"""sdc.hadamard: the transform against SciPy's matrix, its inverse in the weights, bit-equal lowering."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from helpers.run_op import inferred, lowered
from tvm import relax

from sdc.ir.ops import OPS, hadamard
from sdc.ir.params import HadamardColumns, array_param

reference = OPS["hadamard"].reference
rng = np.random.default_rng(0)


@pytest.mark.parametrize(("width", "block"), [(1, 1), (8, 2), (64, 16), (96, 32), (192, 64)])
def test_blocks_are_sylvester_matrices(width: int, block: int) -> None:
    x = rng.normal(size=(3, width)).astype(np.float32)
    signs = np.sign(rng.normal(size=width)).astype(np.float32)
    matrix = scipy.linalg.hadamard(block).astype(np.float64)
    want = ((x * signs).astype(np.float64).reshape(3, -1, block) @ matrix.T).reshape(x.shape)
    got = reference(x, signs, block=block)
    np.testing.assert_allclose(got, want, atol=1e-4)
    np.testing.assert_array_equal(lowered(lambda v, s: hadamard(v, s, block=block), x, signs), got)


def test_many_tokens_give_what_each_gives_alone() -> None:
    x = rng.normal(size=(700, 192)).astype(np.float32)
    signs = np.ones(192, np.float32)
    together = reference(x, signs, block=64)
    np.testing.assert_array_equal(together, np.stack([reference(row, signs, block=64) for row in x]))


def test_the_weights_take_the_inverse() -> None:
    x, weight = rng.normal(size=(5, 32)), rng.normal(size=(7, 32)).astype(np.float32)
    signs = np.sign(rng.normal(size=32)).astype(np.float32)
    folded = array_param("w", weight).then(HadamardColumns(array_param("s", signs), 16)).value()
    y = reference(x.astype(np.float32), signs, block=16) @ folded.T
    np.testing.assert_allclose(y, x @ weight.T, atol=1e-4)


@pytest.mark.parametrize("block", [3, 0, 64])
def test_blocks_that_do_not_fit_are_refused(block: int) -> None:
    with pytest.raises(Exception, match=f"block {block} must be a power of two that divides 96 channels"):
        inferred(
            lambda x, s: hadamard(x, s, block=block),
            relax.TensorType([1, 96], "float32"),
            relax.TensorType([96], "float32"),
        )
