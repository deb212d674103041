"""Sequences that decode together: the logits of each one alone, bit for bit, wherever each one is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.spiking_form import SpikeOptions, spiking_form
from helpers.tiny_llama import tiny_llama

from sdc.errors import TargetError
from sdc.targets.cpu import CpuTarget
from sdc.targets.cpu.isa import best_level

RANDOM = np.random.default_rng(8)
PROMPTS = [RANDOM.integers(0, 64, n) for n in (1, 7, 16, 3, 12)]
STEPS = 6

VARIANTS = {
    "int8": (SpikeOptions(), {"bias": True}),
    "int4": (SpikeOptions(levels=7, weight_bits=4, weight_group=8), {"head_dim": 16}),
    "projected-heads": (SpikeOptions(group=0, head_block=8), {"tied": False, "kv_heads": 1}),
}


@pytest.fixture(scope="module", params=VARIANTS)
def runner(request, tmp_path_factory):
    options, shape = VARIANTS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    target = CpuTarget((best_level().name,))
    result = target.build(spiking_form(tiny_llama(**shape), options), None, folder, lambda *_: None)
    return target.load(folder, json.loads(json.dumps(result.manifest)))


def alone(runner, prompt: np.ndarray) -> tuple[list[int], list[np.ndarray]]:
    """Greedy tokens after a prompt, and the logits that each was taken from."""
    runner.reset()
    logits = [runner.prefill(prompt).copy()]
    for _ in range(STEPS):
        logits.append(runner.decode(int(logits[-1].argmax())).copy())
    return [int(row.argmax()) for row in logits], logits


def test_every_sequence_gives_what_it_gives_alone(runner) -> None:
    want = [alone(runner, prompt) for prompt in PROMPTS]
    group = runner.together(len(PROMPTS))
    for number, prompt in enumerate(PROMPTS):
        np.testing.assert_array_equal(group.sequences[number].prefill(prompt), want[number][1][0])
    for step in range(STEPS):
        numbers = [(step + i) % len(PROMPTS) for i in range(len(PROMPTS))]  # rows in any order
        logits = group.decode(numbers, [want[n][0][step] for n in numbers])
        for number, row in zip(numbers, logits, strict=True):
            np.testing.assert_array_equal(row, want[number][1][step + 1])


def test_sequences_may_come_and_go(runner) -> None:
    want = [alone(runner, prompt) for prompt in PROMPTS[:3]]
    group = runner.together(3)
    group.sequences[1].prefill(PROMPTS[1])
    np.testing.assert_array_equal(group.decode([1], [want[1][0][0]])[0], want[1][1][1])
    group.sequences[0].prefill(PROMPTS[0])
    logits = group.decode([0, 1], [want[0][0][0], want[1][0][1]])
    np.testing.assert_array_equal(logits[0], want[0][1][1])
    np.testing.assert_array_equal(logits[1], want[1][1][2])
    group.sequences[1].reset()
    group.sequences[1].prefill(PROMPTS[2])  # another prompt in the place of one that has ended
    logits = group.decode([1, 0], [want[2][0][0], want[0][0][1]])
    np.testing.assert_array_equal(logits[0], want[2][1][1])
    np.testing.assert_array_equal(logits[1], want[0][1][2])
    assert [s.position for s in group.sequences] == [len(PROMPTS[0]) + 2, len(PROMPTS[2]) + 1, 0]


def test_the_runners_own_sequence_is_another_one(runner) -> None:
    runner.reset()
    runner.prefill([1, 2, 3])
    group = runner.together(2)
    group.sequences[0].prefill([5])
    group.decode([0], [6])
    assert runner.position == 3
    np.testing.assert_array_equal(runner.decode(4), runner.resume([1, 2, 3, 4]))


def test_what_cannot_be_is_refused_and_changes_nothing(runner) -> None:
    with pytest.raises(TargetError, match="at most 32"):
        runner.together(33)
    group = runner.together(2)
    group.sequences[0].prefill(np.arange(32))
    with pytest.raises(TargetError, match="do not fit into a cache of 32"):
        group.decode([1, 0], [1, 1])
    with pytest.raises(TargetError, match="must lie within"):
        group.decode([1], [64])
    with pytest.raises(TargetError, match="different sequences"):
        group.decode([1, 1], [2, 3])
    assert [s.position for s in group.sequences] == [32, 0]
