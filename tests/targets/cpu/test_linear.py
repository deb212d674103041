"""Spike accumulate + readout kernels: accumulators bit-equal to the reference on every instruction set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.cpu_kernels import Kernels, every_isa, run_kernel

from sdc.ir.bfloat16 import round_to_bfloat16
from sdc.ir.ops import OPS
from sdc.targets.cpu.kernels.linear import LinearSpec, spike_linear
from sdc.targets.cpu.packing import PackBias, PackScale, PackWeight

ACCUMULATE = OPS["spike_accumulate"].reference
READOUT = OPS["readout"].reference


def operands(spec: LinearSpec, tokens: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Counts and weights: random, or every value at an extreme that would saturate 16-bit sums."""
    rng = np.random.default_rng(spec.rows + spec.width)
    top, low = spec.levels, 0 if spec.unsigned else -spec.levels
    most = (1 << (spec.bits - 1)) - 1
    if kind == "random":
        counts = rng.integers(low, top + 1, (tokens, spec.width))
        weight = rng.integers(-most - (spec.bits < 8), most + 1, (spec.rows, spec.width))
    else:
        counts = np.full((tokens, spec.width), low if kind == "low" and low else top)
        weight = np.full((spec.rows, spec.width), -most - 1 if kind == "negative" else most)
    return counts.astype(np.uint8 if spec.unsigned else np.int8), weight.astype(np.int8)


SHAPES = [
    pytest.param(LinearSpec(32, 64, 64), 1, id="one-block"),
    pytest.param(LinearSpec(33, 64, 32, levels=15), 1, id="a-row-too-many"),
    pytest.param(LinearSpec(70, 96, 16, bits=4, levels=15), 9, id="4-bit-small-groups"),
    pytest.param(LinearSpec(40, 128, 64, bits=4, levels=127), 1, id="4-bit-127-levels"),
    pytest.param(LinearSpec(5, 10, 10, levels=7), 3, id="padded-words"),
    pytest.param(LinearSpec(5, 12, 3, bits=4, levels=7), 2, id="4-bit-padded-words"),
    pytest.param(LinearSpec(1, 1, 1, levels=1), 1, id="one-weight"),
    pytest.param(LinearSpec(64, 192, 24, levels=127), 17, id="odd-groups"),
    pytest.param(LinearSpec(48, 64, 32, levels=255, unsigned=True), 4, id="unsigned-255"),
    pytest.param(LinearSpec(320, 576, 64, levels=15), 8, id="wide"),
    pytest.param(LinearSpec(70, 192, 64, bits=2, levels=127), 9, id="2-bit"),
    pytest.param(LinearSpec(33, 60, 12, bits=2, levels=15), 1, id="2-bit-padded-words"),
    pytest.param(LinearSpec(40, 4352, 64, bits=4, levels=64), 7, id="unpacked-beyond-the-cache"),
]


@every_isa
@pytest.mark.parametrize("kind", ["random", "high", "low", "negative"])
@pytest.mark.parametrize(("spec", "tokens"), SHAPES)
def test_accumulators_are_exact(spec, tokens, kind, isa) -> None:
    counts, weight = operands(spec, tokens, kind)
    want = ACCUMULATE(counts, weight, group=spec.group)
    kernel = spike_linear(replace(spec, raw=True, tokens=tokens if tokens == 1 else 0), isa)
    packed = PackWeight(spec)(weight)
    assert packed.shape == PackWeight(spec).shape(weight.shape)
    got = run_kernel(kernel, isa, counts, packed, out=[(want.shape, "int32")])
    np.testing.assert_array_equal(got, want)


@pytest.mark.slow
@every_isa
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_group_size_and_remainder_is_exact(bits, isa) -> None:
    """Each group size with other remainders of rows and tokens."""
    sizes = [*range(1, 35), 63, 64, 65, 96, 128]
    levels = (15, 127)  # sums of two products that fit 16 bits, and that do not
    specs = {
        f"g{g}_d{d}": LinearSpec(1 + 7 * g % 67, 3 * g, g, bits=bits, levels=d) for g in sizes for d in levels
    }
    kernels = {name: spike_linear(replace(spec, raw=True), isa) for name, spec in specs.items()}
    compiled = Kernels(kernels, isa)
    for number, (name, spec) in enumerate(specs.items()):
        tokens = 1 + number % (2 * isa.tile[0] + 1)
        for kind in ("random", "high", "low", "negative"):
            counts, weight = operands(spec, tokens, kind)
            want = ACCUMULATE(counts, weight, group=spec.group)
            got = compiled.run(name, counts, PackWeight(spec)(weight), out=[(want.shape, "int32")])
            np.testing.assert_array_equal(got, want, err_msg=f"{spec} {kind}")


@every_isa
@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize(("rows", "tokens"), [(45, 0), (45, 1), (45, 2), (45, 8), (45, 19), (48, 13)])
def test_readout_adds_bias_and_residual(rows, tokens, short, isa) -> None:
    spec = LinearSpec(
        rows, 128, 16, bits=4, levels=15, theta_groups=4, scale_groups=8, bias=True, residual=True
    )
    spec = replace(spec, short_scales=short)
    rng = np.random.default_rng(3)
    counts, weight = operands(spec, tokens, "random")
    theta = rng.random((tokens, 4), np.float32)
    scale = rng.normal(size=(rows, 8)).astype("f4")
    scale = round_to_bfloat16(scale) if short else scale
    bias, residual = rng.normal(size=rows).astype("f4"), rng.normal(size=(tokens, rows)).astype("f4")
    want = residual + READOUT(ACCUMULATE(counts, weight, group=16), theta, scale, bias)
    packed = (PackWeight(spec)(weight), PackScale(spec)(scale), PackBias(spec)(bias))
    assert packed[1].dtype == ("uint16" if short else "float32")
    kernel = spike_linear(replace(spec, tokens=1 if tokens == 1 else 0), isa)
    got = run_kernel(kernel, isa, counts, theta, *packed, residual, out=[(want.shape, "float32")])
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-4)
    if tokens > 1:  # the first token alone
        rows = [a[:1] for a in (counts, theta)]
        alone = run_kernel(kernel, isa, *rows, *packed, residual[:1], out=[((1, spec.rows), "float32")])
        np.testing.assert_array_equal(alone, got[:1])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_weight_takes_no_more_than_its_bits(bits) -> None:
    spec = LinearSpec(64, 128, 32, bits=bits)
    assert PackWeight(spec)(np.zeros((64, 128), np.int8)).nbytes == 64 * 128 * bits // 8
