"""Multicast routing: trees, link loads, freedom from deadlock."""

from sdc.targets.neuro.route.deadlock import channel_dependencies, find_cycle
from sdc.targets.neuro.route.load import LinkLoads, link_loads
from sdc.targets.neuro.route.tree import Routes, route, tree_hops

__all__ = [
    "LinkLoads",
    "Routes",
    "channel_dependencies",
    "find_cycle",
    "link_loads",
    "route",
    "tree_hops",
]
