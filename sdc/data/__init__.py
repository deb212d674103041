"""Texts that ship with sdc, so that a demo can calibrate and measure offline (licence: NOTICE.txt)."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["demo_text"]


def demo_text() -> tuple[str, str]:
    """Prose of The Python Tutorial 3.11: its first half to calibrate on, its second half to evaluate on.

    The cut is at the paragraph end nearest to the middle, so that the halves share no line.
    """
    text = files(__name__).joinpath("demo.txt").read_text(encoding="utf-8")
    cut = text.index("\n", len(text) // 2) + 1
    return text[:cut], text[cut:]
