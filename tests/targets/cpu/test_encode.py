"""Fused encoders: counts and thresholds bit-equal to the references wherever no norm rounds differently."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from helpers.cpu_kernels import every_isa, run_kernel

from sdc.ir.evaluate.relax_ops import NUMPY_OPS
from sdc.ir.float32 import silu
from sdc.ir.ops import OPS, count_dtype
from sdc.targets.cpu.kernels.encode import EncodeSpec, Stream, spike_encode
from sdc.targets.cpu.kernels.rows import Encoder, limits

ENCODE = OPS["spike_encode"].reference
HADAMARD = OPS["hadamard"].reference


@dataclass(frozen=True)
class Spikes:
    """The attributes of one spike_encode."""

    levels: int
    group: int
    clip_ratio: float = 1.0
    dead_zone: float = 0.0
    signed: bool = True
    floor: float = 0.0

    @property
    def encoder(self) -> Encoder:
        dtype = count_dtype(self.levels, self.signed)
        return Encoder(dtype, self.group, self.signed, self.dead_zone > 0, self.floor > 0)

    @property
    def limits(self) -> np.ndarray:
        return limits(self.levels, self.clip_ratio, self.dead_zone, self.floor)


def reference(x: np.ndarray, spikes: Spikes) -> tuple[np.ndarray, np.ndarray]:
    return ENCODE(x, **vars(spikes))


def run(spec: EncodeSpec, spikes: Spikes, isa, *inputs: np.ndarray) -> list[np.ndarray]:
    n, groups = len(inputs[0]), spec.width // spec.encoder.group
    out = [((n, spec.width), spec.encoder.dtype), ((n, groups), "float32")]
    kernel = spike_encode(replace(spec, tokens=1 if n == 1 else 0), isa)
    return run_kernel(kernel, isa, *inputs, spikes.limits, out=out)


def activations(n: int, width: int) -> np.ndarray:
    x = np.random.default_rng(width).normal(size=(n, width)).astype(np.float32)
    x[:, :: max(1, width // 5)] *= 30  # outlier channels
    return x


SPIKES = [
    Spikes(15, 64),
    Spikes(7, 16, clip_ratio=0.8, dead_zone=0.6),
    Spikes(127, 192),
    Spikes(31, 64, floor=1.3),
    Spikes(31, 192, clip_ratio=0.0, floor=2.1, dead_zone=0.7),
    Spikes(255, 24, signed=False),
    Spikes(1000, 3),
    Spikes(1, 1),
]


@every_isa
@pytest.mark.parametrize("spikes", SPIKES, ids=lambda e: f"d{e.levels}-g{e.group}")
@pytest.mark.parametrize("block", [0, 4, 64])
def test_counts_and_thresholds_are_exact(spikes, block, isa) -> None:
    x = activations(5, 192)
    signs = np.sign(np.random.default_rng(1).normal(size=192)).astype(np.float32)
    spec = EncodeSpec(192, spikes.encoder, (Stream(0, 192, 0),), block=block)
    counts, theta = run(spec, spikes, isa, x, *([signs] if block else []))
    want = reference(HADAMARD(x, signs, block=block) if block else x, spikes)
    np.testing.assert_array_equal(counts, want[0])
    np.testing.assert_array_equal(theta, want[1])


@every_isa
def test_ties_saturation_zeros_and_bad_values(isa) -> None:
    ties = np.arange(-16, 16, dtype=np.float32) / 2 + np.float32(0.5)
    rows = [
        ties * 2,
        np.zeros(32),
        np.full(32, -3e38),
        np.full(32, 1e-44),
        np.ones(32),
        np.copysign(np.inf, ties),
    ]
    x = np.array(rows, np.float32)
    x[4, 31] = np.nan  # a single one, in the last place
    spikes = Spikes(7, 16, clip_ratio=0.5)
    with np.errstate(invalid="ignore"):
        want = reference(x, spikes)
    got = run(EncodeSpec(32, spikes.encoder, (Stream(0, 32, 0),)), spikes, isa, x)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


@every_isa
def test_no_tokens_is_no_work(isa) -> None:
    spec = EncodeSpec(32, Encoder("int8", 16), (Stream(0, 32, 0),))
    counts, theta = run(spec, Spikes(7, 16), isa, np.zeros((0, 32), "f4"))
    assert counts.shape == (0, 32)
    assert theta.shape == (0, 2)


def close_counts(got: list[np.ndarray], want: tuple[np.ndarray, np.ndarray]) -> None:
    """Against formulas in another order: thresholds agree to rounding, and counts off a tie."""
    np.testing.assert_allclose(got[1], want[1], rtol=2e-6)
    difference = np.abs(got[0].astype(int) - want[0])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@every_isa
@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_a_norm_comes_before(norm, isa) -> None:
    spikes = Spikes(15, 32)
    x, rng = activations(3, 96), np.random.default_rng(2)
    gain, shift = rng.normal(size=(2, 96)).astype(np.float32)
    scale = rng.uniform(0.5, 2, 96).astype(np.float32)
    centred = x - x.mean(-1, keepdims=True) if norm == "layer" else x
    y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(1e-5)) * gain
    y = (y + shift if norm == "layer" else y) * scale
    spec = EncodeSpec(96, spikes.encoder, (Stream(0, 96, 0),), norm=norm, epsilon=1e-5, scaled=True)
    vectors = (gain, shift, scale) if norm == "layer" else (gain, scale)
    got = run(spec, spikes, isa, x, *vectors)
    close_counts(got, reference(y.astype(np.float32), spikes))
    attrs = {"axes": [-1], "epsilon": 1e-5} | ({"center": True, "scale": True} if norm == "layer" else {})
    exact = NUMPY_OPS[f"nn.{norm}_norm"](x, *vectors[:-1], **attrs) * scale
    for made, wanted in zip(got, reference(exact, spikes), strict=True):
        np.testing.assert_array_equal(made, wanted)


@every_isa
def test_a_gate_comes_before_and_both_halves_may_share_a_tensor(isa) -> None:
    x, spikes = activations(4, 128), Spikes(15, 64)
    gate, up = x[:, :64], x[:, 64:]
    y = gate / (1 + np.exp(-gate)) * up
    spec = EncodeSpec(64, spikes.encoder, (Stream(0, 128, 0), Stream(0, 128, 64)), gate="silu")
    close_counts(run(spec, spikes, isa, x), reference(y, spikes))
    apart = replace(spec, streams=(Stream(0, 64, 0), Stream(1, 64, 0)))
    close_counts(run(apart, spikes, isa, gate, up), reference(y, spikes))
    for made, wanted in zip(run(spec, spikes, isa, x), reference(silu(gate) * up, spikes), strict=True):
        np.testing.assert_array_equal(made, wanted)
