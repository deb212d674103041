"""One self-contained HTML file: nothing is fetched when it is opened."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from sdc.report.registry import Subject, make_sections

__all__ = ["render", "write_report"]


def render(subject: Subject) -> str:
    """The page of a program."""
    environment = Environment(
        loader=PackageLoader("sdc.report", "."), autoescape=True, undefined=StrictUndefined
    )
    sections = make_sections(subject)
    title = f"{subject.manifest['model']['name'] or 'program'} on {subject.manifest['target']}"
    page: str = environment.get_template("template.html.j2").render(
        title=title, sections=sections, plotly=Markup(get_plotlyjs())
    )
    return page


def write_report(subject: Subject, out: Path) -> None:
    """Writes the page of a program."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render(subject), encoding="utf-8")
