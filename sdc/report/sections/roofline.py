"""How near decoding and prefill come to what this machine can do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import plotly.graph_objects as go

from sdc.machine import multiply_rate, read_bandwidth
from sdc.report.figures import COLOURS, figure_html
from sdc.report.registry import Section, Subject, section
from sdc.targets.fused.runner import DecoderRunner
from sdc.threads import cpus

__all__ = ["roofline"]

WARM, STEPS = 2, 7  # runs that are not counted, and that are
PROMPT = 64  # tokens of the prompt that stands for prefill
BANDWIDTH_BYTES = 1 << 28
SCALE_BYTES = 4
INT8_OVER_FLOAT = 4  # products per instruction: vpdpbusd 64, vfmadd 16 (Intel SDM, AVX-512)


@section(order=40)
def roofline(subject: Subject) -> Section | None:
    """Decoding a token and reading a prompt: operations per byte of weights, and per second as measured.

    Times are those of whole calls, with everything that is no linear layer in them.
    """
    runner = subject.program.runner
    if subject.manifest["target"] != "cpu" or not isinstance(runner, DecoderRunner):
        return None
    linears = [op for op in subject.manifest["ops"] if op["kind"] == "linear"]
    prompt = min(PROMPT, int(subject.manifest["model"]["max_seq"]))
    threads = cpus()
    bandwidth, rate = read_bandwidth(threads, BANDWIDTH_BYTES), multiply_rate()
    decode = _point("decode, a token", linears, 1, _seconds(runner, lambda: runner.decode(0)))
    prefill = _point(
        f"prefill, {prompt} tokens", linears, prompt, _seconds(runner, lambda: runner.prefill([0] * prompt))
    )
    share = decode["bytes"] / decode["seconds"] / bandwidth
    note = (
        f"Whole calls on {threads} threads, median of {STEPS}. Roofs measured just now: reading "
        f"{bandwidth / 1e9:.1f} GB/s, float32 products {rate / 1e9:.0f} Gop/s; the roof of byte products is "
        f"{INT8_OVER_FLOAT} times that, as one instruction holds so many more. Decoding reads weights at "
        f"{share:.0%} of the bandwidth."
    )
    return Section("Roofline", figure_html(_figure((decode, prefill), bandwidth, rate)), note)


def _seconds(runner: DecoderRunner, call: Callable[[], object]) -> float:
    times = []
    for _ in range(WARM + STEPS):
        runner.reset()
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    runner.reset()
    return median(times[WARM:])


def _point(name: str, linears: Sequence[Mapping[str, Any]], tokens: int, seconds: float) -> dict[str, Any]:
    """Operations are two a synapse and token; bytes are those of the weights, read once a call."""
    operations = 2 * tokens * sum(op["synapses"] for op in linears)
    size = sum(op["synapses"] * op["weight_bits"] / 8 + SCALE_BYTES * op["outputs"] for op in linears)
    return {
        "name": name,
        "bytes": size,
        "seconds": seconds,
        "intensity": operations / size,
        "rate": operations / seconds,
    }


def _figure(points: Sequence[Mapping[str, Any]], bandwidth: float, rate: float) -> go.Figure:
    highest = max(max(p["intensity"] for p in points), INT8_OVER_FLOAT * rate / bandwidth)
    intensity = np.geomspace(0.25, 4 * highest, 60)
    figure = go.Figure()
    for name, peak, colour in (
        ("float32", rate, COLOURS[5]),
        ("bytes", INT8_OVER_FLOAT * rate, COLOURS[1]),
    ):
        roof = np.minimum(intensity * bandwidth, peak)
        figure.add_trace(go.Scatter(x=intensity, y=roof, name=f"roof, {name}", line={"color": colour}))
    figure.add_trace(
        go.Scatter(
            x=[p["intensity"] for p in points],
            y=[p["rate"] for p in points],
            text=[p["name"] for p in points],
            mode="markers+text",
            textposition="top center",
            name="this program",
            marker={"color": COLOURS[0], "size": 9},
        )
    )
    figure.update_xaxes(type="log", title="operations per byte of weights")
    figure.update_yaxes(type="log", title="operations per second")
    return figure
