"""Accuracy against spikes and energy: settings and ablations on one model and one text.

python benchmarks/accuracy.py MODEL --text TEXT [--calibration TEXT] [--only 'NAME;...']
    [--program NAME=PATH.sdc ...] [--evaluation NAME PATH.sdc EVAL.json ...] [-o docs/accuracy.md]

Every setting is compiled for this CPU and measured by the compiled program: perplexity, divergence and greedy
agreement against the ONNX model, spikes, synops, and the energy model's joules. Import, alignment and the
original model's logits are shared by settings. Rows are kept in ``--results`` (JSON) as they come, so that a
run that was cut off goes on: a row is measured again where its settings, the text or the compiler's sources
have changed since. ``--only`` measures a few; ``--program`` adds rows of programs that were compiled before,
``--evaluation`` of such that ``sdc eval --json`` measured. Page and plot hold all rows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_page import write_page
from dense import HalfScorer
from numpy.typing import NDArray

from sdc.api import lift, pass_options
from sdc.artefact import open_artefact
from sdc.artefact.operations import operation_table
from sdc.calibration import calibration_for
from sdc.cli.evaluations import read_evaluation
from sdc.config import CompileConfig
from sdc.energy import HOROWITZ_45NM, JOUPPI_7NM, compare, program_entries
from sdc.evaluation import Reference, evaluate_windows, open_reference, windows_of
from sdc.evaluation.relower import FIRST_SPIKE_PASS
from sdc.ir.coding import time_steps
from sdc.ir.model import Encoding, Model
from sdc.passes.base import Pass, PassContext
from sdc.passes.certificate import certify
from sdc.passes.pipeline import compile_passes, run_passes
from sdc.presets import PRESETS
from sdc.runtime.program import Program, score_with_firing
from sdc.runtime.text import TextCodec
from sdc.source import open_source
from sdc.targets.base import Runner
from sdc.targets.cpu import CpuTarget
from sdc.targets.cpu.isa import best_level
from sdc.targets.firing import Firing

CODINGS = ("ternary", "bitwise")
SHARED = (
    "smoothing",
    "rotate_residual",
    "sign_tries",
    "block",
    "seed",
    "max_seq",
)  # settings that decide what alignment gives
BASE = {"levels": 7, "group": 64}
NEAREST = {"quantiser": "rtn", "weight_group": 96, "kv_levels": 127}  # as benchmarks/quarot_peer.py --nearest
FLOORED = {"levels": 127, "group": 64, "block": 0, "smoothing": 0.33}


@dataclass(frozen=True)
class Setting:
    """One point.

    Attributes:
        settings: Of the compile.
        edit: Fields of every linear's encoding that are overwritten after calibration.
        skip: Passes that are left out.
        ablation: Whether it is a row of the ablation table, which leaves something out, or
        adds: adds something.
        dense: The float model in half precision, without spikes.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    edit: Mapping[str, Any] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    ablation: bool = False
    adds: bool = False
    dense: bool = False

    def shown(self) -> dict[str, Any]:
        """What the page spells out; a preset's own settings too."""
        if self.dense:
            return {"linears": "float16, sums float32"}
        preset = PRESETS[self.settings["preset"]].settings if "preset" in self.settings else {}
        return {**preset, **self.settings, **self.edit, "skip": list(self.skip)}

    def resolved(self) -> dict[str, Any]:
        """What a kept row is known by: every setting, those of presets included."""
        config = {} if self.dense else CompileConfig.of(**self.settings).to_manifest()
        return {**config, "edit": dict(self.edit), "skip": list(self.skip)}


