"""``sdc inspect``: what a compiled program holds; what a model file is, and what would become of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdc.artefact import MANIFEST, open_artefact
from sdc.cli.tables import print_facts, print_json, print_rows
from sdc.frontends.onnx import Description, describe
from sdc.ir.model import Model
from sdc.passes.base import PassContext
from sdc.passes.pipeline import run_passes
from sdc.passes.registry import find_pass
from sdc.source import open_source

__all__ = ["inspect"]

# What the spike rewrite makes of an operation.
BECOMES = {
    "sdc.linear": "spike_encode, spike_accumulate, readout",
    "sdc.attention": "spike_attention: queries, keys, values, probabilities as counts",
    "matmul": "spike_matmul of two encoded activations",
    "sdc.rotary": "stays (float, two products a channel)",
    "nn.rms_norm": "stays; its gain goes into the weights behind it where they are all linears",
    "nn.layer_norm": "stays; gain and shift go into the weights behind it where they are all linears",
}
# Passes that need no calibration, and say what they could not do.
DRY_RUN = ("canonicalise", "merge-parallel-linears", "fold-norm-gamma")


def inspect(path: Path, *, json: bool) -> None:
    """``sdc inspect``."""
    if path.is_dir() or path.name == MANIFEST:
        _inspect_program(path.parent if path.name == MANIFEST else path, json)
    else:
        _inspect_model(path, json)


def _inspect_program(path: Path, json: bool) -> None:
    artefact = open_artefact(path)
    manifest = artefact.manifest
    names = ("format_version", "sdc_version", "target", "config", "model", "source", "ops")
    facts = {name: manifest[name] for name in (*names, "dense_float_products", "notes", "certificate")}
    facts["weight_bytes"] = artefact.weight_bytes
    facts["summary"] = manifest["program"].get("summary", {})
    facts |= {name: manifest["program"].get(name, []) for name in ("schedules", "kernels", "lowerings")}
    if json:
        print_json(facts)
        return
    print_facts(str(path), {k: v for k, v in facts.items() if not isinstance(v, dict | list)})
    print_facts("model", facts["model"])
    print_facts("config", facts["config"])
    columns = ("name", "kind", "levels", "coding", "group", "weight_bits", "synapses")
    print_rows("operations", facts["ops"], columns)
    if facts["summary"]:
        print_facts("program", facts["summary"])
    if facts["kernels"]:
        rows = [_kernel(each) for each in facts["kernels"]]
        print_rows("kernels", rows, tuple(rows[0]))
    event = [row for row in facts["lowerings"] if row["lowering"] == "event"]
    if event:
        print_rows("event-driven while decoding", event, tuple(event[0]))
    for note in facts["notes"]:
        print(f"note: {note}")


def _kernel(found: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table, narrow enough for a terminal."""
    resident = f"{found['blocks']} ({found['occupancy']:.0%})"
    shown = {name: found[name] for name in ("arch", "registers", "shared", "spilled")}
    return {"name": found["name"].removesuffix("_kernel"), **shown, "blocks": resident}


def _inspect_model(path: Path, json: bool) -> None:
    found = describe(open_source(path).onnx)
    notes = _remarks(found.model) if found.model is not None else ()
    parts = [{**asdict(part), "becomes": BECOMES[part.kind]} for part in found.parts]
    if json:
        facts = {k: v for k, v in found.as_dict().items() if k not in ("info", "model")}
        print_json({**vars(found.info), **facts, "parts": parts, "notes": list(notes)})
        return
    print_facts(str(path), _facts(found))
    print_facts("matched in the graph", found.matched or {"nothing": "the file is in standard operations"})
    if parts:
        print_rows("what would be rewritten", parts, ("kind", "name", "detail", "count", "becomes"))
    for note in notes:
        print(f"note: {note}")
    for offender in found.unsupported:
        print(f"not supported: {offender}")


def _facts(found: Description) -> Mapping[str, Any]:
    info = found.info
    hidden = ("kind", "exporter", "opset", "source", *(("max_seq",) if info.kind == "stateless" else ()))
    linears = [part for part in found.parts if part.kind == "sdc.linear"]
    return {
        "flavour": f"{found.flavour} (known by {found.recognised_by})",
        "exporter": info.exporter,
        "opset": info.opset,
        "compiles": f"no: {len(found.unsupported)} reasons below" if found.unsupported else f"as {info.kind}",
        **{k: v for k, v in vars(info).items() if v and k not in hidden},
        "weights": f"{found.weight_bytes:,} bytes ({_listed(found.weight_types)})",
        "inputs": "\n".join(found.inputs),
        "outputs": "\n".join(found.outputs),
        "operations": _listed(found.nodes),
        "in standard form": _listed(found.normalised),
        "linear layers": sum(part.count for part in linears),
    }


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _remarks(model: Model) -> tuple[str, ...]:
    """What passes say that need no calibration, weights untouched."""
    return run_passes(model, [find_pass(name) for name in DRY_RUN], PassContext()).notes
