"""SmolLM2-135M-Instruct on a neuromorphic machine: the tokens are those of the CPU target."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers.spiking_llama import empty_caches

from sdc.api import lift, pass_options
from sdc.calibration import calibration_for
from sdc.config import CompileConfig
from sdc.hub import smollm2
from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Model
from sdc.passes.base import PassContext
from sdc.passes.pipeline import compile_passes, run_passes
from sdc.source import open_source
from sdc.targets.base import Runner
from sdc.targets.cpu import CpuTarget
from sdc.targets.cpu.isa import best_level
from sdc.targets.neuro.runner import DecoderRunner
from sdc.targets.neuro.target import NeuroTarget

pytestmark = pytest.mark.slow
PROMPT = [504, 3575, 282, 4649, 314]  # "The capital of France is"
NEW_TOKENS = 16


@dataclass(frozen=True)
class Pair:
    """The same spiking model, compiled for two targets."""

    model: Model
    neuro: DecoderRunner
    cpu: Runner
    summary: dict
    dump: Path


def spiking_model(config: CompileConfig) -> Model:
    source = open_source(smollm2())
    model = lift(source, config)
    windows, _ = calibration_for(model, config, source.onnx.parent)
    return run_passes(model, compile_passes(), PassContext(pass_options(config), windows))


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Pair:
    settings = {"coding": "bitwise", "calibration_windows": 2, "max_seq": 512, "verify": True}
    folders = {name: tmp_path_factory.mktemp(name) for name in ("cpu", "neuro", "asm")}
    config = CompileConfig.of(target="neuro", machine="loihi2-like", emit_isa=folders["asm"], **settings)
    model = spiking_model(config)
    cpu, neuro = CpuTarget((best_level().name,)), NeuroTarget()
    runners, manifests = {}, {}
    for target in (cpu, neuro):
        result = target.build(model, config, folders[target.name], lambda *_step: None)
        manifests[target.name] = json.loads(json.dumps(result.manifest))
        runners[target.name] = target.load(folders[target.name], manifests[target.name])
    assert isinstance(runners["neuro"], DecoderRunner)
    return Pair(model, runners["neuro"], runners["cpu"], manifests["neuro"]["summary"], folders["asm"])


def test_it_fits_on_several_chips_and_is_dumped_core_by_core(pair):
    assert 1000 < pair.summary["cores"] < 3000
    assert pair.summary["chips"] > 5
    assert pair.summary["neuron_bytes_of_largest_core"] <= pair.summary["neuron_bytes_per_core_available"]
    assert len(list(pair.dump.glob("core-*.s"))) == pair.summary["cores"]


def test_greedy_tokens_and_logits_are_those_of_the_cpu(pair):
    answers, bits = [], []
    for runner in (pair.neuro, pair.cpu):
        runner.reset()
        logits = [runner.prefill(PROMPT)]
        while len(logits) < NEW_TOKENS:
            logits.append(runner.decode(int(logits[-1].argmax())))
        answers.append([int(row.argmax()) for row in logits])
        bits.append(np.stack(logits))
    assert answers[0] == answers[1]
    np.testing.assert_array_equal(*bits)
    assert pair.neuro.machine.traffic.sent["spike"] > 10**6  # they travelled as packets


def test_logits_are_the_evaluators_bit_for_bit(pair):
    """Partition, placement, routes, trains and caches change nothing, on a model of real size."""
    got, caches = [], list(empty_caches(pair.model))
    pair.neuro.reset()
    evaluator = Evaluator(pair.model, keep_params=True)
    for position, token in enumerate(PROMPT[:3]):
        logits, *caches = evaluator.run("forward", np.array([[token]]), np.asarray(position), *caches)
        got.append(pair.neuro.decode(token).tobytes() == logits.ravel().tobytes())
    assert got == [True] * 3


def test_streamed_weights_change_no_bit(pair, tmp_path):
    """A chip of 256 cores, 64 MB: every token loads the weights from external memory."""
    config = CompileConfig.of(target="neuro", machine="generic", max_seq=512, verify=True)
    built = NeuroTarget().build(pair.model, config, tmp_path, lambda *_step: None)
    assert built.manifest["summary"]["streamed_bytes_per_token"] > 130_000_000
    streamed = NeuroTarget().load(tmp_path, json.loads(json.dumps(built.manifest)))
    pair.cpu.reset()
    np.testing.assert_array_equal(streamed.score(PROMPT[:3]), pair.cpu.score(PROMPT[:3]))
