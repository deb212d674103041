"""A compiled program on a machine: functional run, timing, energy, in one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Machine
from sdc.targets.neuro.runner import DecoderRunner, GraphRunner
from sdc.targets.neuro.simulate.functional import FunctionalSimulator
from sdc.targets.neuro.simulate.recording import Recorder
from sdc.targets.neuro.simulate.replay import Replay, replay
from sdc.targets.neuro.simulate.replay_energy import Bill, bill

__all__ = ["Simulation", "simulate_decoder", "simulate_graph"]


@dataclass(frozen=True)
class Simulation:
    """What a program did on a machine.

    Attributes:
        tokens: Tokens that a decoder made; empty for graphs.
        outputs: Outputs of a graph by name; empty for decoders.
        run: Times.
        bill: Events and energy.
    """

    tokens: tuple[int, ...]
    outputs: Mapping[str, NDArray]
    run: Replay
    bill: Bill

    def summary(self) -> dict[str, Any]:
        """JSON values: the whole run, each token, each operation."""
        run, paid = self.run, self.bill
        time = np.diff(run.token_ends, prepend=0.0)
        return {
            "machine": run.machine.name,
            "cores": len(run.recording.program.cores),
            "chips": paid.chips,
            "tokens": len(run.token_ends),
            "time_steps": _time_steps(run),
            "cycles": run.makespan_ns * run.machine.core.clock_mhz / 1e3,
            "makespan_us": run.makespan_ns / 1e3,
            "bound_us": run.bound_ns / 1e3,
            "buffer_stall_us": sum(m.buffer_stall for m in run.messages) / 1e3,
            "link_stall_us": sum(m.link_stall for m in run.messages) / 1e3,
            "busiest_core_share": max(run.core_busy().values(), default=0.0) / run.makespan_ns,
            **{kind: paid.count(kind) for kind in ("spikes", "packets", "hops", "chip_hops", "synops")},
            "energy_uj": paid.total_pj / 1e6,
            "energy_uj_by_component": {k: v / 1e6 for k, v in paid.by_component().items()},
            "per_token": [
                {"us": t / 1e3, "energy_uj": e / 1e6}
                for t, e in zip(time.tolist(), paid.by_token().tolist(), strict=True)
            ],
            "per_op": _per_op(paid),
        }


def _time_steps(run: Replay) -> int:
    """Steps of all trains, one after the other: of each operation and token, those of its busiest core."""
    steps: Counter[tuple[int, int, int]] = Counter(
        (span.action.op, span.action.token, span.core) for span in run.spans if span.action.kind == "accum"
    )
    most: dict[tuple[int, int], int] = {}
    for (op, token, _), count in steps.items():
        most[op, token] = max(most.get((op, token), 0), count)
    return sum(most.values())


def _per_op(paid: Bill) -> list[dict[str, Any]]:
    names = ("spikes", "hops", "synops")
    counts = {name: paid.counts_by_op(name) for name in names}
    energy = paid.energy_pj.sum(axis=(1, 2))
    return [
        {"name": name, **{k: float(counts[k][i]) for k in names}, "energy_uj": float(energy[i]) / 1e6}
        for i, name in enumerate(paid.ops)
    ]


def simulate_decoder(
    runner: DecoderRunner, machine: Machine, prompt: Sequence[int], new_tokens: int
) -> Simulation:
    """Runs a prompt and greedy decoding, from an empty cache.

    Args:
        machine: Need not be the one that the program was compiled for, but must have its cores.
        new_tokens: Tokens to make, at least 1; the last one is not fed back.
    """
    runner.reset()
    with _Recorded(runner.machine) as recorder:
        made = [int(runner.prefill(list(prompt)).argmax())]
        while len(made) < new_tokens:
            made.append(int(runner.decode(made[-1]).argmax()))
    return _finish(recorder, runner.machine, machine, tuple(made), {})


def simulate_graph(runner: GraphRunner, machine: Machine, inputs: Mapping[str, NDArray]) -> Simulation:
    """Runs a graph without state once; arguments as for :func:`simulate_decoder`."""
    runner.machine.reset()
    with _Recorded(runner.machine) as recorder:
        outputs = runner.call(inputs)
    return _finish(recorder, runner.machine, machine, (), outputs)


class _Recorded:
    """A simulator that is watched for a while."""

    def __init__(self, simulator: FunctionalSimulator) -> None:
        self.simulator = simulator

    def __enter__(self) -> Recorder:
        self.simulator.observer = recorder = Recorder(self.simulator.program)
        return recorder

    def __exit__(self, *_exception: object) -> None:
        self.simulator.observer = None


def _finish(
    recorder: Recorder,
    simulator: FunctionalSimulator,
    machine: Machine,
    tokens: tuple[int, ...],
    outputs: Mapping[str, NDArray],
) -> Simulation:
    run = replay(recorder.finish(simulator.traffic), machine)
    return Simulation(tokens, outputs, run, bill(run))
