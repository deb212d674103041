"""Which core holds which tile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Grid, Machine
from sdc.targets.neuro.mapping.tiles import Partition
from sdc.targets.neuro.place.anneal import anneal
from sdc.targets.neuro.place.bound import lower_bound
from sdc.targets.neuro.place.cost import on_chip, spike_hops
from sdc.targets.neuro.place.curve import curves

__all__ = ["Placement", "place", "place_randomly", "uses_both_orders"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Placement:
    """A core for every tile.

    Attributes:
        core: [T] core numbers; two tiles share a core only in different waves.
        spike_hops: Packets times links for one token.
        bound: What no placement can go below, see :func:`sdc.targets.neuro.place.lower_bound`.
    """

    core: Ints
    spike_hops: float
    bound: float

    @property
    def ratio(self) -> float:
        """Spike-hops relative to the lower bound (1 where both are zero)."""
        return self.spike_hops / self.bound if self.bound else 1.0


def place(partition: Partition, machine: Machine, seed: int = 0, rounds: int | None = None) -> Placement:
    """The best space-filling curve, improved by simulated annealing.

    Args:
        rounds: Rounds of annealing; by default enough for a small model, fewer the larger it is. A streamed
            model is not annealed: its waves share the cores, and the curve keeps each of them compact.
    """
    grid = Grid.of(machine)
    both = uses_both_orders(machine, grid)
    _, flows = on_chip(partition.flows)
    best: Ints | None = None
    cost = np.inf
    for curve in curves(grid, _cores(partition)):
        core = curve[_position(partition)]
        hops = spike_hops(flows, core, grid, both)
        if hops < cost:
            best, cost = core, hops
    assert best is not None
    if not partition.streamed:
        if rounds is None:
            rounds = min(8 * len(best), max(8_000_000 // max(len(best), 1), 100))
        best, _ = anneal(flows, best, grid, rounds, seed, both)
    return Placement(best, spike_hops(flows, best, grid, both), lower_bound(flows, grid))


def place_randomly(partition: Partition, machine: Machine, seed: int = 0) -> Placement:
    """Tiles shuffled over the cores of the same compact region: what placement is compared with."""
    grid = Grid.of(machine)
    _, flows = on_chip(partition.flows)
    curve = next(curves(grid, _cores(partition)))
    core = np.random.default_rng(seed).permutation(curve)[_position(partition)]
    hops = spike_hops(flows, core, grid, uses_both_orders(machine, grid))
    return Placement(core, hops, lower_bound(flows, grid))


def uses_both_orders(machine: Machine, grid: Grid) -> bool:
    """Whether a flow may take either order of axes: there are virtual channels for both."""
    return machine.network.virtual_channels >= (4 if grid.torus else 2)


def _cores(partition: Partition) -> int:
    return int(np.bincount(partition.tiles.wave).max())


def _position(partition: Partition) -> Ints:
    """[T] place of each tile within its wave."""
    wave = partition.tiles.wave
    first = np.searchsorted(wave, np.arange(partition.waves))
    return np.arange(len(wave)) - first[wave]
