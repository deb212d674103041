"""Heat maps over the routers of a board, cut to the chips in use."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Grid
from sdc.targets.neuro.simulate.replay import Replay

__all__ = ["link_map", "occupancy_map"]

_DIRECTIONS = ("east", "west", "north", "south")


def occupancy_map(run: Replay) -> go.Figure:
    """Percent of the run that each router's busiest core worked; blank where no core has a program."""
    grid = Grid.of(run.machine)
    share = np.full(grid.routers, np.nan)
    text: dict[int, list[str]] = {}
    busy = run.core_busy()
    for core in run.recording.program.cores:
        router = core.core // grid.cluster
        part = 100 * busy.get(core.core, 0.0) / run.makespan_ns
        share[router] = np.fmax(share[router], part)
        text.setdefault(router, []).append(f"{grid.label(core.core)}: {part:.1f} % {core.name}")
    return _map(grid, run, share, lambda router: "<br>".join(text.get(router, [])), "busy, %")


def link_map(run: Replay) -> go.Figure:
    """How much of the run the busiest of each router's outgoing links was occupied, in percent."""
    grid = Grid.of(run.machine)
    busy = 100 * run.link_busy.reshape(4, -1) / run.makespan_ns
    packets = run.link_packets.reshape(4, -1)

    def text(router: int) -> str:
        lines = (
            f"{name}: {busy[d, router]:.2f} %, {packets[d, router]:,.0f} packets"
            for d, name in enumerate(_DIRECTIONS)
        )
        return "<br>".join(lines)

    return _map(grid, run, busy.max(axis=0), text, "busiest link, %")


def _map(
    grid: Grid, run: Replay, values: NDArray[np.float64], text: Callable[[int], str], title: str
) -> go.Figure:
    left, bottom, right, top = _used(grid, run)
    routers = np.arange(grid.routers).reshape(grid.height, grid.width)[bottom:top, left:right]
    figure = go.Figure(
        go.Heatmap(
            z=values[routers].tolist(),
            x=list(range(left, right)),
            y=list(range(bottom, top)),
            text=[
                [f"router {r % grid.width},{r // grid.width}<br>{text(int(r))}" for r in row]
                for row in routers
            ],
            hoverinfo="text",
            colorscale="Viridis",
            colorbar={"title": title},
        )
    )
    for x in range(left, right + 1, grid.chip_width):
        figure.add_vline(x=x - 0.5, line={"color": "grey", "width": 1})
    for y in range(bottom, top + 1, grid.chip_height):
        figure.add_hline(y=y - 0.5, line={"color": "grey", "width": 1})
    figure.update_yaxes(title="router y", scaleanchor="x", constrain="domain")
    figure.update_xaxes(title="router x; grey lines are the edges of chips", constrain="domain")
    return figure


def _used(grid: Grid, run: Replay) -> tuple[int, int, int, int]:
    """Left, bottom, right and top of the chips in use, in routers."""
    x, y = grid.xy(np.array([core.core for core in run.recording.program.cores], np.int64))
    w, h = grid.chip_width, grid.chip_height
    left, bottom = int(x.min()) // w * w, int(y.min()) // h * h
    return left, bottom, (int(x.max()) // w + 1) * w, (int(y.max()) // h + 1) * h
