"""Heads and attention kernels against the references, through the cache's own layout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from helpers.cpu_kernels import every_isa, run_kernel

from sdc.ir.ops import OPS
from sdc.targets.cpu.kernels.attention import AttentionSpec, heads_together, spike_attention
from sdc.targets.cpu.kernels.encode import Stream
from sdc.targets.cpu.kernels.heads import HeadSpec, HeadsSpec, Rotary, encode_heads
from sdc.targets.cpu.kernels.rows import Encoder, limits
from sdc.targets.cpu.layout import CacheLayout

ATTENTION = OPS["spike_attention"].reference
ENCODE = OPS["spike_encode"].reference
HADAMARD = OPS["hadamard"].reference
ROTARY = OPS["rotary"].reference


def pack_keys(counts: np.ndarray, slots: int) -> np.ndarray:
    """[hk, S, d] int8 -> the kernel's layout."""
    heads, tokens, width = counts.shape
    layout = CacheLayout(heads, slots, width)
    full = np.full((heads, layout.slots, layout.words * 4), 77, np.int16)
    full[:, :tokens, :width] = counts.astype(np.int16) + 128
    blocks = full.reshape(heads, layout.blocks, 16, layout.words, 4).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(blocks).astype(np.uint8)


def pack_values(counts: np.ndarray, slots: int) -> np.ndarray:
    heads, tokens, width = counts.shape
    layout = CacheLayout(heads, slots, width)
    full = np.full((heads, layout.slots, layout.channels), 55, np.int8)
    full[:, :tokens, :width] = counts
    return np.ascontiguousarray(full.reshape(heads, -1, 4, layout.channels).transpose(0, 1, 3, 2))


def pack_theta(theta: np.ndarray, slots: int) -> np.ndarray:
    heads, tokens = theta.shape
    full = np.full(CacheLayout(heads, slots, 1).theta_shape, np.nan, np.float32)
    full[:, :tokens] = theta
    return full


@dataclass
class Case:
    n: int
    position: int
    slots: int
    heads: int = 4
    kv_heads: int = 2
    width: int = 8
    value_width: int = 8
    window: int = 0
    softcap: float = 0.0
    levels: int = 255


CASES = [
    pytest.param(Case(1, 0, 32), id="first-token"),
    pytest.param(Case(1, 31, 32), id="last-slot"),
    pytest.param(Case(1, 20, 33, width=6, value_width=10), id="odd-sizes"),
    pytest.param(Case(7, 0, 40, heads=9, kv_heads=3, width=64, value_width=64), id="prefill"),
    pytest.param(Case(1, 37, 64, heads=14, kv_heads=2, width=64, value_width=64), id="seven-heads-together"),
    pytest.param(Case(2, 20, 32, heads=4, kv_heads=1), id="one-key-head"),
    pytest.param(Case(5, 30, 64, window=9), id="window-in-a-later-chunk"),
    pytest.param(Case(3, 17, 64, softcap=2.0, levels=15), id="softcap"),
]


@every_isa
@pytest.mark.parametrize("case", CASES)
def test_attention_is_the_references(case, isa) -> None:
    c, rng = case, np.random.default_rng(5)
    tokens = c.position + c.n
    q = rng.integers(-15, 16, (1, c.n, c.heads, c.width)).astype(np.int8)
    k = rng.integers(-127, 128, (1, c.kv_heads, tokens, c.width)).astype(np.int8)
    v = rng.integers(-127, 128, (1, c.kv_heads, tokens, c.value_width)).astype(np.int8)
    q_theta = rng.uniform(0.01, 0.1, (1, c.n, c.heads, 1)).astype(np.float32)
    k_theta, v_theta = rng.uniform(0.005, 0.03, (2, 1, c.kv_heads, tokens, 1)).astype(np.float32)
    position = np.array(c.position)
    options = {"scale": c.width**-0.5, "window": c.window, "softcap": c.softcap, "levels": c.levels}
    want = ATTENTION(q, q_theta, k, k_theta, v, v_theta, position, causal=True, **options)
    spec = AttentionSpec(
        c.heads, c.kv_heads, c.width, c.value_width, c.slots, query_levels=15, tokens=int(c.n == 1), **options
    )
    got = run_kernel(
        spike_attention(spec, isa),
        isa,
        q[0],
        q_theta[0, ..., 0],
        pack_keys(k[0], c.slots),
        pack_theta(k_theta[0, ..., 0], c.slots),
        pack_values(v[0], c.slots),
        pack_theta(v_theta[0, ..., 0], c.slots),
        position,
        out=[(want.shape[1:], "float32")],
    )
    np.testing.assert_array_equal(got, want[0])


@pytest.mark.parametrize(
    ("heads", "kv_heads", "together"),
    [(9, 3, 3), (32, 4, 4), (14, 2, 7), (4, 4, 1), (4, 1, 2), (1, 1, 1), (22, 2, 1)],
)
def test_heads_of_a_key_head_share_a_task(heads, kv_heads, together) -> None:
    assert heads_together(heads, kv_heads) == together


