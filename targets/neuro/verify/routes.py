"""Rules of routing: every tree is one, reaches its targets, stays on the board, and no channels deadlock."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import networkx as nx

from sdc.targets.neuro.mapping.mapping import Mapping
from sdc.targets.neuro.verify.violation import Violation, at

__all__ = ["check_deadlock", "check_routes"]

Router = tuple[int, int]
Segment = tuple[int, int, int, int, int, int]
"""Axis, line, start, step, length, virtual channel."""


def check_routes(mapping: Mapping) -> Iterator[Violation]:
    """Walks every tree link by link."""
    by_flow = _segments(mapping)
    flows = mapping.partition.flows
    expected = {f for f in range(len(flows)) if not flows.external[f]}
    for f in sorted(expected - set(mapping.routed.tolist())):
        yield at(mapping, "route-missing", int(flows.source[f]), "has no tree", _flow_name(mapping, f))
    for i, f in enumerate(mapping.routed.tolist()):
        yield from _check_tree(mapping, f, by_flow.get(i, []))


def _segments(mapping: Mapping) -> dict[int, list[Segment]]:
    r = mapping.routes
    table = zip(
        r.flow.tolist(),
        r.axis.tolist(),
        r.line.tolist(),
        r.start.tolist(),
        r.step.tolist(),
        r.length.tolist(),
        r.channel.tolist(),
        strict=True,
    )
    out: dict[int, list[Segment]] = {}
    for flow, *segment in table:
        axis, line, start, step, length, channel = segment
        out.setdefault(flow, []).append((axis, line, start, step, length, channel))
    return out


def _flow_name(mapping: Mapping, flow: int) -> str:
    flows = mapping.partition.flows
    return f"flow {flow} from {mapping.partition.tile_name(int(flows.source[flow]))}"


def _routers(segment: Segment, mapping: Mapping) -> list[Router]:
    axis, line, start, step, length, _ = segment
    grid = mapping.grid
    along = [start + step * i for i in range(length + 1)]
    if grid.torus:
        size = grid.width if axis == 0 else grid.height
        along = [a % size for a in along]
    return [(a, line) if axis == 0 else (line, a) for a in along]


def _check_tree(mapping: Mapping, flow: int, segments: list[Segment]) -> Iterator[Violation]:
    grid, flows = mapping.grid, mapping.partition.flows
    source = int(flows.source[flow])
    name = _flow_name(mapping, flow)
    root = _router_of(mapping, source)
    into: dict[Router, Router] = {}
    children: dict[Router, int] = {}
    for segment in segments:
        if not 0 <= segment[5] < mapping.machine.network.virtual_channels:
            message = f"uses virtual channel {segment[5]} of {mapping.machine.network.virtual_channels}"
            yield at(mapping, "no-such-channel", source, message, name)
        for here, there in pairwise(_routers(segment, mapping)):
            if not (0 <= there[0] < grid.width and 0 <= there[1] < grid.height):
                yield at(mapping, "route-off-board", source, f"leaves the board at router {here}", name)
                return
            if there in into or there == root:
                yield at(mapping, "delivered-twice", source, f"enters router {there} twice", name)
                return
            into[there] = here
            children[here] = children.get(here, 0) + 1
    yield from _check_ends(mapping, flow, root, into, children)


def _check_ends(
    mapping: Mapping, flow: int, root: Router, into: dict[Router, Router], children: dict[Router, int]
) -> Iterator[Violation]:
    flows = mapping.partition.flows
    source, name = int(flows.source[flow]), _flow_name(mapping, flow)
    reached = {root}
    for router in into:
        path = [router]
        while path[-1] not in reached and path[-1] in into and len(path) <= len(into):
            path.append(into[path[-1]])
        if path[-1] not in reached:
            message = f"router {router} is not connected to the source's router {root}"
            yield at(mapping, "route-broken", source, message, name)
            return
        reached.update(path)
    wanted = {_router_of(mapping, int(t)): int(t) for t in flows.targets(flow)}
    for router, target in sorted(wanted.items()):
        if router not in reached:
            message = f"never reaches {mapping.partition.tile_name(target)} at router {router}"
            yield at(mapping, "wrong-route", source, message, name)
    for router in sorted(into):
        if not children.get(router) and router not in wanted:
            message = f"ends at router {router}, where nobody wants it"
            yield at(mapping, "wrong-route", source, message, name)


def _router_of(mapping: Mapping, tile: int) -> Router:
    grid = mapping.grid
    router = int(mapping.core[tile]) // grid.cluster
    return router % grid.width, router // grid.width


Channel = tuple[Router, Router, int]


def check_deadlock(mapping: Mapping) -> Iterator[Violation]:
    """No cycle of channels, each of which some packet may hold while it waits for the next."""
    waits: nx.DiGraph = nx.DiGraph()
    for segments in _segments(mapping).values():
        ending: dict[Router, Channel] = {}
        links: list[Channel] = []
        for segment in segments:
            for here, there in pairwise(_routers(segment, mapping)):
                ending[there] = (here, there, segment[5])
                links.append(ending[there])
        waits.add_edges_from((ending[link[0]], link) for link in links if link[0] in ending)
    try:
        cycle = nx.find_cycle(waits)
    except nx.NetworkXNoCycle:
        return
    path = " -> ".join(f"{a[0]}-{a[1]}#{a[2]}" for a, _ in cycle[:6])
    (x, y), _, channel = cycle[0][0]
    core = mapping.grid.core(x, y)
    where = mapping.grid.label(core)
    message = f"{len(cycle)} channels wait for each other: {path}"
    yield Violation("deadlock", core, where, f"channel {channel}", message)
