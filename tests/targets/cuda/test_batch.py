"""Several sequences that decode together: the lowered function, the runner, and prompts from the outside."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import tvm
from helpers.simt_machine import emulated_module
from helpers.spiking_form import SpikeOptions, spiking_form, state_inputs
from helpers.tiny_llama import tiny_llama

from sdc.errors import DeviceMemoryError, NumericsError, TargetError
from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Model
from sdc.ir.ops import shape_of
from sdc.runtime.batch import answer_together
from sdc.runtime.sampling import Sampler
from sdc.targets.cuda.device import DeviceMemory
from sdc.targets.cuda.lower.body import Scheduled
from sdc.targets.cuda.program import lower_for_cuda
from sdc.targets.cuda.runner import CudaRunner
from sdc.targets.fused.describe import signature_of
from sdc.targets.fused.program import CHUNK, Lowered
from sdc.targets.fused.signature import State

SHAPE = {"layers": 1, "hidden": 64, "ffn": 64, "head_dim": 32, "heads": 2, "kv_heads": 1}
OPTIONS = SpikeOptions(group=32, block=32)
PROMPTS = [[5, 9, 33], [60, 1, 2, 3, 4], [7]]


@dataclass(frozen=True)
class Program:
    """A decoder, what it was lowered to, and a runner of it whose kernels are emulated."""

    model: Model
    lowered: Lowered
    schedules: tuple[Scheduled, ...]
    runner: CudaRunner


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Program:
    model = spiking_form(tiny_llama(**SHAPE), OPTIONS)
    lowered, schedules = lower_for_cuda(model)
    module = emulated_module(lowered.module, tmp_path_factory.mktemp("batch"))
    values = {name: param.value() for name, param in lowered.weights.params.items()}
    signature = signature_of(model, lowered, CHUNK)
    # The processor as the device: the runner's own memory, and views of it, as on a GPU.
    runner = CudaRunner(module, signature, values, DeviceMemory(tvm.cpu()))
    return Program(model, lowered, schedules, runner)


def test_the_function_takes_places_and_the_caches_of_all_sequences(program) -> None:
    function = program.lowered.module["batch"]
    shapes = {str(v.name): [str(d) for d in shape_of(v, "test")] for v in function.params}
    assert shapes["tokens"] == ["1", "seq"]
    assert shapes["position"] == ["2", "seq"]
    for state in program.lowered.states:
        assert shapes[state.name] == ["sequences", *map(str, state.shape)]
    taken = [s.schedule for s in program.schedules if s.function == "batch"]
    assert set(taken) == {"gather", "encode-warp", "heads-warp", "gemm-mma", "attention-split"}


def test_logits_are_those_of_each_sequence_alone(program) -> None:
    runner, oracle = program.runner, Evaluator(program.model)
    group = runner.together(3)
    texts = [list(prompt) for prompt in PROMPTS]
    for sequence, prompt in zip(group.sequences, PROMPTS, strict=True):
        sequence.prefill(prompt)
    for numbers, tokens in (([0, 1, 2], [11, 12, 13]), ([2, 0], [21, 22])):
        logits = group.decode(numbers, tokens)
        for row, number, token in zip(logits, numbers, tokens, strict=True):
            texts[number].append(token)
            inputs = (np.array([texts[number]]), np.array(0), *state_inputs(program.model))
            want = oracle.run("forward", *inputs)[0][0, -1]
            np.testing.assert_allclose(row, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
            runner.resume(texts[number][:-1])
            alone = runner.decode(token)
            np.testing.assert_allclose(row, alone, rtol=1e-5, atol=1e-6 * np.abs(want).max())
    assert [s.position for s in group.sequences] == [5, 6, 3]


class OnTheDevice(Sampler):
    """A sampler to which no logits are shown, but those of a prompt."""

    shown = 0

    def __call__(self, logits: np.ndarray) -> int:
        self.shown += 1
        assert self.shown == 1
        return super().__call__(logits)


@pytest.mark.parametrize("settings", [(0.8, 0.9), (0.0, 1.0)], ids=["top-p", "greedy"])
def test_tokens_are_chosen_on_the_device_together_and_alone_and_are_the_samplers(program, settings) -> None:
    runner, prompts, wanted = program.runner, PROMPTS[:2], []
    for prompt in prompts:
        sampler, chooser = Sampler(*settings, seed=5), OnTheDevice(*settings, seed=5)
        want = [sampler(runner.resume(prompt))]
        for _ in range(2):
            want.append(sampler(runner.decode(want[-1])))
        first = chooser(runner.resume(prompt))
        assert [first, *itertools.islice(runner.following(first, chooser), 2)] == want
        wanted.append(want)
    answers = answer_together(runner, prompts, 3, lambda: OnTheDevice(*settings, seed=5), frozenset(), 32)
    assert answers.tokens == wanted


def test_without_draw_tokens_are_chosen_on_the_host(program, monkeypatch) -> None:
    runner, settings = program.runner, (0.8, 0.9, 5)
    sampler = Sampler(*settings)
    want = [sampler(runner.resume([7]))]
    want.append(sampler(runner.decode(want[0])))
    monkeypatch.setattr(CudaRunner, "can_draw", False)
    monkeypatch.setattr(runner, "draw", None)
    answers = answer_together(runner, [[7]], 2, lambda: Sampler(*settings), frozenset(), 32)
    assert answers.tokens == [want]


def test_a_logit_that_is_no_number_is_told_and_the_next_token_stands_where_it_should(program) -> None:
    runner, sampler = program.runner, Sampler(0.8, 0.9, seed=5)
    token = int(runner.resume(PROMPTS[0]).argmax())
    want = next(runner.following(token, Sampler(0.8, 0.9, seed=5)))
    runner.resume(PROMPTS[0])
    draw = runner.draw
    with pytest.MonkeyPatch.context() as patch:
        bad = tvm.runtime.tensor(np.full((1, 1, 64), np.nan, np.float32))
        patch.setattr(runner, "draw", lambda _logits, *rest: draw(bad, *rest))
        with pytest.raises(NumericsError, match="a logit is NaN or infinite"):
            next(runner.following(token, Sampler(0.8, 0.9)))
    assert next(runner.following(token, sampler)) == want


def test_refusals(program) -> None:
    assert program.runner.most_together == 32
    with pytest.raises(TargetError, match="33 sequences cannot decode together, at most 32 can"):
        program.runner.together(33)
    with pytest.raises(TargetError, match="different sequences are needed"):
        program.runner.together(2).decode([1, 1], [3, 4])


def test_too_little_memory_for_so_many_caches_is_said() -> None:
    class Device:
        available_global_memory, device_name = 2**20, "a card"

    with pytest.raises(DeviceMemoryError, match="a card has 1 MiB free and the program needs 8 MiB"):
        DeviceMemory(Device).copies(4, [State("k", (2, 2**20), "int8", True)])


def test_what_leaves_operations_to_others_has_no_batch_function(program) -> None:
    odd = spiking_form(tiny_llama(layers=1), SpikeOptions(group=0))  # its encoders have no kernel
    assert "batch" not in lower_for_cuda(odd)[0].launches
