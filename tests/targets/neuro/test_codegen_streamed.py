"""Programs whose weights are loaded from external memory for every token: the same logits as ever."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers.neuro import small_machine
from helpers.spiking_llama import empty_caches, spiking_llama

from sdc.errors import TargetError
from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Model
from sdc.targets.neuro.codegen.module import Compiled, compile_module
from sdc.targets.neuro.codegen.streamed import StreamedPlacement
from sdc.targets.neuro.machine import Machine
from sdc.targets.neuro.mapping.from_model import graph_from_model
from sdc.targets.neuro.partition import partition
from sdc.targets.neuro.runner import DecoderRunner, Signature
from sdc.targets.neuro.simulate.recording import Recorder
from sdc.targets.neuro.simulate.replay import Replay, replay
from sdc.targets.neuro.simulate.replay_energy import bill
from sdc.targets.neuro.target import verify_compiled
from sdc.targets.neuro.verify.program import check_program

TOKENS = [4, 8, 15, 16]


def streaming_machine(bandwidth: float = 25.6) -> Machine:
    """A board of 20 cores, too small for two layers."""
    return small_machine(
        core={"synapse_memory_bytes": 2048},
        board={"routers_x": 5, "routers_y": 4},
        external_memory={
            "capacity_bytes_per_chip": 1 << 20,
            "bandwidth_gb_per_s_per_chip": bandwidth,
            "latency_ns": 100.0,
        },
    )


def compiled_for(model: Model, machine: Machine) -> Compiled:
    part = partition(graph_from_model(model), machine)
    assert part.streamed
    return compile_module(model, StreamedPlacement(part, machine), machine.name)


def runner_of(model: Model, compiled: Compiled) -> DecoderRunner:
    signature = Signature.of("decoder", model.info.vocab, compiled)
    return DecoderRunner(compiled.program, compiled.external, signature)


@pytest.mark.parametrize(
    "options",
    [
        {"coding": "ternary"},
        {"coding": "bitwise"},
        {"coding": "binary"},
        {"coding": "bitwise", "weight_bits": 4},
    ],
    ids=str,
)
def test_streamed_weights_give_the_evaluators_logits(options) -> None:
    model = spiking_llama(layers=2, **options)
    compiled = compiled_for(model, streaming_machine())
    verify_compiled(compiled, streaming_machine())
    got, caches = runner_of(model, compiled).score(TOKENS), empty_caches(model)
    for position, token in enumerate(TOKENS):
        logits, *caches = Evaluator(model).run("forward", np.array([[token]]), np.asarray(position), *caches)
        assert got[position].tobytes() == logits.tobytes()


def timed(bandwidth: float) -> tuple[Replay, int]:
    """A run of all tokens, and the bytes that its instructions load for each."""
    model, machine = spiking_llama(layers=2, coding="bitwise"), streaming_machine(bandwidth)
    compiled = compiled_for(model, machine)
    runner = runner_of(model, compiled)
    runner.machine.observer = recorder = Recorder(compiled.program)
    runner.score(TOKENS)
    loads = [i.operands for core in compiled.program.cores for i in core.code if i.name == "stream"]
    assert len(loads) >= 8
    run = replay(recorder.finish(runner.machine.traffic), machine)
    return run, sum(int(operands[2]) for operands in loads)


def test_loading_takes_bandwidth_and_energy() -> None:
    fast, bytes_per_token = timed(25.6)
    slow, _ = timed(0.025)
    moved = bytes_per_token * len(TOKENS)
    assert slow.makespan_ns >= (moved - bytes_per_token) / 0.025  # the last load ends after the last result
    assert slow.bound_ns >= (moved - bytes_per_token) / 0.025
    assert fast.makespan_ns < slow.makespan_ns / 3
    row = 4 * 32 * len(TOKENS)  # of the embedding table, also outside
    unit = streaming_machine().energy.dram_access_pj_per_byte
    for run in (fast, slow):
        assert bill(run).by_component()["external_memory"] == pytest.approx((moved + row) * unit)


def test_cores_hold_layers_in_turn_and_caches_stay() -> None:
    model, machine = spiking_llama(layers=2, coding="bitwise"), streaming_machine()
    program = compiled_for(model, machine).program
    loads = {core.core: sum(i.name == "stream" for i in core.code) for core in program.cores}
    shared = [core for core in program.cores if loads[core.core]]
    assert all(core.name == "weights" for core in shared)
    for core in shared:
        layers = {text for note in core.notes.values() for text in re.findall(r"\S+ rows \d+\.\.\d+", note)}
        assert len(layers) == loads[core.core] >= 2
        assert core.synapse_bytes <= machine.core.synapse_memory_bytes
    appends = [core for core in program.cores if any(i.name in ("kvrow", "kvcol") for i in core.code)]
    assert appends
    assert not any(loads[core.core] for core in appends)


def test_the_verifier_knows_the_end_of_external_memory() -> None:
    model, machine = spiking_llama(layers=2, coding="bitwise"), streaming_machine()
    made = compiled_for(model, machine)
    found = check_program(
        made.program, machine, made.inputs, made.outputs, tokens=12, external=len(made.external) - 8
    )
    assert {violation.kind for violation in found} == {"external-outside"}


def test_what_cannot_be_streamed_is_refused_with_numbers() -> None:
    model = spiking_llama(layers=2)
    tight = small_machine(
        core={"synapse_memory_bytes": 2048},
        board={"routers_x": 3, "routers_y": 3},
        external_memory=streaming_machine().external_memory.model_dump(),
    )
    with pytest.raises(TargetError, match=r"caches.* \d+ cores"):
        compiled_for(model, tight)
