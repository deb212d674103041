"""Building without a device: nvcc and its report, the artefact, and what is said where a part is missing."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import tvm
from helpers.fat_binary import fat_binary_images
from helpers.spiking_form import SpikeOptions, spiking_form
from helpers.tiny_llama import tiny_llama

from sdc.config import CompileConfig
from sdc.errors import ConfigError, DeviceMemoryError, NoDeviceError, TargetError
from sdc.ir.model import Model
from sdc.targets.base import BuildResult
from sdc.targets.cuda import CudaTarget
from sdc.targets.cuda.compiled import Kernel, parse_ptxas
from sdc.targets.cuda.device import check_room, memory_named
from sdc.targets.cuda.nvcc import find_nvcc
from sdc.targets.cuda.target import _precompiled

SHAPE = {"layers": 1, "hidden": 64, "ffn": 96, "head_dim": 32, "heads": 2, "kv_heads": 1}
OPTIONS = SpikeOptions(group=32, block=32, head_block=32)
# Static shared memory of a block (CUDA C++ Programming Guide, "Technical Specifications").
MOST_SHARED = 48 * 1024
# Least share of a multiprocessor's warps: one block waits for memory while another computes.
LEAST_DECODE, LEAST_PREFILL = 0.3, 0.12

NO_DEVICE = not tvm.cuda(0).exist


def quiet(_what: str, _done: int, _of: int) -> None:
    """Progress that nobody reads."""


def build(model: Model, folder: Path, **settings: str) -> BuildResult:
    folder.mkdir(exist_ok=True)
    return CudaTarget().build(model, CompileConfig.of(target="cuda", **settings), folder, quiet)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[BuildResult, Path]:
    folder = tmp_path_factory.mktemp("cuda") / "a"
    return build(spiking_form(tiny_llama(**SHAPE), OPTIONS), folder, arch="sm_90", emit="cuda"), folder


def test_no_kernel_spills_and_all_leave_room_for_a_second_block(small) -> None:
    result, _ = small
    kernels = [Kernel(**k) for k in result.manifest["kernels"]]
    assert len(kernels) > 15
    for kernel in kernels:
        assert kernel.spilled == 0, kernel
        assert kernel.shared <= MOST_SHARED, kernel
        assert kernel.blocks >= 2, kernel
        assert kernel.occupancy >= LEAST_PREFILL, kernel
    decode = {n for s in result.manifest["schedules"] if s["function"] == "decode" for n in s["kernels"]}
    of_decode = [k for k in kernels if k.name.removesuffix("_kernel") in decode]
    assert len(of_decode) > 8
    assert min(k.occupancy for k in of_decode) >= LEAST_DECODE
    used = {name for s in result.manifest["schedules"] for name in s["kernels"]}
    assert used <= {k.name.removesuffix("_kernel") for k in kernels}


def test_the_fat_binary_holds_machine_code_and_ptx(small) -> None:
    result, folder = small
    images = fat_binary_images((folder / "kernels.fatbin").read_bytes())
    assert images == {("ptx", 90), ("elf", 90)}
    assert "emitted/kernels.cu" in {f.relative_to(folder).as_posix() for f in result.files}
    source = (folder / "emitted/kernels.cu").read_text()
    assert "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" in source


@pytest.mark.slow
def test_every_architecture_compiles_without_spills_and_a_build_repeats(tmp_path) -> None:
    model = spiking_form(
        tiny_llama(**SHAPE), SpikeOptions(group=32, block=32, weight_bits=4, weight_group=32)
    )
    first, again = (build(model, tmp_path / name, emit="ptx,cubin") for name in "ab")
    assert ".target sm_80" in (tmp_path / "a/emitted/kernels.sm_80.ptx").read_text()
    assert (tmp_path / "a/emitted/kernels.sm_90.cubin").read_bytes().startswith(b"\x7fELF")
    assert fat_binary_images((tmp_path / "a/kernels.fatbin").read_bytes()) == {
        ("ptx", 80),
        ("elf", 80),
        ("elf", 89),
        ("elf", 90),
    }
    assert {k["arch"] for k in first.manifest["kernels"]} == {"sm_80", "sm_89", "sm_90"}
    assert not any(k["spilled"] for k in first.manifest["kernels"])
    assert first.manifest == again.manifest
    for one, two in zip(first.files, again.files, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_ptxas_remarks_are_read() -> None:
    text = """ptxas info    : Compiling entry function 'a_kernel' for 'sm_80'
