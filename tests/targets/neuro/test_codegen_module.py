"""A whole decoder as core programs equals the evaluator, bit for bit, token by token."""

import numpy as np
import pytest
from helpers.spiking_llama import empty_caches, spiking_llama

from sdc.errors import TargetError
from sdc.ir.evaluate import Evaluator
from sdc.targets.neuro.codegen.module import Compiled, compile_module
from sdc.targets.neuro.codegen.values import PlainPlacement
from sdc.targets.neuro.isa.assembler import assemble
from sdc.targets.neuro.isa.container import read, write
from sdc.targets.neuro.isa.disassembler import disassemble
from sdc.targets.neuro.simulate.functional import FunctionalSimulator


def turn(machine: FunctionalSimulator, compiled: Compiled, token: int) -> np.ndarray:
    (entry,), (result,) = compiled.inputs, compiled.outputs
    words = np.array([token], np.int32)
    if entry.row_bytes:
        start = entry.offset + token * entry.row_bytes
        words = compiled.external[start : start + entry.row_bytes].view(np.float32)
    machine.put(entry.core, entry.tag, words)
    return machine.take(result.tag, result.sources).view(np.float32)


def logits_of_program(compiled: Compiled, tokens) -> list[np.ndarray]:
    machine = FunctionalSimulator(read(write(compiled.program)), compiled.external)
    out = []
    for token in tokens:
        out.append(turn(machine, compiled, token))
    return out


def logits_of_evaluator(model, tokens) -> list[np.ndarray]:
    caches, out = empty_caches(model), []
    evaluator = Evaluator(model, keep_params=True)
    for position, token in enumerate(tokens):
        logits, *caches = evaluator.run("forward", np.array([[token]]), np.asarray(position), *caches)
        out.append(logits.ravel())
    return out


@pytest.mark.parametrize("coding", ["ternary", "bitwise", "binary"])
@pytest.mark.parametrize(
    ("options", "budget"),
    [
        ({}, 10**6),
        ({"group": 8, "levels": 15, "softcap": 3.0}, 500),
        ({"weight_bits": 4, "levels": 3, "layers": 1}, 100),
    ],
)
def test_a_decoder_on_many_cores_equals_the_evaluator(coding, options, budget) -> None:
    model = spiking_llama(coding=coding, **options)
    compiled = compile_module(model, PlainPlacement(budget))
    tokens = [3, 17, 17, 39, 0, 8]
    got, wanted = logits_of_program(compiled, tokens), logits_of_evaluator(model, tokens)
    assert len({w.tobytes() for w in wanted}) == len(tokens)
    for one, other in zip(got, wanted, strict=True):
        assert one.tobytes() == other.tobytes()
    assert compiled.max_seq == 12


@pytest.mark.parametrize("external", [True, False])
def test_a_large_table_stays_outside_the_core(external) -> None:
    model = spiking_llama(vocab=600, layers=1)
    compiled = compile_module(model, PlainPlacement(10**6, external))
    assert len(compiled.external) == 600 * 32 * 4
    assert any(i.name == "fetch" for core in compiled.program.cores for i in core.code) == external
    got, wanted = logits_of_program(compiled, [599, 1]), logits_of_evaluator(model, [599, 1])
    assert [g.tobytes() for g in got] == [w.tobytes() for w in wanted]


def test_compiling_twice_gives_the_same_bytes_and_the_dump_assembles() -> None:
    first, second = (write(compile_module(spiking_llama(), PlainPlacement(700)).program) for _ in range(2))
    assert first == second
    text = disassemble(read(first))
    assert write(assemble(text)) == first
    assert ";; layers.1.mlp.down rows 0.." in text


def test_packets_are_those_that_the_counts_demand() -> None:
    """Spikes on the network equal the spikes of all counts, times the cores that need them."""
    model = spiking_llama(layers=1, coding="ternary")
    spikes: dict[str, int] = {}

    def hook(event) -> None:
        if event.op == "spike_encode":
            spikes[event.attrs["name"]] = int(np.abs(event.result[0].astype(int)).sum())

    Evaluator(model, hook).run("forward", np.array([[5]]), np.asarray(0), *empty_caches(model))
    compiled = compile_module(model, PlainPlacement(10**6))
    machine = FunctionalSimulator(compiled.program, compiled.external)
    turn(machine, compiled, 5)
    as_words = ("layers.0.attn.k", "layers.0.attn.v")  # appended to the cache, not sent as trains
    trains = sum(count for name, count in spikes.items() if name not in as_words)
    probabilities = 4 * 31  # of the only token, at the top level, for each query head
    assert machine.traffic.sent["spike"] == trains + probabilities


def test_the_float_form_is_refused_by_name() -> None:
    from helpers.tiny_llama import tiny_llama

    with pytest.raises(TargetError, match=r"layers\.0\.attn\.q: .*no instruction for sdc\.linear"):
        compile_module(tiny_llama(), PlainPlacement(10**6))
