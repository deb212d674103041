"""From a spike graph to a complete mapping: the one function that runs all stages, and their results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Grid, Machine
from sdc.targets.neuro.mapping.graph import SpikeGraph
from sdc.targets.neuro.mapping.tiles import Partition
from sdc.targets.neuro.partition import partition
from sdc.targets.neuro.place import Placement, on_chip, place
from sdc.targets.neuro.route import Routes, route
from sdc.targets.neuro.schedule import Costs, Schedule, schedule, tile_costs

__all__ = ["Mapping", "map_graph", "route_flows"]


@dataclass(frozen=True)
class Mapping:
    """A program on a machine.

    Attributes:
        routed: [R] numbers of the flows that use the network; tree r of ``routes`` is that of flow
            ``routed[r]``.
    """

    machine: Machine
    graph: SpikeGraph
    partition: Partition
    placement: Placement
    routed: NDArray[np.int64]
    routes: Routes
    costs: Costs
    schedule: Schedule

    @property
    def core(self) -> NDArray[np.int64]:
        """[T] core of each tile."""
        return self.placement.core

    @property
    def grid(self) -> Grid:
        """Geometry of the board."""
        return Grid.of(self.machine)

    @property
    def chips(self) -> int:
        """Chips that hold at least one tile."""
        return len(np.unique(self.grid.chip(self.core)))

    def summary(self) -> dict[str, float | int | str | bool]:
        """Sizes and qualities, for reports."""
        part = self.partition
        return {
            "model": self.graph.name,
            "machine": self.machine.name,
            "tiles": len(part.tiles),
            "cores": len(np.unique(self.core)),
            "chips": self.chips,
            "flows": len(part.flows),
            "streamed": part.streamed,
            "waves": part.waves,
            "spike_hops": self.placement.spike_hops,
            "spike_hops_bound": self.placement.bound,
            "makespan_ns": self.schedule.makespan_ns,
            "makespan_bound_ns": self.schedule.bound_ns,
        }


def map_graph(
    graph: SpikeGraph, machine: Machine, *, tokens: int = 16, seed: int = 0, rounds: int | None = None
) -> Mapping:
    """Partition, placement, routing and schedule.

    Args:
        tokens: Tokens of one batch.
        seed: Of the annealing.
        rounds: Rounds of annealing; by default by size.

    Raises:
        DoesNotFit: The machine is too small; needed and available are named.
    """
    part = partition(graph, machine)
    placement = place(part, machine, seed, rounds)
    routed, routes = route_flows(part, placement.core, machine)
    costs = tile_costs(part, routes, routed, machine)
    times = schedule(part, placement.core, costs, machine, tokens)
    return Mapping(machine, graph, part, placement, routed, routes, costs, times)


def route_flows(
    part: Partition, core: NDArray[np.int64], machine: Machine
) -> tuple[NDArray[np.int64], Routes]:
    """Numbers of the flows on the network, and their trees."""
    routed, flows = on_chip(part.flows)
    grid = Grid.of(machine)
    trees = route(
        core[flows.source],
        core[flows.target],
        flows.flow_of_target,
        grid,
        machine.network.virtual_channels,
    )
    return routed, trees
