"""What placement minimises: packets times links, for one token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Grid
from sdc.targets.neuro.mapping.tiles import Flows
from sdc.targets.neuro.route.tree import tree_hops

__all__ = ["on_chip", "spike_hops"]


def on_chip(flows: Flows) -> tuple[NDArray[np.int64], Flows]:
    """Numbers of the flows that use the network, and these flows alone."""
    chosen = np.flatnonzero(~flows.external)
    count = flows.fan_out[chosen]
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])
    keep = ~flows.external[flows.flow_of_target]
    return chosen, Flows(
        flows.source[chosen],
        first,
        flows.target[keep],
        flows.packets[chosen],
        flows.kind[chosen],
        flows.external[chosen],
    )


def spike_hops(flows: Flows, core: NDArray[np.int64], grid: Grid, both_orders: bool = True) -> float:
    """Packets times links of their trees, over all flows of one token.

    Args:
        flows: Flows on the network.
        core: [T] core of each tile.
    """
    hops = tree_hops(core[flows.source], core[flows.target], flows.flow_of_target, grid, both_orders)
    return float(hops @ flows.packets)
