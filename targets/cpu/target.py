"""The CPU target: builds fat artefacts for x86-64, and runs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdc.targets.base import BuildResult, Progress, Runner, StatelessRunner
from sdc.targets.cpu.isa import LEVELS, Isa, choose_objects, levels_for
from sdc.targets.cpu.runner import CpuRunner
from sdc.targets.fused.machine import load_objects
from sdc.targets.fused.runner import GraphRunner, HostMemory
from sdc.targets.fused.signature import Signature
from sdc.targets.weights import load_data

if TYPE_CHECKING:
    from sdc.ir.model import Model, ModelInfo
    from sdc.targets.cpu.lower.choice import LoweringName

__all__ = ["CpuTarget"]


class CpuTarget:
    """Compiles for all levels of this architecture at once, or for one processor.

    Args:
        levels: Names of instruction-set levels to compile for (see :data:`sdc.targets.cpu.isa.LEVELS`);
            None means what the setting ``mcpu`` says.
    """

    name = "cpu"

    def __init__(self, levels: tuple[str, ...] | None = None) -> None:
        self.levels = levels

    def check(self, config: Any) -> None:
        """Looks whether there is such a processor.

        Raises:
            ConfigError: There is no level of the name that ``mcpu`` gives.
        """
        levels_for(config.mcpu)

    def check_model(self, info: ModelInfo, config: Any) -> None:
        """Any model will do."""

    def build(self, model: Model, config: Any, out: Path, progress: Progress) -> BuildResult:
        """Writes ``LEVEL.N.o`` per level and ``weights.safetensors``."""
        from sdc.targets.cpu.build import build_program  # running a program takes no compiler

        lowering: LoweringName = "auto" if config is None else config.lowering or "auto"
        levels = self._levels(None if config is None else config.mcpu)
        return build_program(model, levels, out, progress, lowering)

    def load(self, artefact: Path, manifest: Mapping[str, Any]) -> Runner | StatelessRunner:
        """Picks the best code that this machine can run; ``manifest`` is :class:`BuildResult`'s."""
        objects = manifest["objects"]
        chosen = choose_objects(objects, manifest.get("features", {}))
        module = load_objects([artefact / name for name in objects[chosen]])
        signature = Signature.from_json(manifest["signature"])
        data, weights = load_data(artefact / manifest["weights"])
        if signature.kind == "decoder":
            return CpuRunner(module, signature, weights, data)
        return GraphRunner(module, signature, weights, HostMemory())

    def _levels(self, mcpu: str | None) -> tuple[Isa, ...]:
        if self.levels is None or mcpu is not None:
            return levels_for(mcpu)
        return tuple(isa for isa in LEVELS if isa.name in self.levels)
