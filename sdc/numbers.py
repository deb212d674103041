"""Numbers for people."""

from __future__ import annotations

from typing import Any

__all__ = ["number"]


def number(value: Any) -> str:
    """Numbers for people: thousands apart, four digits of a fraction."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
