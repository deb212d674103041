"""The neuromorphic target: core programs for a machine, run by the functional simulator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import TargetError
from sdc.ir.model import Model, ModelInfo
from sdc.targets.base import BuildResult, Progress, Runner, StatelessRunner
from sdc.targets.neuro.codegen.mapped import MappedPlacement
from sdc.targets.neuro.codegen.module import Compiled, compile_module
from sdc.targets.neuro.codegen.streamed import StreamedPlacement
from sdc.targets.neuro.dump import write_dump
from sdc.targets.neuro.isa.api import load_program, save_program
from sdc.targets.neuro.isa.program import Program
from sdc.targets.neuro.machine import Machine, load_machine
from sdc.targets.neuro.mapping.from_model import graph_from_model
from sdc.targets.neuro.partition import partition
from sdc.targets.neuro.place import place
from sdc.targets.neuro.runner import DecoderRunner, GraphRunner, Signature
from sdc.targets.neuro.summary import initial_bytes, summarise
from sdc.targets.neuro.verify.program import verify_program

__all__ = ["DEFAULT_MACHINE", "MACHINE", "PROGRAM", "NeuroTarget"]

DEFAULT_MACHINE = "loihi2-like"
PROGRAM = "program.neuro"
MACHINE = "machine.json"
_EXTERNAL = "external.bin"


class NeuroTarget:
    """Compiles for the machine that the settings name."""

    name = "neuro"

    def check(self, config: Any) -> None:
        """Reads the machine's description.

        Raises:
            MachineError: There is no such machine, or its description is wrong.
        """
        load_machine(config.machine or DEFAULT_MACHINE)

    def check_model(self, info: ModelInfo, config: Any) -> None:
        """Whether a model fits is known when it has been placed."""

    def build(self, model: Model, config: Any, out: Path, progress: Progress) -> BuildResult:
        """Writes the program (docs/isa.md, binary container), the memory outside the cores, and the machine.

        Raises:
            MachineError: There is no such machine, or its description is wrong.
            TargetError: The model does not fit the machine, or holds an operation without an instruction.
        """
        machine = load_machine(config.machine or DEFAULT_MACHINE)
        progress("mapping", 0, 3)
        part = partition(graph_from_model(model), machine)
        placed = None if part.streamed else place(part, machine, config.seed)
        progress("generating core programs", 1, 3)
        where = MappedPlacement(part, placed.core, machine) if placed else StreamedPlacement(part, machine)
        compiled = compile_module(model, where, machine.name)
        check_fit(compiled, machine)
        if config.verify:
            verify_compiled(compiled, machine)
        progress("writing core programs", 2, 3)
        save_program(compiled.program, out / PROGRAM)
        compiled.external.tofile(out / _EXTERNAL)
        (out / MACHINE).write_text(machine.model_dump_json(indent=1) + "\n", encoding="utf-8")
        if config.emit_isa is not None:
            write_dump(compiled.program, machine, config.emit_isa)
        progress("writing core programs", 3, 3)
        manifest = {
            "program": PROGRAM,
            "external": _EXTERNAL,
            "machine": MACHINE,
            "signature": Signature.of(model.info.kind, model.info.vocab, compiled).to_json(),
            "weight_bytes": initial_bytes(compiled.program) + compiled.external.nbytes,
            "summary": summarise(compiled.program, machine, placed),
        }
        return BuildResult((out / PROGRAM, out / _EXTERNAL, out / MACHINE), manifest)

    def load(self, artefact: Path, manifest: Mapping[str, Any]) -> Runner | StatelessRunner:
        """A simulated machine that holds the program; ``manifest`` is :class:`BuildResult`'s."""
        program = load_program(artefact / manifest["program"])
        external = np.fromfile(artefact / manifest["external"], np.uint8)
        signature = Signature.from_json(manifest["signature"])
        if signature.kind == "decoder":
            return DecoderRunner(program, external, signature)
        return GraphRunner(program, external, signature)


def verify_compiled(compiled: Compiled, machine: Machine) -> None:
    """Runs the verifier, which shares no code with the compiler, on what the compiler made.

    Raises:
        ProgramError: The compiler has a defect.
    """
    verify_program(
        compiled.program,
        machine,
        compiled.inputs,
        compiled.outputs,
        tokens=max(1, compiled.max_seq),
        external=len(compiled.external),
    )


def check_fit(compiled: Compiled, machine: Machine) -> None:
    """The memories of each core, and that outside, against what the machine has.

    Raises:
        TargetError: Something does not fit; needed and available are named.
    """
    _check_cores(compiled.program, machine)
    if machine.external_memory is None:
        return  # the host keeps the tables
    outside = machine.external_memory.capacity_bytes_per_chip * machine.board.chips
    if len(compiled.external) > outside:
        raise TargetError(
            f"{machine.name}: tables and streamed weights need {len(compiled.external):,} bytes of external "
            f"memory, it has {outside:,}"
        )


def _check_cores(program: Program, machine: Machine) -> None:
    for what, sizes, room in (
        ("synapse", [core.synapse_bytes for core in program.cores], machine.core.synapse_memory_bytes),
        ("neuron", [4 * core.neuron_words for core in program.cores], machine.core.neuron_memory_bytes),
    ):
        largest = int(np.argmax(sizes))
        if sizes[largest] > room:
            core = program.cores[largest]
            raise TargetError(
                f'{machine.name}: core {core.core} ("{core.name}") needs {sizes[largest]:,} bytes of {what} '
                f"memory and has {room:,}; a smaller --max-seq makes caches smaller, a narrower model vectors"
            )
