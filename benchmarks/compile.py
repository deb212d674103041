"""What a compile costs: seconds per phase and peak memory, with an empty and with a full cache of kernels.

    python benchmarks/compile.py MODEL [--rounds 3] [--weights int8] [--target cpu] [--write PAGE]

Every compile is a process of its own, start and imports included in "all". A GGUF file is converted before
the first round, as it is once for a user.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from page import machine_line, spread, table, write_section
from process import run_process

from sdc.source import open_source
from sdc.threads import cpus

PHASES = ("import", "passes", "build", "write")
Run = dict[str, float]


def main() -> None:
    """Parses the command line, measures, prints or writes a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--write", type=Path, help="page whose section is replaced")
    options = parser.parse_args()
    onnx = open_source(options.model).onnx
    settings = ["--weights", options.weights, "--target", options.target]
    runs: dict[str, list[Run]] = {"empty": [], "full": []}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(options.rounds):
            shutil.rmtree(Path(scratch) / "cache", ignore_errors=True)
            for cache in runs:
                runs[cache].append(compiled(onnx, Path(scratch), settings))
    head = ["cache of kernels", *(f"{phase}, s" for phase in PHASES), "all, s", "peak memory, MiB"]
    rows = [[cache, *(spread([r[k] for r in each]) for k in each[0])] for cache, each in runs.items()]
    call = f"python benchmarks/compile.py {options.model.name} {' '.join(settings)} --rounds {options.rounds}"
    text = f"{machine_line(cpus())}. `{call}`\n\n{table(head, rows)}"
    if options.write:
        write_section(options.write, "compile", "Compile", text)
    print(text)


def compiled(onnx: Path, scratch: Path, settings: list[str]) -> Run:
    """One compile: seconds of each phase and of the whole process, and its peak memory in MiB."""
    out = scratch / "out.sdc"
    verb = [sys.executable, "-c", "from sdc.cli import main; main()", "compile"]
    command = [*verb, str(onnx), "-o", str(out), "--force", "--json", "-q"]
    done = run_process([*command, *settings], {"SDC_CACHE_DIR": str(scratch / "cache")})
    seconds = json.loads(done.printed)["seconds"]
    phases = {phase: seconds[phase] for phase in PHASES}
    return {**phases, "all": done.seconds, "memory": done.peak_bytes / 2**20}


if __name__ == "__main__":
    main()
