"""``sdc demo``: the main job on a real model, with one table at the end."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["PROMPT", "demo"]

PROMPT = "What is a list comprehension in Python? Give a short example."


def demo(
    model: Path | None,
    prompt: str,
    max_new_tokens: int,
    out: Path | None,
    windows: int,
    window: int,
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Compiles a model for this CPU, answers a prompt, measures; prints one table, or one JSON object."""
    with tempfile.TemporaryDirectory(prefix="sdc-demo-") as scratch:
        facts = _run(
            model, prompt, max_new_tokens, out or Path(scratch) / "demo.sdc", windows, window, json, quiet
        )
    _print(facts, json)


def _run(
    model: Path | None,
    prompt: str,
    max_new_tokens: int,
    out: Path,
    windows: int,
    window: int,
    json: bool,
    quiet: bool,
) -> dict[str, Any]:
    from sdc.api import compile_to, load
    from sdc.cli.progress import Bars
    from sdc.cli.verbs import measure
    from sdc.config import CompileConfig
    from sdc.data import demo_text
    from sdc.hub import smollm2
    from sdc.runtime.sampling import Sampler
    from sdc.targets.cpu.isa import best_level

    clock = time.perf_counter()
    with Bars(quiet) as bars:
        path = model or smollm2(lambda what: bars(what, 0, 1))
        got = time.perf_counter()
        config = CompileConfig.of(mcpu=best_level().name)  # what other processors would run is not built
        done = compile_to(path, out, config, force=True, progress=bars)
    program = load(done.path)
    _say(f"{prompt}\n", quiet or json)
    made = program.answer(program.prompt(prompt), max_new_tokens, Sampler(), _listener(quiet or json))
    _say("", quiet or json)
    began = time.perf_counter()
    with Bars(quiet) as bars:
        found = measure(program, demo_text()[1], windows, window, bars)
    rates, evaluation = made.to_json(), found.to_json()
    return {
        "text": made.text,
        **{k: v for k, v in evaluation.items() if k not in ("ops", "probabilities")},
        "dense_float_products": done.manifest["dense_float_products"],
        "multiplications_per_token": done.manifest["certificate"]["totals"]["multiplications"],
        "prefill_tokens_per_second": rates["prefill_tokens_per_second"],
        "decode_tokens_per_second": rates["decode_tokens_per_second"],
        "weight_bytes": program.artefact.weight_bytes,
        "seconds": {
            "fetch": got - clock,
            **done.seconds,
            "measure": time.perf_counter() - began,
            "all": time.perf_counter() - clock,
        },
    }


def _listener(quiet: bool) -> Callable[[str], None]:
    def listen(piece: str) -> None:
        if not quiet:
            sys.stdout.write(piece)
            sys.stdout.flush()

    return listen


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(text)


def _print(facts: dict[str, Any], json: bool) -> None:
    from sdc.cli.tables import print_facts, print_json
    from sdc.numbers import number

    if json:
        print_json(facts)
        return
    rows = {
        "perplexity, original model": facts["perplexity_reference"],
        "perplexity, spiking program": facts["perplexity_spiking"],
        "ratio": facts["ratio"],
        "spikes per neuron": facts["spikes_per_neuron"],
        "silent neurons": facts["zero_fraction"],
        "synops per token": facts["synops_per_token"],
        "dense products of floats": facts["dense_float_products"],
        "multiplications left per token": facts["multiplications_per_token"],
        "prompt, tokens per second": facts["prefill_tokens_per_second"],
        "answer, tokens per second": facts["decode_tokens_per_second"],
        "weight bytes": facts["weight_bytes"],
        **{f"{name}, seconds": number(value) for name, value in facts["seconds"].items()},
    }
    title = f"{facts['windows']} windows, {facts['tokens']} tokens of held-out text"
    print_facts(title, rows)
