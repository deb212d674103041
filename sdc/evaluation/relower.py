"""The modules behind a compiled program, made again from its source and its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

from sdc.api import lift, pass_options
from sdc.calibration import calibration_for
from sdc.config import CompileConfig
from sdc.errors import ConfigError
from sdc.evaluation.layers import LayerFidelity, compare_layers
from sdc.ir.model import Model
from sdc.passes.base import PassContext, silent
from sdc.passes.pipeline import PHASES, compile_passes, run_passes
from sdc.runtime.program import Program
from sdc.source import hash_source, open_source

__all__ = ["FIRST_SPIKE_PASS", "Modules", "program_layers", "relower"]

FIRST_SPIKE_PASS = next(phase.passes[0] for phase in PHASES if phase.title == "spikes")
"""Until this pass, a module computes what the original does."""


@dataclass(frozen=True)
class Modules:
    """One model at two points of the pipeline; operations have the same names in both.

    Attributes:
        aligned: Folded, smoothed and projected; float.
        spiking: What is built.
    """

    aligned: Model
    spiking: Model


def relower(
    lifted: Model,
    config: CompileConfig,
    tokenizer_folder: Path,
    progress: Callable[[str, int, int], None] = silent,
) -> Modules:
    """Runs the compile's passes, calibration included, which depends on nothing but the settings.

    Raises:
        SdcError: As :func:`sdc.api.compile`.
    """
    windows, _ = calibration_for(lifted, config, tokenizer_folder)
    ctx = PassContext(pass_options(config), windows, progress)
    passes = compile_passes()
    cut = [each.name for each in passes].index(FIRST_SPIKE_PASS)
    aligned = run_passes(lifted, passes[:cut], ctx)
    return Modules(aligned, run_passes(aligned, passes[cut:], ctx))


def program_layers(
    program: Program, windows: list[NDArray], progress: Callable[[str, int, int], None] = silent
) -> list[LayerFidelity]:
    """Each operation of a compiled decoder against the float model's, on tokens [n] of each window.

    Raises:
        ConfigError: The source of the program is gone or has changed.
    """
    source = program.manifest["source"]
    path = Path(source["path"])
    if not path.is_file() or hash_source(path) != source["sha256"]:
        raise ConfigError(
            f"{path} is gone or has changed since the compile: its layers cannot be compared; compile again"
        )
    config = CompileConfig.of(**program.manifest["config"])
    lifted = lift(open_source(path), config)
    modules = relower(lifted, config, program.artefact.path, progress)
    return compare_layers(modules.aligned, modules.spiking, windows)
