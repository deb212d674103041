"""Whole decoders lowered for CUDA and run in the emulator, with the evaluator as the oracle."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from helpers.simt_program import EmulatedDecoder
from helpers.spiking_form import SpikeOptions, spiking_form, state_inputs
from helpers.tiny_llama import tiny_llama

from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Model
from sdc.targets.cuda.lower.body import FALLBACK
from sdc.targets.cuda.program import lower_for_cuda

TOKENS = np.random.default_rng(4).integers(0, 64, 9)
WIDE = {"layers": 1, "hidden": 64, "ffn": 96, "head_dim": 32, "heads": 2, "kv_heads": 1}
VARIANTS = {
    "int8": (SpikeOptions(group=32, block=32), {**WIDE, "bias": True}),
    "int4": (SpikeOptions(levels=7, group=32, block=32, weight_bits=4, weight_group=32), WIDE),
    "projected-heads": (SpikeOptions(head_block=8), {"layers": 1, "kv_heads": 1, "tied": False}),
    "int2-floors": (
        SpikeOptions(levels=127, group=32, block=32, floor=0.4, weight_bits=2, weight_group=32),
        WIDE,
    ),
    "many-levels": (SpikeOptions(levels=300, block=0), {"layers": 1}),
}


def oracle(model: Model, tokens: np.ndarray) -> np.ndarray:
    return Evaluator(model).run("forward", tokens[None], np.array(0), *state_inputs(model))[0][0]


def assert_logits_agree(got: np.ndarray, want: np.ndarray) -> None:
    """Equal to a few spikes: a float sum in another order may move a count that sits on a tie."""
    spread = np.abs(want).max()
    assert np.median(np.abs(got - want)) < 1e-4 * spread
    assert np.abs(got - want).max() < 0.1 * spread


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request):
    options, shape = VARIANTS[request.param]
    model = spiking_form(tiny_llama(**shape), options)
    return model, EmulatedDecoder(model)


def test_score_gives_the_evaluators_logits_and_decode_what_score_gives(pair) -> None:
    model, decoder = pair
    decoder.reset()
    whole = decoder.call("score", TOKENS)
    assert_logits_agree(whole, oracle(model, TOKENS))
    decoder.reset()
    close = {"rtol": 1e-4, "atol": 1e-5 * np.abs(whole).max()}
    np.testing.assert_allclose(decoder.call("prefill", TOKENS[:6])[-1], whole[5], **close)
    np.testing.assert_allclose(decoder.call("prefill", TOKENS[6:8])[-1], whole[7], **close)
    np.testing.assert_allclose(decoder.call("decode", TOKENS[8:])[0], whole[8], **close)


def test_greedy_tokens_are_the_evaluators(pair) -> None:
    model, decoder = pair
    decoder.reset()
    text = [*TOKENS[:4], int(decoder.call("prefill", TOKENS[:4])[-1].argmax())]
    made = decoder.greedy(text[-1], 3)
    for token in made:
        assert oracle(model, np.array(text))[-1].argmax() == token
        text.append(token)
    assert int(decoder.position) == 7


def test_every_operation_has_a_schedule_and_the_fallback_is_named() -> None:
    options, shape = VARIANTS["int8"]
    _, schedules = lower_for_cuda(spiking_form(tiny_llama(**shape), options))
    taken = {f: Counter(s.schedule for s in schedules if s.function == f) for f in ("decode", "prefill")}
    assert set(taken["decode"]) == {"gather", "encode-warp", "heads-warp", "gemv-dp4a", "attention-split"}
    assert taken["prefill"]["gemm-mma"] == taken["decode"]["gemv-dp4a"] - 1  # the head takes one row
    assert taken["prefill"]["attention-mma"] == 1
    odd = spiking_form(tiny_llama(layers=1), SpikeOptions(group=0))
    _, schedules = lower_for_cuda(odd)
    left = [s for s in schedules if s.schedule == FALLBACK]
    assert any("spike_encode" in s.op for s in left)  # 48 channels in one group


def test_silent_inputs_are_walked_event_by_event() -> None:
    model = spiking_form(tiny_llama(**WIDE), SpikeOptions(levels=1, group=32, block=32))
    decoder = EmulatedDecoder(model)
    walked = [s for s in decoder.schedules if s.schedule == "events-ballot"]
    assert {s.function for s in walked} == {"decode", "prefill", "greedy"}
    decoder.call("prefill", TOKENS[:3])
    assert_logits_agree(decoder.call("decode", TOKENS[3:4]), oracle(model, TOKENS[:4])[-1:])
