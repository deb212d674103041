"""Kernels and decoding on an NVIDIA GPU: share of the bandwidth and tensor-core bounds, beside cuBLAS.

    python benchmarks/cuda_target.py [PROGRAM ...] [--shapes 1b,7b] [--tokens 64] [--rounds 7] [--write
    benchmarks.md]

Kernels are timed alone on random data of the linears of Llama models with 1.1 and 7 billion parameters:
decode (one token) against the bytes of weights and scales over the device's bandwidth, prefill (2,048
tokens) against its int8 peak. Both bounds are measured in the same run: a copy of 1 GiB, and cuBLAS's int8
product of 8,192. cuBLAS fp16 and int8 (through PyTorch, where it is installed) run interleaved with ours;
figures are medians of rounds. PROGRAMs are artefacts for cuda, timed from prompt to token at contexts of
128, 2,048 and 16,384 where they fit, one alone, and 8 and 64 sequences together (where the program and the
memory allow).

Its name is not ``cuda.py``: the folder of a script comes first where modules are looked for, and TVM imports
NVIDIA's package ``cuda``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm

import sdc
from sdc.errors import DeviceMemoryError, NoDeviceError
from sdc.runtime.sampling import Sampler
from sdc.targets.cuda.compiler import find_compiler
from sdc.targets.cuda.device import find_devices
from sdc.targets.cuda.kernels.gemm import spike_gemm
from sdc.targets.cuda.kernels.gemv import spike_gemv
from sdc.targets.cuda.packing import PackNibbles, ShortScales
from sdc.targets.fused.specs import LinearSpec

# (rows, width) of qkv, o, gate and up, down: TinyLlama-1.1B (arXiv 2401.02385, table 1), LLaMA-2-7B (arXiv
# 2307.09288, section 2.2).
SHAPES = {
    "1b": ((2560, 2048), (2048, 2048), (11264, 2048), (2048, 5632)),
    "7b": ((12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008)),
}
CONTEXTS = (128, 2048, 16384)
BATCHES = (8, 64)
GROUP = 64


@dataclass(frozen=True)
class Row:
    """One line of the table: medians of the rounds, in microseconds; ``bound`` is the least possible time."""

    name: str
    ours: float
    bound: float
    fp16: float | None
    int8: float | None


def main() -> None:
    """Parses the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", type=Path, nargs="*", help="artefacts compiled for cuda")
    parser.add_argument("--shapes", default="1b,7b")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to decode with each program")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", type=Path, help="append the tables to this file")
    options = parser.parse_args()
    try:
        device = find_devices()[0]
    except NoDeviceError:
        parser.exit(2, "this machine has no CUDA device (nvidia-smi lists them), and nothing else is timed\n")
    bench = Bench(device, options.rounds)
    text = "\n".join(bench.report(options.shapes.split(","), options.programs, options.tokens))
    print(text)
    if options.write is not None:
        with options.write.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


