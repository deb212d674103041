"""Reports are whole files about any program, put together from registered sections."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser

import pytest
from helpers.tiny_source import MODEL

import sdc
from sdc.cli import main
from sdc.energy import HOROWITZ_45NM, compare, program_entries
from sdc.report import Section, Subject, render, section
from sdc.report import registry as registry_module

TEXT = "The quick brown fox jumps over the lazy dog, and back again.\n" * 4


class Outline(HTMLParser):
    """Headings, and what a browser would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.fetched: list[str] = []
        self.open: str = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open = tag
        self.fetched += [v for k, v in attrs if k == "src" or (k == "href" and not v.startswith("#"))]

    def handle_data(self, data):
        if self.open == "h2" and data.strip():
            self.headings.append(data)


@pytest.fixture(scope="module")
def evaluation(tiny_program, tmp_path_factory) -> dict:
    """What ``sdc eval --json`` gives, layers included."""
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(TEXT)
    arguments = [
        "eval",
        tiny_program,
        "--text",
        text,
        "--windows",
        2,
        "--window",
        60,
        "--per-layer",
        "--json",
    ]
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr(sys, "argv", ["sdc", *map(str, arguments)])
        patch.setattr(sys.stdout, "write", printed.append)
        with pytest.raises(SystemExit):
            main()
    return json.loads("".join(printed))


@pytest.fixture(scope="module")
def page(tiny_program, evaluation) -> str:
    return render(Subject(sdc.load(tiny_program), evaluation))


def test_the_page_needs_nothing_else(page):
    outline = Outline(page)
    assert outline.headings == ["Summary", "Accuracy", "Spikes", "Energy", "Roofline"]
    assert outline.fetched == []
    assert page.count("Plotly.newPlot") == 4  # layers, spikes, waterfall, roofline


def test_numbers_are_those_that_were_measured(page, evaluation, tiny_program):
    for row in (*evaluation["ops"], *evaluation["probabilities"]):
        assert row["name"] in page
    assert f"{evaluation['perplexity_spiking']:.4g}" in page
    made = compare(program_entries(sdc.load(tiny_program).manifest, evaluation), HOROWITZ_45NM)
    for account in made.accounts:
        assert f"<td>{account.format}</td>" in page
        assert f"<td>{account.everything * 1e-9:.4g}</td>" in page


def test_a_section_of_ones_own(page, tiny_program, evaluation, monkeypatch):
    monkeypatch.setattr(registry_module, "_MAKERS", list(registry_module._MAKERS))

    @section(order=5)
    def spikes_of_the_first(subject: Subject) -> Section:
        return Section("Mine <&>", "<p>body</p>", f"{subject.manifest['target']} & more")

    @section(order=6)
    def nothing(subject: Subject) -> None:
        return None

    mine = render(Subject(sdc.load(tiny_program), evaluation))
    assert Outline(mine).headings[:2] == ["Summary", "Mine <&>"]
    assert "Mine &lt;&amp;&gt;" in mine
    assert "<p>body</p>" in mine
    assert "cpu &amp; more" in mine


def test_a_graph_without_tokens_has_a_summary(one_level, tmp_path):
    program = sdc.compile(MODEL.with_name("mlp_dynamo_op20.onnx"), out=tmp_path / "mlp.sdc")
    assert Outline(render(Subject(program, None))).headings == ["Summary"]


def test_the_command_takes_measurements_or_makes_them(
    tiny_program, evaluation, tmp_path, monkeypatch, capsys
):
    found, text = tmp_path / "eval.json", tmp_path / "text.txt"
    found.write_text(json.dumps(evaluation))
    text.write_text(TEXT)

    def run(*more: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sdc", "report", *map(str, (tiny_program, *more))])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    taken, made = tmp_path / "taken.html", tmp_path / "made.html"
    assert run("-o", taken, "--eval", found)[0] == 0
    assert run("-o", made, "--text", text, "--window", 60)[0] == 0
    assert Outline(taken.read_text()).headings == Outline(made.read_text()).headings
    found.write_text("{}")
    status, complaint = run("-o", taken, "--eval", found)
    assert (status, "sdc eval --json" in complaint) == (2, True)
