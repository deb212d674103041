"""The CPU target end to end on a tiny spiking decoder, with the evaluator as the oracle."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.cpu_kernels import every_own_isa
from helpers.one_linear import one_linear
from helpers.spiking_form import SpikeOptions, spiking_form, state_inputs
from helpers.tiny_llama import ONE_WIDTH, tiny_llama

from sdc.errors import NumericsError, TargetError
from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Model
from sdc.ir.params import array_param
from sdc.runtime.sampling import Sampler
from sdc.targets.base import BuildResult
from sdc.targets.cpu import CpuTarget
from sdc.targets.cpu.isa import best_level, levels_for
from sdc.targets.cpu.lower.lowering import Lowering
from sdc.targets.fused.packed import PackedWeights
from sdc.targets.fused.program import lower_model

TOKENS = np.random.default_rng(4).integers(0, 64, 20)

VARIANTS = {
    "int8": (SpikeOptions(), {"bias": True}),
    "int4": (SpikeOptions(levels=7, weight_bits=4, weight_group=8), {"head_dim": 16}),
    "projected-heads": (SpikeOptions(group=0, head_block=8), {"tied": False, "kv_heads": 1}),
    "many-levels": (SpikeOptions(levels=300, block=0), {}),
}


def quiet(_what: str, _done: int, _of: int) -> None:
    """Progress that nobody reads."""


def build(model: Model, folder: Path, *levels: str) -> BuildResult:
    folder.mkdir(exist_ok=True)
    return CpuTarget(levels or (best_level().name,)).build(model, None, folder, quiet)


def load(result: BuildResult, folder: Path):
    return CpuTarget().load(folder, json.loads(json.dumps(result.manifest)))


def oracle(model: Model, tokens: np.ndarray) -> np.ndarray:
    outputs = Evaluator(model).run("forward", tokens[None], np.array(0), *state_inputs(model))
    return outputs[0][0]


def assert_logits_agree(got: np.ndarray, want: np.ndarray) -> None:
    """Equal to a few spikes: a float sum in another order may move a count that sits on a tie."""
    spread = np.abs(want).max()
    assert np.median(np.abs(got - want)) < 1e-5 * spread
    assert np.abs(got - want).max() < 0.05 * spread


@pytest.fixture(scope="module", params=VARIANTS)
def built(request, tmp_path_factory):
    options, shape = VARIANTS[request.param]
    model = spiking_form(tiny_llama(**shape), options)
    folder = tmp_path_factory.mktemp(request.param)
    result = build(model, folder)
    return model, load(result, folder), oracle(model, TOKENS)


def test_score_gives_the_evaluators_logits(built) -> None:
    _, runner, want = built
    runner.reset()
    assert_logits_agree(runner.score(TOKENS), want)
    assert runner.position == len(TOKENS)


def test_prefill_in_pieces_and_decode_give_what_the_whole_gives(built) -> None:
    _, runner, _ = built
    runner.reset()
    whole = runner.score(TOKENS).copy()
    runner.reset()
    np.testing.assert_array_equal(runner.prefill(TOKENS[:7]), whole[6])
    np.testing.assert_array_equal(runner.prefill(TOKENS[7:12]), whole[11])
    for i in range(12, len(TOKENS)):
        np.testing.assert_array_equal(runner.decode(int(TOKENS[i])), whole[i])


@pytest.mark.parametrize("settings", [(0.0, 1.0), (0.8, 0.9), (2.0, 1.0)], ids=["greedy", "top-p", "all"])
def test_the_program_chooses_the_samplers_tokens_until_the_cache_is_full(built, settings) -> None:
    _, runner, _ = built
    runner.reset()
    first = int(runner.prefill(TOKENS).argmax())
    want, token, sampler = [], first, Sampler(*settings, seed=3)
    while runner.position < 32:
        token = sampler(runner.decode(token))
        want.append(token)
    runner.resume(TOKENS)
    assert list(runner.following(first, Sampler(*settings, seed=3))) == want
    runner.resume([*TOKENS, first, *want[:3]])
    assert runner.reused == len(TOKENS) + 3  # what was made is known to lie in the cache


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_reader_that_stops_early_leaves_cache_and_sampler_at_its_last_token(built, temperature) -> None:
    """The program runs some tokens ahead of its reader."""
    _, runner, _ = built
    first, whole, sampler = 3, Sampler(temperature, seed=3), Sampler(temperature, seed=3)
    runner.resume([*TOKENS, first])
    runner.resume(TOKENS)
    want = list(runner.following(first, whole))
    for taken in (1, 2, 5, 7):  # the first call runs one token, those after it more
        runner.resume(TOKENS)
        sampler.random = np.random.default_rng(3)
        assert list(itertools.islice(runner.following(first, sampler), taken)) == want[:taken]
        assert runner.position == len(TOKENS) + taken
        drawn = np.random.default_rng(3)
        drawn.random(taken if temperature else 0)
        assert sampler.random.bit_generator.state == drawn.bit_generator.state
        assert int(runner.decode(want[taken - 1]).argmax()) == int(
            runner.resume([*TOKENS, first, *want[:taken]]).argmax()
        )


def test_tokens_end_after_a_number_of_them_and_after_an_end(built) -> None:
    _, runner, _ = built
    runner.resume(TOKENS)
    want = list(runner.following(3, Sampler(1.5, seed=1)))
    runner.resume(TOKENS)
    assert list(runner.following(3, Sampler(1.5, seed=1), most=4)) == want[:4]
    last = next(i for i in range(3, len(want)) if want[i] not in want[:i])
    for runs in (runner._following, None):  # None: a program from before there was the function
        runner._following, kept = runs, runner._following
        try:
            runner.resume(TOKENS)
            ends = frozenset([want[last], 64])
            assert list(runner.following(3, Sampler(1.5, seed=1), ends=ends)) == want[: last + 1]
            assert runner.position == len(TOKENS) + last + 1
        finally:
            runner._following = kept


@pytest.mark.parametrize("shared", [0, 1, 7, 19])
def test_a_prompt_that_begins_as_the_last_one_runs_its_rest_alone_with_the_same_logits(built, shared) -> None:
    _, runner, _ = built
    prompt = np.concatenate([TOKENS[:shared], (TOKENS[shared:] + 1) % 64])
    runner.reset()
    want = runner.prefill(prompt).copy()
    after = runner.decode(5).copy()
    runner.reset()
    runner.prefill(TOKENS[:15])
    for token in TOKENS[15:]:
        runner.decode(int(token))
    np.testing.assert_array_equal(runner.resume(prompt), want)
    assert (runner.reused, runner.position) == (shared, len(prompt))
    np.testing.assert_array_equal(runner.decode(5), after)
    np.testing.assert_array_equal(runner.resume(prompt), want)
    assert runner.reused == len(prompt) - 1  # the last one is run for its logits


def test_a_prompt_that_is_refused_leaves_the_cache_usable(built) -> None:
    _, runner, _ = built
    runner.reset()
    want = runner.prefill(TOKENS).copy()
    with pytest.raises(TargetError, match="at least one token"):
        runner.resume([])
    with pytest.raises(TargetError, match="must lie within"):
        runner.resume([*TOKENS[:4], 64])
    np.testing.assert_array_equal(runner.resume(TOKENS), want)


@every_own_isa
def test_every_instruction_set_agrees_with_the_evaluator(isa, tmp_path) -> None:
    model, tokens = spiking_form(tiny_llama(**ONE_WIDTH), SpikeOptions()), TOKENS % 32
    runner = load(build(model, tmp_path, isa.name), tmp_path)
    assert_logits_agree(runner.score(tokens), oracle(model, tokens))


def test_one_artefact_holds_all_levels(tmp_path) -> None:
    model = spiking_form(tiny_llama(**ONE_WIDTH), SpikeOptions())
    result = CpuTarget().build(model, None, tmp_path, quiet)
    assert list(result.manifest["objects"]) == [isa.name for isa in levels_for(None)]
    assert load(result, tmp_path).prefill([1, 2, 3]).shape == (32,)


def test_compiling_again_gives_the_same_bytes(tmp_path, monkeypatch) -> None:
    model = spiking_form(tiny_llama(**ONE_WIDTH), SpikeOptions())
    results = [build(model, tmp_path / "a")]  # may be what another process of this run has compiled
    monkeypatch.setenv("SDC_CACHE_DIR", str(tmp_path / "cache"))  # compiled, not found
    results.append(build(model, tmp_path / "b"))
    assert results[0].manifest == results[1].manifest
    for one, two in zip(*(result.files for result in results), strict=True):
        assert one.name == two.name
        assert one.read_bytes() == two.read_bytes(), one.name


def test_levels_built_side_by_side_are_those_built_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SDC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("sdc.targets.cpu.build.cpus", lambda: 4)
    model = one_linear()
    (tmp_path / "all").mkdir()
    result = CpuTarget().build(model, None, tmp_path / "all", quiet)
    monkeypatch.setattr("sdc.targets.cpu.build.cpus", lambda: 1)
    monkeypatch.setenv("SDC_CACHE_DIR", str(tmp_path / "another"))
    for level, names in result.manifest["objects"].items():
        (tmp_path / level).mkdir()
        alone = CpuTarget((level,)).build(model, None, tmp_path / level, quiet)
        assert alone.manifest["objects"] == {level: names}
        for path in alone.files:
            assert path.read_bytes() == (tmp_path / "all" / path.name).read_bytes(), path.name


def test_a_layer_takes_at_most_nine_kernels_when_its_linears_are_merged() -> None:
    def launches(layers: int) -> int:
        model = spiking_form(tiny_llama(layers=layers, head_dim=16), SpikeOptions())
        lowering = Lowering(best_level(), PackedWeights(model.params))
        return lower_model(model, lowering).launches["decode"]

    # q, k, v are three linears here, gate and up two: three launches more than when merged.
    assert launches(3) - launches(2) - 3 <= 9


def test_more_tokens_than_the_cache_holds_are_refused(built) -> None:
    _, runner, _ = built
    runner.reset()
    with pytest.raises(TargetError, match=r"0 \+ 33 tokens do not fit into a cache of 32"):
        runner.prefill(np.zeros(33, int))
    with pytest.raises(TargetError, match="at least one token"):
        runner.score([])
    assert runner.position == 0


def test_a_logit_that_is_no_number_is_an_error(tmp_path) -> None:
    model = spiking_form(tiny_llama(**ONE_WIDTH), SpikeOptions())
    huge = np.full_like(model.params["head.scale"].value(), 3e38)
    model.params["head.scale"] = array_param("head.scale", huge)
    runner = load(build(model, tmp_path), tmp_path)
    runs = (
        lambda: runner.prefill([1, 2]),
        lambda: runner.decode(3),
        lambda: runner.score([4]),
        lambda: next(runner.following(5, Sampler())),
    )
    for run in runs:
        with pytest.raises(NumericsError, match="NaN or infinite"):
            run()


def test_a_token_outside_the_vocabulary_is_refused(built) -> None:
    _, runner, _ = built
    runner.reset()
    with pytest.raises(TargetError, match=r"must lie within 0\.\.63, got 64\.\.64"):
        runner.decode(64)
    with pytest.raises(TargetError, match=r"got -1\.\.3"):
        runner.prefill([3, -1])
