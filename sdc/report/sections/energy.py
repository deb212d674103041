"""What a token costs by published tables, beside other formats."""

from __future__ import annotations

import plotly.graph_objects as go

from sdc.energy import COMPONENTS, HOROWITZ_45NM, JOUPPI_7NM, Account, Comparison, compare, program_entries
from sdc.report.figures import figure_html, rows_html
from sdc.report.registry import Section, Subject, section

__all__ = ["energy"]

MILLI = 1e-9  # pJ to mJ


@section(order=30)
def energy(subject: Subject) -> Section | None:
    """A waterfall of one decoded token's components, and all formats compute only and everything."""
    if subject.evaluation is None:
        return None
    entries = program_entries(subject.manifest, subject.evaluation)
    made = [compare(entries, table) for table in (HOROWITZ_45NM, JOUPPI_7NM)]
    body = figure_html(_waterfall(made[0].accounts[0]))
    for each in made:
        body += _table(each)
    note = (
        f"One decoded token that meets {made[0].context:.0f} keys; millijoules. The waterfall is of "
        f"{HOROWITZ_45NM.name}. Compute only is the papers' convention: products alone."
    )
    return Section("Energy", body, note)


def _waterfall(account: Account) -> go.Figure:
    values = [account.components[name] * MILLI for name in COMPONENTS]
    figure = go.Figure(
        go.Waterfall(
            x=[*(name.replace("_", " ") for name in COMPONENTS), "everything"],
            y=[*values, 0],
            measure=["relative"] * len(values) + ["total"],
            text=[f"{v:.3g}" for v in (*values, sum(values))],
        )
    )
    figure.update_yaxes(title="mJ per token")
    return figure


def _table(made: Comparison) -> str:
    rows = [
        {
            "format": account.format,
            "compute": account.compute_only * MILLI,
            "everything": account.everything * MILLI,
            "synops": account.counts["synaptic_operations"],
            "dram": account.counts["dram_bytes"],
        }
        for account in made.accounts
    ]
    columns = {
        "format": made.table.name,
        "compute": "compute only, mJ",
        "everything": "everything, mJ",
        "synops": "operations at synapses",
        "dram": "bytes from external memory",
    }
    return rows_html(rows, columns)
