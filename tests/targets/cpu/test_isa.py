"""Instruction sets, those that this machine lacks included: linears compile to byte dot products."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tvm
from helpers.spiking_form import SpikeOptions, spiking_form
from helpers.tiny_llama import ONE_WIDTH, tiny_llama
from hypothesis import given
from hypothesis import strategies as st

from sdc.config import CompileConfig
from sdc.errors import ConfigError, TargetError
from sdc.targets.cpu import CpuTarget
from sdc.targets.cpu.emit import build
from sdc.targets.cpu.isa import LEVELS, best_level, choose_objects, host_features, levels_for, native
from sdc.targets.cpu.kernels.linear import LinearSpec, spike_linear

INSTRUCTIONS = {
    "x86-64-v4-vnni": "vpdpbusd",
    "x86-64-v3-vnni": "vpdpbusd",
    "x86-64-v3": "vpmaddubsw",
    "x86-64-v2": "pmaddubsw",
    "aarch64-i8mm": "usdot",
    "aarch64-dotprod": "sdot",
}


@pytest.mark.parametrize("isa", [isa for isa in LEVELS if isa.name in INSTRUCTIONS], ids=lambda isa: isa.name)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("tokens", [0, 1])
def test_linears_compile_to_byte_dot_products(isa, bits, tokens) -> None:
    spec = LinearSpec(70, 128, 32, bits=bits, levels=15, theta_groups=2, scale_groups=4, tokens=tokens)
    assembly = build({"kernel": spike_linear(spec, isa)}, isa.target()).inspect_source("asm")
    assert INSTRUCTIONS[isa.name] in assembly


def test_features_are_those_that_the_compiler_sees() -> None:
    host = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    compilers = {str(feature) for feature, on in host.items() if int(on)}
    assert host_features() == compilers & {feature for level in LEVELS for feature in level.features}


def test_native_is_this_processor_with_its_features_and_no_others() -> None:
    isa, level = native(), best_level()
    assert (isa.dot, isa.lanes) == (level.dot, level.lanes)
    assert set(level.features) <= set(isa.features)
    host = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    absent = {str(feature) for feature, on in host.items() if not int(on)}
    assert {f"-{feature}" for feature in absent} <= set(isa.attributes)
    assert not absent & set(isa.features)


@pytest.mark.parametrize("mcpu", ["native", best_level().name, "generic"])
def test_a_program_for_one_processor_holds_its_code_alone_and_says_so(mcpu, tmp_path) -> None:
    model = spiking_form(tiny_llama(**ONE_WIDTH), SpikeOptions())
    target, config = CpuTarget(), CompileConfig.of(mcpu=mcpu)
    target.check(config)
    manifest = json.loads(json.dumps(target.build(model, config, tmp_path, lambda *_: None).manifest))
    (isa,) = levels_for(mcpu)
    assert list(manifest["objects"]) == [isa.name]
    assert manifest["features"] == {isa.name: list(isa.features)}
    assert manifest["summary"]["instruction sets"] == isa.name
    fat = CpuTarget((best_level().name,)).build(model, None, tmp_path, lambda *_: None)
    want = target.load(tmp_path, fat.manifest).score([1, 2, 3])
    np.testing.assert_array_equal(target.load(tmp_path, manifest).score([1, 2, 3]), want)
    manifest["features"][isa.name] += ["avx9000"]
    with pytest.raises(TargetError, match=rf"lacks what it was compiled for \({isa.name}: avx9000\)"):
        target.load(tmp_path, manifest)


@given(st.permutations([isa.name for isa in LEVELS]))
def test_the_best_code_is_chosen_whatever_the_order_in_the_manifest(names) -> None:
    """A manifest's keys are sorted when it is written: x86-64-v2 comes before x86-64-v3 then."""
    objects = {name: [f"{name}.0.o"] for name in names}
    assert choose_objects(objects, {}) == best_level().name
    features = {"native-this": list(best_level().features)}
    assert choose_objects({**objects, "native-this": ["n.0.o"]}, features) == "native-this"
    assert choose_objects({n: objects[n] for n in sorted(names)}, {}) == best_level(tuple(names)).name


def test_processors_that_do_not_exist_are_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match=r'mcpu "pdp11": .*native'):
        CpuTarget().check(CompileConfig.of(mcpu="pdp11"))
    with pytest.raises(ConfigError, match="mcpu is a setting of target cpu"):
        CompileConfig.of(target="cuda", mcpu="native")
