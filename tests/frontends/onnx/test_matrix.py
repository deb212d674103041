"""Architectures x exporters: every file of tests/models has onnxruntime's logits, in float and as spikes.

docs/supported-models.md is written from these cells by tools/supported_models.py.
"""

from __future__ import annotations

import re
import runpy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers.model_cells import (
    CELLS,
    MODELS,
    PENDING,
    STATELESS,
    Cell,
    assert_logits,
    by_onnxruntime,
    inputs_of,
)
from helpers.tiny_llama import decoder_inputs
from onnxruntime.transformers.optimizer import optimize_model

from sdc.errors import ModelError
from sdc.frontends.onnx import load
from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Model
from sdc.passes.base import PassContext, PassOptions, silent
from sdc.passes.pipeline import compile_passes, run_passes
from sdc.targets.cpu import CpuTarget
from sdc.targets.cpu.isa import best_level

ROOT = Path(__file__).parents[3]
PREFILL, STEPS = 9, 8
MAX_SEQ, VOCABULARY = 32, 96
COSINE = 0.98
FINE = PassOptions(levels=127, q_levels=127, weights="int8")  # D = 127, 8-bit weights


@cache
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCABULARY, (2, PREFILL + STEPS))


@cache
def padded() -> np.ndarray:
    """A mask that hides the end of the second sequence."""
    mask = np.ones(tokens().shape, np.int64)
    mask[1, PREFILL:] = 0
    return mask


def marked(chosen: set[Cell]) -> list:
    """All cells; those beyond ``chosen`` run with the slow tests."""
    return [pytest.param(c, id=c.name, marks=[] if c in chosen else pytest.mark.slow) for c in CELLS]


def newest() -> set[Cell]:
    """One cell of each architecture and exporter: the last by name, which has the highest opset."""
    return set({(c.architecture, c.exporter): c for c in CELLS}.values())


def is_pending(cell: Cell) -> bool:
    return any(re.fullmatch(pattern, cell.name) for pattern in PENDING)


def spiking(model: Model, windows: tuple) -> Model:
    return run_passes(model, compile_passes(), PassContext(FINE, windows), verify=True)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("cell", marked(newest()))
def test_logits_are_onnxruntimes_and_those_of_spikes_are_close(cell) -> None:
    if is_pending(cell):
        with pytest.raises(ModelError):
            load(cell.path, max_seq=MAX_SEQ)
        return
    model = load(cell.path, max_seq=MAX_SEQ)
    assert (model.info.kind == "stateless") == (cell.architecture in STATELESS)
    check = check_decoder if model.info.kind == "decoder" else check_stateless
    check(cell, model)


def check_decoder(cell: Cell, model: Model) -> None:
    """All tokens at once; a prefill, then one token at a time through our cache; the spiking program."""
    ids, evaluator = tokens(), Evaluator(model, keep_params=True)
    want = by_onnxruntime(cell, inputs_of(cell, ids))
    logits, *_ = evaluator.run("forward", *decoder_inputs(model, ids))
    assert_logits(cell, logits, want)
    _, *caches = evaluator.run("forward", *decoder_inputs(model, ids[:, :PREFILL]))
    steps = []
    for t in range(PREFILL, PREFILL + STEPS):
        logits, *caches = evaluator.run("forward", ids[:, t : t + 1], np.array(t, np.int64), *caches)
        steps.append(logits)
    assert_logits(cell, np.concatenate(steps, 1), want[:, PREFILL:])
    program = spiking(model, decoder_windows())
    logits, *_ = Evaluator(program).run("forward", *decoder_inputs(program, ids))
    assert cosine(logits, want) > COSINE


def decoder_windows() -> tuple[np.ndarray, ...]:
    """Tokens to calibrate on, which the tests do not ask for."""
    return tuple(np.random.default_rng(1 + i).integers(0, VOCABULARY, PREFILL + STEPS) for i in range(2))


def check_stateless(cell: Cell, model: Model) -> None:
    """With and without padding; the spiking program."""
    given = inputs_of(cell, tokens()), inputs_of(cell, tokens(), padded())
    wanted = [by_onnxruntime(cell, feeds) for feeds in given]
    for feeds, want in zip(given, wanted, strict=True):
        got, *_ = Evaluator(model).run("main", *feeds.values())
        assert_logits(cell, got, want)
    others = inputs_of(cell, np.roll(tokens(), 5, axis=1))
    program = spiking(model, (tuple(others.values()),))
    for feeds, want in zip(given, wanted, strict=True):
        got, *_ = Evaluator(program).run("main", *feeds.values())
        assert cosine(got, want) > COSINE


@pytest.mark.slow
def test_a_decoder_of_optimum_as_its_optimiser_rewrites_it(tmp_path) -> None:
    """``ORTOptimizer`` calls this for Llama: RotaryEmbedding with tables of 131,072 rows, and skip norms."""
    path = tmp_path / "m.onnx"
    source = MODELS / "optimum" / "llama_past.onnx"
    options = {"model_type": "gpt2", "num_heads": 4, "hidden_size": 32, "opt_level": 0}
    optimize_model(str(source), **options).save_model_to_file(str(path))
    model = load(path, max_seq=MAX_SEQ)
    assert model.info.kind == "decoder"
    check_decoder(Cell(path, "llama", "onnxruntime optimisers", "fused"), model)


# The parts that programs are made of: norms of both kinds, positions learned and rotary, windows, soft caps,
# one head of keys, experts, masks and biases of encoders. All cells would take many minutes.
BUILT = [
    "gpt2_dynamo_op23",
    "gemma2_dynamo_op23",
    "falcon_dynamo_op18",
    "mixtral_dynamo_op23",
    "bert_dynamo_op23",
    "t5_encoder_dynamo_op23",
]


@pytest.mark.slow
@pytest.mark.parametrize("cell", [pytest.param(c, id=c.name) for c in CELLS if c.name in BUILT])
def test_a_cpu_program_gives_the_evaluators_logits(cell, tmp_path) -> None:
    model = load(cell.path, max_seq=MAX_SEQ)
    target = CpuTarget((best_level().name,))
    if model.info.kind != "decoder":
        feeds = inputs_of(cell, tokens(), padded())
        program = spiking(model, (tuple(feeds.values()),))
        built = target.build(program, None, tmp_path, silent)
        got = next(iter(target.load(tmp_path, built.manifest).call(feeds).values()))
        want, *_ = Evaluator(program).run("main", *feeds.values())
    else:
        program = spiking(model, decoder_windows())
        built = target.build(program, None, tmp_path, silent)
        got = target.load(tmp_path, built.manifest).score(tokens()[0])
        want = Evaluator(program).run("forward", *decoder_inputs(program, tokens()[:1]))[0][0]
    # A float sum in another order may move a count that sits on a tie.
    assert cosine(got, want) > 0.999


def test_there_are_enough_cells_and_every_exception_is_needed() -> None:
    supported = [c for c in CELLS if not is_pending(c)]
    assert len({(c.architecture, c.exporter, c.variant) for c in supported}) == len(supported)
    assert len({(c.architecture, c.exporter) for c in supported}) >= 40
    assert [p for p in PENDING if not any(re.fullmatch(p, c.name) for c in CELLS)] == []


def test_the_page_of_supported_models_is_up_to_date() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "supported_models.py"))
    assert tool["TARGET"].read_text() == tool["render"](), "run `python tools/supported_models.py`"
