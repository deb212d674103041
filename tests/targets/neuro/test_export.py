"""A mapped layer seen by others: SANA-FE simulates it again, NIR carries it, and both must agree with us."""

import numpy as np
import pytest
from helpers.neuro import small_machine
from helpers.sketch import Sketch

from sdc.errors import TargetError
from sdc.ir.ops import linear
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.pipeline import compile_passes, run_passes
from sdc.targets.neuro.codegen.module import compile_module
from sdc.targets.neuro.codegen.values import PlainPlacement
from sdc.targets.neuro.export.nir import to_nir
from sdc.targets.neuro.export.projections import Projection, TrainLog, projections
from sdc.targets.neuro.export.sanafe import expected_messages, run_sanafe
from sdc.targets.neuro.machine import Machine
from sdc.targets.neuro.runner import GraphRunner, Signature

LAYER = {"rows": 48, "width": 64}


def mesh() -> Machine:
    return small_machine(network={"topology": "mesh", "virtual_channels": 2})


class Layer:
    """One linear layer on several cores, run once."""

    def __init__(self, coding: str, budget: int = 1024) -> None:
        rng = np.random.default_rng(1)
        sketch = Sketch(x=[1, LAYER["width"]])
        weight = sketch.weight("w", rng.normal(size=tuple(LAYER.values())).astype(np.float32))
        model = sketch.model(sketch(linear(sketch["x"], weight, name="layer")))
        windows = tuple((rng.normal(size=(1, LAYER["width"])).astype(np.float32),) for _ in range(2))
        ctx = PassContext(PassOptions(levels=7, coding=coding, group=32), windows)
        model = run_passes(model, compile_passes(), ctx)
        compiled = compile_module(model, PlainPlacement(budget), "test")
        signature = Signature.of("stateless", 0, compiled)
        self.runner = GraphRunner(compiled.program, compiled.external, signature)
        self.runner.machine.observer = self.log = TrainLog()
        self.runner.call({"x": windows[0][0]})
        self.found = projections(compiled.program)

    def accumulators(self, projection: Projection) -> np.ndarray:
        """What the functional simulator has in the receiving core."""
        sums = self.log.sums[projection.target, projection.tag]
        return sums[: len(projection.matrix)].astype(np.int64)


@pytest.fixture(scope="module")
def layer() -> Layer:
    return Layer("ternary")


def test_projections_are_the_synapses_of_the_program(layer: Layer) -> None:
    assert len(layer.found) > 2
    assert sum(p.weight.size for p in layer.found) == LAYER["rows"] * LAYER["width"]
    for projection in layer.found:
        total = np.zeros(len(projection.matrix), np.int64)
        for event in layer.log.events:
            if (event.source, event.tag) == (projection.source, projection.tag):
                signs = np.where(event.negative, -1, 1)
                total += projection.matrix[:, event.axons] @ signs
        np.testing.assert_array_equal(total, layer.accumulators(projection))
        assert np.abs(total).max() > 0


@pytest.mark.slow
def test_sanafe_counts_the_same_spikes_hops_energy_and_sums(layer: Layer, tmp_path) -> None:
    pytest.importorskip("sanafe")
    machine = mesh()
    by_source: dict[tuple[int, int], list[Projection]] = {}
    for projection in layer.found:
        by_source.setdefault((projection.source, projection.tag), []).append(projection)
    for (source, tag), found in by_source.items():
        events = [e for e in layer.log.events if (e.source, e.tag) == (source, tag)]
        theirs = run_sanafe(found, events, machine, 8, tmp_path)
        ours = expected_messages(found, events, machine)
        assert list(theirs.messages) == ours  # step, axon, sign, receiving core and hops of every message
        assert ours
        synops = sum(len(e.axons) * p.weight.shape[1] for p in found for e in events)
        assert theirs.spikes == synops
        assert theirs.synapse_pj == pytest.approx(synops * machine.energy.synaptic_add(8))
        unit, network = machine.energy, machine.network
        each = unit.spike_send_pj + unit.spike_receive_pj + network.cluster_energy_pj
        hops = sum(message[-1] for message in ours)
        assert theirs.network_pj == pytest.approx(hops * network.hop_energy_pj + len(ours) * each)
        for projection, sums in zip(found, theirs.accumulators, strict=True):
            np.testing.assert_array_equal(sums, layer.accumulators(projection))


def test_sanafe_cannot_express_a_torus(layer: Layer, tmp_path) -> None:
    pytest.importorskip("sanafe")
    with pytest.raises(TargetError, match="meshes of one chip only"):
        run_sanafe(layer.found, layer.log.events, small_machine(), 8, tmp_path)


@pytest.mark.parametrize("coding", ["ternary", "bitwise", "binary"])
def test_nir_carries_the_synapses(coding: str, tmp_path) -> None:
    nir = pytest.importorskip("nir")
    made = Layer(coding)
    nir.write(tmp_path / "layer.nir", to_nir(made.found))
    graph = nir.read(tmp_path / "layer.nir")
    assert len(graph.edges) == 3 * len(made.found)
    for p in made.found:
        where = f"{p.source}_{p.tag}_{p.target}"
        weight = graph.nodes[f"synapses_{where}"].weight
        state = np.zeros(weight.shape[0])
        for event in made.log.events:
            if (event.source, event.tag) == (p.source, p.tag):
                step = 2.0**event.step if coding == "bitwise" else 1.0
                spikes = np.zeros(weight.shape[1])
                spikes[event.axons] = np.where(event.negative, -step, step)
                state += graph.nodes[f"sums_{where}"].r * (weight @ spikes)
        np.testing.assert_array_equal(state, made.accumulators(p))