ptxas info    : Function properties for a_kernel
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 31 registers, used 1 barriers, 36 bytes smem, 416 bytes cmem[0]
ptxas info    : Compiling entry function 'b_kernel' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 400 bytes cmem[0]"""
    want = [Kernel("a_kernel", "sm_80", 31, 36, 16), Kernel("b_kernel", "sm_90", 8, 0, 0)]
    assert list(parse_ptxas(text)) == want


def test_a_missing_or_old_compiler_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sdc.targets.cuda.nvrtc.PACKAGES", {"no_such.package": ("lib", "*")})
    with pytest.raises(TargetError, match=r"no nvcc is on the PATH; no package no_such\.package"):
        CudaTarget().check(CompileConfig.of(target="cuda"))
    fake = tmp_path / "nvcc"
    fake.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 11.2, V11.2.67'\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(TargetError, match=r"is 11\.2; --target cuda needs CUDA 12\.0 or newer"):
        find_nvcc()
    fake.write_text("#!/bin/sh\necho 'something else'\n")
    with pytest.raises(TargetError, match=r"is of unknown version; --target cuda needs CUDA 12\.0 or newer"):
        find_nvcc()


def test_architectures_are_checked_before_the_passes() -> None:
    with pytest.raises(TargetError, match=r"arch = sm_999: nvcc .* makes code for sm_.*sm_90"):
        CudaTarget().check(CompileConfig.of(target="cuda", arch="sm_90,sm_999"))
    with pytest.raises(TargetError, match="arch = sm_75: the kernels need sm_80 or newer"):
        CudaTarget().check(CompileConfig.of(target="cuda", arch="sm_75"))
    CudaTarget().check(CompileConfig.of(target="cuda"))


def test_source_that_does_not_compile_is_an_error_with_what_nvcc_says() -> None:
    with pytest.raises(TargetError, match="could not compile the kernels"):
        find_nvcc().fat_binary("__global__ void f() { undeclared(); }", ["sm_80"])


def test_settings_of_cuda_are_checked() -> None:
    with pytest.raises(ConfigError, match="arch"):
        CompileConfig.of(target="cuda", arch="ampere")
    with pytest.raises(ConfigError, match="emit"):
        CompileConfig.of(target="cuda", emit="llvm")
    with pytest.raises(ConfigError, match="arch is a setting of target cuda, the target is cpu"):
        CompileConfig.of(arch="sm_80")


@pytest.mark.skipif(not NO_DEVICE, reason="this machine has a CUDA device")
def test_without_a_device_loading_says_so_in_one_sentence(small) -> None:
    result, folder = small
    with pytest.raises(NoDeviceError, match="has no CUDA device") as caught:
        CudaTarget().load(folder, json.loads(json.dumps(result.manifest)))
    assert "\n" not in str(caught.value)


def test_too_little_memory_is_said_with_both_numbers() -> None:
    class Device:
        available_global_memory, device_name = 10 * 2**20, "a card"

    check_room(Device, 2**20)
    with pytest.raises(DeviceMemoryError, match="a card has 10 MiB free and the program needs 20 MiB"):
        check_room(Device, 20 * 2**20)


def test_memory_that_runs_out_later_is_said_too() -> None:
    class Device:
        available_global_memory, device_name = 3 * 2**20, "a card"

    def fail() -> None:
        # The words of TVM's check of cudaMalloc.
        raise tvm.error.InternalError("Check failed: (e == cudaSuccess) is false: CUDA: out of memory")

    with (
        pytest.raises(DeviceMemoryError, match="a card ran out of memory: 3 MiB are free"),
        memory_named(Device),
    ):
        fail()
    with pytest.raises(RuntimeError, match="anything else"), memory_named(Device):
        raise RuntimeError("anything else")


def test_the_memory_for_results_on_the_way_is_asked_for_too(small, monkeypatch) -> None:
    class Device:
        available_global_memory, device_name = 0, "a card"

    result, folder = small
    logits = 64 * 4  # of one token, which a step of greedy decoding leaves on the device
    assert logits < result.manifest["workspace"] < 2**20
    monkeypatch.setattr("sdc.targets.cuda.target.find_devices", lambda _count: [Device])
    monkeypatch.setattr("sdc.targets.cuda.target._bytes_needed", lambda *_: 0)
    manifest = {**json.loads(json.dumps(result.manifest)), "workspace": 5 * 2**20}
    with pytest.raises(DeviceMemoryError, match="a card has 0 MiB free and the program needs 5 MiB"):
        CudaTarget().load(folder, manifest)


def test_the_loader_is_answered_with_the_fat_binary_of_its_source_only(small) -> None:
    result, folder = small
    source = (folder / "emitted/kernels.cu").read_text()
    binary = (folder / "kernels.fatbin").read_bytes()
    with _precompiled(binary, result.manifest["source_sha256"]):
        compile_ = tvm.get_global_func("tvm_callback_cuda_compile")
        assert bytes(compile_(source)) == binary
        with pytest.raises(Exception, match="are not those of its fat binary"):
            compile_(source + " ")
