"""The accuracy benchmark on a tiny model: rows, page and plot."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from helpers.tiny_source import tiny_source

import sdc

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
TEXT = "The quick brown fox jumps over the lazy dog, and back again.\n" * 4


@pytest.fixture
def accuracy(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("accuracy")


@pytest.mark.slow
def test_rows_page_and_plot(accuracy, tmp_path):
    source, text, results = tiny_source(tmp_path / "source"), tmp_path / "text.txt", tmp_path / "rows.json"
    text.write_text(TEXT)
    program = sdc.compile(source, out=tmp_path / "mine.sdc", config={"max_seq": 60, "levels": 31})
    arguments = [source, "--text", text, "--windows", 2, "--window", 60, "--results", results]
    arguments += [
        "-o",
        tmp_path / "page.md",
        "--only",
        "W8 D=7 g64; no clip; preset spikellm; preset balanced; dense fp16",
    ]
    arguments += ["--program"]
    accuracy.main([str(a) for a in (*arguments, f"mine={program.artefact.path}")])
    rows = json.loads(results.read_text())
    assert set(rows) == {"W8 D=7 g64", "no clip", "preset spikellm", "preset balanced", "dense fp16", "mine"}
    dense = rows.pop("dense fp16")
    assert dense["codings"] == {}
    assert dense["ratio"] == pytest.approx(1, abs=0.02)
    now = accuracy.origin(source, text, None, 2, 60)
    settings = {setting.name: setting for setting in accuracy.SETTINGS}
    assert accuracy.is_current(rows, settings["no clip"], now)
    assert not accuracy.is_current(rows, settings["no clip"], {**now, "code": "other"})
    changed = replace(settings["no clip"], edit={"clip_ratio": 0.9})
    assert not accuracy.is_current(rows, changed, now)
    earlier = rows.pop("preset spikellm")["codings"]["binary"]
    assert earlier["time_steps"] == 30
    assert earlier["spikes_per_neuron"] > rows["preset balanced"]["codings"]["ternary"]["spikes_per_neuron"]
    assert rows["mine"]["settings"] == {"levels": 31, "max_seq": 60}
    for row in rows.values():
        ternary, bitwise = (row["codings"][c] for c in ("ternary", "bitwise"))
        assert 0 < bitwise["spikes_per_neuron"] < ternary["spikes_per_neuron"]
        assert bitwise["synops_per_token"] < ternary["synops_per_token"]
        energies = [f["compute_only_joules"] for f in ternary["horowitz-45nm"]["formats"]]
        assert energies[1] > energies[0] > bitwise["horowitz-45nm"]["formats"][0]["compute_only_joules"]
    page = (tmp_path / "page.md").read_text()
    assert "| dense fp16 | " in page
    assert page.count("Measured by other sources") == 1  # the program that was compiled before is not known
    assert all(f"| {name}" in page or f"| **{name}**" in page for name in rows)
    assert "| preset balanced, bitwise |" in page.partition("## Against `preset spikellm`")[2]
    points = ElementTree.parse(tmp_path / "page.svg").findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(points) == 2 * 3  # both codings of the settings that are no ablation


def test_the_frontier_is_what_nothing_beats(accuracy):
    def row(ratio: float, spikes: float) -> dict:
        return {"ratio": ratio, "codings": {"ternary": {"spikes_per_neuron": spikes}}}

    rows = {"cheap": row(1.4, 1), "good": row(1.0, 5), "beaten": row(1.5, 2), "middle": row(1.2, 3)}
    pareto = import_module("accuracy_page").pareto
    assert pareto(rows, list(rows)) == {"cheap", "good", "middle"}
