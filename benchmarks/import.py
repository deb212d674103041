"""What importing an ONNX model costs: seconds per 100 MB of weights, and memory beside the float32 weights.

    python benchmarks/import.py MODEL.onnx [MODEL.onnx ...]

Each model is imported in a process of its own. Seconds: ``sdc.frontends.onnx.load`` alone, and with every
weight computed once in float32 (``check_weights``), each over 100 MB of stored weights. Memory: the peak of
the process above what it held before, over the bytes of all weights in float32; mapped pages of the file
count.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HEAD = (
    "model",
    "MB stored",
    "read s",
    "load s",
    "s / 100 MB",
    "with weights s",
    "s / 100 MB",
    "peak / float32",
)


def main(paths: list[str]) -> None:
    """Prints a row for each model."""
    print(" | ".join(HEAD))
    for path in paths:
        run = subprocess.run([sys.executable, __file__, "--one", path], capture_output=True, check=True)
        found = json.loads(run.stdout)
        each = 100 / found["stored"]
        numbers = [found["stored"], found["read"], found["load"], found["load"] * each]
        numbers += [found["weights"], found["weights"] * each, found["peak"] / found["float32"]]
        print(" | ".join([Path(path).name, *(f"{n:.2f}" for n in numbers)]))


def measure(path: Path) -> dict[str, Any]:
    """Sizes in MB, times in seconds, of one import in this process."""
    from sdc.frontends.onnx import check_weights, load

    files = [path, *(p for p in path.parent.iterdir() if p.name.startswith(path.stem) and p != path)]
    start = time.perf_counter()
    for file in files:
        with file.open("rb") as stream:
            while stream.read(1 << 24):
                continue
    read = time.perf_counter() - start
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    model = load(path)
    loaded = time.perf_counter() - start
    check_weights(model)
    weights = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "stored": sum(f.stat().st_size for f in files) / 1e6,
        "read": read,
        "load": loaded,
        "weights": weights,
        "peak": peak * 1024 / 1e6,  # Linux counts in KiB
        "float32": 4 * model.info.parameters / 1e6,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(Path(sys.argv[2]))))
    else:
        main(sys.argv[1:])
