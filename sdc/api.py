"""The library: compile a model, open a compiled one."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdc import __version__
from sdc.artefact import staged, write_manifest
from sdc.artefact.writer import canonical
from sdc.runtime import Program, copy_tokenizer

if TYPE_CHECKING:
    from sdc.config import CompileConfig
    from sdc.ir.model import Model
    from sdc.passes.base import PassOptions
    from sdc.source import Source

__all__ = ["Compiled", "compile", "compile_to", "lift", "load", "pass_options"]

Progress = Callable[[str, int, int], None]


def _silent(_what: str, _done: int, _total: int) -> None:
    """A progress report that nobody reads."""


@dataclass(frozen=True)
class Compiled:
    """What a compile wrote.

    Attributes:
        path: The artefact.
        manifest: Its manifest.
        seconds: Wall clock by phase.
    """

    path: Path
    manifest: Mapping[str, Any]
    seconds: Mapping[str, float]


def compile(
    model: str | Path,
    target: str = "cpu",
    config: CompileConfig | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    *,
    force: bool = False,
    progress: Progress = _silent,
) -> Program:
    """Compiles an ONNX or GGUF file and opens the result.

    Args:
        model: The file.
        target: Where the program shall run.
        config: Settings, or a mapping of those that differ from the defaults.
        out: The artefact's directory; None keeps it in a temporary one for as long as the program lives.
        force: Replace an artefact that stands at ``out``.
        progress: Told (what, steps done, steps in all).

    Raises:
        SdcError: Anything a user can mend; see :mod:`sdc.errors`.
    """
    from sdc.config import CompileConfig

    if not isinstance(config, CompileConfig):
        config = CompileConfig.of(**{**(config or {}), "target": target})
    elif config.target != target:
        config = CompileConfig.of(**{**dict(config), "target": target})
    if out is not None:
        return load(compile_to(model, out, config, force=force, progress=progress).path)
    folder = tempfile.TemporaryDirectory(prefix="sdc-")
    program = load(compile_to(model, Path(folder.name) / "model.sdc", config, progress=progress).path)
    program.keep(folder)
    return program


def load(path: str | Path) -> Program:
    """Opens a compiled program, after its version and hashes were checked.

    Raises:
        ArtefactError: It is missing, damaged or of another version.
        TargetError: This machine cannot run it.
    """
    return Program.load(path)


def lift(source: Source, config: CompileConfig) -> Model:
    """The float model of a file, as the passes take it. Raises as ``sdc.frontends.onnx.load``."""
    from sdc.frontends.onnx import load as load_onnx

    return load_onnx(source.onnx, max_seq=config.max_seq)


def compile_to(
    model: str | Path,
    out: str | Path,
    config: CompileConfig,
    *,
    force: bool = False,
    progress: Progress = _silent,
) -> Compiled:
    """Compiles a file into the directory ``out``, which appears whole or not at all.

    Raises:
        SdcError: As :func:`compile`.
    """
    from sdc.calibration import calibration_for
    from sdc.passes.base import PassContext
    from sdc.passes.pipeline import compile_passes, run_passes
    from sdc.source import open_source
    from sdc.targets import find_target

    target = find_target(config.target)
    target.check(config)
    phases = _Phases(progress)
    with staged(Path(out), force) as folder:
        with phases("import"):
            source = open_source(model, progress)
            copy_tokenizer(source.onnx.parent, folder)
            lifted = lift(source, config)
            target.check_model(lifted.info, config)
            windows, note = calibration_for(lifted, config, folder)
            lifted = lifted.with_note(note)
        scratch = folder / "scratch"
        scratch.mkdir()
        with phases("passes"):
            ctx = PassContext(pass_options(config), windows, progress, scratch)
            spiking = run_passes(lifted, compile_passes(), ctx, dump_ir=config.dump_ir, verify=config.verify)
        with phases("build"):
            built = target.build(spiking, config, folder, progress)
        with phases("write"):
            shutil.rmtree(scratch)
            content = _content(source, config, spiking, built.manifest)
            (folder / "calibration.json").write_bytes(canonical(_calibration(spiking, windows, note)))
            manifest = write_manifest(folder, content)
    return Compiled(Path(out), manifest, phases.seconds)


def pass_options(config: CompileConfig) -> PassOptions:
    """The settings that passes read."""
    from sdc.passes.base import PassOptions

    return PassOptions(**{f.name: getattr(config, f.name) for f in fields(PassOptions)})


def _content(
    source: Source, config: CompileConfig, model: Model, program: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest but for files and hashes."""
    from sdc.artefact.operations import count_dense, operation_table
    from sdc.passes.certificate import certify

    return {
        "sdc_version": __version__,
        "target": config.target,
        "config": config.to_manifest(),
        "source": source.to_manifest(),
        "model": {k: v for k, v in vars(model.info).items() if k != "source"},
        "ops": operation_table(model),
        "dense_float_products": count_dense(model),
        "certificate": certify(model).as_json(),
        "allocation": [dict(row) for row in model.allocation],
        "notes": list(model.notes),
        "program": dict(program),
    }


def _calibration(model: Model, windows: tuple[Any, ...], note: str) -> dict[str, Any]:
    encodings = {name: vars(encoding) for name, encoding in model.encodings.items()}
    return {"note": note, "windows": len(windows), "encodings": encodings, "zeros": dict(model.zeros)}


class _Phases:
    """Measures named blocks, and names them to the listener as they begin."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str) -> _Phase:
        return _Phase(self, name)


class _Phase:
    def __init__(self, owner: _Phases, name: str) -> None:
        self.owner, self.name = owner, name

    def __enter__(self) -> None:
        self.owner.progress(self.name, 0, 1)
        self.began = time.perf_counter()

    def __exit__(self, *_exception: object) -> None:
        self.owner.seconds[self.name] = time.perf_counter() - self.began
        self.owner.progress(self.name, 1, 1)
