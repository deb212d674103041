"""A lower bound of spike-hops that holds for every placement.

The flows are dealt out to *hubs*, each flow to one, so that the sum of what each hub costs at least is a
bound. A hub is a tile with its heaviest multicast, to m tiles, and the tiles it exchanges unicasts with. All
of these lie somewhere around the hub's router R, c cores a router, and compete for the same places:

* A tree of r links touches r routers beside R. If m0 of the multicast's tiles share R, the others need r >=
  ceil((m - m0) / c).
* At least k of these r routers are within k hops of R (a tree has no gaps), so at least m - m0 - c (r - k)
  of the multicast's tiles are, if that is more than none. The places left for unicasts within k hops are
  those of all routers there, c - 1 + sum of 4 d c for d <= k, less these and m0.
* So many of the heaviest unicasts cost 0 hops, so many one hop, and so on. The bound is the cheapest of all
  m0 and r.

A hub's further multicasts count by themselves: m + 1 tiles need ceil((m + 1) / c) routers, so one link less.
Competition between hubs is not counted, so the bound cannot be reached in general.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Grid
from sdc.targets.neuro.mapping.tiles import Flows

__all__ = ["lower_bound"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def lower_bound(flows: Flows, grid: Grid) -> float:
    """Packets times links that no placement can go below, for one token.

    A unicast may be dealt to either end. The ends that receive them, and the ends with more partners, are
    tried; the larger bound counts.
    """
    if not len(flows):
        return 0.0
    many = np.flatnonzero(flows.fan_out > 1)
    single = np.flatnonzero(flows.fan_out == 1)
    ends = np.stack([flows.source[single], flows.target[flows.first[single]]])
    ends, weight = _merged(ends[:, ends[0] != ends[1]], flows.packets[single][ends[0] != ends[1]])
    size = int(max(flows.source.max(), flows.target.max())) + 1
    partners = np.bincount(ends.ravel(), minlength=size)
    fan = np.zeros(size, np.int64)
    np.maximum.at(fan, flows.source[many], flows.fan_out[many])
    by_degree = partners[ends[0]] + fan[ends[0]] > partners[ends[1]] + fan[ends[1]]
    deals = (np.zeros(len(weight), np.bool_), by_degree & (fan[ends[0]] == 0), by_degree)
    return max(_total(flows, many, np.where(deal, ends[::-1], ends), weight, grid) for deal in deals)


def _merged(ends: Ints, weight: Floats) -> tuple[Ints, Floats]:
    """Pairs of tiles, each once in the direction met first, with the packets both ways."""
    low, high = ends.min(0), ends.max(0)
    _, first, where = np.unique(np.stack([low, high]), axis=1, return_index=True, return_inverse=True)
    return ends[:, first], np.bincount(where.ravel(), weight, len(first)).astype(np.float64)


def _total(flows: Flows, many: Ints, ends: Ints, weight: Floats, grid: Grid) -> float:
    """The bound where each unicast [2, U] is dealt to its second end."""
    c = grid.cluster
    heaviest: dict[int, int] = {}
    total = 0.0
    for f in many[np.argsort(flows.packets[many], kind="stable")[::-1]].tolist():
        if heaviest.setdefault(int(flows.source[f]), f) != f:
            total += float(flows.packets[f]) * (-(-(int(flows.fan_out[f]) + 1) // c) - 1)
    order = np.lexsort((-weight, ends[1]))
    partner, hub, weight = ends[0][order], ends[1][order], weight[order]
    joint = np.isin(hub, np.fromiter(heaviest, np.int64, len(heaviest)))
    total += _gathers(hub[~joint], weight[~joint], c)
    first, last = (np.searchsorted(hub, list(heaviest), side) for side in ("left", "right"))
    for f, a, b in zip(heaviest.values(), first.tolist(), last.tolist(), strict=True):
        both = len(np.intersect1d(partner[a:b], flows.targets(f)))
        total += _hub(float(flows.packets[f]), int(flows.fan_out[f]), both, weight[a:b], c)
    return total


def _gathers(hub: Ints, weight: Floats, c: int) -> float:
    """Hubs without a multicast; heaviest unicasts of a hub first."""
    if not len(hub):
        return 0.0
    first = np.flatnonzero(np.r_[True, np.diff(hub) != 0])
    rank = np.arange(len(hub)) - np.repeat(first, np.diff(np.r_[first, len(hub)]))
    return float(weight @ _distances(_places(int(rank.max()) + 1, c), int(rank.max()) + 1)[rank])


def _hub(packets: float, m: int, both: int, weight: Floats, c: int) -> float:
    """The cheapest arrangement of a multicast to m tiles and of unicasts, heaviest first.

    Args:
        both: Tiles of the multicast that are also ends of unicasts, and so need no places of their own.
    """
    room = _places(len(weight), c)
    within = np.arange(len(room))
    best = np.inf
    for here in range(min(c - 1, m) + 1):
        least = -(-(m - here) // c)
        for links in range(least, least + len(room)):
            if packets * links >= best:
                break
            taken = here + np.maximum(m - here - c * np.maximum(links - within, 0), 0)
            taken[0] = here
            free = np.maximum.accumulate(room - np.maximum(taken - both, 0))
            cost = packets * links + float(weight @ _distances(free, len(weight)))
            best = min(best, cost)
    return best


def _places(count: int, c: int) -> Ints:
    """Cores within 0, 1, 2 ... hops of a router, beside the hub itself: until ``count`` find a place.

    The last entry has no end, for those whom a multicast takes their places.
    """
    places = [c - 1]
    while places[-1] < count or len(places) < 3:
        places.append(places[-1] + 4 * len(places) * c)
    return np.array([*places, np.iinfo(np.int64).max], np.int64)


def _distances(free: Ints, count: int) -> Ints:
    """[count] hops of the nearest, second nearest ... place, where ``free[k]`` are within k hops."""
    return np.searchsorted(free, np.arange(count), side="right")
