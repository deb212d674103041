"""Decode speed of compiled programs beside onnxruntime running the float32 model with a KV cache.

    python benchmarks/decode.py MODEL.gguf PROGRAM [PROGRAM ...] [--context 128] [--tokens 32] [--rounds 5]

Every round runs all contestants in turn, each on the same number of threads; what is printed are medians
over the rounds, their spread, and ratios round by round. Beside each program stands the bound: weight and
cache bytes read per token over the read bandwidth measured in the same run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

import sdc
from sdc.frontends.gguf import to_onnx

Contestant = Callable[[], float]


def main() -> None:
    """Parses the command line and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="GGUF file that the programs were compiled from")
    parser.add_argument("programs", type=Path, nargs="+", help="artefact directories")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    prompt = np.random.default_rng(0).integers(0, 1000, options.context)
    with tempfile.TemporaryDirectory() as folder:
        path = to_onnx(options.model, Path(folder) / "peer.onnx", past=True)
        contestants = {"onnxruntime float32": peer(path, prompt, options.tokens, threads)}
        bounds: dict[str, int] = {}
        for program in options.programs:
            contestants[program.name], bounds[program.name] = ours(program, prompt, options.tokens)
        rounds = [{n: run() for n, run in contestants.items()} for _ in range(options.rounds)]
    report(rounds, bounds, bandwidth(threads))


def ours(path: Path, prompt: np.ndarray, tokens: int) -> tuple[Contestant, int]:
    """Tokens per second of a compiled program, and the bytes it reads per token."""
    program = sdc.load(path)
    build = program.manifest["build"]
    weights = (path / build["weights"]).stat().st_size
    caches = sum(
        int(np.prod(s["shape"])) * np.dtype(s["dtype"]).itemsize for s in build["signature"]["states"]
    )
    share = len(prompt) / build["signature"]["max_seq"]

    def run() -> float:
        runner = program.runner
        runner.reset()
        token = int(runner.prefill(prompt).argmax())
        start = time.perf_counter()
        for _ in range(tokens):
            token = int(runner.decode(token).argmax())
        return tokens / (time.perf_counter() - start)

    return run, int(weights + share * caches)


def peer(path: Path, prompt: np.ndarray, tokens: int, threads: int) -> Contestant:
    """Tokens per second of onnxruntime on the float32 model with past keys and values."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()][1:]
    shape = next(i.shape for i in session.get_inputs() if "past" in i.name)

    def step(ids: np.ndarray, cache: dict[str, np.ndarray]) -> tuple[int, dict[str, np.ndarray]]:
        logits, *present = session.run(None, {"input_ids": ids, **cache})
        grown = {n.replace("present", "past_key_values"): p for n, p in zip(names, present, strict=True)}
        return int(logits[0, -1].argmax()), grown

    def run() -> float:
        empty = np.zeros((1, shape[1], 0, shape[3]), np.float32)
        cache = {n.replace("present", "past_key_values"): empty for n in names}
        token, cache = step(prompt[None], cache)
        start = time.perf_counter()
        for _ in range(tokens):
            token, cache = step(np.array([[token]]), cache)
        return tokens / (time.perf_counter() - start)

    return run


def bandwidth(threads: int) -> float:
    """Read bandwidth in bytes per second: the best of several sums over 1 GiB, one slice a thread."""
    from concurrent.futures import ThreadPoolExecutor

    data = np.ones(1 << 27, np.float64)
    slices = np.array_split(data, threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(np.max, slices))
            best = min(best, time.perf_counter() - start)
    return data.nbytes / best


def report(rounds: list[dict[str, float]], bounds: dict[str, int], read: float) -> None:
    """Prints a Markdown table."""
    base = "onnxruntime float32"
    print(f"read bandwidth {read / 1e9:.1f} GB/s, {len(rounds)} rounds\n")
    print("| program | tokens/s (min - max) | ratio to onnxruntime (min - max) | of the bandwidth bound |")
    print("| --- | --- | --- | --- |")
    for name in rounds[0]:
        speeds = [r[name] for r in rounds]
        ratios = [r[name] / r[base] for r in rounds]
        middle = statistics.median(speeds)
        speed = f"{middle:.1f} ({min(speeds):.1f} - {max(speeds):.1f})"
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        share = f"{100 * middle * bounds[name] / read:.0f} %" if name in bounds else ""
        print(f"| {name} | {speed} | {ratio} | {share} |")


if __name__ == "__main__":
    main()
