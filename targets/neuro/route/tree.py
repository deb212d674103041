"""Multicast trees by dimension-ordered routing, all flows at once.

In x-then-y order a tree is a horizontal piece in the row of its source, and a vertical piece in each column
that has targets; y-then-x is the same with the axes exchanged. A tree is therefore a handful of straight
segments, and a copy of a packet branches off where a segment begins.

Why this cannot deadlock (checked on every mapping by :mod:`sdc.targets.neuro.route.deadlock`): a packet
holds a channel only while it waits for channels further along its tree. In one order these are channels of
the same direction further on, or of the second axis, never back; so the dependencies between channels have
no cycle (Dally and Seitz, IEEE Trans. Computers 1987). The two orders use different virtual channels. On a
torus, a segment that passes the edge continues on a second virtual channel (the dateline), which opens the
ring. Packets are single flits, so a tree's branches hold no channels beyond the ones they are in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Grid

__all__ = ["Routes", "route", "tree_hops"]

Ints = NDArray[np.int64]
HORIZONTAL, VERTICAL = 0, 1


@dataclass(frozen=True)
class Routes:
    """Segments of all trees, sorted by flow.

    Attributes:
        flow: [S] flow that the segment belongs to.
        axis: [S] 0 horizontal, 1 vertical.
        line: [S] row of a horizontal, column of a vertical segment.
        start: [S] coordinate along the axis of the router where the segment begins.
        step: [S] +1 or -1.
        length: [S] links.
        channel: [S] virtual channel.
        hops: [F] links of each tree.
        depth: [F] links from the source to the farthest target.
        chip_hops: [F] links of each tree that cross from chip to chip.
        chip_reach: [2, F] most crossings of any segment along x and along y.
        y_first: [F] whether the tree goes along y before x.
    """

    flow: Ints
    axis: Ints
    line: Ints
    start: Ints
    step: Ints
    length: Ints
    channel: Ints
    hops: Ints
    depth: Ints
    chip_hops: Ints
    chip_reach: Ints
    y_first: NDArray[np.bool_]

    @property
    def chip_depth(self) -> Ints:
        """[F] links from the source to the farthest target that cross from chip to chip (an upper bound)."""
        total: Ints = self.chip_reach.sum(axis=0)
        return total


def tree_hops(source: Ints, target: Ints, flow_of_target: Ints, grid: Grid, both_orders: bool = True) -> Ints:
    """[F] links of every tree, without building it.

    Args:
        source: [F] cores.
        target: [E] cores.
        flow_of_target: [E] flow of each target, ascending.
        both_orders: Whether each flow may take the shorter of x-then-y and y-then-x.
    """
    u, v = _offsets(source, target, flow_of_target, grid)
    hops = _trunk_hops(u, flow_of_target, len(source)) + _branch_hops(u, v, flow_of_target, len(source), grid)
    if both_orders:
        other = _trunk_hops(v, flow_of_target, len(source))
        other += _branch_hops(v, u, flow_of_target, len(source), grid)
        hops = np.minimum(hops, other)
    return hops


def route(source: Ints, target: Ints, flow_of_target: Ints, grid: Grid, virtual_channels: int) -> Routes:
    """The trees of all flows; arguments as in :func:`tree_hops`.

    A flow takes the shorter of its two trees where there are virtual channels for both orders: 2 on a mesh,
    4 on a torus. Equal ones alternate, which spreads the load.
    """
    count = len(source)
    u, v = _offsets(source, target, flow_of_target, grid)
    per_order = 2 if grid.torus else 1
    y_first = np.zeros(count, np.bool_)
    if virtual_channels >= 2 * per_order:
        x_tree = _trunk_hops(u, flow_of_target, count) + _branch_hops(u, v, flow_of_target, count, grid)
        y_tree = _trunk_hops(v, flow_of_target, count) + _branch_hops(v, u, flow_of_target, count, grid)
        y_first = (y_tree < x_tree) | ((y_tree == x_tree) & (np.arange(count) % 2 == 1))
    x, y = grid.xy(source)
    parts = []
    for swap in (False, True):
        chosen = y_first[flow_of_target] == swap
        along, across = (v, u) if swap else (u, v)
        flows, a, b = flow_of_target[chosen], along[chosen], across[chosen]
        here, there = (y, x) if swap else (x, y)
        trunk_axis, branch_axis = (VERTICAL, HORIZONTAL) if swap else (HORIZONTAL, VERTICAL)
        base = per_order if swap else 0
        size = (grid.height, grid.width) if swap else (grid.width, grid.height)
        for sign in (1, -1):
            f, reach = _reach(flows, sign * a)
            parts.append(_segments(f, trunk_axis, there[f], here[f], sign, reach, base, size[0]))
            f, offset, reach = _branch_reach(flows, a, sign * b, size[0])
            line = (here[f] + offset) % size[0]
            parts.append(_segments(f, branch_axis, line, there[f], sign, reach, base, size[1]))
    stacked = np.concatenate([p for part in parts for p in part], axis=1)
    stacked = stacked[:, np.argsort(stacked[0], kind="stable")]
    depth = np.zeros(count, np.int64)
    np.maximum.at(depth, flow_of_target, np.abs(u) + np.abs(v))
    return _finish(stacked, depth, y_first, count, grid)


def _finish(table: Ints, depth: Ints, y_first: NDArray[np.bool_], count: int, grid: Grid) -> Routes:
    flow, axis, line, start, step, length, channel = table
    chip = np.where(axis == HORIZONTAL, grid.chip_width, grid.chip_height)
    apart = np.where(axis == HORIZONTAL, *grid.several_chips)
    crossed = np.where(apart, _crossings(start, step, length, chip), 0)
    hops = np.bincount(flow, length, count).astype(np.int64)
    chip_hops = np.bincount(flow, crossed, count).astype(np.int64)
    most = np.zeros((2, count), np.int64)
    np.maximum.at(most, (axis, flow), crossed)
    return Routes(
        flow,
        axis,
        line,
        start,
        step,
        length,
        channel,
        hops=hops,
        depth=depth,
        chip_hops=chip_hops,
        chip_reach=most,
        y_first=y_first,
    )


def _crossings(start: Ints, step: Ints, length: Ints, chip: Ints) -> Ints:
    """Links of straight segments that leave a chip."""
    ahead = (start + length) // chip - start // chip
    back = start // chip - (start - length) // chip
    return np.where(step > 0, ahead, back)


def _offsets(source: Ints, target: Ints, flow: Ints, grid: Grid) -> tuple[Ints, Ints]:
    """[E] signed distances from each flow's source, the short way round on a torus."""
    sx, sy = grid.xy(source)
    tx, ty = grid.xy(target)
    u, v = tx - sx[flow], ty - sy[flow]
    if grid.torus:
        u = (u + grid.width // 2) % grid.width - grid.width // 2
        v = (v + grid.height // 2) % grid.height - grid.height // 2
    return u, v


def _trunk_hops(along: Ints, flow: Ints, count: int) -> Ints:
    ahead, back = np.zeros(count, np.int64), np.zeros(count, np.int64)
    np.maximum.at(ahead, flow, along)
    np.maximum.at(back, flow, -along)
    return ahead + back


def _branch_hops(along: Ints, across: Ints, flow: Ints, count: int, grid: Grid) -> Ints:
    hops = np.zeros(count, np.int64)
    size = max(grid.width, grid.height)
    for sign in (1, -1):
        f, _, reach = _branch_reach(flow, along, sign * across, size)
        hops += np.bincount(f, reach, count).astype(np.int64)
    return hops


def _reach(flow: Ints, along: Ints) -> tuple[Ints, Ints]:
    """Flows that go in a direction, and how far."""
    if not len(flow):
        return flow, along
    first = np.flatnonzero(np.r_[True, np.diff(flow) != 0])
    reach = np.maximum.reduceat(along, first)
    keep = reach > 0
    return flow[first][keep], reach[keep]


def _branch_reach(flow: Ints, along: Ints, across: Ints, size: int) -> tuple[Ints, Ints, Ints]:
    """Flow, offset along the trunk, and length of every branch in a direction."""
    going = across > 0
    flow, along, across = flow[going], along[going], across[going]
    if not len(flow):
        return flow, along, across
    key = flow * (2 * size + 1) + along + size
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.r_[True, np.diff(key) != 0])
    reach = np.maximum.reduceat(across[order], first)
    return flow[order][first], along[order][first], reach


def _segments(
    flow: Ints, axis: int, line: Ints, start: Ints, sign: int, length: Ints, channel: int, size: int
) -> list[Ints]:
    """Tables [7, n] of segments; one over the edge of a torus is two, the second beyond the dateline."""
    same = np.ones_like(flow)
    room = (size - start) if sign > 0 else (start + 1)  # links up to and including the one over the edge
    over = length > room
    near = np.minimum(length, room)
    table = np.stack([flow, axis * same, line, start, sign * same, near, channel * same])
    begin = 0 if sign > 0 else size - 1
    far = np.stack([flow, axis * same, line, begin * same, sign * same, length - near, (channel + 1) * same])
    return [table, far[:, over]]
