"""A decoder partitioned and placed on a machine runs as core programs and equals the evaluator."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.neuro import small_machine
from helpers.spiking_llama import empty_caches, spiking_llama

from sdc.errors import TargetError
from sdc.ir.evaluate import Evaluator
from sdc.targets.neuro.codegen.linear import SynapticLayer
from sdc.targets.neuro.codegen.mapped import MappedPlacement, UnmappableError, graph_of, llama_names
from sdc.targets.neuro.codegen.module import compile_module
from sdc.targets.neuro.partition import partition
from sdc.targets.neuro.place import place
from sdc.targets.neuro.simulate.functional import FunctionalSimulator


def placed(model, machine):
    part = partition(graph_of(model), machine)
    return part, MappedPlacement(
        part, place(part, machine, rounds=5).core, machine.board.cores, llama_names(model)
    )


@pytest.mark.parametrize("synapse_memory", [4096, 1500])
def test_a_mapped_decoder_equals_the_evaluator(synapse_memory) -> None:
    model = spiking_llama(coding="bitwise")
    machine = small_machine(core={"synapse_memory_bytes": synapse_memory})
    part, placement = placed(model, machine)
    compiled = compile_module(model, placement, machine.name)
    numbers = [core.core for core in compiled.program.cores]
    assert max(numbers) < machine.board.cores
    weights = [i for i, op in enumerate(part.ops) if op.name == "layers.0.mlp.gate_up"]
    assert (part.tiles.op == weights[0]).sum() == (1 if synapse_memory == 4096 else 3)
    simulator = FunctionalSimulator(compiled.program, compiled.external)
    caches = empty_caches(model)
    for position, token in enumerate([4, 8, 15]):
        simulator.put(compiled.hub, compiled.inputs[0].tag, np.array([token], np.int32))
        logits, *caches = Evaluator(model).run("forward", np.array([[token]]), np.asarray(position), *caches)
        assert simulator.take(compiled.outputs[0].tag).tobytes() == logits.tobytes()


def test_the_graph_has_the_layers_of_the_module() -> None:
    graph = graph_of(spiking_llama(layers=1, levels=7, coding="binary", group=8, weight_bits=4))
    encode = graph.op("layers.0.mlp.down.encode")
    assert (encode.width, encode.levels, encode.coding, encode.group) == (48, 7, "binary", 8)
    assert graph.op("head").weight_bits == 4
    assert graph.op("layers.0.attn").max_seq == 12


def test_what_cannot_be_mapped_is_refused() -> None:
    model = spiking_llama(layers=1)
    part, placement = placed(model, small_machine())
    with pytest.raises(
        UnmappableError, match=r"9 linear layers and 2 attentions were expected, there are 5 and 1"
    ):
        graph_of(replace(model, info=replace(model.info, layers=2)))
    with pytest.raises(UnmappableError, match=r"layers\.0\.attn\.qkv has weights \[64, 32\]"):
        graph_of(replace(model, info=replace(model.info, heads=2)))
    with pytest.raises(TargetError, match="the mapping knows no operation other"):
        placement.tiles(
            SynapticLayer("other", np.zeros((1, 1), np.int8), np.ones((1, 1), np.float32), None, 1)
        )
    with pytest.raises(TargetError, match="needs 3 fillings of the cores"):
        MappedPlacement(replace(part, streamed=True, waves=3), np.zeros(1, np.int64), 9, {})
    full = MappedPlacement(part, np.arange(len(part.tiles)), len(part.tiles), llama_names(model))
    with pytest.raises(TargetError, match=r"all \d+ cores are taken"):
        full.attention("layers.0.attn", 99)
