"""The CPU target: builds fat artefacts for x86-64, and runs them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sdc.ir.model import Model
from sdc.targets.base import BuildResult, Progress, Runner, StatelessRunner
from sdc.targets.cpu.isa import LEVELS, Isa, best_level
from sdc.targets.cpu.lower.lowering import Lowering
from sdc.targets.cpu.region import Region, add_regions
from sdc.targets.cpu.runner import CpuRunner
from sdc.targets.fused.library import cached_objects, load_objects
from sdc.targets.fused.packed import PackedWeights
from sdc.targets.fused.program import CHUNK, Lowered, compile_module, lower_model
from sdc.targets.fused.runner import GraphRunner, HostMemory, Signature
from sdc.targets.weights import map_data, write_weights

__all__ = ["CpuTarget"]

_WEIGHTS = "weights.safetensors"

# It shrinks buffers to what blocks touch. Our kernels have no blocks, and its analysis of a region of some
# hundred steps takes as long as all else together.
_SKIPPED = ("s_tir.CompactBufferAllocation",)


class CpuTarget:
    """Compiles for all levels of x86-64 at once, or for what this machine is.

    Args:
        levels: Names of instruction-set levels to compile for (see :data:`sdc.targets.cpu.isa.LEVELS`);
            None means all x86-64 levels on x86-64, and plain LLVM code elsewhere.
    """

    name = "cpu"

    def __init__(self, levels: tuple[str, ...] | None = None) -> None:
        self.levels = levels

    def check(self, config: Any) -> None:
        """Every valid setting suits a CPU."""

    def build(self, model: Model, config: Any, out: Path, progress: Progress) -> BuildResult:
        """Writes ``LEVEL.N.o`` per level and ``weights.safetensors``."""
        files: list[Path] = []
        objects: dict[str, list[str]] = {}
        levels = self._levels()
        for number, isa in enumerate(levels):
            progress("compile", number, len(levels))
            lowered, regions = _lower(model, isa)
            make = partial(compile_module, lowered.module, isa.target(), isa.name, skip=_SKIPPED)
            paths = cached_objects(lowered.module, str(isa), out, isa.name, make)
            files += paths
            objects[isa.name] = [p.name for p in paths]
        progress("compile", len(levels), len(levels))
        write_weights(out / _WEIGHTS, lowered.weights.params, progress)
        sizes = {name: (region.arena, region.area) for name, region in regions.items()}
        signature = replace(Signature.of(model, lowered, CHUNK), regions=sizes)
        manifest = {"objects": objects, "weights": _WEIGHTS, "signature": signature.to_json()}
        return BuildResult((*files, out / _WEIGHTS), manifest)

    def load(self, artefact: Path, manifest: Mapping[str, Any]) -> Runner | StatelessRunner:
        """Picks the best level that this machine has; ``manifest`` is :class:`BuildResult`'s."""
        objects = manifest["objects"]
        isa = best_level(tuple(objects))
        module = load_objects([artefact / name for name in objects[isa.name]])
        signature = Signature.from_json(manifest["signature"])
        data, weights = map_data(artefact / manifest["weights"])
        if signature.kind == "decoder":
            return CpuRunner(module, signature, weights, data)
        return GraphRunner(module, signature, weights, HostMemory())

    def _levels(self) -> tuple[Isa, ...]:
        if self.levels is not None:
            return tuple(isa for isa in LEVELS if isa.name in self.levels)
        on_x86 = platform.machine().lower() in ("x86_64", "amd64")
        return tuple(isa for isa in LEVELS if isa.name.startswith("x86-64") == on_x86)


def _lower(model: Model, isa: Isa) -> tuple[Lowered, dict[str, Region]]:
    """The program for one level, and its regions."""
    lowering = Lowering(isa, PackedWeights(model.params))
    return add_regions(lower_model(model, lowering), lowering, min(CHUNK, model.info.max_seq))
