"""The neuromorphic target: core programs for a machine, run by the functional simulator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import TargetError
from sdc.ir.model import Model
from sdc.targets.base import BuildResult, Progress, Runner, StatelessRunner
from sdc.targets.neuro.codegen.mapped import MappedPlacement, UnmappableError, graph_of, llama_names
from sdc.targets.neuro.codegen.module import Compiled, compile_module
from sdc.targets.neuro.codegen.values import Placement, PlainPlacement
from sdc.targets.neuro.isa.api import load_program, save_program
from sdc.targets.neuro.machine import Machine, load_machine
from sdc.targets.neuro.partition import partition
from sdc.targets.neuro.place import place
from sdc.targets.neuro.runner import DecoderRunner, GraphRunner, Signature

__all__ = ["NeuroTarget"]

_PROGRAM = "program.neuro"
_EXTERNAL = "external.bin"


class NeuroTarget:
    """Compiles for one machine description.

    The hub core (residual stream, encoders) stands for whatever controls the machine: its memory is not
    checked.

    Args:
        machine: A shipped machine's name, or the path of a description.
    """

    name = "neuro"

    def __init__(self, machine: str | Path = "loihi2-like") -> None:
        self.machine = str(machine)

    def build(self, model: Model, config: Any, out: Path, progress: Progress) -> BuildResult:
        """Writes ``program.neuro`` (docs/isa.md, binary container) and ``external.bin``.

        Raises:
            TargetError: The model does not fit the machine, or holds an operation without an instruction.
        """
        machine = load_machine(self.machine)
        progress("mapping", 0, 2)
        placement = _placement(model, machine)
        progress("generating core programs", 1, 2)
        compiled = compile_module(model, placement, machine.name)
        progress("generating core programs", 2, 2)
        _check_fit(compiled, machine)
        save_program(compiled.program, out / _PROGRAM)
        compiled.external.tofile(out / _EXTERNAL)
        signature = Signature.of(model.info.kind, model.info.vocab, compiled)
        manifest = {"program": _PROGRAM, "external": _EXTERNAL, "machine": machine.name}
        return BuildResult((out / _PROGRAM, out / _EXTERNAL), {**manifest, "signature": signature.to_json()})

    def load(self, artefact: Path, manifest: Mapping[str, Any]) -> Runner | StatelessRunner:
        """A simulated machine that holds the program; ``manifest`` is :class:`BuildResult`'s."""
        program = load_program(artefact / manifest["program"])
        external = np.fromfile(artefact / manifest["external"], np.uint8)
        signature = Signature.from_json(manifest["signature"])
        if signature.kind == "decoder":
            return DecoderRunner(program, external, signature)
        return GraphRunner(program, external, signature)


def _placement(model: Model, machine: Machine) -> Placement:
    """Llama-type decoders are partitioned and placed; the tiles of others go to consecutive cores."""
    try:
        part = partition(graph_of(model), machine)
    except UnmappableError:
        return PlainPlacement(machine.core.synapse_memory_bytes)
    return MappedPlacement(part, place(part, machine).core, machine.board.cores, llama_names(model))


def _check_fit(compiled: Compiled, machine: Machine) -> None:
    """Cores, and the synapse memory of each, against what the machine has."""
    cores = compiled.program.cores
    if len(cores) > machine.board.cores:
        raise TargetError(f"{machine.name} has {machine.board.cores} cores, the program needs {len(cores)}")
    others = [core for core in cores if core.core != compiled.hub]
    largest = max(others, key=lambda core: core.synapse_bytes, default=cores[0])
    room = machine.core.synapse_memory_bytes
    if others and largest.synapse_bytes > room:
        raise TargetError(
            f'{machine.name}: core {largest.core} ("{largest.name}") needs {largest.synapse_bytes} bytes of '
            f"synapse memory and has {room}; a smaller --max-seq makes the cache smaller"
        )
    if machine.external_memory is None:
        return  # tables stay with the host
    outside = machine.external_memory.capacity_bytes_per_chip * machine.board.chips
    if len(compiled.external) > outside:
        raise TargetError(
            f"{machine.name}: tables need {len(compiled.external)} bytes of external memory, it has {outside}"
        )
