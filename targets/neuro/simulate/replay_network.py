"""The routes of a program as multicast trees on a machine's links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.errors import TargetError
from sdc.targets.neuro.isa.program import HOST, Program, Route
from sdc.targets.neuro.machine import Grid, Machine
from sdc.targets.neuro.route import Routes, route
from sdc.targets.neuro.route.load import link_time_ns
from sdc.targets.neuro.route.tree import HORIZONTAL
from sdc.targets.neuro.simulate.recording import Action, Recording

__all__ = ["Network", "Tree"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tree:
    """One route of one core.

    Attributes:
        targets: Cores, and :data:`sdc.targets.neuro.isa.program.HOST`.
        head_ns: Of each target: from a packet's leaving to its arrival.
        links: Numbers of the links of the tree, ``(direction * height + y) * width + x``.
        chip_links: How many of them cross from chip to chip.
        moves: Whether packets leave the sending core; what a core sends itself does not.
    """

    source: int
    tag: int
    targets: tuple[int, ...]
    head_ns: tuple[float, ...]
    links: Ints
    chip_links: int
    moves: bool

    @property
    def away(self) -> int:
        """Receiving cores other than the sender."""
        return sum(target not in (self.source, HOST) for target in self.targets)


@dataclass(frozen=True)
class Network:
    """All trees of a program.

    Attributes:
        link_time: [links] nanoseconds that one packet occupies each link.
        port_time_ns: The same for a core's way into the network.
        routes: The trees as segments, for the check against deadlock.
    """

    machine: Machine
    grid: Grid
    trees: Mapping[tuple[int, int], Tree]
    link_time: NDArray[np.float64]
    port_time_ns: float
    routes: Routes

    @staticmethod
    def of(recording: Recording, machine: Machine) -> Network:
        """Routes every route of every core.

        Raises:
            TargetError: A core of the program is not on the machine.
        """
        return network_of(recording.program, machine)

    @property
    def links(self) -> int:
        """Links of the board."""
        return len(self.link_time)

    def tree(self, core: int, action: Action) -> Tree:
        """The tree of a message; what the host sends enters at the core."""
        if core == HOST:
            return Tree(HOST, action.port, (action.sources,), (0.0,), np.empty(0, np.int64), 0, False)
        return self.trees[core, action.port]

    def external_ns(self, size: int) -> tuple[float, float]:
        """Latency of external memory, and time on its bus for some bytes.

        Zero where the chips have none: the host's time is not counted.
        """
        memory = self.machine.external_memory
        if not size or memory is None:
            return 0.0, 0.0
        return memory.latency_ns, size / memory.bandwidth_gb_per_s_per_chip

    def chip(self, core: int) -> int:
        """The chip of a core."""
        return int(self.grid.chip(np.array([core]))[0])


def network_of(program: Program, machine: Machine) -> Network:
    """As :meth:`Network.of`."""
    grid = Grid.of(machine)
    _check_cores(program, machine, grid)
    keys, sources, targets = [], [], []
    for core in program.cores:
        for number, wanted in enumerate(core.routes):
            away = [t for t in wanted.targets if t not in (HOST, core.core)]
            keys.append((core.core, number))
            sources.append(core.core)
            targets.append(away)
    flow_of_target = np.repeat(np.arange(len(keys)), [len(away) for away in targets])
    flat = np.array([t for away in targets for t in away], np.int64)
    source = np.array(sources, np.int64)
    trees = route(source, flat, flow_of_target, grid, machine.network.virtual_channels)
    links = _links(trees, grid, len(keys))
    routes = {core.core: core.routes for core in program.cores}
    found = {
        (core, number): _tree(core, routes[core][number], links[i], int(trees.chip_hops[i]), machine, grid)
        for i, (core, number) in enumerate(keys)
    }
    return Network(machine, grid, found, link_time_ns(machine).ravel(), machine.network.packet_time_ns, trees)


def _check_cores(program: Program, machine: Machine, grid: Grid) -> None:
    for core in program.cores:
        if core.core >= grid.cores:
            raise TargetError(
                f"the program uses core {core.core}, {machine.name} has {grid.cores} cores: it was compiled "
                f"for {program.machine or 'another machine'}"
            )


def _links(trees: Routes, grid: Grid, count: int) -> list[Ints]:
    segment = np.repeat(np.arange(len(trees.flow)), trees.length)
    first = np.cumsum(trees.length) - trees.length
    place = trees.start[segment] + trees.step[segment] * (np.arange(len(segment)) - first[segment])
    flat = trees.axis[segment] == HORIZONTAL
    x, y = np.where(flat, place, trees.line[segment]), np.where(flat, trees.line[segment], place)
    direction = 2 * trees.axis[segment] + (trees.step[segment] < 0)
    link = (direction * grid.height + y) * grid.width + x
    bounds = np.searchsorted(trees.flow[segment], np.arange(count + 1))
    return [link[bounds[i] : bounds[i + 1]] for i in range(count)]


def _tree(core: int, found: Route, links: Ints, chip_links: int, machine: Machine, grid: Grid) -> Tree:
    network = machine.network
    targets = np.array([core if t == HOST else t for t in found.targets], np.int64)
    (x, y), (tx, ty) = grid.xy(np.array([core])), grid.xy(targets)
    distance = grid.distance(tx - x, ty - y)
    crossings = abs(tx // grid.chip_width - x // grid.chip_width)
    crossings = crossings + abs(ty // grid.chip_height - y // grid.chip_height)
    if grid.torus:  # the short way round may cross fewer edges, never more than its hops
        crossings = np.minimum(crossings, distance)
    head = (distance - crossings) * network.hop_latency_ns + crossings * network.chip_hop_latency_ns
    head = head + np.where(targets == core, 0.0, network.cluster_latency_ns)
    moves = any(t != core for t in found.targets)
    return Tree(core, found.tag, found.targets, tuple(head.tolist()), links, chip_links, moves)
