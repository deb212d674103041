"""Placement by recursive bisection with METIS (Karypis and Kumar 1998): what ours is compared with.

The graph of tiles (an edge weighs the packets of the flows between its ends) is cut in two as cheaply as
METIS can, the cores in two halves of the longer side; then each half again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix

from sdc.errors import TargetError
from sdc.targets.neuro.machine import Grid, Machine
from sdc.targets.neuro.mapping.tiles import Flows, Partition
from sdc.targets.neuro.place.bound import lower_bound
from sdc.targets.neuro.place.cost import on_chip, spike_hops
from sdc.targets.neuro.place.curve import curves
from sdc.targets.neuro.place.place import Placement, uses_both_orders

__all__ = ["place_by_bisection"]

Ints = NDArray[np.int64]
SCALE = 16.0
"""METIS takes whole numbers: packets are given in sixteenths."""


def place_by_bisection(partition: Partition, machine: Machine) -> Placement:
    """Tiles on the same compact region that :func:`place_randomly` uses.

    Raises:
        TargetError: METIS is not installed, or weights are streamed (waves share their cores).
    """
    try:
        import pymetis
    except ImportError as error:
        raise TargetError("METIS is not installed: pip install 'sdc-compiler[neuro-check]'") from error
    if partition.streamed:
        raise TargetError("bisection places resident models only; this one streams its weights")
    grid = Grid.of(machine)
    _, flows = on_chip(partition.flows)
    graph = _tile_graph(flows, len(partition.tiles))
    core = np.zeros(len(partition.tiles), np.int64)
    region = next(curves(grid, len(partition.tiles)))
    todo: list[tuple[Ints, Ints]] = [(np.arange(len(core)), region)]
    while todo:
        tiles, cores = todo.pop()
        if len(tiles) == 1:
            core[tiles] = cores
            continue
        near, far = _halves(cores, grid)
        first = _cut(pymetis, graph[tiles][:, tiles].tocsr(), len(near))
        todo += [(tiles[first], near), (tiles[~first], far)]
    hops = spike_hops(flows, core, grid, uses_both_orders(machine, grid))
    return Placement(core, hops, lower_bound(flows, grid))


def _tile_graph(flows: Flows, count: int) -> csr_matrix:
    source = flows.source[flows.flow_of_target]
    weight = np.maximum(np.rint(SCALE * flows.packets[flows.flow_of_target]), 1.0)
    half = coo_matrix((weight, (source, flows.target)), shape=(count, count)).tocsr()
    return half + half.T


def _halves(cores: Ints, grid: Grid) -> tuple[Ints, Ints]:
    x, y = grid.xy(cores)
    order = np.lexsort((y, x) if np.ptp(x) >= np.ptp(y) else (x, y))
    middle = len(cores) // 2
    return cores[order[:middle]], cores[order[middle:]]


def _cut(pymetis: object, graph: csr_matrix, size: int) -> NDArray[np.bool_]:
    """Which vertices go to the first half, exactly ``size``: METIS' cut, then those moved that cost least."""
    _, part = pymetis.part_graph(  # type: ignore[attr-defined]
        2,
        pymetis.CSRAdjacency(graph.indptr.tolist(), graph.indices.tolist()),  # type: ignore[attr-defined]
        eweights=graph.data.astype(np.int64).tolist(),
    )
    first = np.asarray(part) == 0
    while (surplus := int(first.sum()) - size) != 0:
        side = first if surplus > 0 else ~first
        inner, outer = graph @ side.astype(float), graph @ (~side).astype(float)
        members = np.flatnonzero(side)
        moved = members[np.argsort((inner - outer)[members], kind="stable")[: max(1, abs(surplus) // 4)]]
        first[moved] = surplus < 0
    return first
