"""What the verbs do."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sdc.api import compile_to, lift, pass_options
from sdc.artefact import open_artefact
from sdc.calibration import calibration_for
from sdc.cli.progress import Bars
from sdc.cli.tables import print_facts, print_json, print_rows
from sdc.config import CompileConfig
from sdc.data import demo_text
from sdc.errors import ConfigError, TargetError
from sdc.evaluation import Evaluation, Reference, evaluate, open_reference, windows_of
from sdc.passes.base import PassContext
from sdc.passes.pipeline import run_passes
from sdc.passes.registry import find_pass
from sdc.runtime import Program
from sdc.source import hash_source, open_source
from sdc.targets.cpu.isa import best_level
from sdc.targets.cuda.compiler import find_compiler
from sdc.targets.cuda.device import device_names
from sdc.targets.cuda.emitted import find_disassembler
from sdc.targets.cuda.workers import has_nccl
from sdc.threads import cpus

__all__ = [
    "compile_model",
    "doctor",
    "evaluate_program",
    "measure",
    "print_module",
    "read_text",
    "reference_of",
]


def compile_model(
    model: Path, out: Path, settings: Mapping[str, Any], *, force: bool, json: bool, quiet: bool
) -> None:
    """``sdc compile``."""
    config = CompileConfig.of(**settings)
    with Bars(quiet) as bars:
        done = compile_to(model, out, config, force=force, progress=bars)
    facts = {
        "program": str(done.path),
        "target": config.target,
        "operations": len(done.manifest["ops"]),
        "dense_float_products": done.manifest["dense_float_products"],
        "weight_bytes": open_artefact(done.path).weight_bytes,
        "seconds": dict(done.seconds),
    }
    if json:
        print_json(facts)
        return
    timings = facts.pop("seconds")
    facts |= done.manifest["program"].get("summary", {})
    print_facts("compiled", {**facts, **{f"{k}, seconds": v for k, v in timings.items()}})


def evaluate_program(
    path: Path,
    text: Path | None,
    windows: int,
    window: int,
    *,
    per_layer: bool,
    json: bool,
    quiet: bool,
) -> None:
    """``sdc eval``."""
    program = Program.load(path)
    content = demo_text()[1] if text is None else read_text(text)
    with Bars(quiet) as bars:
        found = measure(program, content, windows, window, bars).to_json()
        layers = _layers(program, content, window, bars) if per_layer else []
    if json:
        print_json({**found, **({"layers": layers} if per_layer else {})})
        return
    hidden = ("ops", "probabilities", "window_means_reference", "window_means_spiking")
    print_facts(str(path), {k: v for k, v in found.items() if k not in hidden})
    if per_layer:
        print_rows("float against spiking, first window", layers, ("name", "kind", "snr_db", "cosine"))


def _layers(program: Program, text: str, window: int, progress: Bars) -> list[dict[str, Any]]:
    from sdc.evaluation.relower import program_layers

    assert program.tokenizer is not None  # it was measured
    pieces = windows_of(program.tokenizer.encode(text), 1, window)
    return [layer.to_json() for layer in program_layers(program, pieces, progress)]


def measure(
    program: Program, text: str, windows: int, window: int, progress: Bars, *, reference: bool = True
) -> Evaluation:
    """A program on a text, beside its original unless ``reference`` is off.

    Raises:
        ConfigError: The program has no tokenizer, or the text is too short.
    """
    if program.tokenizer is None:
        raise ConfigError(f"{program.artefact.path} has no tokenizer, so a text cannot be measured on it")
    return evaluate(
        program,
        reference_of(program) if reference else None,
        program.tokenizer.encode(text),
        windows=windows,
        window=window,
        progress=progress,
    )


def reference_of(program: Program) -> Reference | None:
    """The original model; None, with a remark, where it is gone or has changed."""
    source = program.manifest["source"]
    path = Path(source["path"])
    if not path.is_file():
        print(f"sdc: {path} is gone, so there is no perplexity of the original model", file=sys.stderr)
        return None
    if hash_source(path) != source["sha256"]:
        print(f"sdc: {path} has changed since the compile, so it is not measured", file=sys.stderr)
        return None
    return open_reference(open_source(path).onnx, int(program.manifest["model"]["max_seq"]))


def read_text(path: Path) -> str:
    """The content of a text file.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the text {path} cannot be read: {error}") from error


def print_module(path: Path, passes: Sequence[str], settings: Mapping[str, Any], *, quiet: bool) -> None:
    """``sdc opt``."""
    config = CompileConfig.of(**settings)
    chosen = [find_pass(name) for name in passes]
    with Bars(quiet) as bars:
        source = open_source(path, bars)
        model = lift(source, config)
        windows, _ = calibration_for(model, config, source.onnx.parent)
        ctx = PassContext(pass_options(config), windows, bars)
        model = run_passes(model, chosen, ctx, dump_ir=config.dump_ir, verify=config.verify)
    print(model.module.script())


def _cuda_compiler() -> str:
    """What --target cuda finds, or why it cannot compile."""
    try:
        found = find_compiler()
    except TargetError as error:
        return f"unusable: {error}"
    return f"{found.name}, {found.path}"


def _disassembler() -> str:
    """What --emit sass finds, or why it cannot."""
    try:
        return find_disassembler()[0]
    except TargetError as error:
        return f"none: {error}"


def doctor(*, json: bool) -> None:
    """``sdc doctor``."""
    facts = {
        "sdc": version("sdc-compiler"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "instruction_set": best_level().name,
        "threads": cpus(),
        **{name: version(name) for name in ("apache-tvm", "onnx", "onnxruntime", "numpy")},
        "cuda_compiler": _cuda_compiler(),
        "cuda_disassembler": _disassembler(),
        "cuda_devices": ", ".join(device_names()) or "none",
        "nccl": "in TVM" if has_nccl() else "not in TVM: shards of a program add up in the host's memory",
    }
    if json:
        print_json(facts)
    else:
        print_facts("this machine", facts)
