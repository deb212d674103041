"""A projection for SANA-FE (Boyle et al., https://github.com/SLAM-Lab/SANA-FE), and its results beside ours.

SANA-FE's spikes have no sign, so each axon becomes two input neurons, one for additions and one with the
weights negated. It sends one message per spike and receiving core; a tree of ours has fewer hops where
receivers share links, so hops are compared message by message, each by its own distance. Weights that depend
on the time step (bitwise trains) cannot be expressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from sdc.errors import TargetError
from sdc.targets.neuro.export.projections import Event, Projection
from sdc.targets.neuro.machine import Grid, Machine

__all__ = ["Message", "SanafeResult", "architecture", "expected_messages", "run_sanafe"]

Message = tuple[int, int, bool, int, int]
"""Step, axon, sign (True subtracts), receiving core, hops."""


@dataclass(frozen=True)
class SanafeResult:
    """What SANA-FE says.

    Attributes:
        messages: Every message of every step.
        accumulators: Of each projection: [accumulators] sums at the end.
        synapse_pj, network_pj: Energies; ``network`` includes sending and receiving.
        spikes: Synaptic events.
    """

    messages: tuple[Message, ...]
    accumulators: tuple[NDArray[np.int64], ...]
    synapse_pj: float
    network_pj: float
    spikes: int


def architecture(machine: Machine, axons: int, bits: int) -> dict[str, Any]:
    """The machine in SANA-FE's format: energies of hops, sending, receiving and additions; no delays.

    Args:
        axons: Input neurons of one core are twice as many.
        bits: Width of the weights.
    """
    grid, unit, network = Grid.of(machine), machine.energy, machine.network
    if grid.torus or machine.board.chips > 1:
        raise TargetError(f"{machine.name}: SANA-FE knows meshes of one chip only")
    hop = {"energy": network.hop_energy_pj * 1e-12, "latency": network.hop_latency_ns * 1e-9}
    directions = ("north", "east", "south", "west")
    zero = {
        f"{k}_{e}": 0.0
        for k in ("energy", "latency")
        for e in ("access_neuron", "update_neuron", "spike_out")
    }
    receive = (unit.spike_receive_pj + network.cluster_energy_pj) * 1e-12
    core = {
        "name": f"core[0..{grid.cluster - 1}]",
        "attributes": {
            "buffer_position": "soma",
            "buffer_inside_unit": False,
            "max_neurons_supported": 1 << 20,
        },
        "axon_in": [_unit("in", energy_message_in=receive, latency_message_in=0.0)],
        "synapse": [
            _unit(
                "synapse",
                model="current_based",
                energy_process_spike=unit.synaptic_add(bits) * 1e-12,
                latency_process_spike=0.0,
            )
        ],
        "dendrite": [_unit("dendrite", model="accumulator", energy_update=0.0, latency_update=0.0)],
        "soma": [
            _unit("sum", model="leaky_integrate_fire", **zero),
            _unit(f"axon[0..{2 * axons - 1}]", model="input", **zero),
        ],
        "axon_out": [_unit("out", energy_message_out=unit.spike_send_pj * 1e-12, latency_message_out=0.0)],
    }
    tile = {
        "name": f"tile[0..{grid.routers - 1}]",
        "attributes": {f"{kind}_{d}_hop": value for d in directions for kind, value in hop.items()},
        "core": [core],
    }
    attributes = {
        "topology": "mesh",
        "width": grid.width,
        "height": grid.height,
        "link_buffer_size": 16,
        "sync_model": "fixed",
        "latency_sync": 0.0,
    }
    return {"architecture": {"name": machine.name, "attributes": attributes, "tile": [tile]}}


def _unit(name: str, **attributes: object) -> dict[str, Any]:
    return {"name": name, "attributes": attributes}


def expected_messages(
    found: Sequence[Projection], events: Sequence[Event], machine: Machine
) -> list[Message]:
    """Ours: each spike to each receiving core, with the distance that its packet travels."""
    grid = Grid.of(machine)
    out: list[Message] = []
    for projection in found:
        (x, y), (tx, ty) = (grid.xy(np.array([core])) for core in (projection.source, projection.target))
        hops = int(grid.distance(tx - x, ty - y)[0])
        for event in _events(projection, events):
            pairs = zip(event.axons.tolist(), event.negative.tolist(), strict=True)
            out += [(event.step, axon, sign, projection.target, hops) for axon, sign in pairs]
    return sorted(out)


def _events(projection: Projection, events: Sequence[Event]) -> list[Event]:
    key = projection.source, projection.tag
    return [event for event in events if (event.source, event.tag) == key]


def run_sanafe(
    found: Sequence[Projection], events: Sequence[Event], machine: Machine, bits: int, folder: Path
) -> SanafeResult:
    """Simulates projections of one source and tag; writes ``arch.yaml`` and ``network.yaml`` to ``folder``.

    Raises:
        TargetError: SANA-FE is not installed, or the machine cannot be expressed.
    """
    try:
        import sanafe
    except ImportError as error:
        raise TargetError("SANA-FE is not installed: pip install 'sdc-compiler[neuro-check]'") from error
    axons = max(projection.weight.shape[0] for projection in found)
    path = folder / "arch.yaml"
    path.write_text(yaml.safe_dump(architecture(machine, axons, bits), sort_keys=False), encoding="utf-8")
    loaded = sanafe.load_arch(path)
    steps = 1 + max(event.step for event in events)
    network = sanafe.Network()
    cores = loaded.cores()
    source = _sources(network, found[0], events, axons, steps, cores, Grid.of(machine))
    groups = [_sums(network, source, projection, cores, Grid.of(machine)) for projection in found]
    network.save(folder / "network.yaml")
    chip = sanafe.SpikingChip(loaded)
    chip.load(network)
    # What a step sends is in the sums after it.
    result = chip.sim(
        steps + 1, timing_model="simple", processing_threads=1, potential_trace=True, message_trace=True
    )
    return _result(result, groups, Grid.of(machine))


def _number(core: int, grid: Grid) -> int:
    """SANA-FE counts its tiles column by column."""
    router, slot = divmod(core, grid.cluster)
    y, x = divmod(router, grid.width)
    return (x * grid.height + y) * grid.cluster + slot


def _sources(
    network: Any,
    projection: Projection,
    events: Sequence[Event],
    axons: int,
    steps: int,
    cores: Any,
    grid: Grid,
) -> Any:
    trains = np.zeros((2 * axons, steps), np.int64)
    for event in _events(projection, events):
        trains[2 * event.axons + event.negative, event.step] = 1
    group = network.create_neuron_group("axons", 2 * axons)
    home = cores[_number(projection.source, grid)]
    for i, train in enumerate(trains.tolist()):
        neuron = group.neurons[i]
        neuron.set_attributes(model_attributes={"spikes": train}, soma_hw_name=f"axon[{i}]")
        neuron.map_to_core(home)
    return group


def _sums(network: Any, source: Any, projection: Projection, cores: Any, grid: Grid) -> tuple[Any, int]:
    matrix = projection.matrix
    group = network.create_neuron_group(
        f"sums_{projection.target}",
        len(matrix),
        model_attributes={"threshold": 1e12},
        soma_hw_name="sum",
        default_synapse_hw_name="synapse",
        default_dendrite_hw_name="dendrite",
        log_potential=True,
    )
    home = cores[_number(projection.target, grid)]
    for neuron in group.neurons:
        neuron.map_to_core(home)
    outputs = projection.weight.shape[1]
    for axon, row in enumerate(projection.weight.tolist()):
        first = axon // projection.group * outputs
        for sign in (0, 1):
            for n, weight in enumerate(row):
                source.neurons[2 * axon + sign].connect_to_neuron(
                    group.neurons[first + n], {"weight": -weight if sign else weight}
                )
    return group, len(matrix)


def _result(result: dict[str, Any], groups: list[tuple[Any, int]], grid: Grid) -> SanafeResult:
    core_of = {_number(core, grid): core for core in range(grid.cores)}
    messages = [
        (
            step,
            m["src_neuron_offset"] // 2,
            bool(m["src_neuron_offset"] % 2),
            core_of[m["dest_core_id"]],
            m["hops"],
        )
        for step, found in enumerate(result["message_trace"])
        for m in found
        if not m["placeholder"]
    ]
    last = np.rint(np.array(result["potential_trace"][-1])).astype(np.int64)
    ends = np.cumsum([size for _, size in groups])[:-1]
    energy = result["energy"]
    return SanafeResult(
        tuple(sorted(messages)),
        tuple(np.split(last, ends)),
        energy["synapse"] * 1e12,
        energy["network"] * 1e12,
        int(result["spikes"]),
    )
