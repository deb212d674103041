"""Decode speed of compiled programs beside onnxruntime, llama.cpp and ONNX Runtime GenAI.

    python benchmarks/decode.py PROGRAM [PROGRAM ...] [--onnx MODEL.onnx] [--llama MODEL.Q4_1.gguf ...]
        [--genai FOLDER ...] [--context 128] [--tokens 32] [--rounds 5] [--write docs/benchmarks.md]

Every round runs all contestants in turn, each on the same number of threads; what is printed are medians
over the rounds, their spread, and ratios round by round to the first program's peers. Beside each program
stands its share of the bound: weight and cache bytes read per token over the read bandwidth, which every
round measures too.
``--onnx`` wants a model with past keys and values (``sdc.frontends.gguf.to_onnx(..., past=True)``).
"""

from __future__ import annotations

import argparse

import numpy as np
from contestants import Contestant, Ours, add_arguments, command, enter, threads
from page import machine_line, spread, table, write_section

from sdc.machine import read_bandwidth

Rounds = list[dict[str, float]]

READ = "read bandwidth"  # in a round, beside the contestants' tokens per second


def main() -> None:
    """Parses the command line and prints one table a context."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--context", type=int, nargs="+", default=[128])
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    ours, peers = enter(options, max(options.context) + options.tokens + 1)
    parts = [f"{machine_line(threads())}. {command()}"]
    for context in options.context:
        rounds = measure([*peers, *ours], context, options.tokens, options.rounds)
        parts.append(report(rounds, ours, context))
    print("\n\n".join(parts))
    if options.write:
        write_section(options.write, "decode", "Decode", "\n\n".join(parts))


def measure(contestants: list[Contestant], context: int, tokens: int, rounds: int) -> Rounds:
    """Tokens per second of every contestant, and READ, in every round, after one that warms up."""
    prompt = np.random.default_rng(0).integers(0, 1000, context)
    found: Rounds = []
    for number in range(rounds + 1):
        speeds = {READ: read_bandwidth(threads())}
        for each in contestants:
            each.prefill(prompt)
            speeds[each.name] = tokens / each.decode(tokens)
        if number:
            found.append(speeds)
    return found


def report(rounds: Rounds, ours: list[Ours], context: int) -> str:
    """A paragraph and a table."""
    contestants = [name for name in rounds[0] if name != READ]
    names = [n for n in contestants if n not in {o.name for o in ours}]
    rows = []
    for name in contestants:
        speeds = [r[name] for r in rounds]
        ratios = [spread([r[name] / r[peer] for r in rounds], 2) for peer in names]
        program = next((o for o in ours if o.name == name), None)
        moved = program.bytes_per_token(context) if program else 0
        bound = spread([100 * r[name] * moved / r[READ] for r in rounds], 0) if moved else ""
        rows.append([name, spread(speeds), *ratios, f"{moved / 1e6:.0f}" if moved else "", bound])
    head = ["program", "tokens/s (min - max)", *(f"ratio to {n}" for n in names)]
    read = spread([r[READ] / 1e9 for r in rounds])
    text = f"Context {context}, read bandwidth {read} GB/s, {len(rounds)} interleaved rounds.\n\n"
    return text + table([*head, "MB/token", "% of the bandwidth bound"], rows)


if __name__ == "__main__":
    main()
