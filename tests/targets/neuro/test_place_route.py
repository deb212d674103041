"""Placement against random and a bound; trees that reach every target once and cannot deadlock."""

import networkx as nx
import numpy as np
import pytest
from helpers.neuro import small_llama, small_machine
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.errors import TargetError
from sdc.targets.neuro.machine import Grid, load_machine, shipped_machines
from sdc.targets.neuro.mapping.llama import llama_graph
from sdc.targets.neuro.partition import partition
from sdc.targets.neuro.place import (
    lower_bound,
    on_chip,
    place,
    place_by_bisection,
    place_randomly,
    spike_hops,
)
from sdc.targets.neuro.place.anneal import _State
from sdc.targets.neuro.place.curve import curves
from sdc.targets.neuro.route import Routes, channel_dependencies, find_cycle, link_loads, route, tree_hops
from sdc.targets.neuro.route.load import link_time_ns

MESH = Grid(7, 5, 1, 7, 5, torus=False)
TORUS = Grid(7, 5, 1, 7, 5, torus=True)
RING_OF_CHIPS = Grid(6, 4, 1, 3, 2, torus=True)
CLUSTERS = Grid(4, 6, 3, 2, 3, torus=False)
GRIDS = {"mesh": MESH, "torus": TORUS, "chips": RING_OF_CHIPS, "clusters": CLUSTERS}


