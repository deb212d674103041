"""Which channel waits for which other, and the proof that none waits for itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sdc.targets.neuro.machine import Grid
from sdc.targets.neuro.route.tree import HORIZONTAL, Routes

__all__ = ["channel_dependencies", "find_cycle"]

Ints = NDArray[np.int64]


def channel_dependencies(routes: Routes, grid: Grid) -> Ints:
    """[D, 2] pairs of channels (first, next): some packet may hold the first while it waits for the next.

    A channel is a link with a virtual channel, numbered by direction, virtual channel, row and column of
    the router it leaves. Within a segment each channel waits for the next one. Where a segment begins off
    its source, the channels that end there and belong to the same tree wait for its first.
    """
    ends = _expand(routes)
    channels = _channel(routes, ends, grid)
    inner = np.flatnonzero(ends[0][1:] == ends[0][:-1])
    pairs = [np.stack([channels[inner], channels[inner + 1]], axis=1)]
    pairs.append(_turns(routes, ends, channels, grid))
    return np.unique(np.concatenate(pairs), axis=0)


def find_cycle(dependencies: Ints) -> Ints:
    """Channels of one cycle of dependencies, smallest number first; empty if there is none."""
    if not len(dependencies):
        return np.empty(0, np.int64)
    names, flat = np.unique(dependencies, return_inverse=True)
    pair = flat.reshape(-1, 2)
    graph = coo_matrix((np.ones(len(pair)), (pair[:, 0], pair[:, 1])), shape=(len(names),) * 2)
    _, label = connected_components(graph.tocsr(), directed=True, connection="strong")
    itself = pair[pair[:, 0] == pair[:, 1], 0]
    if len(itself):
        return names[itself[:1]]
    size = np.bincount(label)
    if int(size.max()) == 1:
        return np.empty(0, np.int64)
    return names[label == int(np.argmax(size > 1))]


def _expand(routes: Routes) -> tuple[Ints, Ints]:
    """Every link of every segment, in order: its segment, and its distance from the segment's start."""
    segment = np.repeat(np.arange(len(routes.flow)), routes.length)
    first = np.cumsum(routes.length) - routes.length
    return segment, np.arange(len(segment)) - first[segment]


def _channel(routes: Routes, links: tuple[Ints, Ints], grid: Grid) -> Ints:
    segment, distance = links
    place = routes.start[segment] + routes.step[segment] * distance
    horizontal = routes.axis[segment] == HORIZONTAL
    x = np.where(horizontal, place, routes.line[segment])
    y = np.where(horizontal, routes.line[segment], place)
    direction = 2 * routes.axis[segment] + (routes.step[segment] < 0)
    virtual = int(routes.channel.max(initial=0)) + 1
    return ((direction * virtual + routes.channel[segment]) * grid.height + y) * grid.width + x


def _turns(routes: Routes, links: tuple[Ints, Ints], channels: Ints, grid: Grid) -> Ints:
    """Pairs: a link that ends at a router, the first link of a segment of its tree that begins there."""
    segment, distance = links
    place = routes.start[segment] + routes.step[segment] * (distance + 1)
    horizontal = routes.axis[segment] == HORIZONTAL
    x = np.where(horizontal, place, routes.line[segment]) % grid.width
    y = np.where(horizontal, routes.line[segment], place) % grid.height
    arrives = (routes.flow[segment] * grid.height + y) * grid.width + x
    begin = np.flatnonzero(distance == 0)
    first = segment[begin]
    bx = np.where(routes.axis[first] == HORIZONTAL, routes.start[first], routes.line[first])
    by = np.where(routes.axis[first] == HORIZONTAL, routes.line[first], routes.start[first])
    begins = (routes.flow[first] * grid.height + by) * grid.width + bx
    order = np.argsort(arrives, kind="stable")
    low = np.searchsorted(arrives[order], begins, "left")
    count = np.searchsorted(arrives[order], begins, "right") - low
    after = np.repeat(np.arange(len(begins)), count)
    offset = np.arange(len(after)) - np.repeat(np.cumsum(count) - count, count)
    before = order[low[after] + offset]
    # The two directions of one axis leave the same router without waiting for each other.
    return np.stack([channels[before], channels[begin[after]]], axis=1)
