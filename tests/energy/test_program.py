"""The account of a compiled program: shapes from its manifest, spikes from a run."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import sdc
from sdc.cli import main
from sdc.energy import HOROWITZ_45NM, account, dense_format, dense_twin, program_format, program_work
from sdc.errors import ConfigError


@pytest.fixture(scope="module")
def measured(tiny_program):
    program = sdc.load(tiny_program)
    return program.manifest, program.stats(np.random.default_rng(0).integers(0, 96, 40))


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sdc", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_linears_cost_the_synops_that_were_measured(measured):
    manifest, firing = measured
    work = program_work(manifest, firing)
    made = account(work, program_format(manifest, firing), HOROWITZ_45NM)
    rows = {row["name"]: row for row in firing["ops"]}
    for op in manifest["ops"]:
        if op["kind"] == "linear":
            counts = next(o.counts for o in made.ops if o.name == op["name"])
            assert counts["synaptic_operations"] == rows[op["name"]]["synops_per_token"]
            assert counts["spikes"] == rows[op["name"]]["spikes"] / 40


def test_queries_meet_the_keys_before_them_on_average(measured):
    manifest, firing = measured
    assert program_work(manifest, firing).context == 20.5
    wide = program_work(manifest, firing, context=41)
    for narrow, product in zip(program_work(manifest, firing).products, wide.products, strict=True):
        assert product.synapses == narrow.synapses * (2 if ":" in product.name else 1)


def test_the_rest_is_what_the_certificate_lists(measured):
    manifest, firing = measured
    context = manifest["certificate"]["context"]
    others = program_work(manifest, firing, context=context).others
    totals = manifest["certificate"]["totals"]
    assert sum(o.multiplications for o in others) == totals["multiplications"]
    assert sum(o.nonlinear for o in others) == totals["nonlinear"]
    assert sum(o.additions for o in others) == totals["additions"] - totals["synapses"]


def test_a_dense_twin_multiplies_at_every_synapse(measured):
    manifest, firing = measured
    work = program_work(manifest, firing)
    twin = account(dense_twin(work), dense_format("int8"), HOROWITZ_45NM)
    assert twin.counts["synaptic_operations"] == pytest.approx(work.synapses)
    weights = sum(op["synapses"] for op in manifest["ops"] if op["kind"] == "linear")
    assert sum(p.weights for p in work.products) == weights


def test_statistics_of_another_program_are_refused(measured):
    manifest, firing = measured
    with pytest.raises(ConfigError, match="another program"):
        program_work(manifest, {**firing, "ops": firing["ops"][1:]})


def test_the_command_measures_or_takes_statistics(command, tiny_program, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog, and back again.\n" * 4)
    options = ("--text", text, "--windows", 2, "--window", 60)
    status, printed, _ = command("energy", tiny_program, *options, "--json")
    found = json.loads(printed)
    assert status == 0
    assert [f["format"] for f in found["formats"][2:]] == ["fp16", "int8", "w4a4"]
    statistics = tmp_path / "eval.json"
    statistics.write_text(command("eval", tiny_program, *options, "--json")[1])
    again = json.loads(command("energy", tiny_program, "--statistics", statistics, "--json")[1])
    assert again == found
    table = command("energy", tiny_program, "--statistics", statistics)[1]
    assert "factor by factor" in table
    assert "compute" in table
    assert "Horowitz" in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--arch"),
        (("--arch", "gpt-5"), "llama2-7b"),
        (("--arch", "llama2-7b", "--table", "none"), "jouppi-7nm"),
        (("--arch", "llama2-7b", "--accumulators", "air"), "memory or register"),
    ],
)
def test_wrong_options_are_one_line(command, arguments, words):
    status, _, complaint = command("energy", *arguments)
    assert (status, words in complaint, complaint.count("\n")) == (2, True, 1)


def test_the_papers_table_stands_beside_its_model_only(command):
    status, printed, _ = command("energy", "--arch", "llama2-7b", "--json")
    assert status == 0
    assert [row["published"] for row in json.loads(printed)["paper"][:3]] == [31.77, 3.97, 0.67]
    assert "paper" not in json.loads(command("energy", "--arch", "smollm2-135m", "--json")[1])


def test_statistics_must_be_of_eval(command, tiny_program, tmp_path):
    wrong = tmp_path / "wrong.json"
    wrong.write_text("[1]")
    status, _, complaint = command("energy", tiny_program, "--statistics", wrong)
    assert (status, "sdc eval --json" in complaint) == (2, True)