def walk(routes: Routes, flow: int, grid: Grid) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Links of one tree, router by router."""
    links = []
    for s in np.flatnonzero(routes.flow == flow):
        for i in range(int(routes.length[s])):
            here = int(routes.start[s] + routes.step[s] * i)
            there = here + int(routes.step[s])
            line = int(routes.line[s])
            ends = [(here, line), (there, line)] if routes.axis[s] == 0 else [(line, here), (line, there)]
            links.append(tuple((x % grid.width, y % grid.height) for x, y in ends))
    return links


@st.composite
def multicasts(draw: st.DrawFn, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = draw(st.integers(1, 12))
    cores = st.integers(0, grid.cores - 1)
    source = draw(st.lists(cores, min_size=count, max_size=count))
    targets = [draw(st.lists(cores, min_size=1, max_size=9, unique=True)) for _ in range(count)]
    flow = np.repeat(np.arange(count), [len(t) for t in targets])
    return np.array(source), np.array([t for ts in targets for t in ts]), flow


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("channels", [1, 2, 4])
@settings(max_examples=25)
@given(data=st.data())
def test_every_tree_is_a_tree_that_reaches_its_targets(
    grid: Grid, channels: int, data: st.DataObject
) -> None:
    if grid.torus and channels < 2:
        return  # Grid.of never makes such a torus
    source, target, flow = data.draw(multicasts(grid))
    routes = route(source, target, flow, grid, channels)
    packets = np.arange(1.0, len(source) + 1)
    both = channels >= (4 if grid.torus else 2)
    np.testing.assert_array_equal(routes.hops, tree_hops(source, target, flow, grid, both))
    for f in range(len(source)):
        links = walk(routes, f, grid)
        x, y = grid.xy(source[f : f + 1])
        root = (int(x[0]), int(y[0]))
        tree = nx.DiGraph(links)
        tree.add_node(root)
        assert nx.is_arborescence(tree)
        assert tree.in_degree(root) == 0
        ends = {(int(a), int(b)) for a, b in zip(*grid.xy(target[flow == f]), strict=True)}
        assert ends <= set(tree)
        assert {n for n in tree if not tree.out_degree(n)} <= ends | {root}
        assert max(nx.shortest_path_length(tree, root).values()) == routes.depth[f]
        chips = [(a[0] // grid.chip_width, a[1] // grid.chip_height) for a in tree]
        assert (routes.chip_hops[f] == 0) == (len(set(chips)) == 1)
    loads = link_loads(routes, packets, grid)
    assert loads.stacked().sum() == pytest.approx(float(routes.hops @ packets))
    assert len(find_cycle(channel_dependencies(routes, grid))) == 0


def test_the_ring_of_one_chip_does_not_leave_it() -> None:
    machine = load_machine("generic")
    assert Grid.of(machine).torus
    assert machine.board.chips == 1
    assert (link_time_ns(machine) == machine.network.packet_time_ns).all()
    two = machine.model_copy(update={"board": machine.board.model_copy(update={"chips_x": 2})})
    slow = link_time_ns(two) > machine.network.packet_time_ns
    assert slow[:2].any(axis=1).sum(axis=1).tolist() == [2, 2]
    assert not slow[2:].any()


def test_loads_are_those_of_the_single_links() -> None:
    source, target = np.array([0, 8]), np.array([3, 16, 20, 6])
    flow = np.array([0, 0, 1, 1])
    routes = route(source, target, flow, MESH, 1)
    loads = link_loads(routes, np.array([2.0, 5.0]), MESH)
    expected = np.zeros((4, 5, 7))
    for f, packets in enumerate((2.0, 5.0)):
        for (x0, y0), (x1, y1) in walk(routes, f, MESH):
            direction = 0 if x1 > x0 else 1 if x1 < x0 else 2 if y1 > y0 else 3
            expected[direction, y0, x0] += packets
    np.testing.assert_array_equal(loads.stacked(), expected)


def test_mixed_orders_on_one_channel_would_deadlock_and_are_found() -> None:
    grid = Grid(3, 3, 1, 3, 3, torus=False)
    core = lambda x, y: grid.core(x, y)  # noqa: E731
    source = np.array([core(0, 0), core(2, 0), core(2, 2), core(0, 2)])
    target = np.array([core(2, 2), core(0, 2), core(0, 0), core(2, 0)])
    routes = route(source, target, np.arange(4), grid, 2)
    assert len(find_cycle(channel_dependencies(routes, grid))) == 0
    merged = Routes(**{**routes.__dict__, "channel": np.zeros_like(routes.channel)})
    both = set(routes.y_first.tolist())
    assert both == {True, False}
    ring = Grid(5, 1, 1, 5, 1, torus=True)
    around = route(np.arange(5), (np.arange(5) + 2) % 5, np.arange(5), ring, 2)
    assert len(find_cycle(channel_dependencies(around, ring))) == 0
    closed = Routes(**{**around.__dict__, "channel": np.zeros_like(around.channel)})
    assert len(find_cycle(channel_dependencies(closed, ring))) == 5
    assert len(merged.flow) == len(routes.flow)


@pytest.mark.parametrize("grid", [MESH, CLUSTERS, Grid(32, 24, 2, 8, 6, torus=False)])
def test_curves_are_permutations_of_compact_regions(grid: Grid) -> None:
    for count in (1, grid.cores // 3, grid.cores):
        for curve in curves(grid, count):
            assert len(np.unique(curve)) == count
            assert curve.min() >= 0
            assert curve.max() < grid.cores
            per_chip = grid.chip_width * grid.chip_height * grid.cluster
            assert len(np.unique(grid.chip(curve))) == -(-count // per_chip)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_no_placement_is_below_the_bound(seed: int) -> None:
    machine = small_machine(core={"synapse_memory_bytes": 4096})
    part = partition(small_llama(), machine)
    _, flows = on_chip(part.flows)
    grid = Grid.of(machine)
    core = np.random.default_rng(seed).permutation(grid.cores)[: len(part.tiles)]
    assert spike_hops(flows, core, grid) >= lower_bound(flows, grid)


def test_the_bound_is_reached_where_it_can_be() -> None:
    from helpers.neuro import one_layer

    machine = small_machine(core={"synapse_memory_bytes": 1024})
    part = partition(one_layer(rows=64), machine)
    placed = place(part, machine)
    assert placed.ratio < 1.35
    assert placed.spike_hops == spike_hops(on_chip(part.flows)[1], placed.core, Grid.of(machine))


def test_annealing_only_improves_and_repeats_with_its_seed() -> None:
    machine = small_machine(core={"synapse_memory_bytes": 2048})
    part = partition(small_llama(layers=1), machine)
    before = place(part, machine, rounds=0)
    after, again = place(part, machine, seed=3, rounds=200), place(part, machine, seed=3, rounds=200)
    assert after.spike_hops < before.spike_hops
    np.testing.assert_array_equal(after.core, again.core)
    grid = Grid.of(machine)
    assert len(set(after.core.tolist())) == len(after.core)
    assert set(grid.chip(after.core)) <= set(grid.chip(before.core))


def test_whole_routers_change_places_where_they_have_several_cores() -> None:
    """What annealing keeps count of is the cost of where it ends."""
    machine = load_machine("spinnaker2-like")
    part = partition(small_llama(layers=4), machine)
    grid, (_, flows) = Grid.of(machine), on_chip(part.flows)
    start = np.random.default_rng(2).permutation(len(part.tiles))
    state = _State(flows, start, grid, 1, True)
    cost = spike_hops(flows, start, grid) + sum(state.round(1 - i / 50) for i in range(50))
    assert cost == pytest.approx(spike_hops(flows, state.core, grid))
    assert cost < spike_hops(flows, start, grid)


@pytest.mark.parametrize("name", shipped_machines())
def test_smollm2_is_placed_well(name: str) -> None:
    machine = load_machine(name)
    part = partition(llama_graph("smollm2-135m"), machine)
    placed, shuffled = place(part, machine, rounds=1000), place_randomly(part, machine)
    assert placed.spike_hops <= 0.6 * shuffled.spike_hops
    assert placed.ratio <= 1.5
    assert placed.ratio >= 1.0


def test_bisection_with_metis_is_a_placement_between_random_and_ours() -> None:
    pytest.importorskip("pymetis")
    machine = small_machine(core={"synapse_memory_bytes": 2048})
    part = partition(small_llama(), machine)
    shuffled, bisected = place_randomly(part, machine), place_by_bisection(part, machine)
    assert sorted(bisected.core) == sorted(shuffled.core)
    assert bisected.bound <= bisected.spike_hops < 0.8 * shuffled.spike_hops
    assert place(part, machine).spike_hops <= bisected.spike_hops
    streamed = small_machine(core={"synapse_memory_bytes": 8192}, board={"routers_x": 3, "routers_y": 3})
    with pytest.raises(TargetError, match="streams its weights"):
        place_by_bisection(partition(small_llama(), streamed), streamed)


def test_chip_links_are_slow_at_the_edges_and_only_there() -> None:
    machine = small_machine("loihi2-like", board={"chips_x": 2, "chips_y": 2, "routers_x": 3, "routers_y": 2})
    time = link_time_ns(machine)
    slow = time > machine.network.packet_time_ns
    assert slow[0, :, [2, 5]].all()
    assert slow[1, :, [0, 3]].all()
    assert slow[2, [1, 3], :].all()
    assert slow[3, [0, 2], :].all()
    assert slow.sum() == 2 * 2 * 4 + 2 * 2 * 6
