"""The heads kernel in the emulator: rotary, Hadamard, encode, and where keys and values land."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.simt import launch

from sdc.ir.ops import OPS
from sdc.targets.cuda.kernels.cache import CacheLayout
from sdc.targets.cuda.kernels.heads import encode_heads
from sdc.targets.fused.specs import Encoder, HeadSpec, HeadsSpec, Rotary, Stream, limits

ENCODE = OPS["spike_encode"].reference
HADAMARD = OPS["hadamard"].reference
ROTARY = OPS["rotary"].reference
LEVELS = {"query": 15, "key": 127, "value": 127}


def heads_spec(width: int, interleaved: bool, block: int, slots: int, heads: int, kv_heads: int) -> HeadsSpec:
    """Queries, keys and values side by side in a row."""
    stride = (heads + 2 * kv_heads) * width
    offset, parts = 0, []
    for role, count in zip(LEVELS, (heads, kv_heads, kv_heads), strict=True):
        turned = role != "value"
        source, encoder = Stream(0, stride, offset), Encoder("int8", width)
        parts.append(HeadSpec(role, source, count, width, encoder, turned, block if turned else 0))
        offset += count * width
    return HeadsSpec(tuple(parts), Rotary(slots, width // 4, interleaved), slots)


@pytest.mark.parametrize(
    ("width", "interleaved", "block"), [(8, False, 8), (64, False, 64), (12, True, 4), (96, False, 32)]
)
def test_heads_are_rotated_encoded_and_kept(width, interleaved, block) -> None:
    n, position, slots, heads, kv_heads = 3, 14, 33, 4, 2
    rng = np.random.default_rng(6)
    stride = (heads + 2 * kv_heads) * width
    x = rng.normal(size=(n, stride)).astype(np.float32)
    cos, sin = rng.uniform(-1, 1, (2, slots, width // 4)).astype(np.float32)
    signs = np.sign(rng.normal(size=width)).astype(np.float32)
    spec = heads_spec(width, interleaved, block, slots, heads, kv_heads)
    layout = CacheLayout(kv_heads, slots, width)
    keys, values = np.zeros(layout.key_shape, "i1"), np.zeros(layout.value_shape, "i1")
    thetas = [np.zeros(layout.theta_shape, "f4") for _ in range(2)]
    query, query_theta = np.zeros((n, heads, width), "i1"), np.zeros((n, heads), "f4")
    numbers = np.array([limits(d, 1.0, 0.0) for d in LEVELS.values()])
    inputs = [x, np.array(position), cos, sin, signs, signs, numbers]
    outputs = [keys, thetas[0], values, thetas[1], query, query_theta]
    launch(encode_heads(spec), [*inputs, *outputs])
    new = slice(position, position + n)
    flat_values = values.transpose(0, 1, 3, 2).reshape(kv_heads, layout.slots, width)
    made = {
        "query": (query, query_theta),
        "key": (keys[:, new].transpose(1, 0, 2), thetas[0][:, new].T),
        "value": (flat_values[:, new].transpose(1, 0, 2), thetas[1][:, new].T),
    }
    for part in spec.parts:
        rows = x[None, :, part.source.offset :][..., : part.heads * width].reshape(1, n, part.heads, width)
        if part.rotary:
            rows = ROTARY(rows, cos, sin, np.array(position), interleaved=interleaved)
            rows = HADAMARD(rows, signs, block=block)
        want, theta = ENCODE(rows, levels=LEVELS[part.role], group=width)
        counts, thresholds = made[part.role]
        np.testing.assert_array_equal(counts, want[0])
        np.testing.assert_array_equal(thresholds, theta[0, ..., 0])
    assert not keys[:, :position].any()
    assert not keys[:, position + n :].any()


def test_rows_of_several_sequences_are_those_of_each_alone() -> None:
    """Counts, thresholds and caches, bit for bit; sequences that have no row stay as they were."""
    width, slots, heads, kv_heads, sequences = 32, 33, 4, 2, 4
    numbers, positions = [2, 0, 3], [14, 0, 32]
    rng = np.random.default_rng(7)
    x = rng.normal(size=(3, (heads + 2 * kv_heads) * width)).astype(np.float32)
    cos, sin = rng.uniform(-1, 1, (2, slots, width // 4)).astype(np.float32)
    signs = np.sign(rng.normal(size=width)).astype(np.float32)
    given = [cos, sin, signs, signs, np.array([limits(d, 1.0, 0.0) for d in LEVELS.values()])]
    spec = heads_spec(width, False, 32, slots, heads, kv_heads)
    layout = CacheLayout(kv_heads, slots, width)
    shapes = [(layout.key_shape, "i1"), (layout.theta_shape, "f4")]
    shapes += [(layout.value_shape, "i1"), (layout.theta_shape, "f4")]
    caches = [np.full((sequences, *shape), 85, dtype) for shape, dtype in shapes]
    want = [cache.copy() for cache in caches]
    query, theta = np.zeros((3, heads, width), "i1"), np.zeros((3, heads), "f4")
    places = np.array([positions, numbers])
    launch(encode_heads(spec, apart=True), [x, places, *given, *caches, query, theta])
    for row, (number, position) in enumerate(zip(numbers, positions, strict=True)):
        own = [cache[number] for cache in want]
        one, one_theta = np.zeros((1, heads, width), "i1"), np.zeros((1, heads), "f4")
        arrays = [x[row : row + 1], np.array(position), *given, *own, one, one_theta]
        launch(encode_heads(replace(spec, tokens=1)), arrays)
        np.testing.assert_array_equal(query[row], one[0])
        np.testing.assert_array_equal(theta[row], one_theta[0])
    for got, expected in zip(caches, want, strict=True):
        np.testing.assert_array_equal(got, expected)
