"""Cycles of a recorded action on a machine's core."""

from __future__ import annotations

from sdc.targets.neuro.machine import Machine
from sdc.targets.neuro.simulate.recording import Action

__all__ = ["cycles"]


def cycles(action: Action, machine: Machine) -> float:
    """One cycle for each instruction issued, and what its vectors and spikes take.

    A spike takes ``cycles_per_spike`` to be looked up, then its row is added ``synaptic_lanes`` weights at a
    time. Everything else passes the vector unit, ``vector_lanes`` elements at a time; so does the search of
    ``send`` for the counts that fire in this time step.
    """
    core, work = machine.core, action.work
    spikes = 0
    if work.spikes:
        outputs = work.synops // work.spikes
        spikes = work.spikes * (core.cycles_per_spike + -(-outputs // core.synaptic_lanes))
    return work.instructions + spikes + (work.ops + work.updates + work.moves) / core.vector_lanes
