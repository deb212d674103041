"""Builds fat artefacts: the same program for several instruction sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import tvm

from sdc.ir.model import Model
from sdc.targets.base import BuildResult, Progress
from sdc.targets.cpu.emit import SKIPPED
from sdc.targets.cpu.isa import Isa
from sdc.targets.cpu.lower.choice import Choices, LoweringName
from sdc.targets.cpu.lower.lowering import Lowering, add_batch
from sdc.targets.cpu.region import Region, add_regions
from sdc.targets.fused.describe import signature_of
from sdc.targets.fused.library import cached_objects
from sdc.targets.fused.packed import PackedWeights
from sdc.targets.fused.program import CHUNK, Lowered, compile_module, lower_model
from sdc.targets.fused.rebuild import Rebuild
from sdc.targets.weights import write_weights
from sdc.threads import cpus

__all__ = ["build_program"]

_WEIGHTS = "weights.safetensors"


def build_program(
    model: Model, levels: Sequence[Isa], out: Path, progress: Progress, lowering: LoweringName = "auto"
) -> BuildResult:
    """Writes ``LEVEL.N.o`` per level and ``weights.safetensors``; see :class:`sdc.targets.base.Target`.

    Levels are lowered one after the other, in Python; LLVM compiles them meanwhile, one a processor, and goes
    on while weights are quantised and written.
    """
    made: list[Future[list[Path]]] = []
    with _compilers(len(levels)) as pool:
        for number, isa in enumerate(levels):
            progress("lower", number, len(levels))
            choices = Choices(lowering, model.zeros)
            lowered, regions = _lower(model, isa, choices)
            made.append(pool.submit(_objects, lowered.module, isa, out))
        write_weights(out / _WEIGHTS, lowered.weights.params, progress)
        for number, future in enumerate(made):
            progress("compile", number, len(levels))
            future.result()
    progress("compile", len(levels), len(levels))
    objects = {isa.name: future.result() for isa, future in zip(levels, made, strict=True)}
    sizes = {name: (region.arena, region.area) for name, region in regions.items()}
    signature = replace(signature_of(model, lowered, CHUNK), regions=sizes)
    manifest = {
        "objects": {name: [path.name for path in paths] for name, paths in objects.items()},
        "features": {isa.name: list(isa.features) for isa in levels},
        "weights": _WEIGHTS,
        "signature": signature.to_json(),
        "lowerings": [choice.to_json() for choice in choices.made.values()],
        "summary": {
            "instruction sets": ", ".join(objects),
            "decode": choices.summary(),
            **_kernels(regions),
        },
    }
    files = [path for paths in objects.values() for path in paths]
    return BuildResult((*files, out / _WEIGHTS), manifest)


@contextmanager
def _compilers(levels: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for LLVM, which runs without Python's lock; an error does not wait for what has not begun."""
    pool = ThreadPoolExecutor(min(levels, cpus()))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _objects(module: tvm.IRModule, isa: Isa, out: Path) -> list[Path]:
    """Machine code of one level, or its copy from the cache."""
    make = partial(compile_module, module, isa.target(), isa.name, skip=SKIPPED)
    return cached_objects(module, str(isa), out, isa.name, make)


def _kernels(regions: Mapping[str, Region]) -> dict[str, str]:
    """How many kernels make a token."""
    found = regions.get("decode")
    return {"kernels a token": f"{found.steps}, threads meet after {found.meetings}"} if found else {}


def _lower(model: Model, isa: Isa, choices: Choices) -> tuple[Lowered, dict[str, Region]]:
    """The program for one level, and its regions."""
    lowering = Lowering(isa, PackedWeights(model.params), choices)
    lowered = lower_model(model, lowering, _own_functions)
    return add_regions(lowered, lowering, min(CHUNK, model.info.max_seq))


def _own_functions(model: Model, lowering: Rebuild) -> None:
    if model.info.kind == "decoder":
        add_batch(model, lowering)
