"""Instruction sets, those that this machine lacks included: linears compile to byte dot products."""

from __future__ import annotations

import pytest
import tvm

from sdc.targets.cpu.emit import build
from sdc.targets.cpu.isa import LEVELS, host_features
from sdc.targets.cpu.kernels.linear import LinearSpec, spike_linear

INSTRUCTIONS = {
    "x86-64-v4-vnni": "vpdpbusd",
    "x86-64-v3": "vpmaddubsw",
    "x86-64-v2": "pmaddubsw",
    "aarch64-i8mm": "usdot",
}


@pytest.mark.parametrize("isa", [isa for isa in LEVELS if isa.name in INSTRUCTIONS], ids=lambda isa: isa.name)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tokens", [0, 1])
def test_linears_compile_to_byte_dot_products(isa, bits, tokens) -> None:
    spec = LinearSpec(70, 128, 32, bits=bits, levels=15, theta_groups=2, scale_groups=4, tokens=tokens)
    assembly = build({"kernel": spike_linear(spec, isa)}, isa.target()).inspect_source("asm")
    assert INSTRUCTIONS[isa.name] in assembly


def test_features_are_those_that_the_compiler_sees() -> None:
    host = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    compilers = {str(feature) for feature, on in host.items() if int(on)}
    assert host_features() == compilers & {feature for level in LEVELS for feature in level.features}
