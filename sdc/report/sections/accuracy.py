"""The program beside its original: perplexity, next tokens, and layers where they were compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from sdc.report.figures import figure_html, rows_html
from sdc.report.registry import Section, Subject, section

__all__ = ["accuracy"]

MEASURES = {
    "perplexity_reference": "perplexity, original model",
    "perplexity_spiking": "perplexity, spiking program",
    "ratio": "ratio",
    "kl_divergence": "KL divergence of next tokens, nats",
    "greedy_agreement": "greedy agreement",
}


@section(order=10)
def accuracy(subject: Subject) -> Section | None:
    """A table with bootstrap intervals; a figure of layers if ``sdc eval --per-layer`` was run."""
    found = subject.evaluation
    if found is None:
        return None
    rows = [
        {"measure": title, "value": found[key], "interval": _interval(found.get(f"{key}_interval"))}
        for key, title in MEASURES.items()
        if found.get(key) is not None
    ]
    columns = {"measure": "", "value": "value", "interval": "95 % interval over windows"}
    body = rows_html(rows, columns)
    if found.get("layers"):
        body += figure_html(_layers(found["layers"]))
    note = f"{found['windows']} windows, {found['tokens']} tokens; original model: {found['reference']}."
    return Section("Accuracy", body, note)


def _interval(edges: Any) -> str:
    return "-" if edges is None else f"{edges[0]:.4g} to {edges[1]:.4g}"


def _layers(layers: list[Mapping[str, Any]]) -> go.Figure:
    known = [row for row in layers if row["snr_db"] is not None]
    names, ratios = [row["name"] for row in known], [row["snr_db"] for row in known]
    text = [f"{row['name']}<br>cosine {row['cosine']:.4f}" for row in known]
    figure = go.Figure(go.Scatter(x=names, y=ratios, mode="markers+lines", text=text, hoverinfo="text+y"))
    figure.update_yaxes(title="signal to noise of the output, dB")
    figure.update_xaxes(showticklabels=False, title="operations in order")
    return figure
