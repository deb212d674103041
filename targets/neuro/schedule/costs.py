"""How long each tile and each message takes when nothing else is in the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Grid, Machine
from sdc.targets.neuro.mapping.tiles import FlowKind, Flows, Partition
from sdc.targets.neuro.route.load import link_loads, link_time_ns
from sdc.targets.neuro.route.tree import Routes

__all__ = ["Costs", "tile_costs"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Costs:
    """Times in nanoseconds, for one token.

    Attributes:
        work_ns: [T] a core's arithmetic and memory work; the global statistic of a whole row included.
        lead_ns: [T] part of ``work_ns`` that comes before the partial sums of other tiles are needed: a
            tile of a chain accumulates its own spikes meanwhile.
        head_ns: [F] from the last packet's leaving the source to its arrival, apart from ``serial_ns``.
        serial_ns: [F] how long the packets of one token occupy a link of their tree, at its slowest link.
        packets: [F] packets of one token, with one marker for each flow of spikes ("no more for this token").
        busiest_link_ns: How long the busiest link is occupied.
    """

    work_ns: Floats
    lead_ns: Floats
    head_ns: Floats
    serial_ns: Floats
    packets: Floats
    busiest_link_ns: float

    def waits(self, flows: Flows) -> tuple[Ints, Ints, Floats]:
        """Which tiles wait for which, and the time from the end of the first to the start of the second.

        Returns:
            Source [D], target [D] and wait in nanoseconds [D] of every dependency. Statistics are none:
            they are part of a tile's own work.
        """
        entry = np.flatnonzero(flows.kind[flows.flow_of_target] != FlowKind.STATISTIC)
        flow, target = flows.flow_of_target[entry], flows.target[entry]
        wait = (self.head_ns + self.serial_ns)[flow]
        wait = wait - np.where(flows.kind[flow] == FlowKind.REDUCTION, self.lead_ns[target], 0.0)
        return flows.source[flow], target, wait


def tile_costs(
    partition: Partition, routes: Routes, flow_of_route: NDArray[np.int64], machine: Machine
) -> Costs:
    """Costs of all tiles and flows.

    Args:
        routes: Trees of the flows on the network.
        flow_of_route: Number, among all flows, of each of these.
    """
    tiles, flows, core, network = partition.tiles, partition.flows, machine.core, machine.network
    cycles = tiles.spike_cycles + (tiles.vector_ops + tiles.neuron_updates) / core.vector_lanes
    work = cycles * 1e3 / core.clock_mhz
    lead = tiles.spike_cycles * 1e3 / core.clock_mhz
    packets = flows.packets + (flows.kind == FlowKind.SPIKES)
    head, serial = np.zeros(len(flows)), np.zeros(len(flows))
    plain = routes.depth - routes.chip_depth
    chip_hops = routes.chip_depth * network.chip_hop_latency_ns
    head[flow_of_route] = plain * network.hop_latency_ns + chip_hops + network.cluster_latency_ns
    grid = Grid.of(machine)
    time = link_time_ns(machine)
    slow = np.full(len(routes.hops), network.packet_time_ns)
    for axis, across in enumerate((grid.chip_height, grid.chip_width)):
        edge = max(network.packet_bits / network.chip_link_gbit_per_s * across, network.packet_time_ns)
        slow = np.where(routes.chip_reach[axis] > 0, np.maximum(slow, edge), slow)
    serial[flow_of_route] = packets[flow_of_route] * slow
    _external(partition, packets, machine, head, serial)
    _statistics(partition, head, work)
    loads = link_loads(routes, packets[flow_of_route], grid).stacked()
    return Costs(work, lead, head, serial, packets, float((loads * time).max(initial=0.0)))


def _external(partition: Partition, packets: Floats, machine: Machine, head: Floats, serial: Floats) -> None:
    """Flows between waves: written to external memory and read back."""
    memory = machine.external_memory
    if memory is None:
        return
    outside = partition.flows.external
    moved = packets[outside] * machine.network.packet_bits / 8
    head[outside] = 2 * memory.latency_ns
    serial[outside] = 2 * moved / memory.bandwidth_gb_per_s_per_chip


def _statistics(partition: Partition, head: Floats, work: Floats) -> None:
    """An encoder that needs a sum over all its pieces waits for the way there and back."""
    flows = partition.flows
    for f in np.flatnonzero(flows.kind == FlowKind.STATISTIC):
        if flows.fan_out[f] > 1:
            members = np.append(flows.targets(int(f)), flows.source[f])
            work[members] += 2 * head[f]
