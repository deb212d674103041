"""Pictures show the numbers of the run."""

import numpy as np
import pytest
from helpers.neuro import small_machine
from helpers.spiking_llama import spiking_llama

from sdc.targets.neuro.codegen.module import compile_module
from sdc.targets.neuro.codegen.values import PlainPlacement
from sdc.targets.neuro.pictures import energy_by_layer, energy_waterfall, link_map, occupancy_map
from sdc.targets.neuro.runner import DecoderRunner, Signature
from sdc.targets.neuro.simulation import Simulation, simulate_decoder


@pytest.fixture(scope="module")
def done() -> Simulation:
    compiled = compile_module(spiking_llama(layers=2), PlainPlacement(4096), "test")
    runner = DecoderRunner(compiled.program, compiled.external, Signature.of("decoder", 40, compiled))
    board = {"chips_x": 3, "chips_y": 3, "routers_x": 4, "routers_y": 2}
    network = {"topology": "mesh", "virtual_channels": 2}
    return simulate_decoder(runner, small_machine(board=board, network=network), [3, 1], 1)


def test_the_occupancy_map_is_cut_to_the_chips_in_use(done: Simulation) -> None:
    (trace,) = occupancy_map(done.run).data
    z = np.array(trace.z, float)
    busy = done.run.core_busy()
    assert np.nanmax(z) == pytest.approx(100 * max(busy.values()) / done.run.makespan_ns)
    assert np.count_nonzero(~np.isnan(z)) == len(done.run.recording.program.cores)
    assert z.shape[0] % 2 == 0
    assert z.shape[1] % 4 == 0
    assert z.shape[0] < 6 or z.shape[1] <= 12
    core = next(iter(busy))
    assert any(f"core {core % 12},{core // 12}: " in cell for row in trace.text for cell in row)


def test_the_link_map_shows_the_busiest_link(done: Simulation) -> None:
    (trace,) = link_map(done.run).data
    assert np.max(trace.z) == pytest.approx(100 * done.run.link_busy.max() / done.run.makespan_ns)
    assert "east: " in trace.text[0][0]


def test_the_waterfall_ends_at_the_total(done: Simulation) -> None:
    (trace,) = energy_waterfall(done.bill).data
    assert trace.measure[-1] == "total"
    assert trace.y[-1] == pytest.approx(sum(trace.y[:-1])) == pytest.approx(done.bill.total_pj / 2 / 1e6)


def test_the_bars_of_the_layers_are_the_dynamic_energy(done: Simulation) -> None:
    bars = energy_by_layer(done.bill).data
    assert {tuple(bar.x) for bar in bars} == {(-1, 0, 1)}
    assert sum(sum(bar.y) for bar in bars) == pytest.approx(done.bill.report().dynamic_pj / 1e6)
