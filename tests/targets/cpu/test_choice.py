"""Which form linears decode in: by measured zeros, or as asked; and programs that hold both forms."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.spiking_form import SpikeOptions, spiking_form
from helpers.tiny_llama import ONE_WIDTH, tiny_llama

from sdc.config import CompileConfig
from sdc.errors import ConfigError
from sdc.ir.model import Model
from sdc.targets.cpu import CpuTarget
from sdc.targets.cpu.isa import best_level
from sdc.targets.cpu.kernels.linear import LinearSpec
from sdc.targets.cpu.lower.choice import COSTS, Choices, choose, collapsed_cost, event_cost

TOKENS = np.random.default_rng(4).integers(0, 32, 12)
LINEARS = [LinearSpec(960, 576, 32, bits=4, tokens=1), LinearSpec(576, 1536, 64, tokens=1)]


@pytest.mark.parametrize("spec", LINEARS, ids=["4 bits", "8 bits"])
def test_event_driven_costs_less_the_more_is_silent_and_wins_only_far_up(spec) -> None:
    costs = [event_cost(spec, COSTS[spec.bits], zeros) for zeros in (0.7, 0.8, 0.9, 0.99)]
    assert costs == sorted(costs, reverse=True)
    assert choose(spec, 0.6, "auto") == "collapsed"  # what presets have lies below
    assert choose(spec, 0.99, "auto") == "event"
    for zeros in (0.0, 0.5, 0.8, 0.9, 0.95, 1.0):
        faster = event_cost(spec, COSTS[spec.bits], zeros) < collapsed_cost(spec, COSTS[spec.bits])
        assert choose(spec, zeros, "auto") == ("event" if faster else "collapsed")


def test_what_was_not_measured_stays_collapsed_and_what_was_asked_for_is_done() -> None:
    assert choose(LINEARS[0], None, "auto") == "collapsed"
    assert choose(LINEARS[0], None, "event") == "event"
    assert choose(LINEARS[0], 0.99, "collapsed") == "collapsed"


def test_choices_are_kept_with_their_reasons_and_bytes() -> None:
    choices = Choices("auto", {"a": 0.99, "b": 0.1})
    assert choices.form("a", LINEARS[0]) == "event"
    assert choices.form("b", LINEARS[1]) == "collapsed"
    assert choices.form("a", replace(LINEARS[0], tokens=0)) == "collapsed"  # a prompt
    assert choices.made["a"].event_cost < choices.made["a"].collapsed_cost
    assert choices.made["a"].extra_bytes == 8 * 576 * 64  # 960 rows of 4 bits in lines of 128
    assert choices.summary().startswith("1 of 2 linears event-driven")


def run(model: Model, lowering: str, folder) -> tuple[dict, np.ndarray]:
    """The manifest of a program, and the logits of tokens that it decodes one by one after a prompt."""
    folder.mkdir()
    config = CompileConfig.of(lowering=lowering)
    result = CpuTarget((best_level().name,)).build(model, config, folder, lambda *_: None)
    manifest = json.loads(json.dumps(result.manifest))
    runner = CpuTarget().load(folder, manifest)
    rows = [runner.prefill(TOKENS[:5]), *(runner.decode(int(t)) for t in TOKENS[5:])]
    return manifest, np.stack(rows)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_program_gives_the_same_logits_in_both_forms(bits, tmp_path) -> None:
    options = SpikeOptions(weight_bits=bits, weight_group=8 if bits == 4 else 0)
    model = spiking_form(tiny_llama(**ONE_WIDTH), options)
    collapsed, want = run(model, "collapsed", tmp_path / "collapsed")
    event, got = run(model, "event", tmp_path / "event")
    np.testing.assert_array_equal(got, want)
    assert {row["lowering"] for row in collapsed["lowerings"]} == {"collapsed"}
    assert {row["lowering"] for row in event["lowerings"]} == {"event"}
    assert "stored a second time" in event["summary"]["decode"]


def test_one_program_may_mix_both_forms(tmp_path) -> None:
    shape = {**ONE_WIDTH, "vocab": 2048}  # smaller heads stay collapsed
    model = spiking_form(tiny_llama(**shape), SpikeOptions())
    mixed, got = run(replace(model, zeros={"head": 0.999}), "auto", tmp_path / "mixed")
    _, want = run(model, "auto", tmp_path / "plain")
    np.testing.assert_array_equal(got, want)
    assert [row["name"] for row in mixed["lowerings"] if row["lowering"] == "event"] == ["head"]


def test_the_setting_is_for_this_target_alone() -> None:
    with pytest.raises(ConfigError, match="lowering is a setting of target cpu"):
        CompileConfig.of(target="neuro", lowering="event")
