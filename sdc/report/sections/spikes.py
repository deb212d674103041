"""Where spikes are fired, and where neurons stay silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sdc.report.figures import COLOURS, figure_html, rows_html
from sdc.report.registry import Section, Subject, section

__all__ = ["spikes"]

COLUMNS = {
    "name": "operation",
    "spikes_per_neuron": "spikes per neuron",
    "zero_fraction": "silent",
    "time_steps": "time steps",
    "synops_per_token": "synops per token",
}


@section(order=20)
def spikes(subject: Subject) -> Section | None:
    """Spikes per neuron and silent neurons of every operation."""
    if subject.evaluation is None:
        return None
    rows = [*subject.evaluation["ops"], *_named(subject.evaluation.get("probabilities", ()))]
    body = figure_html(_figure(rows), 520) + f'<div class="scroll">{rows_html(rows, COLUMNS)}</div>'
    note = (
        "Each point is one encoder. Attention probabilities (:p) are unsigned, with levels of their own, and "
        "there is one for each key."
    )
    return Section("Spikes", body, note)


def _named(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "name": f"{row['name']}:p"} for row in rows]


def _figure(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    names = [row["name"] for row in rows]
    for place, key in ((1, "spikes_per_neuron"), (2, "zero_fraction")):
        bar = go.Bar(
            x=names, y=[row[key] for row in rows], marker_color=COLOURS[place - 1], name=COLUMNS[key]
        )
        figure.add_trace(bar, row=place, col=1)
        figure.update_yaxes(title_text=COLUMNS[key], row=place, col=1)
    figure.update_xaxes(showticklabels=False)
    figure.update_layout(showlegend=False)
    return figure
