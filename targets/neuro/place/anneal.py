"""Simulated annealing on the exact cost, many independent exchanges at a time.

A round proposes exchanges of tiles, keeps those that touch no flow in common, and computes the trees of the
touched flows once with all of them done. Since no two exchanges share a flow, the change of each is exact,
and each is taken or undone by Metropolis' rule.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Grid
from sdc.targets.neuro.mapping.tiles import Flows
from sdc.targets.neuro.place.cost import spike_hops
from sdc.targets.neuro.route.tree import tree_hops

__all__ = ["anneal"]

Ints = NDArray[np.int64]
SHARE = 0.06
"""Part of the tiles that proposes an exchange in one round."""
ROUTERS = 0.3
"""Part of the exchanges that exchange all tiles of two routers, where a router has several."""
HEAT = 0.005
"""First temperature, relative to the mean change of a random exchange."""


def anneal(
    flows: Flows, core: Ints, grid: Grid, rounds: int, seed: int, both_orders: bool = True
) -> tuple[Ints, float]:
    """A placement at least as good as ``core``, on the same cores.

    Args:
        flows: Flows on the network.
        core: [T] core of each tile.
        rounds: Rounds of exchanges.
        both_orders: As for :func:`sdc.targets.neuro.place.spike_hops`.

    Returns:
        [T] cores, and their spike-hops.
    """
    cost = spike_hops(flows, core, grid, both_orders)
    if rounds <= 0 or len(core) < 2 or not len(flows):
        return core.copy(), cost
    tiles = len(core)
    state = _State(flows, np.concatenate([core, _unused(core, grid)]), grid, seed, both_orders)
    best, best_cost = core.copy(), cost
    for i in range(rounds):
        left = 1.0 - i / rounds
        cost += state.round(left)
        if cost < best_cost:
            best, best_cost = state.core[:tiles].copy(), cost
    return best, spike_hops(flows, best, grid, both_orders)


def _unused(core: Ints, grid: Grid) -> Ints:
    """Cores without a tile on the chips that are in use: they take part as tiles that no flow knows."""
    chip = grid.chip(np.arange(grid.cores))
    used = np.isin(chip, grid.chip(core))
    used[core] = False
    return np.flatnonzero(used)


class _State:
    """Tiles on cores, and which flows each tile takes part in."""

    def __init__(self, flows: Flows, core: Ints, grid: Grid, seed: int, both_orders: bool) -> None:
        self.flows, self.grid, self.both = flows, grid, both_orders
        self.rng = np.random.default_rng(seed)
        self.core = core.copy()
        self.tile_of = np.full(grid.cores, -1, np.int64)
        self.tile_of[core] = np.arange(len(core))
        member = np.concatenate([flows.source, flows.target])
        flow = np.concatenate([np.arange(len(flows)), flows.flow_of_target])
        order = np.argsort(member, kind="stable")
        self.flow_of_member = flow[order]
        self.first = np.searchsorted(member[order], np.arange(len(core) + 1))
        self.hops = tree_hops(core[flows.source], core[flows.target], flows.flow_of_target, grid, both_orders)
        self.scale = 0.0

    def round(self, left: float) -> float:
        """One round of exchanges; returns what it changed.

        Args:
            left: Part of the annealing that is still to come, 1 to 0.
        """
        a, b = self._pairs(radius=max(1, round(6 * left)))
        if self.grid.cluster > 1:
            a, b, move = self._with_routers(a, b)
        else:
            move = np.arange(len(a))
        a, b, move, touched, owner = self._independent(a, b, move)
        if not len(a):
            return 0.0
        self._exchange(a, b)
        hops = self._hops(touched)
        change = np.bincount(owner, (hops - self.hops[touched]) * self.flows.packets[touched], move[-1] + 1)
        self.scale = self.scale or float(np.abs(change).mean())
        take = change <= HEAT * self.scale * left**2 * self.rng.exponential(size=len(change))
        undo = ~take[move]
        self._exchange(a[undo], b[undo])
        kept = take[owner]
        self.hops[touched[kept]] = hops[kept]
        return float(change[take].sum())

    def _exchange(self, a: Ints, b: Ints) -> None:
        self.core[a], self.core[b] = self.core[b], self.core[a]
        self.tile_of[self.core[a]], self.tile_of[self.core[b]] = a, b

    def _hops(self, chosen: Ints) -> Ints:
        """Tree links of some flows on the present placement."""
        count = self.flows.fan_out[chosen]
        flow = np.repeat(np.arange(len(chosen)), count)
        inner = np.arange(len(flow)) - np.repeat(np.cumsum(count) - count, count)
        target = self.flows.target[self.flows.first[chosen][flow] + inner]
        source = self.core[self.flows.source[chosen]]
        return tree_hops(source, self.core[target], flow, self.grid, self.both)

    def _pairs(self, radius: int) -> tuple[Ints, Ints]:
        """Disjoint pairs: a tile, and one near it or near a tile that it exchanges data with."""
        count = max(2, int(SHARE * len(self.core)))
        first = self.rng.integers(0, len(self.core), count)
        degree = self.first[first + 1] - self.first[first]
        pick = self.first[first] + (self.rng.random(count) * degree).astype(np.int64)
        flow = self.flow_of_member[np.minimum(pick, len(self.flow_of_member) - 1)]
        fan = self.flows.fan_out[flow]
        peer = self.flows.target[self.flows.first[flow] + (self.rng.random(count) * fan).astype(np.int64)]
        peer = np.where(peer == first, self.flows.source[flow], peer)
        near_peer = (self.rng.random(count) < 0.5) & (degree > 0)
        x, y = self.grid.xy(self.core[np.where(near_peer, peer, first)])
        move = self.rng.integers(-radius, radius + 1, (2, count))
        x, y = x + move[0], y + move[1]
        inside = (x >= 0) & (x < self.grid.width) & (y >= 0) & (y < self.grid.height)
        first, x, y = first[inside], x[inside], y[inside]
        slot = self.rng.integers(0, self.grid.cluster, len(first))
        second = self.tile_of[(y * self.grid.width + x) * self.grid.cluster + slot]
        keep = (second >= 0) & (second != first)
        return first[keep], second[keep]

    def _with_routers(self, a: Ints, b: Ints) -> tuple[Ints, Ints, Ints]:
        """Makes some exchanges those of all tiles of two routers; returns pairs and their exchange."""
        size = self.grid.cluster
        apart = self.core[a] // size != self.core[b] // size
        whole = apart & (self.rng.random(len(a)) < ROUTERS)
        slots = np.arange(size)
        first, second = (self.tile_of[(self.core[t[whole]] // size)[:, None] * size + slots] for t in (a, b))
        full = (first >= 0).all(1) & (second >= 0).all(1)
        number = np.flatnonzero(whole)[full]
        a = np.concatenate([a[~whole], first[full].ravel()])
        b = np.concatenate([b[~whole], second[full].ravel()])
        move = np.concatenate([np.flatnonzero(~whole), np.repeat(number, size)])
        order = np.argsort(move, kind="stable")
        return a[order], b[order], move[order]

    def _independent(self, a: Ints, b: Ints, move: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        """Exchanges that share neither tile nor flow.

        Args:
            a, b: Pairs of tiles that change places.
            move: The exchange that each pair belongs to, ascending.

        Returns:
            The pairs kept, their exchanges counted anew, the flows they touch, and the exchange of each.
        """
        count = int(move[-1]) + 1 if len(move) else 0
        tiles = np.concatenate([a, b])
        owner = np.tile(move, 2)
        degree = self.first[tiles + 1] - self.first[tiles]
        which = np.repeat(np.arange(len(tiles)), degree)
        inner = np.arange(len(which)) - np.repeat(np.cumsum(degree) - degree, degree)
        flow, pair = self.flow_of_member[self.first[tiles][which] + inner], owner[which]
        flow_winner = np.full(len(self.flows), count, np.int64)
        np.minimum.at(flow_winner, flow, pair)
        tile_winner = np.full(len(self.core), count, np.int64)
        np.minimum.at(tile_winner, tiles, owner)
        alone = np.ones(count, np.bool_)
        alone[pair[flow_winner[flow] != pair]] = False
        alone[owner[tile_winner[tiles] != owner]] = False
        alone[np.setdiff1d(np.arange(count), move)] = False
        number = np.cumsum(alone) - 1
        chosen, kept = alone[pair], alone[move]
        touched, where = np.unique(flow[chosen], return_index=True)
        return a[kept], b[kept], number[move[kept]], touched, number[pair[chosen][where]]
