"""All schedules of a linear in the emulator: the accumulators of the reference, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.simt import run_kernel

from sdc.ir.bfloat16 import round_to_bfloat16
from sdc.ir.ops import OPS
from sdc.targets.cuda.kernels.events import can_walk_events, expected_silence, pays, spike_events
from sdc.targets.cuda.kernels.gemm import spike_gemm
from sdc.targets.cuda.kernels.gemv import spike_gemv
from sdc.targets.cuda.kernels.linear import can_gemm, can_gemv, schedule_of
from sdc.targets.cuda.packing import ByChannel, PackNibbles, ShortScales
from sdc.targets.fused.specs import LinearSpec

ACCUMULATE = OPS["spike_accumulate"].reference
READOUT = OPS["readout"].reference
KERNELS = {"gemv": spike_gemv, "gemm": spike_gemm, "events": spike_events}


def operands(spec: LinearSpec, tokens: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Counts and weights: random (half of them silent), or every value at an extreme."""
    rng = np.random.default_rng(spec.rows + spec.width)
    top, low = spec.levels, 0 if spec.unsigned else -spec.levels
    most = (1 << (spec.bits - 1)) - 1
    if kind == "random":
        counts = rng.integers(low, top + 1, (tokens, spec.width)) * rng.integers(0, 2, (tokens, spec.width))
        weight = rng.integers(-most - (spec.bits == 4), most + 1, (spec.rows, spec.width))
    else:
        counts = np.full((tokens, spec.width), low if kind == "low" else top)
        weight = np.full((spec.rows, spec.width), most)
    return counts.astype(np.uint8 if spec.unsigned else np.int8), weight.astype(np.int8)


def packed(weight: np.ndarray, spec: LinearSpec, kernel: str) -> np.ndarray:
    if kernel == "events":
        return ByChannel()(weight)
    return PackNibbles()(weight) if spec.bits == 4 else weight


CASES = [
    pytest.param("gemv", LinearSpec(32, 64, 64), 1, id="gemv-one-group"),
    pytest.param("gemv", LinearSpec(33, 1152, 64, levels=15), 2, id="gemv-many-groups"),
    pytest.param("gemv", LinearSpec(7, 96, 16, bits=4, levels=15), 1, id="gemv-4-bit-small-groups"),
    pytest.param("gemv", LinearSpec(9, 576, 32, bits=4), 1, id="gemv-4-bit"),
    pytest.param("gemv", LinearSpec(5, 1152, 576), 1, id="gemv-groups-of-no-power-of-two"),
    pytest.param("gemv", LinearSpec(5, 24, 12, levels=7), 3, id="gemv-one-word"),
    pytest.param("gemv", LinearSpec(2050, 32, 32), 1, id="gemv-two-rows-a-warp"),
    pytest.param("gemv", LinearSpec(8, 64, 32, levels=255, unsigned=True), 1, id="gemv-unsigned"),
    pytest.param("gemm", LinearSpec(133, 192, 64), 70, id="gemm"),
    pytest.param("gemm", LinearSpec(40, 128, 128, bits=4, levels=15), 5, id="gemm-4-bit"),
    pytest.param("gemm", LinearSpec(130, 96, 32, bits=4, levels=15), 3, id="gemm-4-bit-small-groups"),
    pytest.param("gemm", LinearSpec(8, 64, 32, levels=255, unsigned=True), 17, id="gemm-unsigned"),
    pytest.param("events", LinearSpec(132, 640, 64, levels=7), 1, id="events"),
    pytest.param("events", LinearSpec(4, 32, 32), 1, id="events-one-word"),
]


@pytest.mark.parametrize("kind", ["random", "low", "high"])
@pytest.mark.parametrize(("kernel", "spec", "tokens"), CASES)
def test_accumulators_are_exact(kernel, spec, tokens, kind) -> None:
    counts, weight = operands(spec, tokens, kind)
    spec = replace(spec, raw=True, tokens=int(tokens == 1))
    out = [((tokens, spec.width // spec.group, spec.rows), "int32")]
    got = run_kernel(KERNELS[kernel](spec), counts, packed(weight, spec, kernel), out=out)
    np.testing.assert_array_equal(got, ACCUMULATE(counts, weight, group=spec.group))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("extras", [False, True])
def test_readout_bias_and_residual(kernel, extras) -> None:
    """With extras, scales are bfloat16 numbers in 16 bits too."""
    tokens = 5 if kernel == "gemm" else 1
    more_of_it = {"bias": extras, "residual": extras, "short_scales": extras}
    spec = LinearSpec(36, 384, 64, theta_groups=6, scale_groups=3, **more_of_it)
    spec = replace(spec, tokens=int(tokens == 1))
    counts, weight = operands(spec, tokens, "random")
    rng = np.random.default_rng(3)
    theta = rng.uniform(0.01, 0.1, (tokens, 6)).astype(np.float32)
    scale = rng.uniform(0.01, 0.1, (36, 3)).astype(np.float32)
    bias, residual = rng.normal(size=36).astype("f4"), rng.normal(size=(tokens, 36)).astype("f4")
    more = (bias, residual) if extras else ()
    scale = round_to_bfloat16(scale) if extras else scale
    held = ShortScales()(scale) if extras else scale
    out = [((tokens, 36), "float32")]
    function = KERNELS[kernel](spec)
    got = run_kernel(function, counts, theta, packed(weight, spec, kernel), held, *more, out=out)
    want = READOUT(ACCUMULATE(counts, weight, group=64), theta, scale, bias if extras else None)
    want = want + residual if extras else want
    if kernel == "gemm":  # groups ascending, as the reference
        np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def test_a_linear_takes_the_schedule_that_its_shape_allows() -> None:
    one, many = LinearSpec(8, 64, 32, tokens=1), LinearSpec(8, 64, 32)
    assert (schedule_of(one), schedule_of(many)) == ("gemv-dp4a", "gemm-mma")
    small = LinearSpec(8, 64, 16)
    assert not can_gemm(small)
    assert schedule_of(small) == "gemv-dp4a"
    assert not can_gemv(LinearSpec(8, 30, 10))
    assert can_gemv(LinearSpec(8, 24, 12))
    assert not can_gemv(LinearSpec(8, 24, 12, bits=4))
    assert not can_walk_events(LinearSpec(8, 64, 32, unsigned=True))


def test_the_expected_silence_is_that_of_gaussian_activations() -> None:
    x = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32)
    for levels, zone in ((7, 0.0), (15, 0.0), (7, 1.25), (3, 2.0)):
        counts, _ = OPS["spike_encode"].reference(x, levels=levels, group=64, dead_zone=zone)
        measured = (counts == 0).mean()
        assert expected_silence(levels, 64, 1.0, zone) == pytest.approx(measured, rel=0.08)
    assert pays(0.8, 4)
    assert pays(0.6, 8)
    assert not pays(0.4, 8)
