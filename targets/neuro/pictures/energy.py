"""Where the energy of a run goes."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from sdc.targets.neuro.simulate.replay_energy import Bill
from sdc.targets.neuro.simulate.timing_energy import COMPONENTS

__all__ = ["energy_by_layer", "energy_waterfall"]


def energy_waterfall(paid: Bill) -> go.Figure:
    """Microjoules of one token, mean over the run: component upon component, up to the total."""
    tokens = paid.energy_pj.shape[1]
    parts = {name.replace("_", " "): pj / tokens / 1e6 for name, pj in paid.by_component().items()}
    total = sum(parts.values())
    figure = go.Figure(
        go.Waterfall(
            x=[*parts, "total"],
            y=[*parts.values(), total],
            measure=["relative"] * len(parts) + ["total"],
            text=[f"{value:.3g}" for value in (*parts.values(), total)],
            textposition="outside",
        )
    )
    figure.update_yaxes(title="energy of a token, uJ")
    return figure


def energy_by_layer(paid: Bill) -> go.Figure:
    """Microjoules of one token by layer and component, static power left out; -1 is outside the layers."""
    report = paid.report()
    layers = np.unique(report.layer)
    figure = go.Figure()
    for i, name in enumerate(COMPONENTS):
        values = [float(report.by_op[report.layer == layer, i].sum()) / 1e6 for layer in layers]
        if any(values):
            figure.add_bar(x=layers.tolist(), y=values, name=name.replace("_", " "))
    figure.update_layout(barmode="stack")
    figure.update_yaxes(title="energy of a token, uJ")
    figure.update_xaxes(title="layer; -1: embedding, head, input and output")
    return figure
