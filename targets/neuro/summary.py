"""What of a machine a program uses: the figures of the manifest and of ``sdc inspect``."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdc.targets.neuro.isa.program import CoreProgram, Program
from sdc.targets.neuro.isa.table import WORD_BYTES
from sdc.targets.neuro.machine import Grid, Machine
from sdc.targets.neuro.place import Placement

__all__ = ["initial_bytes", "summarise"]


def summarise(program: Program, machine: Machine, placement: Placement | None) -> dict[str, Any]:
    """Cores, chips, memory, routes and the placement's quality: JSON values."""
    cores = program.cores
    numbers = np.array([core.core for core in cores])
    synapse = [core.synapse_bytes for core in cores]
    neuron = [4 * core.neuron_words for core in cores]
    targets = [len(route.targets) for core in cores for route in core.routes]
    return {
        "machine": machine.name,
        "cores": len(cores),
        "cores_available": machine.board.cores,
        "chips": len(np.unique(Grid.of(machine).chip(numbers))),
        "chips_available": machine.board.chips,
        "instructions": sum(len(core.code) for core in cores),
        "instructions_of_largest_core": max(len(core.code) for core in cores),
        "program_bytes": WORD_BYTES * sum(len(core.code) for core in cores),
        "synapse_bytes": sum(synapse),
        "synapse_bytes_of_largest_core": max(synapse),
        "synapse_bytes_per_core_available": machine.core.synapse_memory_bytes,
        "neuron_bytes": sum(neuron),
        "neuron_bytes_of_largest_core": max(neuron),
        "neuron_bytes_per_core_available": machine.core.neuron_memory_bytes,
        "routes": len(targets),
        "mean_fan_out": sum(targets) / max(1, len(targets)),
        "streamed_bytes_per_token": sum(_streamed(core) for core in cores),
        **_quality(placement),
    }


def initial_bytes(program: Program) -> int:
    """Bytes that are in the cores before the first token: weights, scales, biases, tables."""
    return sum(len(segment.data) for core in program.cores for segment in core.segments)


def _streamed(core: CoreProgram) -> int:
    """Bytes that a core's program loads from external memory for every token."""
    return sum(i.operands[2] for i in core.code if i.name == "stream" and isinstance(i.operands[2], int))


def _quality(placement: Placement | None) -> dict[str, float]:
    """Of the placement; of none where weights are streamed, whose cores are dealt out by duty."""
    if placement is None:
        return {}
    return {
        "estimated_spike_hops_per_token": float(placement.spike_hops),
        "lower_bound_of_spike_hops_per_token": float(placement.bound),
    }
