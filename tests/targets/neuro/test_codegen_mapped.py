"""A decoder partitioned and placed on a machine runs as core programs and equals the evaluator."""

import numpy as np
import pytest
from helpers.neuro import small_machine
from helpers.spiking_llama import empty_caches, spiking_llama

from sdc.errors import TargetError
from sdc.ir.evaluate import Evaluator
from sdc.targets.neuro.codegen.linear import SynapticLayer
from sdc.targets.neuro.codegen.mapped import MappedPlacement
from sdc.targets.neuro.codegen.module import compile_module
from sdc.targets.neuro.mapping.from_model import graph_from_model
from sdc.targets.neuro.partition import partition
from sdc.targets.neuro.place import place
from sdc.targets.neuro.simulate.functional import FunctionalSimulator


def placed(model, machine):
    part = partition(graph_from_model(model), machine)
    return part, MappedPlacement(part, place(part, machine, rounds=5).core, machine)


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
        simulator.put(compiled.inputs[0].core, compiled.inputs[0].tag, np.array([token], np.int32))
        logits, *caches = Evaluator(model).run("forward", np.array([[token]]), np.asarray(position), *caches)
        (out,) = compiled.outputs
        assert simulator.take(out.tag, out.sources).tobytes() == logits.tobytes()


def test_what_cannot_be_placed_is_refused() -> None:
    machine = small_machine()
    _, placement = placed(spiking_llama(layers=1), machine)
    with pytest.raises(TargetError, match="the mapping knows no operation other"):
        placement.tiles(
            SynapticLayer("other", np.zeros((1, 1), np.int8), np.ones((1, 1), np.float32), None, 1)
        )
    with pytest.raises(TargetError, match=r"all \d+ cores are taken"):
        placement.attention("layers.0.attn", 2, machine.board.cores)
