"""A lower bound of spike-hops that holds for every placement."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Grid
from sdc.targets.neuro.mapping.tiles import Flows

__all__ = ["lower_bound"]


def lower_bound(flows: Flows, grid: Grid) -> float:
    """Packets times links that no placement can go below, for one token.

    Two arguments, one for each flow, so that their sum is a bound:

    * A multicast to m tiles touches m + 1 cores, hence at least ceil((m + 1) / cluster) routers, and a tree
      that touches r routers has at least r - 1 links.
    * Unicasts into one tile come from different tiles, of which at most cluster - 1 share its router, and
      at most 4 * d * cluster are d hops away. The bound puts the heaviest senders nearest.

    Competition of the flows for the same places is not counted, so the bound cannot be reached in general.
    """
    many = flows.fan_out > 1
    routers = -(-(flows.fan_out[many] + 1) // grid.cluster)
    total = float(flows.packets[many] @ (routers - 1))
    single = np.flatnonzero(~many)
    return total + _gathers(
        flows.source[single], flows.target[flows.first[single]], flows.packets[single], grid
    )


def _gathers(
    source: NDArray[np.int64], target: NDArray[np.int64], packets: NDArray[np.float64], grid: Grid
) -> float:
    if not len(source):
        return 0.0
    pair, where = np.unique(np.stack([target, source]), axis=1, return_inverse=True)
    weight = np.bincount(where.ravel(), packets)
    into = pair[0]
    order = np.lexsort((-weight, into))
    into, weight = into[order], weight[order]
    first = np.flatnonzero(np.r_[True, np.diff(into) != 0])
    rank = np.arange(len(into)) - np.repeat(first, np.diff(np.r_[first, len(into)]))
    return float(weight @ _distance_of_rank(int(rank.max()) + 1, grid.cluster)[rank])


def _distance_of_rank(count: int, cluster: int) -> NDArray[np.int64]:
    """[count] hops to the nearest, second nearest ... other core, when all of them are free."""
    out = [0] * min(count, cluster - 1)
    d = 1
    while len(out) < count:
        out += [d] * (4 * d * cluster)
        d += 1
    return np.array(out[:count], np.int64)
