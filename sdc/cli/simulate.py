"""``sdc simulate``: a compiled neuromorphic program on a simulated machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdc.cli.tables import print_facts, print_json, print_rows
from sdc.errors import ConfigError
from sdc.runtime import Program
from sdc.targets.neuro.machine import load_machine
from sdc.targets.neuro.runner import DecoderRunner
from sdc.targets.neuro.simulate.replay_trace import write_replay
from sdc.targets.neuro.simulation import Simulation, simulate_decoder

__all__ = ["simulate"]

_SHOWN = 12


def simulate(
    path: Path, prompt: str, tokens: int, machine: str | None, trace: Path | None, *, raw: bool, json: bool
) -> None:
    """Runs greedy decoding, and prints time steps, cycles, spikes, hops and energy.

    Raises:
        ConfigError: The program is not for the neuromorphic target, or no language model.
    """
    program = Program.load(path)
    manifest = program.manifest
    if manifest["target"] != "neuro":
        raise ConfigError(
            f'{path} was compiled for target "{manifest["target"]}"; simulation needs `sdc compile '
            "--target=neuro`"
        )
    if tokens < 1:
        raise ConfigError(f"--tokens must be at least 1, not {tokens}")
    ids = program.prompt(prompt, chat=not raw)
    chosen = load_machine(machine or path / manifest["program"]["machine"])
    runner = program.decoder
    assert isinstance(runner, DecoderRunner)  # the target's only runner of language models
    done = simulate_decoder(runner, chosen, ids, tokens)
    if trace is not None:
        write_replay(done.run, trace)
    text = program.tokenizer.decode(done.tokens) if program.tokenizer else ""
    _print(path, {"text": text, "made": list(done.tokens), **done.summary()}, done, json)


def _print(path: Path, facts: dict[str, Any], done: Simulation, json: bool) -> None:
    if json:
        print_json(facts)
        return
    nested = ("energy_uj_by_component", "per_token", "per_op", "made")
    print_facts(str(path), {k: v for k, v in facts.items() if k not in nested})
    print_facts("energy by component, uJ", facts["energy_uj_by_component"])
    tokens = [{"token": i, **row} for i, row in enumerate(facts["per_token"])]
    print_rows("tokens", tokens, ("token", "us", "energy_uj"))
    layers = [{"layer": "none" if i < 0 else i, "energy_uj": e / 1e6} for i, e in _layers(done)]
    print_rows("layers, per token", layers, ("layer", "energy_uj"))
    costly = sorted(facts["per_op"], key=lambda row: -row["energy_uj"])[:_SHOWN]
    print_rows("costliest operations", costly, ("name", "spikes", "hops", "synops", "energy_uj"))


def _layers(done: Simulation) -> list[tuple[int, float]]:
    return sorted(done.bill.report().by_layer().items())
