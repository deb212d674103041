"""What calibration and GPTQ cost: seconds a layer and peak memory, on random Llamas of growing depth.

    python benchmarks/quantise.py [--layers 2,4,8] [--hidden 2048 --ffn 5632 --heads 32 --kv-heads 4]
                                  [--windows 4 --window 256]
    python benchmarks/quantise.py --model FILE [--preset balanced]

The default shape is TinyLlama's, which has 1.1 billion parameters at 22 layers. Weights are drawn when they
are read, so that what is measured is the compiler's memory. Prints a Markdown table; CPU seconds are those of
all threads. Peak memory is the resident set's high-water mark, reset before each row (Linux).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from helpers.tiny_llama import lazy_llama  # noqa: E402

from sdc.api import lift, pass_options  # noqa: E402
from sdc.calibration import calibration_for  # noqa: E402
from sdc.config import CompileConfig  # noqa: E402
from sdc.ir.model import Model  # noqa: E402
from sdc.passes.base import PassContext  # noqa: E402
from sdc.passes.pipeline import compile_passes, run_passes  # noqa: E402
from sdc.source import open_source  # noqa: E402


def main() -> None:
    """Prints the table."""
    options = _arguments()
    config = CompileConfig.of(preset=options.preset)
    print("| model | layers | parameters, millions | seconds | CPU s | CPU s a layer | peak memory, GiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    if options.model:
        source = open_source(options.model)
        model = lift(source, config)
        windows, _ = calibration_for(model, config, source.onnx.parent)
        print(row(options.model.name, model, config, windows))
        return
    rng = np.random.default_rng(0)
    windows = tuple(rng.integers(0, options.vocab, (options.windows, options.window)))
    for layers in (int(n) for n in options.layers.split(",")):
        model = lazy_llama(
            layers=layers,
            hidden=options.hidden,
            ffn=options.ffn,
            heads=options.heads,
            kv_heads=options.kv_heads,
            head_dim=options.hidden // options.heads,
            vocab=options.vocab,
            max_seq=options.window,
        )
        print(row("random Llama", model, config, windows), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="an .onnx or .gguf file instead of random models")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--layers", default="2,4,8")
    sizes = {"hidden": 2048, "ffn": 5632, "heads": 32, "kv-heads": 4, "vocab": 4096}
    for name, size in {**sizes, "windows": 4, "window": 256}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    return parser.parse_args()


def row(name: str, model: Model, config: CompileConfig, windows: tuple[np.ndarray, ...]) -> str:
    """One line of the table: all passes, with GPTQ's integers in files."""
    with tempfile.TemporaryDirectory() as folder:
        ctx = PassContext(pass_options(config), windows, scratch=Path(folder))
        Path("/proc/self/clear_refs").write_text("5")  # starts the high-water mark anew, see proc(5)
        began, busy = time.perf_counter(), time.process_time()
        run_passes(model, compile_passes(), ctx)
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
    layers = model.info.layers or 1
    millions = sum(np.prod(p.shape) for p in model.params.values()) / 1e6
    cells = (f"{millions:.0f}", f"{seconds:.0f}", f"{busy:.0f}", f"{busy / layers:.1f}", f"{peak():.2f}")
    return f"| {name} | {layers} | {' | '.join(cells)} |"


def peak() -> float:
    """The resident set's high-water mark in GiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(s for s in status if s.startswith("VmHWM")).split()[1]) / 2**20


if __name__ == "__main__":
    main()
