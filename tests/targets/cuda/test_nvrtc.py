"""NVRTC in place of nvcc: the same kernels, the same kind of binary, and what is said where it is missing."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from helpers.fat_binary import fat_binary_images
from helpers.spiking_form import SpikeOptions, spiking_form
from helpers.tiny_llama import tiny_llama

from sdc.config import CompileConfig
from sdc.errors import TargetError
from sdc.targets.cuda import CudaTarget
from sdc.targets.cuda.compiler import find_compiler
from sdc.targets.cuda.emit import DEVICE_FUNCTIONS
from sdc.targets.cuda.nvcc import find_nvcc
from sdc.targets.cuda.nvrtc import Nvrtc, find_nvrtc

SOURCE = f"""
#include <sm_61_intrinsics.h>
#include <math_constants.h>
{DEVICE_FUNCTIONS["sdc_dot4_s8"]}
extern "C" __global__ void kernel(const int* a, const int* b, float* out) {{
  __shared__ int sums[64];
  sums[threadIdx.x] = sdc_dot4_s8(a[threadIdx.x], b[threadIdx.x], 0);
  __syncthreads();
  out[threadIdx.x] = (float)sums[63 - threadIdx.x] / 3.0f;
}}
"""


@pytest.fixture
def no_nvcc(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_it_is_taken_where_there_is_no_nvcc(no_nvcc) -> None:
    assert isinstance(find_compiler(), Nvrtc)
    CudaTarget().check(CompileConfig.of(target="cuda"))
    with pytest.raises(TargetError, match=r"arch = sm_999: NVRTC .* makes code for .*sm_90"):
        CudaTarget().check(CompileConfig.of(target="cuda", arch="sm_999"))


def test_the_fat_binary_holds_machine_code_and_ptx() -> None:
    made = find_nvrtc().fat_binary(SOURCE, ["sm_90", "sm_80"])
    assert fat_binary_images(made.binary) == {("ptx", 80), ("elf", 80), ("elf", 90)}
    assert [(k.name, k.arch, k.shared, k.spilled) for k in made.kernels] == [
        ("kernel", "sm_80", 256, 0),
        ("kernel", "sm_90", 256, 0),
    ]
    assert all(0 < k.registers < 64 for k in made.kernels)


def test_ptx_is_rounded_as_nvccs_is() -> None:
    """No fused multiply-adds, no approximate division: the words that say so are the same."""
    ours, theirs = find_nvrtc().ptx(SOURCE, "sm_80"), find_nvcc().ptx(SOURCE, "sm_80")
    for text in (ours, theirs):
        assert ".target sm_80" in text
        assert "div.rn.f32" in text
        assert "dp4a.s32.s32" in text
        assert "fma" not in text


def test_machine_code_is_an_elf_file() -> None:
    assert find_nvrtc().cubin(SOURCE, "sm_89").startswith(b"\x7fELF")


def test_source_that_does_not_compile_is_an_error_with_what_it_says() -> None:
    with pytest.raises(TargetError, match=r"could not compile the kernels: .*undeclared"):
        find_nvrtc().cubin("__global__ void f() { undeclared(); }", "sm_80")


def test_missing_packages_and_old_versions_are_named(monkeypatch, no_nvcc) -> None:
    monkeypatch.setattr("sdc.targets.cuda.compiled.MINIMUM", (99, 0))
    with pytest.raises(TargetError, match=r"needs CUDA 99\.0 or newer.*sdc-compiler\[cuda\]"):
        find_compiler()
    monkeypatch.setattr("sdc.targets.cuda.nvrtc.PACKAGES", {"no_such.package": ("lib", "*")})
    with pytest.raises(TargetError, match=r"no package no_such\.package"):
        find_nvrtc()


def test_a_failure_of_the_joining_library_is_an_error(monkeypatch) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            return lambda *_: 5

    found = find_nvrtc()
    real = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda path: Broken() if "fatbin" in path else real(path))
    with pytest.raises(TargetError, match=r"nvFatbin could not join .* \(code 5\)"):
        found.fat_binary(SOURCE, ["sm_80"])


@pytest.mark.slow
def test_a_program_has_the_same_kernels_as_by_nvcc(tmp_path: Path, monkeypatch) -> None:
    shape = {"layers": 1, "hidden": 64, "ffn": 96, "head_dim": 32, "heads": 2, "kv_heads": 1}
    model = spiking_form(tiny_llama(**shape), SpikeOptions(group=32, block=32, head_block=32))
    config, manifests = CompileConfig.of(target="cuda", arch="sm_90"), []
    for name in ("nvcc", "nvrtc"):
        if name == "nvrtc":
            monkeypatch.setenv("PATH", str(tmp_path))
        (tmp_path / name).mkdir()
        built = CudaTarget().build(model, config, tmp_path / name, lambda *_: None)
        manifests.append(built.manifest)
        assert fat_binary_images((tmp_path / name / "kernels.fatbin").read_bytes()) == {
            ("ptx", 90),
            ("elf", 90),
        }
    by_nvcc, by_nvrtc = manifests
    assert by_nvcc["compiler"].startswith("nvcc ")
    assert by_nvrtc["compiler"].startswith("NVRTC ")
    names = [[(k["name"], k["arch"]) for k in m["kernels"]] for m in manifests]
    assert names[0] == names[1]
    assert not any(k["spilled"] for k in by_nvrtc["kernels"])
    assert by_nvcc["source_sha256"] == by_nvrtc["source_sha256"]
