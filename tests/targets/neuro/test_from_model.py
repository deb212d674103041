"""The spike graph of a module is that of its shapes, and maps like it."""

import networkx as nx
import pytest
from helpers.neuro import small_machine
from helpers.spiking_llama import spiking_llama
from helpers.tiny_llama import tiny_llama

from sdc.errors import TargetError
from sdc.ir.model import Coding
from sdc.targets.neuro.mapping.from_model import graph_from_model
from sdc.targets.neuro.mapping.graph import Accumulate, Attention, Encode, SpikeGraph
from sdc.targets.neuro.mapping.llama import LlamaShape, llama_graph
from sdc.targets.neuro.mapping.mapping import map_graph
from sdc.targets.neuro.mapping.statistics import SpikeStatistics
from sdc.targets.neuro.verify import check_mapping

SHAPE = LlamaShape("tiny", hidden=32, layers=2, heads=4, kv_heads=2, ffn=48, vocab=40, head_dim=8)


def structure(graph: SpikeGraph) -> nx.DiGraph:
    """Kinds, sizes and traffic, without what is only estimated."""
    out: nx.DiGraph = nx.DiGraph()
    for op in graph.ops:
        fields = {k: v for k, v in vars(op).items() if k in ("rows", "width", "heads", "max_seq", "groups")}
        out.add_node(op.name, label=(type(op).__name__, tuple(sorted(fields.items()))))
    for producer, consumer, traffic in graph.edges():
        out.add_edge(producer, consumer, label=(traffic.kind, traffic.parts))
    return out


def test_a_llama_module_gives_the_graph_of_its_shapes() -> None:
    read = structure(graph_from_model(spiking_llama()))
    made = structure(llama_graph(SHAPE, SpikeStatistics(levels=7, group=16), context=12, max_seq=12))
    assert sorted(d["label"] for _, d in read.nodes(data=True)) == sorted(
        d["label"] for _, d in made.nodes(data=True)
    )
    same = lambda a, b: a["label"] == b["label"]  # noqa: E731
    assert nx.is_isomorphic(read, made, node_match=same, edge_match=same)


@pytest.mark.parametrize("coding", ["ternary", "bitwise", "binary"])
def test_encodings_come_from_the_module(coding: Coding) -> None:
    graph = graph_from_model(spiking_llama(levels=5, coding=coding, group=16, weight_bits=4))
    encoders = [op for op in graph.ops if isinstance(op, Encode)]
    assert {(op.levels, op.coding, op.group) for op in encoders} == {(5, coding, 16)}
    assert {op.weight_bits for op in graph.ops if isinstance(op, Accumulate)} == {4}
    assert all(0 < op.spikes_per_neuron < 5 for op in encoders)
    attention = next(op for op in graph.ops if isinstance(op, Attention))
    assert (attention.heads, attention.kv_heads, attention.head_dim, attention.max_seq) == (4, 2, 8, 12)


def test_measured_rates_are_used() -> None:
    statistics = SpikeStatistics(by_op={"layers.1.mlp.down": 0.125, "layers.0.attn:p": 0.5})
    graph = graph_from_model(spiking_llama(), statistics)
    assert graph.op("layers.1.mlp.down.encode").spikes_per_neuron == 0.125
    assert graph.op("layers.0.attn").probability_spikes == 0.5


def test_a_module_is_mapped_and_passes_the_verifier() -> None:
    machine = small_machine(core={"synapse_memory_bytes": 900, "neuron_memory_bytes": 2000})
    mapping = map_graph(graph_from_model(spiking_llama()), machine, tokens=3)
    assert check_mapping(mapping) == []
    assert mapping.summary()["tiles"] == len(mapping.partition.tiles) > 20


def test_a_float_module_is_refused() -> None:
    with pytest.raises(TargetError, match=r"sdc\.linear: has no place in a spike graph"):
        graph_from_model(tiny_llama())
