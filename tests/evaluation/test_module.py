"""The spiking module in NumPy counts what the compiled program counts, and layers are compared by name."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from helpers.tiny_source import MODEL, tiny_source

import sdc
from sdc.api import lift
from sdc.cli import main
from sdc.config import CompileConfig
from sdc.errors import ConfigError
from sdc.evaluation import ModuleScorer, compare_layers
from sdc.evaluation.relower import Modules, program_layers, relower
from sdc.runtime.program import score_with_firing
from sdc.source import open_source

TOKENS = np.random.default_rng(1).integers(0, 96, 50)


def modules(folder, **settings) -> Modules:
    config = CompileConfig.of(max_seq=64, **settings)
    return relower(lift(open_source(MODEL), config), config, folder)


@pytest.fixture(scope="module")
def default_modules(tiny_program) -> Modules:
    return modules(tiny_program)


def test_the_module_is_the_program(tiny_program, default_modules):
    program = sdc.load(tiny_program)
    logits, fired = score_with_firing(program.decoder, TOKENS)
    made, counted = ModuleScorer(default_modules.spiking)(TOKENS)
    np.testing.assert_allclose(made, logits, atol=2e-2 * np.abs(logits).max())
    ops = program.manifest["ops"]
    ours, theirs = counted.summary(ops), fired.summary(ops)
    assert [r["name"] for r in ours["ops"]] == [r["name"] for r in theirs["ops"]]
    for mine, its in zip(
        [*ours["ops"], *ours["probabilities"]], [*theirs["ops"], *theirs["probabilities"]], strict=True
    ):
        # Float parts differ in order of summation, so single counts may differ by one.
        assert mine["neurons"] == its["neurons"]
        assert mine["spikes"] == pytest.approx(its["spikes"], rel=5e-3)
        assert mine["synops_per_token"] == pytest.approx(its["synops_per_token"], rel=5e-3)


def test_probabilities_are_counted_for_visible_keys_only(tiny_program):
    program = sdc.load(tiny_program)
    rows = program.stats(TOKENS)["probabilities"]
    attentions = [op for op in program.manifest["ops"] if op["kind"] == "attention"]
    assert [r["name"] for r in rows] == [op["name"] for op in attentions]
    for row, op in zip(rows, attentions, strict=True):
        assert row["neurons"] == op["heads"] * 50 * 51 // 2
        assert row["keys"] == 25.5
        assert 0 < row["spikes_per_neuron"] <= 255
    assert (
        sum(program.stats([7])["probabilities"][0][k] for k in ("neurons", "silent"))
        == attentions[0]["heads"]
    )


def test_more_levels_bring_every_layer_closer(tiny_program, default_modules):
    fine = modules(tiny_program, levels=127, q_levels=127)
    coarse = modules(tiny_program, levels=2)
    found = [compare_layers(m.aligned, m.spiking, [TOKENS]) for m in (fine, default_modules, coarse)]
    names = [op["name"] for op in sdc.load(tiny_program).manifest["ops"]]
    for layers in found:
        assert [layer.name for layer in layers] == names
        assert all(-1 <= layer.cosine <= 1 + 1e-6 for layer in layers)
    for best, middle, worst in zip(*found, strict=True):
        assert best.snr_db > middle.snr_db > worst.snr_db
        assert best.cosine > worst.cosine
    assert min(layer.snr_db for layer in found[0]) > 20


def test_a_changed_source_is_refused(one_level, tmp_path):
    source = tiny_source(tmp_path)
    program = sdc.compile(source, config={"max_seq": 64})
    shutil.copy(MODEL.with_name("mlp_dynamo_op20.onnx"), source)
    with pytest.raises(ConfigError, match="compile again"):
        program_layers(program, [TOKENS[:8]])


def test_the_command_adds_layers(tiny_program, tmp_path, monkeypatch, capsys):
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog, and back again.\n" * 4)
    arguments = ["eval", tiny_program, "--text", text, "--windows", 2, "--window", 60]

    def run(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sdc", *map(str, arguments), *more])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out

    found = json.loads(run("--per-layer", "--json"))
    assert [row["name"] for row in found["layers"]] == [
        op["name"] for op in sdc.load(tiny_program).manifest["ops"]
    ]
    assert 0 < found["kl_divergence"] < 0.3
    assert 0.5 < found["greedy_agreement"] <= 1
    assert found["ratio_interval"][0] <= found["ratio"] <= found["ratio_interval"][1]
    assert "snr db" in run("--per-layer")
