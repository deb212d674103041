"""Every linear of SmolLM2 on its own: bytes per second beside the read bandwidth, products per second.

    python benchmarks/kernels.py [--level x86-64-v4-vnni] [--rounds 7] [--write docs/benchmarks.md]

A decode kernel runs in parallel regions of some megabytes of weights, over as many as fit no cache (256 MB);
the table gives the bytes that it read per second as a share of the bandwidth that a plain
reduction reaches in the same run. A prefill kernel runs on 128 tokens; the table gives its products per
second.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from contestants import threads
from numpy.typing import NDArray
from page import machine_line, spread, table, write_section
from tvm import relax, tirx

from sdc.machine import read_bandwidth
from sdc.targets.cpu.emit import build
from sdc.targets.cpu.isa import LEVELS, Isa, best_level
from sdc.targets.cpu.kernels.linear import LinearSpec, spike_linear
from sdc.targets.cpu.kernels.packed import ROW_BLOCK
from sdc.targets.cpu.region import make_region
from sdc.targets.cpu.region.program import Fixed
from sdc.targets.fused.runner import thread_count
from sdc.targets.pages import zeroed

_BEYOND_CACHES = 256 << 20
_REGION = 8 << 20
_MOST_COPIES = 48  # code is made for each of them
_TOKENS = 128
BITS = (2, 4, 8)


def linear(rows: int, width: int, bits: int, residual: bool = False) -> LinearSpec:
    scale_groups = width // 32 if bits < 8 else 1
    group = 32 if bits < 8 else 64
    return LinearSpec(
        rows,
        width,
        group,
        bits=bits,
        levels=64,
        theta_groups=width // 64,
        scale_groups=scale_groups,
        residual=residual,
        short_scales=bits < 8,
    )


SHAPES = {
    "q, k, v": (960, 576),
    "output": (576, 576),
    "gate, up": (3072, 576),
    "down": (576, 1536),
    "head": (49152, 576),
}


def main() -> None:
    """Parses the command line and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--level", default=best_level().name, choices=[isa.name for isa in LEVELS])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", type=Path, help="page that receives the tables")
    options = parser.parse_args()
    isa = next(level for level in LEVELS if level.name == options.level)
    runs = {
        (name, bits): Kernel(linear(*shape, bits), isa) for name, shape in SHAPES.items() for bits in BITS
    }
    rounds = []
    for _ in range(options.rounds):
        read = read_bandwidth(threads())
        rounds.append({key: (kernel.decode() / read, kernel.prefill()) for key, kernel in runs.items()})
    rows = []
    for key, kernel in runs.items():
        shares = [100 * r[key][0] for r in rounds]
        speed = statistics.median(r[key][1] for r in rounds)
        rows.append(
            [key[0], f"{key[1]} bits", f"{kernel.bytes / 1e3:.0f}", spread(shares, 0), f"{speed / 1e9:.0f}"]
        )
    head = ["linear", "weights", "kB", "decode: % of read bandwidth", f"{_TOKENS} tokens: 10^9 products/s"]
    text = f"{machine_line(threads())}, {isa.name}. `python {' '.join(sys.argv)}`\n\n{table(head, rows)}"
    print(text)
    if options.write:
        write_section(options.write, "kernels", "Kernels", text)


def _scale_type(spec: LinearSpec) -> np.dtype:
    return np.dtype("uint16" if spec.short_scales else "float32")


def _bytes(spec: LinearSpec) -> int:
    """Of the packed weights and their scales."""
    weight = spec.blocks * spec.groups * spec.words * ROW_BLOCK * 4
    return weight + spec.blocks * spec.scale_groups * ROW_BLOCK * _scale_type(spec).itemsize


