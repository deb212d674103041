"""What was compiled, for what, and what came out."""

from __future__ import annotations

from typing import Any

from sdc.report.figures import facts_html
from sdc.report.registry import Section, Subject, section

__all__ = ["summary"]


@section(order=0)
def summary(subject: Subject) -> Section:
    """Facts of the manifest, then what was measured."""
    manifest = subject.manifest
    model, config = manifest["model"], manifest["config"]
    facts: dict[str, Any] = {
        "program": subject.path.name,
        "source": manifest["source"]["path"].rsplit("/", 1)[-1],
        "target": manifest["target"],
        "layers, hidden, heads": f"{model['layers']}, {model['hidden']}, {model['heads']}",
        "levels, group, coding": f"{config['levels']}, {config['group']}, {config['coding']}",
        "weights": config["weights"],
        "weight bytes": subject.program.artefact.weight_bytes,
        "dense products of floats": manifest["dense_float_products"],
        "multiplications per token": manifest["certificate"]["totals"]["multiplications"],
    }
    found = subject.evaluation or {}
    names = {
        "ratio": "perplexity, ratio to the original",
        "spikes_per_neuron": "spikes per neuron",
        "zero_fraction": "silent neurons",
        "synops_per_token": "synops per token",
    }
    facts |= {title: found[key] for key, title in names.items() if found.get(key) is not None}
    notes = "; ".join(manifest["notes"])
    return Section("Summary", facts_html(facts), f"Remarks of the compiler: {notes}" if notes else "")