SETTINGS = (
    Setting("preset accurate", {"preset": "accurate"}),
    Setting("preset balanced", {"preset": "balanced"}),
    Setting("preset sparse", {"preset": "sparse"}),
    Setting("preset quarot", {"preset": "quarot"}),
    Setting("quarot, weights to the nearest, 8-bit cache", {"preset": "quarot", **NEAREST}),
    Setting("preset spikellm", {"preset": "spikellm"}),
    Setting("preset rtn", {"preset": "rtn"}),
    Setting("preset int8", {"preset": "int8"}),
    Setting("dense fp16", dense=True),
    Setting("W8 D=15 g64", {"levels": 15, "group": 64}),
    Setting("budget ppl=1.05x", {"levels": 15, "group": 64, "budget": "ppl=1.05x"}),
    Setting("budget spikes=0.5x", {"levels": 15, "group": 64, "budget": "spikes=0.5x"}),
    Setting("W8 D=7 g64", BASE),
    Setting("no fold", BASE, skip=("fold-norm-gamma",), ablation=True),
    Setting("no smoothing", {**BASE, "smoothing": 0.0}, ablation=True),
    Setting("no rotation", {**BASE, "block": 0}, ablation=True),
    Setting("whole stream rotated", {**BASE, "rotate_residual": True}, ablation=True, adds=True),
    Setting("best of 16 signs", {**BASE, "sign_tries": 16}, ablation=True, adds=True),
    Setting("no clip", BASE, {"clip_ratio": 1.0}, ablation=True),
    Setting("no dead zone", BASE, {"dead_zone": 0.0}, ablation=True),
    Setting("neither clip nor dead zone", BASE, {"clip_ratio": 1.0, "dead_zone": 0.0}, ablation=True),
    Setting("one threshold a token", {**BASE, "group": 0}, ablation=True),
    Setting("one floor for all operations", {**FLOORED, "spikes": 1.9}, ablation=True, adds=True),
    Setting("floors allocated by sensitivity", {**FLOORED, "budget": "ppl=1.2x"}, ablation=True, adds=True),
)
ABLATED = "W8 D=7 g64"
"""The setting that the rows of the ablation table leave something out of, or add something to."""

EARLIER = "preset spikellm"
"""The earlier scheme, with unsigned spikes, that presets are compared with."""


class Lab:
    """What settings share.

    Args:
        windows: Windows of the text.
        window: Tokens of each.
    """

    def __init__(self, model: Path, text: Path, calibration: Path | None, windows: int, window: int) -> None:
        self.source = open_source(model)
        self.folder = self.source.onnx.parent
        codec = TextCodec.find(self.folder)
        if codec is None:
            raise SystemExit(f"{model} has no tokenizer beside it")
        self.pieces = windows_of(codec.encode(text.read_text(encoding="utf-8")), windows, window)
        self.calibration = calibration
        self.origin = origin(model, text, calibration, windows, window)
        self.reference = RememberedReference(open_reference(self.source.onnx, window))
        self.aligned: dict[str, Model] = {}

    def config(self, setting: Setting) -> CompileConfig:
        """Validated settings; the cache is as long as a window."""
        shared = {"max_seq": len(self.pieces[0]), "calibration": self.calibration}
        return CompileConfig.of(**{**shared, **setting.settings})

    def spiking(self, setting: Setting) -> Model:
        """The module of a setting; alignment is done once for settings that share it."""
        config = self.config(setting)
        passes = [each for each in compile_passes() if each.name not in setting.skip]
        cut = [each.name for each in passes].index(FIRST_SPIKE_PASS)
        key = json.dumps([{name: getattr(config, name) for name in SHARED}, setting.skip])
        if key not in self.aligned:
            lifted = lift(self.source, config)
            self.aligned = {key: run_passes(lifted, passes[:cut], self.context(lifted, config))}
        model = self.aligned[key]
        last: list[Pass] = passes[cut:]
        at = [each.name for each in last].index("calibrate") + 1
        return run_passes(model, [*last[:at], _Edited(setting.edit), *last[at:]], self.context(model, config))

    def context(self, model: Model, config: CompileConfig) -> PassContext:
        """Options and calibration windows."""
        windows, _ = calibration_for(model, config, self.folder)
        return PassContext(pass_options(config), windows)


def origin(model: Path, text: Path, calibration: Path | None, windows: int, window: int) -> dict[str, str]:
    """What a row was measured by and on: hashes of the sources that run, and of the data."""
    root = Path(__file__).parent.parent
    folders = [root / name for name in ("sdc", "passes", "frontends", "targets/cpu", "targets/fused")]
    sources = [*(root / "targets").glob("*.py"), *(f for folder in folders for f in folder.rglob("*.py"))]
    code, data = hashlib.sha256(), hashlib.sha256(f"{windows} {window}".encode())
    for path in sorted(set(sources) - {root / "sdc" / "presets.py"}):  # a row knows its settings
        code.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    for each in (model, text, calibration):
        data.update(b"none" if each is None else each.read_bytes())
    return {"code": code.hexdigest()[:12], "data": data.hexdigest()[:12]}


