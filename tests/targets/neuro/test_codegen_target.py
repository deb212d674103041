"""The neuromorphic target from a float model to tokens: real passes before it, the evaluator beside it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.sketch import Sketch
from helpers.spiking_llama import empty_caches, spiking_llama
from helpers.tiny_llama import tiny_llama
from tvm import relax

from sdc.config import CompileConfig
from sdc.errors import NumericsError, TargetError
from sdc.ir.evaluate import Evaluator
from sdc.ir.ops import linear
from sdc.ir.params import array_param
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.pipeline import compile_passes, run_passes
from sdc.targets.neuro.isa.api import disassemble_file, load_program
from sdc.targets.neuro.target import NeuroTarget


def load(model, tmp_path: Path, machine="generic"):
    target, config = NeuroTarget(), CompileConfig.of(target="neuro", machine=machine)
    seen = []
    result = target.build(model, config, tmp_path, lambda *step: seen.append(step))
    assert seen[-1][1] == seen[-1][2]
    assert all(path.is_file() for path in result.files)
    assert 0 < result.manifest["weight_bytes"] < sum(path.stat().st_size for path in result.files)
    return target.load(tmp_path, json.loads(json.dumps(result.manifest)))


@pytest.mark.parametrize("coding", ["ternary", "bitwise", "binary"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_float_model_becomes_core_programs_that_equal_the_evaluator(coding, weights, tmp_path) -> None:
    rng = np.random.default_rng(0)
    windows = tuple(rng.integers(0, 64, 16) for _ in range(2))
    ctx = PassContext(PassOptions(coding=coding, weights=weights, group=16), windows)
    model = run_passes(tiny_llama(bias=True, ffn=64), compile_passes(), ctx)
    runner = load(model, tmp_path)
    tokens = [3, 9, 9, 60, 1]
    got = runner.score(tokens)
    caches = empty_caches(model)
    for position, token in enumerate(tokens):
        logits, *caches = Evaluator(model).run("forward", np.array([[token]]), np.asarray(position), *caches)
        assert got[position].tobytes() == logits.tobytes()


def test_a_graph_without_state(tmp_path) -> None:
    rng = np.random.default_rng(0)
    s = Sketch(x=[1, 32])
    up = s.weight("up", rng.normal(size=(24, 32)).astype(np.float32))
    down = s.weight("down", rng.normal(size=(8, 24)).astype(np.float32))
    h = s(relax.op.nn.silu(s(linear(s["x"], up, name="up"))))
    sketch = s.model(s(linear(h, down, name="down")))
    windows = tuple((rng.normal(size=(1, 32)).astype(np.float32),) for _ in range(3))
    model = run_passes(sketch, compile_passes(), PassContext(PassOptions(), windows))
    runner = load(model, tmp_path)
    for scale in (1, 100):
        x = (scale * rng.normal(size=(1, 32))).astype(np.float32)
        assert runner.call({"x": x})["output_0"].tobytes() == Evaluator(model).run("main", x)[0].tobytes()
    with pytest.raises(TargetError, match=r'input "x" must be given, with shape \[1, 32\]'):
        runner.call({"x": x[0]})


def test_prefill_decode_and_score_agree(tmp_path) -> None:
    runner = load(spiking_llama(layers=1), tmp_path)
    all_logits = runner.score([1, 2, 3])
    assert runner.position == 3
    runner.reset()
    assert runner.position == 0
    assert (runner.prefill([1, 2]) == all_logits[1]).all()
    assert (runner.decode(3) == all_logits[2]).all()
    assert (runner.decode(3) != all_logits[2]).any()


def test_misuse_is_refused(tmp_path) -> None:
    runner = load(spiking_llama(layers=1), tmp_path)
    with pytest.raises(TargetError, match="at least one token"):
        runner.prefill([])
    with pytest.raises(TargetError, match=r"token ids must lie within 0\.\.39, got 40"):
        runner.decode(40)
    runner.prefill(np.zeros(12, int))
    with pytest.raises(TargetError, match=r"12 \+ 1 tokens do not fit into a cache of 12"):
        runner.decode(0)


def test_a_program_too_large_says_by_how_much(tmp_path) -> None:
    with pytest.raises(
        TargetError,
        match=r"generic: core \d+ .*kv head 0.* needs [\d,]+ bytes of neuron memory and has 65,536; a",
    ):
        load(spiking_llama(layers=1, max_seq=20000), tmp_path)


def test_layers_share_cores_where_a_model_has_more_pieces_than_cores(tmp_path) -> None:
    model = spiking_llama(layers=33, kv_heads=4)
    got = load(model, tmp_path).decode(7)
    logits, *_ = Evaluator(model).run("forward", np.array([[7]]), np.asarray(0), *empty_caches(model))
    assert got.tobytes() == logits.tobytes()
    assert len(load_program(tmp_path / "program.neuro").cores) <= 256


def test_the_dump_of_one_core_is_short_and_names_its_layer(tmp_path) -> None:
    load(spiking_llama(layers=1), tmp_path)
    program = load_program(tmp_path / "program.neuro")
    chosen = next(core.core for core in program.cores if core.name.startswith("layers.0.attn.qkv rows"))
    text = disassemble_file(tmp_path / "program.neuro", {chosen})
    assert "layers.0.attn.qkv rows 0..63" in text
    assert len(text.splitlines()) < 50


def test_an_error_in_a_weight_names_the_layer_where_it_shows(tmp_path) -> None:
    model = spiking_llama(layers=2)
    scale = model.params["layers.1.attn.o.scale"].value()
    scale[3] = 3e38
    broken = {**model.params, "layers.1.attn.o.scale": array_param("layers.1.attn.o.scale", scale)}
    runner = load(replace(model, params=broken), tmp_path)
    with pytest.raises(NumericsError, match=r"layers\.1\.mlp\.gate_up: encode"):
        runner.prefill([1])
