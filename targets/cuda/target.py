"""The CUDA target: kernels for several architectures in one fat binary, built on any machine."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi
from tvm.support import nvcc as tvm_nvcc

from sdc.errors import CorruptArtefactError
from sdc.ir.model import Model, ModelInfo
from sdc.targets.base import BuildResult, Progress, Runner, StatelessRunner
from sdc.targets.cuda.compiled import Kernel
from sdc.targets.cuda.compiler import check_archs, find_compiler
from sdc.targets.cuda.cuts import LinearShare, is_cut
from sdc.targets.cuda.device import DeviceMemory, check_room, find_devices
from sdc.targets.cuda.emitted import find_disassembler, write_emitted
from sdc.targets.cuda.lower.body import FALLBACK, Scheduled
from sdc.targets.cuda.program import compile_program, lower_for_cuda
from sdc.targets.cuda.runner import CudaRunner
from sdc.targets.cuda.shard import check_heads, linear_shares, shard
from sdc.targets.cuda.sharded import ShardedRunner, map_shards, write_shards
from sdc.targets.cuda.workers import Workers
from sdc.targets.fused.describe import signature_of
from sdc.targets.fused.library import save_objects
from sdc.targets.fused.machine import load_objects
from sdc.targets.fused.program import CHUNK
from sdc.targets.fused.runner import GraphRunner
from sdc.targets.fused.signature import Signature
from sdc.targets.weights import write_weights

__all__ = ["CudaTarget"]

_WEIGHTS, _BINARY = "weights.safetensors", "kernels.fatbin"
_DEFAULT_ARCHS = "sm_80,sm_89,sm_90"


class CudaTarget:
    """Compiles for NVIDIA GPUs; needs nvcc or NVRTC to build, and a device to run."""

    name = "cuda"

    def check(self, config: Any) -> None:
        """Looks for the compiler, and for a disassembler where one is needed.

        Raises:
            TargetError: One is missing or too old, or makes no code for an architecture.
        """
        check_archs(find_compiler(), _archs(config))
        if "sass" in (config.emit or ""):
            find_disassembler()

    def check_model(self, info: ModelInfo, config: Any) -> None:
        """Whether the heads divide among the GPUs.

        Raises:
            TargetError: They do not.
        """
        if _shards(config) > 1:
            check_heads(info, config.shards)

    def build(self, model: Model, config: Any, out: Path, progress: Progress) -> BuildResult:
        """Writes host objects, ``kernels.fatbin``, ``weights.safetensors``, and what ``--emit`` asks for.

        For several GPUs, ``weights.safetensors`` has what all of them need, ``shard.N.safetensors`` the rest.
        """
        compiler = find_compiler()
        archs = _archs(config)
        progress("lower", 0, 3)
        linears: list[LinearShare] = []
        if _shards(config) > 1:
            whole, model = model, shard(model, config.shards)[0]
            linears = linear_shares(whole, model)
        lowered, schedules = lower_for_cuda(model)
        progress("compile", 1, 3)
        graph = "greedy" if config.cuda_graphs and "greedy" in lowered.launches else ""
        program = compile_program(lowered.module, schedules, graph)
        objects = save_objects(program.executable, out, "host")
        progress(f"{compiler.name} for {', '.join(archs)}", 2, 3)
        compiled = compiler.fat_binary(program.source, archs)
        (out / _BINARY).write_bytes(compiled.binary)
        files = [*objects, out / _BINARY]
        files += write_emitted(compiler, program.source, archs, config.emit or "", out)
        progress("compile", 3, 3)
        params = lowered.weights.params
        write_weights(out / _WEIGHTS, {n: p for n, p in params.items() if not is_cut(p)}, progress)
        shards = write_shards(out, params, _shards(config), progress) if _shards(config) > 1 else []
        manifest = {
            "objects": [p.name for p in objects],
            "binary": _BINARY,
            "source_sha256": _hash(program.source),
            "archs": list(archs),
            "compiler": compiler.name,
            "kernels": [k.to_json() for k in compiled.kernels],
            "schedules": [s.to_json() for s in schedules],
            "summary": {
                **({"GPUs": f"{_shards(config)}, each with a share of heads and channels"} if shards else {}),
                **({"CUDA graphs": graph or "none qualifies"} if config.cuda_graphs else {}),
                **_summary(schedules, compiled.kernels),
            },
            "workspace": program.workspace,
            "weights": _WEIGHTS,
            "shards": [p.name for p in shards],
            "linears": [asdict(share) for share in linears],
            "signature": signature_of(model, lowered, CHUNK).to_json(),
        }
        return BuildResult((*files, out / _WEIGHTS, *shards), manifest)

    def load(self, artefact: Path, manifest: Mapping[str, Any]) -> Runner | StatelessRunner:
        """Copies the weights to the device, or to each its own; ``manifest`` is :class:`BuildResult`'s.

        Raises:
            NoDeviceError: This machine has no GPU, or fewer than the program was cut for.
            DeviceMemoryError: A GPU's free memory is too small.
        """
        shards = manifest.get("shards", [])
        devices = find_devices(max(1, len(shards)))
        signature = Signature.from_json(manifest["signature"])
        weights = map_shards(artefact / manifest["weights"], [artefact / name for name in shards])
        for device, own in zip(devices, weights, strict=True):
            check_room(device, _bytes_needed(signature, own) + manifest.get("workspace", 0))
        with _precompiled((artefact / manifest["binary"]).read_bytes(), manifest["source_sha256"]):
            module = load_objects([artefact / name for name in manifest["objects"]])
        memories = [DeviceMemory(device) for device in devices]
        if shards:
            workers = Workers(len(shards), range(len(shards)))
            linears = [LinearShare(**share) for share in manifest["linears"]]
            return ShardedRunner(module, signature, weights, memories, workers, linears)
        if signature.kind == "decoder":
            return CudaRunner(module, signature, weights[0], memories[0])
        return GraphRunner(module, signature, weights[0], memories[0])


def _archs(config: Any) -> tuple[str, ...]:
    return tuple((config.arch or _DEFAULT_ARCHS).split(","))


def _shards(config: Any) -> int:
    return int(config.shards or 1)


def _summary(schedules: Sequence[Scheduled], kernels: Sequence[Kernel]) -> dict[str, str]:
    """For people: how many operations of each function took which schedule, and what is worth a look."""
    found: dict[str, str] = {}
    for function in dict.fromkeys(s.function for s in schedules):
        counts = Counter(s.schedule for s in schedules if s.function == function)
        found[function] = ", ".join(f"{count} {schedule}" for schedule, count in counts.items())
    ops = dict.fromkeys(s.op for s in schedules if s.schedule == FALLBACK)
    left = Counter(op.split()[0] for op in ops)
    found[f"left to {FALLBACK}"] = ", ".join(f"{count} {name}" for name, count in left.items()) or "none"
    found["kernels that spill"] = ", ".join(f"{k.name} ({k.arch})" for k in kernels if k.spilled) or "none"
    return found


def _hash(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def _bytes_needed(signature: Signature, weights: Mapping[str, Any]) -> int:
    """Weights and caches."""
    states: Sequence[Any] = signature.states
    caches = sum(int(np.prod(s.shape)) * np.dtype(s.dtype).itemsize for s in states)
    return caches + sum(int(weights[name].nbytes) for name in signature.weights)


@contextmanager
def _precompiled(binary: bytes, source_sha256: str) -> Iterator[None]:
    """Answers TVM's request to compile a program's kernels with its fat binary.

    A program built without a device holds its kernels as source, and TVM's loader asks a registered function
    for machine code: no compiler is needed where a program runs.
    """

    def answer(source: str) -> bytes:
        if _hash(str(source)) != source_sha256:
            raise CorruptArtefactError("the program's kernels are not those of its fat binary; compile again")
        return binary

    name = "tvm_callback_cuda_compile"
    tvm_ffi.register_global_func(name, answer, override=True)
    try:
        yield
    finally:
        tvm_ffi.register_global_func(name, tvm_nvcc.tvm_callback_cuda_compile, override=True)
