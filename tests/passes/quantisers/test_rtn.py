"""Round to nearest: pieces, order of sums, and what a scale is chosen by."""

from __future__ import annotations

import numpy as np
import pytest

from sdc.ir.bfloat16 import round_to_bfloat16
from sdc.passes.quantisers import rtn


def plain(weight, bits, group):
    """The definition, on the whole weight at once; sums of squares eight at a time."""
    columns = np.ascontiguousarray(weight.reshape(-1, group).T)
    peak = np.abs(columns).max(0)
    low, top = rtn.integer_range(bits)
    signed = np.where(columns.max(0) == peak, -peak, peak) / np.float32(top)
    best, least = np.zeros_like(peak), np.full_like(peak, np.inf)

    def nearest(scale):
        return np.clip(np.rint(columns / np.where(scale != 0, scale, np.float32(1))), low, top)

    for shrink in rtn.SHRINK:
        scale = round_to_bfloat16(signed * np.float32(shrink))
        error = np.square(nearest(scale) * scale - columns)
        loss = error.reshape(-1, 8, error.shape[1]).sum(1).sum(0)
        best, least = np.where(loss < least, scale, best), np.minimum(loss, least)
    return nearest(best).astype(np.int8).T.reshape(weight.shape), best.reshape(len(weight), -1)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group", [8, 32, 64, 768])
@pytest.mark.parametrize("piece", [1, 1 << 14, 1 << 30])
def test_pieces_of_any_size_give_the_bits_of_the_whole(bits, group, piece, monkeypatch) -> None:
    monkeypatch.setattr(rtn, "_PIECE", piece)
    random = np.random.default_rng(bits)
    weight = random.standard_normal((200, 768), dtype=np.float32) * random.exponential(size=(200, 1))
    weight = weight.astype(np.float32)
    weight[3] = 0
    weight[4, :128] = -0.0
    weight[5] = np.round(weight[5], 1)  # ties
    for made, want in zip(rtn.quantise_rtn(weight, bits, group), plain(weight, bits, group), strict=True):
        assert made.dtype == want.dtype
        assert made.tobytes() == want.tobytes()


def test_8_bits_take_the_largest_weight_and_leave_the_given_array_alone() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 60), dtype=np.float32)
    kept = weight.copy()
    integers, scales = rtn.quantise_rtn(weight, 8)
    assert (weight == kept).all()
    assert np.array_equal(scales[:, 0], np.abs(weight).max(1) / np.float32(127))
    assert np.array_equal(integers, np.rint(weight / scales).astype(np.int8))


@pytest.mark.parametrize("group", [3, 12, 20])
def test_a_group_that_is_no_multiple_of_eight_has_the_least_error(group) -> None:
    weight = np.random.default_rng(1).standard_normal((7, 60), dtype=np.float32)
    integers, scales = rtn.quantise_rtn(weight, 4, group)
    error = np.square(rtn.on_grid(integers, scales) - weight).reshape(-1, group).sum(1)
    columns = weight.reshape(-1, group).T
    peak = np.abs(columns).max(0)
    for shrink in rtn.SHRINK:
        for sign in (-1, 1):
            scale = round_to_bfloat16(sign * peak / 7 * np.float32(shrink))
            other = np.square(rtn.rounded(columns, scale, 4) * scale - columns).sum(0)
            chosen = scales.reshape(-1)
            same_side = np.sign(scale) == np.sign(chosen)
            assert (error[same_side] <= other[same_side] * 1.00001).all()
