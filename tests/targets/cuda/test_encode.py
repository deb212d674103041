"""Encoder kernels in the emulator: counts and thresholds bit-equal to the references."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.simt import run_kernel

from sdc.ir.ops import OPS, count_dtype
from sdc.targets.cuda.kernels.encode import can_spike_encode, spike_encode
from sdc.targets.fused.specs import Encoder, EncodeSpec, Stream, limits

ENCODE = OPS["spike_encode"].reference
HADAMARD = OPS["hadamard"].reference


def run(spec: EncodeSpec, numbers: np.ndarray, *inputs: np.ndarray) -> list[np.ndarray]:
    n, groups = len(inputs[0]), spec.width // spec.encoder.group
    out = [((n, spec.width), spec.encoder.dtype), ((n, groups), "float32")]
    return run_kernel(spike_encode(spec), *inputs, numbers, out=out)


def activations(n: int, width: int) -> np.ndarray:
    x = np.random.default_rng(width).normal(size=(n, width)).astype(np.float32)
    x[:, :: max(1, width // 5)] *= 30  # outlier channels
    return x


@pytest.mark.parametrize(
    ("width", "levels", "group", "zone", "signed", "block", "floor"),
    [
        (192, 15, 64, 0.0, True, 64, 0.0),
        (192, 7, 16, 0.6, True, 4, 0.0),
        (192, 127, 192, 0.0, True, 64, 0.0),
        (576, 15, 64, 0.0, True, 64, 0.0),
        (96, 255, 32, 0.0, False, 0, 0.0),
        (80, 1000, 16, 0.0, True, 16, 0.0),
        (12, 1, 4, 0.0, True, 2, 0.0),
        (256, 15, 64, 0.0, True, 256, 0.0),
        (192, 31, 64, 0.0, True, 64, 0.7),
        (192, 7, 16, 0.7, True, 0, 2.1),
    ],
)
def test_counts_and_thresholds_are_exact(width, levels, group, zone, signed, block, floor) -> None:
    x = activations(3, width)
    signs = np.sign(np.random.default_rng(1).normal(size=width)).astype(np.float32)
    encoder = Encoder(count_dtype(levels, signed), group, signed, zone > 0, floor > 0)
    spec = EncodeSpec(width, encoder, (Stream(0, width, 0),), block=block)
    numbers = limits(levels, 0.9, zone, floor)
    counts, theta = run(spec, numbers, x, *([signs] if block else []))
    rows = HADAMARD(x, signs, block=block) if block else x
    attrs = {"levels": levels, "clip_ratio": 0.9, "dead_zone": zone, "floor": floor}
    want = ENCODE(rows, group=group, signed=signed, **attrs)
    np.testing.assert_array_equal(counts, want[0])
    np.testing.assert_array_equal(theta, want[1])


def test_ties_saturation_zeros_and_bad_values() -> None:
    ties = np.arange(-16, 16, dtype=np.float32) / 2 + np.float32(0.5)
    rows = [ties * 2, np.zeros(32), np.full(32, -3e38), np.full(32, 1e-44), np.ones(32)]
    x = np.array([*rows, np.copysign(np.inf, ties)], np.float32)
    x[4, 31] = np.nan  # a single one, in the last place
    spec = EncodeSpec(32, Encoder("int8", 16), (Stream(0, 32, 0),))
    with np.errstate(invalid="ignore"):
        want = ENCODE(x, levels=7, group=16, clip_ratio=0.5)
    counts, theta = run(spec, limits(7, 0.5, 0.0), x)
    np.testing.assert_array_equal(counts, want[0])
    np.testing.assert_array_equal(theta, want[1])


def close_counts(got: list[np.ndarray], want: tuple[np.ndarray, np.ndarray]) -> None:
    """A norm sums in another order: thresholds agree to rounding, and counts off a tie."""
    np.testing.assert_allclose(got[1], want[1], rtol=2e-6)
    difference = np.abs(got[0].astype(int) - want[0])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_a_norm_comes_before(norm) -> None:
    x, rng = activations(2, 1120), np.random.default_rng(2)
    gain, shift = rng.normal(size=(2, 1120)).astype(np.float32)
    scale = rng.uniform(0.5, 2, 1120).astype(np.float32)
    centred = x - x.mean(-1, keepdims=True) if norm == "layer" else x
    y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(1e-5)) * gain
    y = (y + shift if norm == "layer" else y) * scale
    spec = EncodeSpec(1120, Encoder("int8", 32), (Stream(0, 1120, 0),), norm=norm, epsilon=1e-5, scaled=True)
    vectors = (gain, shift, scale) if norm == "layer" else (gain, scale)
    want = ENCODE(y.astype(np.float32), levels=15, group=32)
    close_counts(run(spec, limits(15, 1.0, 0.0), x, *vectors), want)


def test_a_gate_comes_before() -> None:
    x = activations(2, 640)
    gate, up = x[:, :320], x[:, 320:]
    want = ENCODE(gate / (1 + np.exp(-gate)) * up, levels=15, group=64)
    streams = (Stream(0, 640, 0), Stream(0, 640, 320))
    close_counts(run(EncodeSpec(320, Encoder("int8", 64), streams, "silu"), limits(15, 1.0, 0.0), x), want)


def test_groups_that_no_warp_reduces_are_not_taken() -> None:
    def spec(width: int, group: int, block: int = 0) -> EncodeSpec:
        return EncodeSpec(width, Encoder("int8", group), (Stream(0, width, 0),), block=block)

    assert can_spike_encode(spec(96, 96))
    assert not can_spike_encode(spec(48, 24))
    assert not can_spike_encode(spec(4096, 4096))