class RememberedReference:
    """Logits of the original model, computed once a window."""

    def __init__(self, reference: Reference) -> None:
        self.kind, self.reference = reference.kind, reference
        self.scratch = tempfile.TemporaryDirectory(prefix="sdc-accuracy-")
        self.known: dict[bytes, NDArray] = {}

    def logits(self, tokens: NDArray) -> NDArray:
        """Logits [n, vocab] of tokens [n]."""
        key = tokens.tobytes()
        if key not in self.known:
            path = Path(self.scratch.name) / f"{len(self.known)}.npy"
            np.save(path, self.reference.logits(tokens))
            self.known[key] = np.load(path, mmap_mode="r")
        return self.known[key]


@dataclass(frozen=True)
class _Edited:
    """Overwrites fields of the encodings of linears; attention operands have a colon in their names."""

    fields: Mapping[str, Any]
    name: str = "edit-encodings"

    def run(self, model: Model, ctx: PassContext) -> Model:
        def edited(name: str, encoding: Encoding) -> Encoding:
            return encoding if ":" in name else replace(encoding, **self.fields)

        return replace(model, encodings={n: edited(n, e) for n, e in model.encodings.items()})

    def check(self, model: Model, ctx: PassContext) -> None:
        """Nothing is promised."""


def measure(lab: Lab, setting: Setting) -> dict[str, Any]:
    """One row: JSON values."""
    began = time.perf_counter()
    if setting.dense:
        model = lift(lab.source, lab.config(setting))
        found = evaluate_windows(HalfScorer(model), (), lab.reference, lab.pieces).to_json()
        row = {**_kept(found), "codings": {}, "settings": setting.shown(), "resolved": setting.resolved()}
        return {**row, **lab.origin, "seconds": time.perf_counter() - began}
    config, model = lab.config(setting), lab.spiking(setting)
    manifest = {
        "model": vars(model.info),
        "config": config.to_manifest(),
        "ops": operation_table(model),
        "certificate": certify(model).as_json(),
    }
    with tempfile.TemporaryDirectory(prefix="sdc-accuracy-") as scratch:
        row = _measured(lab, _built(model, config, Path(scratch)), manifest)
    row |= {
        "settings": setting.shown(),
        "resolved": setting.resolved(),
        "notes": list(model.notes),
        **lab.origin,
    }
    return {**row, "seconds": time.perf_counter() - began}


def measure_program(lab: Lab, path: Path) -> dict[str, Any]:
    """A row of a program that was compiled before; of its settings, those that differ from the defaults."""
    began = time.perf_counter()
    program = Program.load(path)
    row = _measured(lab, program.decoder, program.manifest)
    return {**row, "settings": _changed(program.manifest["config"]), "seconds": time.perf_counter() - began}


def measured_before(path: Path, evaluation: Path) -> dict[str, Any]:
    """A row of a program that ``sdc eval --json`` measured on the same windows."""
    manifest = open_artefact(path).manifest
    return {**_row(read_evaluation(evaluation), manifest), "settings": _changed(manifest["config"])}


def _changed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that differ from the defaults; a text by its name."""
    plain = CompileConfig.of().to_manifest()
    settings = {k: v for k, v in config.items() if v != plain.get(k)}
    return settings | (
        {"calibration": Path(settings["calibration"]).name} if "calibration" in settings else {}
    )


def _measured(lab: Lab, runner: Runner, manifest: Mapping[str, Any]) -> dict[str, Any]:
    def score(tokens: NDArray) -> tuple[NDArray, Firing]:
        runner.reset()
        return score_with_firing(runner, tokens)

    return _row(evaluate_windows(score, manifest["ops"], lab.reference, lab.pieces).to_json(), manifest)


def _row(found: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of an evaluation; one coding where only one was counted."""
    own = manifest["config"]["coding"]
    codings = CODINGS if own in CODINGS and "bit_spikes" in found["ops"][0] else (own,)
    return {
        **_kept(found),
        "codings": {coding: _coded(manifest, found, coding, coding == own) for coding in codings},
    }


def _kept(found: Mapping[str, Any]) -> dict[str, Any]:
    keep = ("perplexity", "ratio", "kl", "greedy", "windows", "tokens", "zero_fraction")
    return {k: v for k, v in found.items() if k.startswith(keep)}


def _built(model: Model, config: CompileConfig, folder: Path) -> Runner:
    target = CpuTarget((best_level().name,))
    built = target.build(model, config, folder, lambda _what, _done, _total: None)
    return target.load(folder, built.manifest)  # type: ignore[return-value]  # a decoder's


