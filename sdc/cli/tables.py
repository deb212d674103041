"""Results as JSON or as tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sdc.numbers import number

__all__ = ["print_facts", "print_json", "print_rows"]


def print_json(content: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    json.dump(content, sys.stdout, indent=1)
    print()


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """A table of two columns."""
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in facts.items():
        table.add_row(escape(name), escape(number(value)))
    Console().print(table)


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A table of one row each; what is too long for its column goes on below, nothing is cut off."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape(number(row[c])) for c in columns))
    Console().print(table)
