"""A neuromorphic program on its machine: time, traffic and energy of a few tokens, and where on the chips."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdc.report.figures import facts_html, figure_html, rows_html
from sdc.report.registry import Section, Subject, section
from sdc.targets.neuro.machine import load_machine
from sdc.targets.neuro.pictures import energy_by_layer, energy_waterfall, link_map, occupancy_map
from sdc.targets.neuro.runner import DecoderRunner, GraphRunner
from sdc.targets.neuro.simulation import Simulation, simulate_decoder, simulate_graph

__all__ = ["neuro"]

TOKENS = 4
FACTS = {
    "machine": "machine",
    "chips": "chips",
    "cores": "cores",
    "tokens": "tokens simulated",
    "time_steps": "time steps",
    "cycles": "cycles",
    "makespan_us": "time, us",
    "bound_us": "of it unavoidable (critical path, busiest core or link), us",
    "link_stall_us": "waiting for links, sum over messages, us",
    "buffer_stall_us": "waiting for buffers, sum over messages, us",
    "spikes": "spike packets",
    "packets": "packets",
    "hops": "hops",
    "synops": "synaptic additions",
    "energy_uj": "energy, uJ",
}


@section(order=60)
def neuro(subject: Subject) -> Section | None:
    """Tables, and heat maps of the chips; simulates the program for that."""
    if subject.manifest["target"] != "neuro":
        return None
    done = _simulate(subject)
    facts = done.summary()
    body = facts_html({title: facts[name] for name, title in FACTS.items()})
    body += _titled("Energy of a token", figure_html(energy_waterfall(done.bill)))
    body += figure_html(energy_by_layer(done.bill))
    body += _titled("Cores at work", figure_html(occupancy_map(done.run), height=560))
    body += _titled("Links at work", figure_html(link_map(done.run), height=560))
    body += _titled("Costliest operations", _operations(facts["per_op"]))
    note = (
        f"The binary, simulated on {facts['machine']}: instruction by instruction, spike by spike. Many of a "
        "machine description's numbers are assumed; its comments say which."
    )
    return Section("On the machine", body, note)


def _simulate(subject: Subject) -> Simulation:
    """The first tokens of the vocabulary, or zeros: what a program does hardly depends on the text."""
    machine = load_machine(subject.path / subject.manifest["program"]["machine"])
    runner = subject.program.runner
    if isinstance(runner, DecoderRunner):
        tokens = min(
            TOKENS, int(subject.manifest["model"]["vocab"]), int(subject.manifest["model"]["max_seq"])
        )
        return simulate_decoder(runner, machine, list(range(tokens)), 1)
    assert isinstance(runner, GraphRunner)  # the target has no other
    rng = np.random.default_rng(0)
    inputs = {
        port.name: rng.standard_normal(port.shape).astype(port.dtype) for port in runner.signature.inputs
    }
    return simulate_graph(runner, machine, inputs)


def _titled(title: str, body: str) -> str:
    return f"<h3>{title}</h3>{body}"


def _operations(rows: list[dict[str, Any]]) -> str:
    costly = sorted(rows, key=lambda row: -row["energy_uj"])[:12]
    columns = {
        "name": "operation",
        "spikes": "spikes",
        "hops": "hops",
        "synops": "additions",
        "energy_uj": "energy, uJ",
    }
    return rows_html(costly, columns)