def _coded(manifest: Mapping[str, Any], found: Mapping[str, Any], coding: Any, own: bool) -> dict[str, Any]:
    """Spikes and energy of the same counts in one coding."""
    ops = [{**op, "coding": coding, "time_steps": time_steps(coding, op["levels"])} for op in manifest["ops"]]
    kind = "bit" if coding == "bitwise" else "rate"

    def recoded(row: Mapping[str, Any]) -> dict[str, Any]:
        if own:
            return dict(row)
        spikes = row[f"{kind}_spikes"]
        per_neuron = spikes / max(1, row["neurons"])
        synops = row[f"{kind}_synops_per_token"]
        return {**row, "spikes": spikes, "spikes_per_neuron": per_neuron, "synops_per_token": synops}

    rows, probabilities = ([recoded(r) for r in found.get(key, ())] for key in ("ops", "probabilities"))
    per_neuron = sum(r["spikes"] for r in rows) / max(1, sum(r["neurons"] for r in rows))
    fired = {**found, "ops": rows, "probabilities": probabilities, "spikes_per_neuron": per_neuron}
    entries = program_entries({**manifest, "ops": ops}, fired)
    row = {
        "time_steps": entries[0][1].time_steps,
        "spikes_per_neuron": per_neuron,
        "synops_per_token": sum(r["synops_per_token"] for r in rows),
        "probability_synops_per_token": sum(p["synops_per_token"] for p in probabilities),
    }
    for table in (HOROWITZ_45NM, JOUPPI_7NM):
        made = compare(entries, table).to_json()
        names = ("format", "compute_only_joules", "everything_joules")
        row[table.name] = {
            "formats": [{name: each[name] for name in names} for each in made["formats"]],
            "factors": made["factors"],
        }
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--only", default="", help="names of settings, semicolons between")
    parser.add_argument("--program", action="append", default=[], help="NAME=PATH of a compiled program")
    parser.add_argument(
        "--evaluation",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "PATH", "JSON"),
        help="a compiled program that `sdc eval --json` measured with the same text and windows",
    )
    parser.add_argument("--results", type=Path, default=Path("accuracy.json"))
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/accuracy.md"))
    given = parser.parse_args(arguments)
    only = [name.strip() for name in given.only.split(";") if name.strip()]
    unknown = set(only) - {setting.name for setting in SETTINGS}
    if unknown:
        parser.error(f"no settings are called {', '.join(sorted(unknown))}")
    rows = json.loads(given.results.read_text()) if given.results.is_file() else {}
    programs = dict(entry.split("=", 1) for entry in given.program)
    skipped = bool(only or programs or given.evaluation)
    for name, path, evaluation in given.evaluation:
        _keep(rows, name, measured_before(Path(path), Path(evaluation)), given.results)
    now = origin(given.model, given.text, given.calibration, given.windows, given.window)
    wanted = [s for s in SETTINGS if s.name in only or (not skipped and not is_current(rows, s, now))]
    if wanted or programs:
        lab = Lab(given.model, given.text, given.calibration, given.windows, given.window)
        for setting in wanted:
            _keep(rows, setting.name, measure(lab, setting), given.results)
        for name, path in programs.items():
            _keep(rows, name, measure_program(lab, Path(path)), given.results)
    ablations = [s.name for s in SETTINGS if s.ablation]
    added = {s.name for s in SETTINGS if s.adds}
    points = [s.name for s in SETTINGS if not s.ablation]
    points += [name for name in rows if name not in points and name not in ablations]
    write_page(given.out, rows, points, (ABLATED, ablations, added), EARLIER, now["code"])


def is_current(rows: Mapping[str, Any], setting: Setting, now: Mapping[str, str]) -> bool:
    """Whether a kept row was measured by these sources, on these data, with these settings."""
    row = rows.get(setting.name, {})
    return {**row, **now, "resolved": setting.resolved()} == row


def _keep(rows: dict[str, Any], name: str, row: dict[str, Any], path: Path) -> None:
    """Keeps a row, beside those that another run has added to the file meanwhile."""
    rows |= json.loads(path.read_text()) if path.is_file() else {}
    rows[name] = row
    path.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{name}: ratio {row['ratio']:.3f}, {row.get('seconds', 0):.0f} s", flush=True)


if __name__ == "__main__":
    main()
