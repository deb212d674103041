"""Energy of a replayed run: every recorded event times its unit energy, by operation, component and token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.isa.program import HOST
from sdc.targets.neuro.machine import Grid, Machine
from sdc.targets.neuro.mapping.from_model import layer_of
from sdc.targets.neuro.simulate.recording import Action
from sdc.targets.neuro.simulate.replay import MessageLog, Replay
from sdc.targets.neuro.simulate.timing_energy import COMPONENTS, EnergyReport

__all__ = ["COUNTS", "Bill", "bill"]

Floats = NDArray[np.float64]

WORD_BYTES = 4
COUNTS = ("packets", "spikes", "delivered", "hops", "chip_hops", "synops", "neuron_updates", "vector_ops")


@dataclass(frozen=True)
class Bill:
    """Events and picojoules of a run.

    Attributes:
        ops: Names of the operations.
        energy_pj: [ops, tokens, components] dynamic energy (:data:`sdc.targets.neuro.simulate.timing_energy.
            COMPONENTS`); packets are charged to the operation that sends them.
        counts: [ops, tokens, kinds] events (:data:`COUNTS`); ``spikes`` are spike packets, markers apart.
        static_pj: [tokens] static power of the chips in use, over the time of each token.
        chips: Chips in use.
    """

    ops: tuple[str, ...]
    energy_pj: Floats
    counts: Floats
    static_pj: Floats
    chips: int

    @property
    def total_pj(self) -> float:
        """The whole run."""
        return float(self.energy_pj.sum() + self.static_pj.sum())

    def by_component(self) -> dict[str, float]:
        """Picojoules of the run by component, static power last."""
        sums = dict(zip(COMPONENTS, self.energy_pj.sum(axis=(0, 1)).tolist(), strict=True))
        return {**sums, "static": float(self.static_pj.sum())}

    def by_token(self) -> Floats:
        """[tokens] picojoules, static power included."""
        total: Floats = self.energy_pj.sum(axis=(0, 2)) + self.static_pj
        return total

    def count(self, kind: str) -> float:
        """Events of one of :data:`COUNTS` over the run."""
        return float(self.counts[..., COUNTS.index(kind)].sum())

    def counts_by_op(self, kind: str) -> Floats:
        """[ops] events of one of :data:`COUNTS`."""
        total: Floats = self.counts[..., COUNTS.index(kind)].sum(axis=1)
        return total

    def report(self) -> EnergyReport:
        """Averages over the tokens."""
        tokens = self.energy_pj.shape[1]
        layers = np.array([layer_of(name, -1) for name in self.ops], np.int64)
        counts = {kind: self.count(kind) / tokens for kind in COUNTS}
        return EnergyReport(self.energy_pj.sum(axis=1) / tokens, layers, float(self.static_pj.mean()), counts)


def bill(run: Replay) -> Bill:
    """What a run cost."""
    ops, tokens = run.recording.ops, len(run.token_ends)
    energy = np.zeros((len(ops), tokens, len(COMPONENTS)))
    counts = np.zeros((len(ops), tokens, len(COUNTS)))
    for number, actions in run.recording.actions.items():
        for action in actions if number != HOST else ():
            _work(action, run.machine, energy, counts)
    for message in run.messages:
        _message(message, run.machine, energy, counts)
    grid = Grid.of(run.machine)
    cores = np.array([core.core for core in run.recording.program.cores], np.int64)
    chips = len(np.unique(grid.chip(cores)))
    time = np.diff(run.token_ends, prepend=0.0)
    static = chips * run.machine.board.static_power_mw_per_chip * time  # mW x ns = pJ
    return Bill(ops, energy, counts, static, chips)


def _work(action: Action, machine: Machine, energy: Floats, counts: Floats) -> None:
    unit, work = machine.energy, action.work
    here = energy[action.op, action.token]
    if work.synops:
        here[COMPONENTS.index("synaptic")] += work.synops * unit.synaptic_add(work.bits)
    here[COMPONENTS.index("neuron")] += work.updates * unit.neuron_update_pj
    here[COMPONENTS.index("vector")] += work.ops * unit.vector_op_pj
    here[COMPONENTS.index("sram")] += work.words * WORD_BYTES * unit.sram_access_pj_per_byte
    here[COMPONENTS.index("external_memory")] += work.external * unit.dram_access_pj_per_byte
    _count(counts, action.op, action.token, synops=work.synops)
    _count(counts, action.op, action.token, neuron_updates=work.updates, vector_ops=work.ops)


def _message(message: MessageLog, machine: Machine, energy: Floats, counts: Floats) -> None:
    tree = message.tree
    if not tree.moves or tree.source == HOST:
        return
    unit, network = machine.energy, machine.network
    here = energy[message.op, message.token]
    packets, hops = message.packets, message.packets * len(tree.links)
    delivered, outer = packets * tree.away, packets * tree.chip_links
    here[COMPONENTS.index("send")] += packets * unit.spike_send_pj
    here[COMPONENTS.index("receive")] += delivered * unit.spike_receive_pj
    inner = (hops - outer) * network.hop_energy_pj + delivered * network.cluster_energy_pj
    here[COMPONENTS.index("network")] += inner
    here[COMPONENTS.index("chip_links")] += outer * network.chip_hop_energy_pj
    spikes = packets - 1 if message.kind == "spike" else 0
    place = message.op, message.token
    _count(counts, *place, packets=packets, spikes=spikes, delivered=delivered, hops=hops, chip_hops=outer)


def _count(counts: Floats, op: int, token: int, **found: float) -> None:
    for kind, number in found.items():
        counts[op, token, COUNTS.index(kind)] += number
