"""The neuromorphic target through the command line, on a tiny real export."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from helpers.tiny_source import tiny_source

from sdc.cli import main
from sdc.runtime import Program
from sdc.targets.neuro.isa.api import load_program


@pytest.fixture(scope="module")
def neuro(tmp_path_factory):
    """The path of a program for northpole-like, with its dump beside it."""
    folder = tmp_path_factory.mktemp("neuro")
    arguments = ["compile", tiny_source(folder), "-o", folder / "n.sdc", "--target", "neuro", "--quiet"]
    arguments += ["--machine", "northpole-like", "--emit-isa", folder / "asm", "--max-seq", 64, "--verify"]
    before, sys.argv = sys.argv, ["sdc", *map(str, arguments)]
    with pytest.raises(SystemExit) as ended:
        main()
    sys.argv = before
    assert not ended.value.code
    return folder / "n.sdc"


def test_run_and_eval_agree_with_the_cpu(command, neuro, tiny_program):
    arguments = ("--prompt", "The fox", "--max-new-tokens", 8, "--greedy", "--json")
    answers = [json.loads(command("run", path, *arguments)[1]) for path in (neuro, tiny_program)]
    assert answers[0]["tokens"] == answers[1]["tokens"]
    measured = [
        json.loads(command("eval", path, "--windows", 1, "--window", 24, "--json", "--quiet")[1])
        for path in (neuro, tiny_program)
    ]
    assert measured[0]["perplexity_spiking"] == pytest.approx(measured[1]["perplexity_spiking"], rel=1e-4)
    for one, other in zip(measured[0]["ops"], measured[1]["ops"], strict=True):
        assert one["name"] == other["name"]
        assert one["neurons"] == other["neurons"]
        # counts differ where sums in another order round to the other side
        assert one["spikes"] == pytest.approx(other["spikes"], rel=1e-3, abs=3)
        assert one["synops_per_token"] == pytest.approx(other["synops_per_token"], rel=1e-3, abs=999)


def test_inspect_shows_what_of_the_machine_is_used(command, neuro):
    found = json.loads(command("inspect", neuro, "--json")[1])["summary"]
    assert found["machine"] == "northpole-like"
    program = load_program(neuro / "program.neuro")
    assert found["cores"] == len(program.cores)
    assert found["chips"] == 1
    assert found["routes"] == sum(len(core.routes) for core in program.cores)
    assert found["synapse_bytes_of_largest_core"] <= found["synapse_bytes_per_core_available"]
    assert "neuron_bytes_of_largest_core" in command("inspect", neuro)[1]


def test_the_dump_and_disasm_show_the_same(command, neuro):
    files = sorted((neuro.parent / "asm").glob("core-*.s"))
    assert len(files) == len(load_program(neuro / "program.neuro").cores)
    index = (neuro.parent / "asm" / "index.txt").read_text()
    assert "node_linear_6 encoder (" in index
    where = files[0].stem.removeprefix("core-")
    code, out, _ = command("disasm", neuro, "--core", where)
    assert code == 0
    assert out == files[0].read_text()
    assert f"; core {where}\n.core " in out
    assert re.search(r"\n    sendw   n\[0x\w+\], .* ; to (core \d+,\d+|the host)", out)
    assert re.search(r"\n    recvw   n\[0x\w+\], .* ; tag \d+ from \d+ core", out)
    _, everything, _ = command("disasm", neuro)
    assert all(f"\n; {file.stem.replace('-', ' ', 1)}\n" in everything for file in files)


def test_a_dump_with_data_assembles_to_the_same_program(command, neuro, tmp_path):
    text, binary = tmp_path / "all.s", tmp_path / "again.neuro"
    assert command("disasm", neuro, "--data", "-o", text)[0] == 0
    code, out, _ = command("asm", text, "-o", binary)
    assert code == 0
    assert "cores" in out
    assert binary.read_bytes() == (neuro / "program.neuro").read_bytes()
    number = load_program(binary).cores[1].core
    assert f".core {number} " in command("disasm", binary, "--core", number)[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--core", "999,0"), "lies outside the board"),
        (("--core", "somewhere"), "names no core; give X,Y"),
        (("--core", "200,100"), "has no program for core"),
    ],
)
def test_disasm_refuses_what_is_not_there(command, neuro, arguments, words):
    code, _, err = command("disasm", neuro, *arguments)
    assert code != 0
    assert words in err


def test_a_wrong_machine_is_refused_before_any_work(command, tmp_path):
    source = tiny_source(tmp_path)
    description = tmp_path / "mine.yaml"
    description.write_text("name: mine\nboard: 3\n")
    for machine, words in (
        ("no-such-chip", "no such file, and no shipped machine"),
        (description, "mine.yaml"),
    ):
        arguments = ("compile", source, "-o", tmp_path / "o", "--target", "neuro", "--machine", machine)
        code, _, err = command(*arguments)
        assert code != 0
        assert words in err
    code, _, err = command("compile", source, "-o", tmp_path / "o", "--machine", "generic")
    assert code != 0
    assert "machine is a setting of target neuro" in err


def test_the_library_runs_it(neuro):
    program = Program.load(neuro)
    logits = program.logits([3, 1, 4])
    assert logits.shape == (3, 96)
    assert np.isfinite(logits).all()