class Kernel:
    """One linear, compiled for one token over many weights, and for many tokens."""

    def __init__(self, spec: LinearSpec, isa: Isa) -> None:
        self.spec = spec
        self.bytes = _bytes(spec)
        self.copies, self.passes = self.layout(spec)
        self.decode_ = region(replace(spec, tokens=1), isa, self.copies, self.passes)
        self.prefill_ = region(spec, isa, 1, 1)

    @staticmethod
    def layout(spec: LinearSpec) -> tuple[int, int]:
        """Sets of weights in a region, and how many regions fit no cache."""
        copies = max(1, min(_MOST_COPIES, _REGION // _bytes(spec)))
        return copies, max(1, _BEYOND_CACHES // (copies * _bytes(spec)))

    def decode(self) -> float:
        """Weight bytes per second on one token."""
        return self.passes * self.copies * self.bytes / self.decode_()

    def prefill(self) -> float:
        """Products per second on many tokens."""
        return _TOKENS * self.spec.rows * self.spec.width / self.prefill_()


def region(
    spec: LinearSpec,
    isa: Isa,
    copies: int,
    passes: int,
    generate: Callable[[LinearSpec, Isa], tirx.PrimFunc] = spike_linear,
    weight: tuple[int, ...] | None = None,
) -> Callable[..., float]:
    """A region of ``copies`` sets of weights, run on ``passes`` pieces of memory: gives seconds.

    Args:
        generate: Makes the kernel.
        weight: Shape of the packed weights, int32; None: those of the collapsed form.

    Returns:
        A function of counts [tokens, K] int8 (None: those of the call before; at first all are 60).
    """
    tokens = spec.tokens or _TOKENS
    sizes = [tokens * spec.width, tokens * spec.theta_groups * 4]
    weight = weight or (spec.blocks, spec.groups, spec.words, ROW_BLOCK)
    scale = (spec.blocks, spec.scale_groups, ROW_BLOCK)
    function, fixed, total = _function(spec, (weight, scale), copies, sizes)
    made = make_region("run", function, {spec.key(): lambda: generate(spec, isa)}, fixed, isa, tokens)
    assert made is not None
    module = build(made.all_functions, isa.target())
    memory = zeroed(passes * total)
    memory[:] = 60
    pieces = [tvm.runtime.from_dlpack(memory[i * total : (i + 1) * total]) for i in range(passes)]
    workers = thread_count()  # TVM's pool would take half of the processors
    area = np.zeros(made.arena + workers * made.area, np.uint8)
    arguments = [
        tvm.runtime.tensor(a)
        for a in (
            np.zeros((1, tokens), np.int64),
            np.zeros((), np.int64),
            np.zeros(1, np.uint8),
            area,
            np.array([workers], np.int32),
            np.zeros(tokens * spec.rows, np.float32),
        )
    ]
    ids, position, states, arena, count, logits = arguments
    function = module["run"]

    def run(given: NDArray | None = None) -> float:
        if given is not None:
            memory.reshape(passes, total)[:, : given.size] = given.view(np.uint8).reshape(-1)
        start = time.perf_counter()
        for piece in pieces:
            function(ids, position, piece, states, arena, count, logits)
        return time.perf_counter() - start

    run()
    return run


def _function(
    spec: LinearSpec, shapes: tuple[Any, Any], copies: int, sizes: list[int]
) -> tuple[relax.Function, dict[Any, Fixed], int]:
    """A Relax function of ``copies`` calls, the places of its parameters, and the bytes of all of them."""
    n: Any = spec.tokens or tirx.Var("n", "int64")
    types = [((n, spec.width), "int8"), ((n, spec.theta_groups), "float32")]
    kind = _scale_type(spec)
    types += [(shapes[0], "int32"), (shapes[1], str(kind))] * copies
    sizes = sizes + [int(np.prod(shapes[0])) * 4, int(np.prod(shapes[1])) * kind.itemsize] * copies
    parameters = [relax.Var(f"p{i}", relax.TensorType(list(s), d)) for i, (s, d) in enumerate(types)]
    builder = relax.BlockBuilder()
    kernel = builder.add_func(spike_linear(spec, best_level()), spec.key())
    out: Any = None
    with builder.function("run", parameters):
        with builder.dataflow():
            for i in range(copies):
                weight, scale = parameters[2 + 2 * i], parameters[3 + 2 * i]
                arguments = [*parameters[:2], weight, scale]
                out = builder.emit(
                    relax.call_tir(kernel, arguments, relax.TensorType([n, spec.rows], "float32"))
                )
            result = builder.emit_output(out)
        builder.emit_func_output(result)
    starts = np.cumsum([0, *(-(-size // 64) * 64 for size in sizes)])
    fixed = {p: Fixed("weights", int(at)) for p, at in zip(parameters, starts[:-1], strict=True)}
    return builder.get()["run"], fixed, int(starts[-1])


if __name__ == "__main__":
    main()
