"""``sdc simulate`` and the report's section, on a tiny real export compiled for a machine."""

import json

import pytest
from helpers.tiny_source import tiny_source

from sdc.api import compile_to
from sdc.config import CompileConfig
from sdc.report import Subject
from sdc.report.sections.neuro import neuro
from sdc.runtime import Program


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("neuro")
    config = CompileConfig.of(target="neuro", machine="generic", max_seq=32, coding="bitwise")
    return compile_to(tiny_source(folder / "source"), folder / "tiny.sdc", config).path


def test_simulate_says_what_a_token_costs(command, program, tmp_path) -> None:
    trace = tmp_path / "trace.json"
    arguments = ("simulate", program, "--prompt", "ab", "--raw", "--tokens", 2)
    status, printed, _ = command(*arguments, "--trace", trace, "--json")
    facts = json.loads(printed)
    assert status == 0
    assert (facts["machine"], facts["tokens"], len(facts["made"])) == ("generic", 3, 2)
    assert facts["makespan_us"] >= facts["bound_us"] > 0
    assert facts["makespan_us"] <= 1.3 * facts["bound_us"]
    assert facts["energy_uj"] == pytest.approx(sum(row["energy_uj"] for row in facts["per_token"]))
    assert min(facts[name] for name in ("time_steps", "cycles", "spikes", "hops", "synops")) > 0
    events = json.loads(trace.read_text())["traceEvents"]
    assert {"core", "message", "link"} == {e["cat"] for e in events if e["ph"] == "X"}
    _, answered, _ = command(
        "run", program, "--prompt", "ab", "--raw", "--greedy", "--max-new-tokens", 2, "--json"
    )
    assert json.loads(answered)["tokens"] == facts["made"]


def test_the_tables_show_layers_and_components(command, program) -> None:
    status, printed, _ = command("simulate", program, "--prompt", "a", "--raw")
    assert status == 0
    for words in ("energy by component", "synaptic", "layers, per token", "costliest operations", "hops"):
        assert words in printed


def test_another_machine_takes_another_time(command, program) -> None:
    times = []
    for machine in ("generic", "northpole-like"):
        _, printed, _ = command("simulate", program, "--prompt", "a", "--raw", "--machine", machine, "--json")
        times.append(json.loads(printed)["makespan_us"])
    assert times[0] != times[1]


def test_only_neuromorphic_programs_are_simulated(command, tiny_program) -> None:
    status, _, complaint = command("simulate", tiny_program)
    assert (status, 'compiled for target "cpu"' in complaint) == (2, True)


def test_no_tokens_are_an_error(command, program) -> None:
    status, _, complaint = command("simulate", program, "--tokens", 0)
    assert (status, "at least 1" in complaint) == (2, True)


def test_the_report_has_a_section(program, tiny_program) -> None:
    made = neuro(Subject(Program.load(program), None))
    assert made is not None
    for title in ("Energy of a token", "Cores at work", "Links at work", "Costliest operations"):
        assert title in made.body
    assert made.body.count("plotly-graph-div") == 4
    assert neuro(Subject(Program.load(tiny_program), None)) is None
