"""Peak memory of running a program, beside what its weights and its cache take.

    python benchmarks/memory.py PROGRAM [PROGRAM ...] [--prompt 512] [--tokens 32] [--write PAGE]

Each run is ``sdc run`` in a process of its own; memory is the most that it had resident. The bound is 1.25
times the bytes of the weights' file, and the whole cache, and 150 MB.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from contestants import command, threads
from page import machine_line, table, write_section
from process import run_process

MB = 1e6


def main() -> None:
    """Parses the command line and prints one row a program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", type=Path, nargs="+", help="artefact directories")
    parser.add_argument("--prompt", type=int, default=512, help="words of the prompt")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--write", type=Path, help="page that receives the table")
    options = parser.parse_args()
    rows = [measure(path, options.prompt, options.tokens) for path in options.programs]
    head = ["program", "weights, MB", "cache, MB", "peak, MB", "bound, MB"]
    text = f"{machine_line(threads())}. {command()}\n\n{table(head, rows)}"
    print(text)
    if options.write:
        write_section(options.write, "memory", "Memory", text)


def measure(path: Path, prompt: int, tokens: int) -> list[str]:
    """A row of the table."""
    built = json.loads((path / "manifest.json").read_text())["program"]
    states = built["signature"]["states"]
    cache = sum(int(np.prod(s["shape"])) * np.dtype(s["dtype"]).itemsize for s in states)
    weights = (path / built["weights"]).stat().st_size
    verb = [sys.executable, "-c", "from sdc.cli import main; main()", "run", str(path), "--greedy", "--raw"]
    text = " ".join(["spike"] * prompt)
    done = run_process([*verb, "--prompt", text, "--max-new-tokens", str(tokens)], {})
    numbers = (weights, cache, done.peak_bytes, 1.25 * weights + cache + 150 * MB)
    return [path.stem, *(f"{n / MB:.0f}" for n in numbers)]


if __name__ == "__main__":
    main()
