"""The lower bound of spike-hops against all placements there are, on boards small enough to try them."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.targets.neuro.machine import Grid
from sdc.targets.neuro.mapping.tiles import Flows
from sdc.targets.neuro.place import lower_bound
from sdc.targets.neuro.route import tree_hops

GRIDS = {
    "mesh": Grid(3, 2, 1, 3, 2, torus=False),
    "torus": Grid(3, 2, 1, 3, 2, torus=True),
    "pairs": Grid(2, 2, 2, 2, 2, torus=False),
    "triples": Grid(2, 1, 3, 2, 1, torus=False),
    "line": Grid(6, 1, 1, 6, 1, torus=False),
}


def flows_of(multicasts: list[tuple[int, tuple[int, ...], float]]) -> Flows:
    """(source, targets, packets) of each."""
    source, targets, packets = zip(*multicasts, strict=True)
    first = np.concatenate([[0], np.cumsum([len(t) for t in targets])])
    none = np.zeros(len(source), np.int64)
    flat = np.array([t for some in targets for t in some])
    return Flows(np.array(source), first, flat, np.array(packets, float), none, none.astype(bool))


def cheapest(flows: Flows, tiles: int, grid: Grid) -> float:
    """Spike-hops of the best of all placements."""
    places = np.array(list(permutations(range(grid.cores), tiles)))
    count, shift = len(places), np.arange(len(places))[:, None] * len(flows)
    hops = tree_hops(
        places[:, flows.source].ravel(),
        places[:, flows.target].ravel(),
        (shift + flows.flow_of_target).ravel(),
        grid,
    )
    return float((hops.reshape(count, len(flows)) @ flows.packets).min())


@st.composite
def traffic(draw: st.DrawFn) -> tuple[Flows, int]:
    tiles = draw(st.integers(2, 6))
    made = []
    for _ in range(draw(st.integers(1, 7))):
        source = draw(st.integers(0, tiles - 1))
        others = [t for t in range(tiles) if t != source]
        targets = draw(st.lists(st.sampled_from(others), min_size=1, max_size=5, unique=True))
        made.append((source, tuple(targets), float(draw(st.sampled_from([1, 3, 10])))))
    return flows_of(made), tiles


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@settings(max_examples=40)
@given(case=traffic())
def test_no_placement_goes_below_the_bound(grid: Grid, case: tuple[Flows, int]) -> None:
    flows, tiles = case
    assert lower_bound(flows, grid) <= cheapest(flows, tiles, grid) + 1e-9


@pytest.mark.parametrize(
    ("multicasts", "grid", "bound"),
    [
        ([(0, (1, 2, 3), 10.0)], "mesh", 30.0),  # three routers beside the source's own
        ([(0, (1, 2, 3), 10.0)], "pairs", 10.0),  # four tiles in two routers
        ([(1, (0,), 5.0), (2, (0,), 3.0)], "pairs", 3.0),  # the lighter one finds the place taken
        # One place beside the hub: the multicast takes it, else it needs a second link.
        ([(0, (1, 2, 3), 10.0), (4, (0,), 4.0)], "pairs", 14.0),
        ([(0, (1, 2, 3), 10.0), (4, (0,), 40.0)], "pairs", 20.0),
        # Four tiles are one hop away at most, and the tree has one of them.
        ([(0, (5,), 10.0), *((t, (0,), 1.0) for t in (1, 2, 3, 4))], "mesh", 15.0),
    ],
)
def test_bounds_worked_out_by_hand(multicasts, grid, bound) -> None:
    assert lower_bound(flows_of(multicasts), GRIDS[grid]) == bound