class Bench:
    """Measurements on one device."""

    def __init__(self, device: Any, rounds: int) -> None:
        self.device, self.rounds = device, rounds
        self.arch = "sm_" + "".join(str(device.compute_version).split("."))
        self.rng = np.random.default_rng(0)
        self.peers = _peers()

    def report(self, shapes: list[str], programs: list[Path], tokens: int) -> Iterator[str]:
        """Markdown, line by line."""
        bandwidth, peak = self.bandwidth(), self.int8_peak()
        yield f"\n## CUDA on {self.device.device_name}\n"
        shown = "not measured (PyTorch is not installed)" if peak is None else f"{peak / 1e12:.0f} Tops"
        yield f"Copy {bandwidth / 1e9:.0f} GB/s, int8 product of cuBLAS {shown}, {self.rounds} rounds.\n"
        yield "| kernel | us | of the bound | times cuBLAS fp16 | times cuBLAS int8 |"
        yield "| --- | --- | --- | --- | --- |"
        for shape in shapes:
            for rows, width in SHAPES[shape]:
                for bits in (8, 4):
                    for count in (1, 8, 64, 2048):
                        yield _line(self.linear(rows, width, bits, count, bandwidth, peak))
        for path in programs:
            yield from self.program(path, tokens)

    def linear(
        self, rows: int, width: int, bits: int, count: int, bandwidth: float, peak: float | None
    ) -> Row:
        """One linear on ``count`` tokens."""
        spec = LinearSpec(rows, width, GROUP, bits=bits, theta_groups=width // GROUP)
        if bits == 4:  # as the product has them: a scale for 32 channels, in 16 bits
            spec = replace(spec, group=GROUP // 2, scale_groups=2 * width // GROUP, short_scales=True)
        spec = replace(spec, tokens=1) if count == 1 else spec
        ours = self.kernel(spec, count)
        peers = self.peers(rows, width, count) if self.peers else ()
        times = self.interleaved([ours, *peers])
        scales = rows * spec.scale_groups * (2 if spec.short_scales else 4)
        moved = rows * width * bits / 8 + scales + count * (width + 4 * rows)
        work = 0.0 if peak is None else 2 * rows * width * count / peak
        bound = max(moved / bandwidth, work)
        others = [t * 1e6 for t in times[1:]] or [None, None]
        name = f"{count} x {width} -> {rows}, int{bits}"
        return Row(name, times[0] * 1e6, bound * 1e6, others[0], others[1])

    def kernel(self, spec: LinearSpec, count: int) -> Callable[[], None]:
        """A launch of the kernel on random counts and weights."""
        function = (spike_gemv if spec.tokens == 1 else spike_gemm)(spec)
        module = self.compiled(function)
        top = 7 if spec.bits == 4 else 127
        weight = self.rng.integers(-top, top + 1, (spec.rows, spec.width)).astype(np.int8)
        scale = np.full((spec.rows, spec.scale_groups), 2.0**-7, np.float32)
        arrays = [
            self.rng.integers(-15, 16, (count, spec.width)).astype(np.int8),
            np.full((count, spec.theta_groups), 0.01, np.float32),
            PackNibbles()(weight) if spec.bits == 4 else weight,
            ShortScales()(scale) if spec.short_scales else scale,
            np.zeros((count, spec.rows), np.float32),
        ]
        tensors = [tvm.runtime.tensor(a, self.device) for a in arrays]
        return lambda: module["kernel"](*tensors)

    def compiled(self, function: Any) -> Any:
        """A kernel for this device, with the compiler flags of the product."""
        import tvm_ffi

        compiler = find_compiler()

        def compile_(source: str) -> bytes:
            return compiler.cubin(str(source), self.arch)

        tvm_ffi.register_global_func("tvm_callback_cuda_compile", compile_, override=True)
        target = tvm.target.Target({"kind": "cuda", "arch": self.arch}, host="llvm")
        return tvm.tirx.build(
            tvm.IRModule({"kernel": function.with_attr("global_symbol", "kernel")}), target=target
        )

    def interleaved(self, contestants: list[Callable[[], None]]) -> list[float]:
        """Median seconds of each, all in turn in every round; a run is as many calls as take 20 ms."""
        repeats = [self.repeats(c) for c in contestants]
        rounds = [
            [self.seconds(c, n) for c, n in zip(contestants, repeats, strict=True)]
            for _ in range(self.rounds)
        ]
        return [statistics.median(r[i] for r in rounds) for i in range(len(contestants))]

    def repeats(self, run: Callable[[], None]) -> int:
        self.seconds(run, 3)
        return max(3, int(0.02 / max(1e-6, self.seconds(run, 3))))

    def seconds(self, run: Callable[[], None], repeats: int) -> float:
        """Seconds per call; the device is idle before and after."""
        self.device.sync()
        began = time.perf_counter()
        for _ in range(repeats):
            run()
        self.device.sync()
        return (time.perf_counter() - began) / repeats

    def bandwidth(self) -> float:
        """Bytes read and written per second by a copy of 1 GiB."""
        source = tvm.runtime.tensor(np.ones(1 << 28, np.float32), self.device)
        into = tvm.runtime.empty((1 << 28,), "float32", self.device)
        return 2 * (1 << 30) / self.interleaved([lambda: source.copyto(into)])[0]

    def int8_peak(self) -> float | None:
        """Operations per second of cuBLAS's int8 product of 8,192 x 8,192 x 8,192."""
        if self.peers is None:
            return None
        run = self.peers(8192, 8192, 8192)[1]
        return float(2 * 8192**3 / self.interleaved([run])[0])

    def program(self, path: Path, tokens: int) -> Iterator[str]:
        """Tokens per second of an artefact, greedily, drawn, and of several sequences together."""
        opened = sdc.load(path)
        runner: Any = opened.decoder
        yield f"\n{path.name}, {tokens} tokens, greedy but for those drawn (temperature 0.7, top-p 0.95):\n"
        sizes = [size for size in BATCHES if size <= getattr(runner, "most_together", 0)]
        head = ["context", "prefill tokens/s", "decode tokens/s", "drawn", *(f"{n} together" for n in sizes)]
        yield f"| {' | '.join(head)} |"
        yield f"|{' --- |' * len(head)}"
        for context in CONTEXTS:
            if context + tokens > int(opened.manifest["model"]["max_seq"]):
                continue
            prompt = self.rng.integers(0, 1000, context)
            runner.reset()
            began = time.perf_counter()
            token = int(runner.prefill(prompt).argmax())
            middle = time.perf_counter()
            rates = [context / (middle - began)]
            for sampler in (Sampler(), Sampler(0.7, 0.95)):
                runner.resume(prompt)
                middle = time.perf_counter()
                following = runner.following(token, sampler)
                for _ in range(tokens):
                    next(following)
                rates.append(tokens / (time.perf_counter() - middle))
            cells = [f"{rate:.0f}" for rate in rates] + [_together(runner, n, prompt, tokens) for n in sizes]
            yield f"| {context} | {' | '.join(cells)} |"


def _together(runner: Any, count: int, prompt: Any, tokens: int) -> str:
    """Tokens per second of all sequences that decode together; words where their caches do not fit."""
    try:
        group = runner.together(count)
    except DeviceMemoryError:
        return "caches do not fit"
    made = [int(sequence.prefill(prompt).argmax()) for sequence in group.sequences]
    numbers, samplers, began = range(count), [Sampler()] * count, time.perf_counter()
    for _ in range(tokens):
        made = group.following(numbers, made, samplers)
    return f"{count * tokens / (time.perf_counter() - began):.0f}"


def _peers() -> Callable[[int, int, int], list[Callable[[], None]]] | None:
    """cuBLAS fp16 and int8 products through PyTorch; None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None

    def make(rows: int, width: int, count: int) -> list[Callable[[], None]]:
        x, w = (torch.ones(n, width, device="cuda", dtype=torch.float16) for n in (count, rows))
        # torch._int_mm wants more than 16 rows.
        xi = torch.ones(max(32, count), width, device="cuda", dtype=torch.int8)
        wi = torch.ones(rows, width, device="cuda", dtype=torch.int8)
        return [lambda: torch.matmul(x, w.T), lambda: torch._int_mm(xi, wi.T)]

    return make


def _line(row: Row) -> str:
    fp16 = "" if row.fp16 is None else f"{row.fp16 / row.ours:.2f}"
    int8 = "" if row.int8 is None else f"{row.int8 / row.ours:.2f}"
    return f"| {row.name} | {row.ours:.1f} | {100 * row.bound / row.ours:.0f} % | {fp16} | {int8} |"


if __name__ == "__main__":
    main()
