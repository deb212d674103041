"""The CPU target: builds fat artefacts for x86-64, and runs them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdc.targets.base import BuildResult, Progress, Runner, StatelessRunner
from sdc.targets.cpu.isa import LEVELS, Isa, best_level
from sdc.targets.cpu.runner import CpuRunner
from sdc.targets.fused.machine import load_objects
from sdc.targets.fused.runner import GraphRunner, HostMemory
from sdc.targets.fused.signature import Signature
from sdc.targets.weights import load_data

if TYPE_CHECKING:
    from sdc.ir.model import Model
    from sdc.targets.cpu.lower.choice import LoweringName

__all__ = ["CpuTarget"]


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
        from sdc.targets.cpu.build import build_program  # running a program takes no compiler

        lowering: LoweringName = "auto" if config is None else config.lowering or "auto"
        return build_program(model, self._levels(), out, progress, lowering)

    def load(self, artefact: Path, manifest: Mapping[str, Any]) -> Runner | StatelessRunner:
        """Picks the best level that this machine has; ``manifest`` is :class:`BuildResult`'s."""
        objects = manifest["objects"]
        isa = best_level(tuple(objects))
        module = load_objects([artefact / name for name in objects[isa.name]])
        signature = Signature.from_json(manifest["signature"])
        data, weights = load_data(artefact / manifest["weights"])
        if signature.kind == "decoder":
            return CpuRunner(module, signature, weights, data)
        return GraphRunner(module, signature, weights, HostMemory())

    def _levels(self) -> tuple[Isa, ...]:
        if self.levels is not None:
            return tuple(isa for isa in LEVELS if isa.name in self.levels)
        on_x86 = platform.machine().lower() in ("x86_64", "amd64")
        return tuple(isa for isa in LEVELS if isa.name.startswith("x86-64") == on_x86)
