"""What mapping works on: the spiking program as a graph, its tiles and flows."""

from sdc.targets.neuro.mapping.graph import (
    Accumulate,
    Attention,
    Encode,
    Op,
    Readout,
    SpikeGraph,
    Traffic,
    Vector,
)
from sdc.targets.neuro.mapping.llama import SHAPES, LlamaShape, llama_graph
from sdc.targets.neuro.mapping.statistics import SpikeStatistics
from sdc.targets.neuro.mapping.tiles import FlowKind, Flows, Partition, Tiles

__all__ = [
    "SHAPES",
    "Accumulate",
    "Attention",
    "Encode",
    "FlowKind",
    "Flows",
    "LlamaShape",
    "Op",
    "Partition",
    "Readout",
    "SpikeGraph",
    "SpikeStatistics",
    "Tiles",
    "Traffic",
    "Vector",
    "llama_graph",
]
