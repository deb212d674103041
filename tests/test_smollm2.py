"""The promises on a real model: SmolLM2-135M-Instruct, compiled once for this CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import sdc
from sdc.api import lift
from sdc.cli.app import app
from sdc.config import CompileConfig
from sdc.hub import smollm2
from sdc.ir.evaluate import Evaluator
from sdc.passes.base import PassContext
from sdc.passes.pipeline import PHASES, run_passes
from sdc.passes.registry import find_pass
from sdc.runtime import Program
from sdc.runtime.sampling import Sampler
from sdc.source import open_source

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gguf() -> Path:
    return smollm2()


@pytest.fixture(scope="module")
def demo(gguf, one_level, tmp_path_factory) -> tuple[dict, Program]:
    """``sdc demo``: 8-bit weights, 15 levels, attention and head included. Its facts, and its program."""
    out = tmp_path_factory.mktemp("smollm2") / "model.sdc"
    arguments = ["demo", "--out", str(out), "--max-new-tokens", "12", "--windows", "3", "--window", "512"]
    done = CliRunner().invoke(app, [*arguments, "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), sdc.load(out)


@pytest.fixture
def program(demo) -> Program:
    return demo[1]


def test_the_demo_measures_both_models(demo):
    facts, _ = demo
    assert facts["reference"] == "onnxruntime"
    assert 1.0 < facts["ratio"] < 1.10
    assert facts["ratio"] == pytest.approx(facts["perplexity_spiking"] / facts["perplexity_reference"])
    assert 0.02 < facts["zero_fraction"] < 0.3
    assert facts["spikes_per_neuron"] < 7
    assert facts["text"]
    assert facts["decode_tokens_per_second"] > 0


def test_nothing_dense_is_left_and_everything_is_counted(program):
    manifest = program.manifest
    certificate = manifest["certificate"]
    assert manifest["dense_float_products"] == certificate["dense_float_products"] == 0
    kinds = [op["kind"] for op in certificate["ops"]]
    assert kinds.count("sdc.spike_attention") == 30
    assert kinds.count("sdc.spike_accumulate") == sum(op["kind"] == "linear" for op in manifest["ops"])
    # 106 million weights in the layers (hidden 576, ffn 1536, 30 layers) and 28 million in the head.
    synapses = sum(op["synapses"] for op in manifest["ops"])
    assert synapses == 30 * (576 * (576 + 2 * 192) + 576 * 576 + 3 * 576 * 1536) + 49152 * 576


def test_decode_gives_what_recomputing_the_prefix_gives(program):
    ids = program.prompt("Why is the sky blue?")
    made = list(program.tokens(ids, 64, Sampler()))
    assert len(made) > 16
    for number, token in enumerate(made):
        program.decoder.reset()
        assert int(program.decoder.prefill([*ids, *made[:number]]).argmax()) == token


def test_alignment_leaves_the_float_model_as_it_is(gguf):
    """gamma-fold, smoothing and projection change logits by at most 1e-3 of their range."""
    config = CompileConfig.of()
    model = lift(open_source(gguf), config)
    rng = np.random.default_rng(0)
    ctx = PassContext(calibration=tuple(rng.integers(0, model.info.vocab, (2, 64))))
    names = [name for phase in PHASES[:2] for name in phase.passes]
    aligned = run_passes(model, [find_pass(name) for name in names], ctx, verify=True)
    tokens = rng.integers(0, model.info.vocab, (1, 48))
    before, after = (_logits(m, tokens) for m in (model, aligned))
    assert np.abs(after - before).max() < 1e-3 * np.ptp(before)


def _logits(model, tokens):
    function = model.module[model.entry]
    caches = list(function.params)[2 : int(function.attrs["num_input"])]
    empty = [np.zeros((1, *[int(d) for d in v.ty.shape.values[1:]]), np.float32) for v in caches]
    return Evaluator(model).run(model.entry, tokens, np.asarray(0, np.int64), *empty)[0]
