"""The order of the passes, and how a list of passes is run, dumped and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdc.ir.model import Model
from sdc.passes.base import Pass, PassContext, check_model
from sdc.passes.registry import find_pass

__all__ = ["PHASES", "Phase", "compile_passes", "run_passes"]


@dataclass(frozen=True)
class Phase:
    """Passes that serve one end."""

    title: str
    passes: tuple[str, ...]


PHASES = (
    # Phase 1. One form for what exporters write in many ways.
    Phase("canonical form", ("canonicalise", "merge-parallel-linears")),
    # Phase 2. gamma-SQP, first half: what is encoded becomes easy to encode; results stay the same.
    Phase("alignment", ("fold-norm-gamma", "rotate-residual", "smooth", "project")),
    # Phase 3. gamma-SQP, second half: thresholds, integer weights, spikes.
    Phase(
        "spikes",
        ("quantise-tables", "calibrate", "allocate", "quantise-weights", "rewrite-matmul-to-spikes"),
    ),
    # Phase 4. The promise of the whole.
    Phase("certificate", ("verify-spike-driven",)),
)


def compile_passes() -> tuple[Pass, ...]:
    """All passes in the order of the phases."""
    return tuple(find_pass(name) for phase in PHASES for name in phase.passes)


def run_passes(
    model: Model,
    passes: Sequence[Pass],
    ctx: PassContext,
    *,
    dump_ir: Path | None = None,
    verify: bool = False,
) -> Model:
    """Runs passes in order.

    Args:
        model: What the front end lifted, or an earlier pass left.
        passes: See :func:`compile_passes` and ``registry.find_pass``.
        ctx: Settings, calibration inputs, progress.
        dump_ir: A directory that receives the module before the first pass (``00-lifted.txt``) and after each
            one (``NN-pass-name.txt``), weights and remarks below it.
        verify: Check each pass's postcondition, and that the module and its weights fit together.

    Raises:
        PostconditionError: ``verify`` is set and a pass broke its promise.
    """
    if dump_ir is not None:
        dump_ir.mkdir(parents=True, exist_ok=True)
        _dump(model, dump_ir / "00-lifted.txt")
    for number, each in enumerate(passes, 1):
        ctx.progress(each.name, number - 1, len(passes))
        model = each.run(model, ctx)
        if dump_ir is not None:
            _dump(model, dump_ir / f"{number:02d}-{each.name}.txt")
        if verify:
            check_model(model, each.name)
            each.check(model, ctx)
    ctx.progress("passes", len(passes), len(passes))
    return model


def _dump(model: Model, path: Path) -> None:
    """Writes the module as text, then one line a weight, an encoding and a remark."""
    lines = [model.module.script(), "# Weights"]
    lines += [f"#   {param.describe()}" for param in model.params.values()]
    if model.encodings:
        lines += ["# Encodings", *(f"#   {name}: {e}" for name, e in model.encodings.items())]
    if model.notes:
        lines += ["# Remarks", *(f"#   {note}" for note in model.notes)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