@every_isa
@pytest.mark.parametrize("levels", [15, 127])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
def test_products_of_largest_counts_are_exact(levels, signs, isa) -> None:
    """Every count at an end of its range: sums that would saturate 16 bits, in both products."""
    heads, width, tokens, slots = 2, 64, 33, 48
    q = np.full((1, 1, heads, width), levels, np.int8)
    k = np.full((1, heads, tokens, width), 127 * signs[0], np.int8)
    v = np.full((1, heads, tokens, width), 127 * signs[1], np.int8)
    thetas = [np.full(s, 0.01, np.float32) for s in ((1, 1, heads, 1), *[(1, heads, tokens, 1)] * 2)]
    position, options = np.array(tokens - 1), {"scale": 0.125, "levels": 255}
    want = ATTENTION(q, thetas[0], k, thetas[1], v, thetas[2], position, causal=True, **options)
    spec = AttentionSpec(heads, heads, width, width, slots, query_levels=levels, tokens=1, **options)
    got = run_kernel(
        spike_attention(spec, isa),
        isa,
        q[0],
        thetas[0][0, ..., 0],
        pack_keys(k[0], slots),
        pack_theta(thetas[1][0, ..., 0], slots),
        pack_values(v[0], slots),
        pack_theta(thetas[2][0, ..., 0], slots),
        position,
        out=[(want.shape[1:], "float32")],
    )
    np.testing.assert_array_equal(got, want[0])


@every_isa
@pytest.mark.parametrize(("width", "interleaved", "block"), [(8, False, 8), (64, False, 64), (12, True, 4)])
def test_heads_are_rotated_encoded_and_kept(width, interleaved, block, isa) -> None:
    n, position, slots, heads, kv_heads = 5, 14, 33, 4, 2
    rng = np.random.default_rng(6)
    stride = (heads + 2 * kv_heads) * width
    x = rng.normal(size=(n, stride)).astype(np.float32)
    cos, sin = rng.uniform(-1, 1, (2, slots, width // 4)).astype(np.float32)
    signs = np.sign(rng.normal(size=width)).astype(np.float32)
    levels = {"query": 15, "key": 127, "value": 127}
    encoder = Encoder("int8", width)
    counts, offset, parts = (heads, kv_heads, kv_heads), 0, []
    for role, count in zip(levels, counts, strict=True):
        turned = role != "value"
        source = Stream(0, stride, offset)
        parts.append(HeadSpec(role, source, count, width, encoder, turned, block if turned else 0))
        offset += count * width
    spec = HeadsSpec(tuple(parts), Rotary(slots, width // 4, interleaved), slots)
    layout = CacheLayout(kv_heads, slots, width)
    theta_shape = (layout.theta_shape, "float32")
    out = [(layout.key_shape, "uint8"), theta_shape, (layout.value_shape, "int8"), theta_shape]
    out += [((n, heads, width), "int8"), ((n, heads), "float32")]
    numbers = np.array([limits(d, 1.0, 0.0) for d in levels.values()])
    inputs = (x, np.array(position), cos, sin, signs, signs, numbers)
    got = run_kernel(encode_heads(spec, isa), isa, *inputs, out=out)
    for part, counts_at in zip(parts, (4, 0, 2), strict=True):
        rows = x[None, :, part.source.offset :][..., : part.heads * width].reshape(1, n, part.heads, width)
        if part.rotary:
            rows = ROTARY(rows, cos, sin, np.array(position), interleaved=interleaved)
            rows = HADAMARD(rows, signs, block=block)
        want, theta = ENCODE(rows, levels=levels[part.role], group=width)
        made, made_theta = got[counts_at], got[counts_at + 1]
        if part.role == "key":
            flat = made.transpose(0, 1, 3, 2, 4).reshape(kv_heads, layout.slots, -1)[..., :width]
            made = (flat.astype(int) - 128)[:, position : position + n].transpose(1, 0, 2)
        elif part.role == "value":
            flat = made.transpose(0, 1, 3, 2).reshape(kv_heads, layout.slots, -1)[..., :width]
            made = flat[:, position : position + n].transpose(1, 0, 2)
        if part.role != "query":
            made_theta = made_theta[:, position : position + n].T
        np.testing.assert_array_equal(made_theta, theta[0, ..., 0])
        np.testing.assert_array_equal(made, want[0])


@every_isa
@pytest.mark.parametrize("block", [0, 4])
def test_the_output_may_be_encoded_at_once(block, isa) -> None:
    case = Case(2, 3, 32)
    rng = np.random.default_rng(7)
    q = rng.integers(-15, 16, (2, 4, 8)).astype(np.int8)
    k, v = rng.integers(-127, 128, (2, 2, 5, 8)).astype(np.int8)
    thetas = [np.full(s, 0.05, np.float32) for s in ((2, 4), (2, 5), (2, 5))]
    signs = np.sign(rng.normal(size=32)).astype(np.float32)
    inputs = (
        q,
        thetas[0],
        pack_keys(k, 32),
        pack_theta(thetas[1], 32),
        pack_values(v, 32),
        pack_theta(thetas[2], 32),
        np.array(case.position),
    )
    plain = AttentionSpec(4, 2, 8, 8, 32, 0.3)
    floats = run_kernel(spike_attention(plain, isa), isa, *inputs, out=[((2, 4, 8), "float32")])
    rows = floats.reshape(2, 32)
    want, theta = ENCODE(HADAMARD(rows, signs, block=block) if block else rows, levels=15, group=4)
    fused = AttentionSpec(4, 2, 8, 8, 32, 0.3, encoder=Encoder("int8", 4), block=block)
    out = [((2, 32), "int8"), ((2, 8), "float32")]
    extra = (*((signs,) if block else ()), limits(15, 1.0, 0.0))
    got = run_kernel(spike_attention(fused, isa), isa, *inputs, *extra, out=out)
    np.testing.assert_array_equal(got[0], want)
    np.testing.assert_array_equal(got[1], theta)
