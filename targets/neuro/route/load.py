"""How many packets every link carries for one token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Grid, Machine
from sdc.targets.neuro.route.tree import HORIZONTAL, Routes

__all__ = ["LinkLoads", "link_loads", "link_time_ns"]


@dataclass(frozen=True)
class LinkLoads:
    """Packets for one token on the links leaving each router.

    Attributes:
        east, west, north, south: [height, width] packets; y grows to the north.
    """

    east: NDArray[np.float64]
    west: NDArray[np.float64]
    north: NDArray[np.float64]
    south: NDArray[np.float64]

    def stacked(self) -> NDArray[np.float64]:
        """[4, height, width]."""
        return np.stack([self.east, self.west, self.north, self.south])

    def busiest_ns(self, machine: Machine) -> float:
        """Time that the busiest link needs for one token's packets."""
        return float((self.stacked() * link_time_ns(machine)).max(initial=0.0))


def link_loads(routes: Routes, packets: NDArray[np.float64], grid: Grid) -> LinkLoads:
    """Loads of all links. Segments are added at their two ends and summed up along the lines.

    Args:
        packets: [F] packets of each flow for one token.
    """
    found = []
    for axis, size in ((HORIZONTAL, grid.width), (1 - HORIZONTAL, grid.height)):
        lines = grid.height if axis == HORIZONTAL else grid.width
        for step in (1, -1):
            chosen = (routes.axis == axis) & (routes.step == step)
            ends = np.zeros((lines, size + 1))
            line, start, length = routes.line[chosen], routes.start[chosen], routes.length[chosen]
            weight = packets[routes.flow[chosen]]
            low = start if step > 0 else start - length + 1
            np.add.at(ends, (line, low), weight)
            np.add.at(ends, (line, low + length), -weight)
            load = np.cumsum(ends, axis=1)[:, :size]
            found.append(load if axis == HORIZONTAL else load.T)
    return LinkLoads(*found)


def link_time_ns(machine: Machine) -> NDArray[np.float64]:
    """[4, height, width] time that one packet occupies each link; links between chips are slower.

    The edge of a chip is one link, shared by the routers along it. The ring of a single chip closes on it.
    """
    grid, network = Grid.of(machine), machine.network
    apart_x, apart_y = grid.several_chips
    time = np.full((4, grid.height, grid.width), network.packet_time_ns)
    slow = network.packet_bits / network.chip_link_gbit_per_s
    x, y = np.arange(grid.width), np.arange(grid.height)
    edges = (
        apart_x & ((x + 1) % grid.chip_width == 0),
        apart_x & (x % grid.chip_width == 0),
        apart_y & ((y + 1) % grid.chip_height == 0),
        apart_y & (y % grid.chip_height == 0),
    )
    for direction, edge in enumerate(edges):
        if direction < 2:
            time[direction][:, edge] = np.maximum(slow * grid.chip_height, network.packet_time_ns)
        else:
            time[direction][edge, :] = np.maximum(slow * grid.chip_width, network.packet_time_ns)
    return time
