"""How near the linear layers of a decoded token come to what this machine can do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import plotly.graph_objects as go

from sdc.machine import multiply_rate, read_bandwidth
from sdc.report.figures import COLOURS, figure_html
from sdc.report.registry import Section, Subject, section
from sdc.targets.fused.runner import DecoderRunner

__all__ = ["roofline"]

WARM, STEPS = 2, 7  # decoded tokens that are not counted, and that are
LINEAR = "spike_linear_"
BANDWIDTH_BYTES = 1 << 28
SCALE_BYTES = 4
INT8_OVER_FLOAT = 4  # products per instruction: vpdpbusd 64, vfmadd 16 (Intel SDM, AVX-512)


@section(order=40)
def roofline(subject: Subject) -> Section | None:
    """Each linear as a point: operations per byte of weights, and operations per second as measured."""
    runner = subject.program.runner
    if subject.manifest["target"] != "cpu" or not isinstance(runner, DecoderRunner):
        return None
    linears = [op for op in subject.manifest["ops"] if op["kind"] == "linear"]
    seconds = _seconds(runner, len(linears))
    threads = len(os.sched_getaffinity(0))
    bandwidth, rate = read_bandwidth(threads, BANDWIDTH_BYTES), multiply_rate()
    points = [_point(op, s) for op, s in zip(linears, seconds, strict=True)]
    share = sum(p["bytes"] for p in points) / sum(seconds) / bandwidth
    note = (
        f"One decoded token on {threads} threads, median of {STEPS}. Roofs measured just now: reading "
        f"{bandwidth / 1e9:.1f} GB/s, float32 products {rate / 1e9:.0f} Gop/s; the roof of byte products is "
        f"{INT8_OVER_FLOAT} times that, as one instruction holds so many more. All linears together read "
        f"weights at {share:.0%} of the bandwidth."
    )
    return Section("Roofline", figure_html(_figure(points, bandwidth, rate)), note)


def _seconds(runner: DecoderRunner, count: int) -> list[float]:
    runner.reset()
    runs = [runner.decode_clocked(0) for _ in range(WARM + STEPS)][WARM:]
    runner.reset()
    times = [[seconds for name, seconds in run if name.startswith(LINEAR)] for run in runs]
    assert all(len(run) == count for run in times), "a linear is one kernel"
    return [median(run[i] for run in times) for i in range(count)]


def _point(op: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    operations = 2 * op["synapses"]
    size = op["synapses"] * op["weight_bits"] / 8 + SCALE_BYTES * op["outputs"]
    return {"name": op["name"], "bytes": size, "intensity": operations / size, "rate": operations / seconds}


def _figure(points: Sequence[Mapping[str, Any]], bandwidth: float, rate: float) -> go.Figure:
    intensity = np.geomspace(0.25, 4 * INT8_OVER_FLOAT * rate / bandwidth, 60)
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
            mode="markers",
            name="linear layers",
            marker={"color": COLOURS[0], "size": 7, "opacity": 0.6},
        )
    )
    figure.update_xaxes(type="log", title="operations per byte of weights")
    figure.update_yaxes(type="log", title="operations per second")
    return figure
