"""Small spiking programs and machines for the tests of mapping."""

from __future__ import annotations

import pytest

from sdc.ir.model import Coding
from sdc.targets.neuro.machine import Machine, load_machine, shipped_machines
from sdc.targets.neuro.mapping.graph import Accumulate, Encode, Readout, SpikeGraph, Vector
from sdc.targets.neuro.mapping.llama import LlamaShape, llama_graph
from sdc.targets.neuro.mapping.statistics import SpikeStatistics

__all__ = ["SHIPPED", "one_layer", "small_llama", "small_machine"]

SHIPPED = [
    pytest.param(name, marks=() if name in ("loihi2-like", "generic") else pytest.mark.slow)
    for name in shipped_machines()
]
"""Every shipped machine; all but two of them in slow tests."""


def small_machine(base: str = "generic", **changes: dict[str, object]) -> Machine:
    """A shipped machine with fields of its sections changed, e.g. ``core={"clock_mhz": 1.0}``."""
    data = load_machine(base).model_dump()
    for section, fields in changes.items():
        if fields is None:
            data[section] = None
        else:
            data[section] = {**data[section], **fields}
    return Machine.model_validate(data)


def small_llama(layers: int = 2, coding: Coding = "bitwise", levels: int = 7) -> SpikeGraph:
    """A decoder of width 128 whose layers need a handful of small cores."""
    shape = LlamaShape("small", hidden=128, layers=layers, heads=4, kv_heads=2, ffn=256, vocab=512)
    statistics = SpikeStatistics(levels=levels, coding=coding, group=64)
    return llama_graph(shape, statistics, context=32, max_seq=64)


def one_layer(rows: int = 64, width: int = 64, spikes_per_neuron: float = 1.0) -> SpikeGraph:
    """A single linear layer: a vector is encoded, accumulated and read out."""
    graph = SpikeGraph("one-layer")
    graph.add(
        Encode("x.encode", 0, width, 7, "bitwise", min(64, width), spikes_per_neuron, ops_per_channel=4.0)
    )
    graph.add(Accumulate("x", 0, rows, width, 8, min(64, width)))
    graph.add(Readout("x.readout", 0, rows, max(1, width // 64)))
    graph.add(Vector("y", 0, rows))
    graph.connect("x.encode", "x", "spikes")
    graph.connect("x", "x.readout", "sums")
    graph.connect("x.readout", "y")
    return graph
