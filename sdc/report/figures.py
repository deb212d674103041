"""Pieces of a report as HTML: tables and plotly figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from sdc.numbers import number

__all__ = ["COLOURS", "facts_html", "figure_html", "rows_html"]

COLOURS = ("#2563a8", "#c2571a", "#3b8554", "#8a4a9e", "#b3303d", "#6b6f76", "#b58a00")


def figure_html(figure: go.Figure, height: int = 420) -> str:
    """A figure without plotly's own code, which the page holds once."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 30, "b": 60},
        colorway=COLOURS,
        font={"family": "system-ui, sans-serif"},
    )
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
    return html


def facts_html(facts: Mapping[str, Any]) -> str:
    """A table of two columns."""
    lines = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(number(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f'<table class="facts">{lines}</table>'


def rows_html(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """A table of one row each; ``columns`` maps keys to headings."""
    head = "".join(f"<th>{escape(title)}</th>" for title in columns.values())
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(number(row[key]))}</td>" for key in columns) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
