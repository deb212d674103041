"""Energy of one token: every event times its unit energy, by component and by layer, and static power."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.mapping.graph import Accumulate, Attention, Encode, SpikeGraph, Vector
from sdc.targets.neuro.mapping.mapping import Mapping
from sdc.targets.neuro.mapping.tiles import FlowKind

__all__ = ["COMPONENTS", "EnergyReport", "dense", "energy_per_token"]

Floats = NDArray[np.float64]

COMPONENTS = (
    "synaptic",
    "neuron",
    "vector",
    "sram",
    "send",
    "receive",
    "network",
    "chip_links",
    "external_memory",
)


@dataclass(frozen=True)
class EnergyReport:
    """Picojoules for one token.

    Attributes:
        by_op: [O, C] dynamic energy by operation and component (:data:`COMPONENTS`).
        layer: [O] layer of each operation, -1 outside the layers.
        static_pj: Static power of the chips in use, over the time of one token.
        counts: How often each kind of event happens for one token.
    """

    by_op: Floats
    layer: NDArray[np.int64]
    static_pj: float
    counts: dict[str, float]

    @property
    def dynamic_pj(self) -> float:
        """All events."""
        return float(self.by_op.sum())

    @property
    def total_pj(self) -> float:
        """Events and static power."""
        return self.dynamic_pj + self.static_pj

    def by_component(self) -> dict[str, float]:
        """Picojoules of each component, static power last."""
        sums = dict(zip(COMPONENTS, self.by_op.sum(axis=0).tolist(), strict=True))
        return {**sums, "static": self.static_pj}

    def by_layer(self) -> dict[int, float]:
        """Dynamic picojoules of each layer."""
        layers = np.unique(self.layer)
        return {int(i): float(self.by_op[self.layer == i].sum()) for i in layers}


def energy_per_token(mapping: Mapping, time_per_token_ns: float) -> EnergyReport:
    """Energy of one token.

    Args:
        time_per_token_ns: For static power: the period of a stream, or the latency of a single token.
    """
    tiles, part, unit = mapping.partition.tiles, mapping.partition, mapping.machine.energy
    ops = part.ops
    per_tile = np.zeros((len(tiles), len(COMPONENTS)))
    adds = np.array([_add_pj(mapping, op) for op in ops])
    per_tile[:, 0] = tiles.synops * adds[tiles.op]
    per_tile[:, 1] = tiles.neuron_updates * unit.neuron_update_pj
    per_tile[:, 2] = tiles.vector_ops * unit.vector_op_pj
    per_tile[:, 3] = tiles.sram_bytes * unit.sram_access_pj_per_byte
    counts = _network(mapping, per_tile)
    counts["external_bytes"] = _external(mapping, per_tile)
    counts["synops"] = float(tiles.synops.sum())
    counts["neuron_updates"] = float(tiles.neuron_updates.sum())
    counts["vector_ops"] = float(tiles.vector_ops.sum())
    by_op = np.zeros((len(ops), len(COMPONENTS)))
    np.add.at(by_op, tiles.op, per_tile)
    static_mw = mapping.chips * mapping.machine.board.static_power_mw_per_chip
    layer = np.array([op.layer for op in ops], np.int64)
    return EnergyReport(by_op, layer, static_mw * time_per_token_ns, counts)  # mW x ns = pJ


def _add_pj(mapping: Mapping, op: object) -> float:
    energy = mapping.machine.energy
    if isinstance(op, Accumulate):
        return energy.synaptic_add(mapping.partition.stored_bits)
    return energy.synaptic_add(op.kv_bits) if isinstance(op, Attention) else 0.0


def _network(mapping: Mapping, per_tile: Floats) -> dict[str, float]:
    """Sending, receiving, hops: charged to the sender."""
    network, unit, flows = mapping.machine.network, mapping.machine.energy, mapping.partition.flows
    packets = mapping.costs.packets[mapping.routed]
    source = flows.source[mapping.routed]
    received = packets * flows.fan_out[mapping.routed]
    inner = packets * (mapping.routes.hops - mapping.routes.chip_hops)
    outer = packets * mapping.routes.chip_hops
    columns = {
        "send": packets * unit.spike_send_pj,
        "receive": received * unit.spike_receive_pj,
        "network": inner * network.hop_energy_pj + received * network.cluster_energy_pj,
        "chip_links": outer * network.chip_hop_energy_pj,
    }
    for name, energy in columns.items():
        np.add.at(per_tile[:, COMPONENTS.index(name)], source, energy)
    spikes = flows.kind[mapping.routed] == FlowKind.SPIKES
    return {
        "packets": float(packets.sum()),
        "spike_packets": float(packets[spikes].sum()),
        "delivered": float(received.sum()),
        "hops": float(inner.sum() + outer.sum()),
        "chip_hops": float(outer.sum()),
    }


def _external(mapping: Mapping, per_tile: Floats) -> float:
    """Streamed weights (shared by the tokens of a batch), data between waves, rows of embedding tables."""
    part, flows = mapping.partition, mapping.partition.flows
    moved = np.zeros(len(part.tiles))
    if part.streamed:
        moved += part.tiles.synapse_bytes / mapping.schedule.tokens
        outside = mapping.costs.packets * mapping.machine.network.packet_bits / 8 * flows.external
        moved += np.bincount(flows.source, 2 * outside, len(moved))
    rows = np.array([op.external_bytes if isinstance(op, Vector) else 0 for op in part.ops])
    size = np.array([max(op.units, 1) for op in part.ops])
    share = (part.tiles.row1 - part.tiles.row0) / size[part.tiles.op]
    moved += rows[part.tiles.op] * share
    per_tile[:, COMPONENTS.index("external_memory")] = moved * mapping.machine.energy.dram_access_pj_per_byte
    return float(moved.sum())


def dense(graph: SpikeGraph) -> SpikeGraph:
    """The same program on a machine that skips nothing: every neuron sends in every time step.

    Accumulators and results are the same; packets and additions are T per neuron instead of its spikes.
    """
    out = SpikeGraph(f"{graph.name} (dense)", graph.net.copy())
    for op in graph.ops:
        if isinstance(op, Encode):
            out.net.nodes[op.name]["op"] = replace(op, spikes_per_neuron=float(op.steps))
        elif isinstance(op, Attention):
            busy = replace(
                op,
                query_spikes=float(op.query_steps),
                probability_spikes=float(op.probability_steps),
            )
            out.net.nodes[op.name]["op"] = busy
    return out
