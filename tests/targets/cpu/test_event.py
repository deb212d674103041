"""The event-driven linear: the collapsed one's accumulators and floats, bit for bit, whatever fired."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.cpu_kernels import Kernels, every_isa, run_kernel

from sdc.ir.ops import OPS
from sdc.targets.cpu.kernels.event import EventSpec, event_linear
from sdc.targets.cpu.kernels.linear import LinearSpec, spike_linear
from sdc.targets.cpu.packing import PackBias, PackColumns, PackScale, PackWeight

ACCUMULATE = OPS["spike_accumulate"].reference

# Bits, levels, whether counts are unsigned.
VARIANTS = [(2, 127, False), (4, 15, False), (4, 127, False), (8, 64, False), (8, 127, False), (8, 255, True)]
GROUPS = [*range(1, 10), 11, 13, 16, 31, 32, 33, 63, 64, 128]


def spec_of(group: int, variant: int) -> LinearSpec:
    """Each group size with other remainders of rows, quads and lines."""
    bits, levels, unsigned = VARIANTS[variant % len(VARIANTS)]
    rows, width = 1 + 37 * group % 200, (1 + group % 3) * group
    return LinearSpec(rows, width, group, bits=bits, levels=levels, unsigned=unsigned)


# Every group size, by variants in turn; every variant on whole and on filled-up quads.
SPECS = [spec_of(group, number) for number, group in enumerate(GROUPS)]
SPECS += [spec_of(group, number) for group in (5, 32) for number in range(len(VARIANTS))]


def counts_of(spec: LinearSpec, kind: str) -> np.ndarray:
    """One token's counts: as many zeros as the kind says, or every count at an end of the range."""
    rng = np.random.default_rng(spec.width)
    low = 0 if spec.unsigned else -spec.levels
    dtype = np.uint8 if spec.unsigned else np.int8
    if kind in ("high", "low"):
        end = spec.levels if kind == "high" else low
        return np.full((1, spec.width), end, dtype)
    counts = rng.integers(low, spec.levels + 1, (1, spec.width))
    counts[rng.random(counts.shape) < float(kind)] = 0
    return counts.astype(dtype)


def weights_of(spec: LinearSpec, kind: str) -> np.ndarray:
    most = (1 << (spec.bits - 1)) - 1
    if kind == "high":
        return np.full((spec.rows, spec.width), most, np.int8)
    if kind == "low":
        return np.full((spec.rows, spec.width), -most - 1, np.int8)
    rng = np.random.default_rng(spec.rows)
    return rng.integers(-most - 1, most + 1, (spec.rows, spec.width)).astype(np.int8)


@every_isa
def test_accumulators_are_exact_for_every_group_remainder_and_share_of_zeros(isa) -> None:
    kernels = {
        f"k{i}": event_linear(EventSpec(replace(s, raw=True, tokens=1)), isa) for i, s in enumerate(SPECS)
    }
    compiled = Kernels(kernels, isa)
    for number, spec in enumerate(SPECS):
        for kind in ("0.0", "0.5", "0.95", "1.0", "high", "low"):
            counts, weight = counts_of(spec, kind), weights_of(spec, kind)
            want = ACCUMULATE(counts, weight, group=spec.group)
            packed = PackColumns(spec)(weight)
            assert packed.shape == PackColumns(spec).shape(weight.shape)
            got = compiled.run(f"k{number}", counts, packed, out=[(want.shape, "int32")])
            np.testing.assert_array_equal(got, want, err_msg=f"{spec} {kind}")


@every_isa
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_floats_are_those_of_the_collapsed_kernel(bits, isa) -> None:
    spec = LinearSpec(
        173, 128, 16, bits=bits, levels=15, theta_groups=4, scale_groups=8, bias=True, residual=True, tokens=1
    )
    rng = np.random.default_rng(3)
    counts, weight = counts_of(spec, "0.7"), weights_of(spec, "random")
    theta, scale = rng.random((1, 4), np.float32), rng.random((173, 8), np.float32)
    bias, residual = rng.normal(size=173).astype("f4"), rng.normal(size=(1, 173)).astype("f4")
    rest = (PackScale(spec)(scale), PackBias(spec)(bias), residual)
    out = [((1, 173), "float32")]
    want = run_kernel(spike_linear(spec, isa), isa, counts, theta, PackWeight(spec)(weight), *rest, out=out)
    got = run_kernel(
        event_linear(EventSpec(spec), isa), isa, counts, theta, PackColumns(spec)(weight), *rest, out=out
    )
    np.testing.assert_array_equal(got, want)


def test_more_tokens_than_one_are_refused() -> None:
    with pytest.raises(ValueError, match="takes one token, not n"):
        EventSpec(LinearSpec(8, 8, 8))
