"""Prefill speed of compiled programs beside onnxruntime, llama.cpp and ONNX Runtime GenAI.

    python benchmarks/prefill.py PROGRAM [PROGRAM ...] [--onnx MODEL.onnx] [--llama MODEL.Q4_1.gguf ...]
        [--genai FOLDER ...] [--prompt 512] [--rounds 5] [--write docs/benchmarks.md]

Every round gives every contestant the same prompt in turn, on the same number of threads; what is printed are
medians over the rounds, their spread, and ratios round by round.
"""

from __future__ import annotations

import argparse

import numpy as np
from contestants import Contestant, add_arguments, command, enter, threads
from page import machine_line, spread, table, write_section


def main() -> None:
    """Parses the command line and prints one table a length of prompt."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--prompt", type=int, nargs="+", default=[512])
    options = parser.parse_args()
    ours, peers = enter(options, max(options.prompt) + 1)
    parts = [f"{machine_line(threads())}. {command()}"]
    for length in options.prompt:
        rounds = measure([*peers, *ours], length, options.rounds)
        parts.append(report(rounds, [peer.name for peer in peers], length))
    print("\n\n".join(parts))
    if options.write:
        write_section(options.write, "prefill", "Prefill", "\n\n".join(parts))


def measure(contestants: list[Contestant], length: int, rounds: int) -> list[dict[str, float]]:
    """Tokens per second of every contestant in every round, after one that warms up."""
    prompt = np.random.default_rng(0).integers(0, 1000, length)
    found = [{c.name: length / c.prefill(prompt) for c in contestants} for _ in range(rounds + 1)]
    return found[1:]


def report(rounds: list[dict[str, float]], peers: list[str], length: int) -> str:
    """A line and a table."""
    rows = []
    for name in rounds[0]:
        ratios = [spread([r[name] / r[peer] for r in rounds], 2) for peer in peers]
        rows.append([name, spread([r[name] for r in rounds], 0), *ratios])
    head = ["program", "tokens/s (min - max)", *(f"ratio to {peer}" for peer in peers)]
    return f"Prompt of {length} tokens, {len(rounds)} interleaved rounds.\n\n" + table(head, rows)


if __name__ == "__main__":
    main()
