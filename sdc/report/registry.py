"""The sections of a report: functions that look at a program and make a piece of a page, or nothing.

A new section is a file below ``sdc/report/sections`` with a function under ``@section(order)``; the function
gets a :class:`Subject` and returns a :class:`Section`, or None where it has nothing to say about that program
(of another target, or without measurements). The file's name goes into ``SECTION_MODULES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sdc.runtime.program import Program

__all__ = ["SECTION_MODULES", "Section", "Subject", "make_sections", "section"]

SECTION_MODULES = ("summary", "accuracy", "spikes", "energy", "roofline", "neuro")


@dataclass(frozen=True)
class Subject:
    """What a report is about.

    Attributes:
        program: An opened program.
        evaluation: What ``sdc eval --json`` gave of it; None for a graph without tokens.
    """

    program: Program
    evaluation: Mapping[str, Any] | None

    @property
    def path(self) -> Path:
        """The program's directory."""
        return self.program.artefact.path

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What was written about the program when it was compiled."""
        return self.program.manifest


@dataclass(frozen=True)
class Section:
    """A piece of the page.

    Attributes:
        title: Its heading.
        body: HTML, of :mod:`sdc.report.figures`, which escapes what it is given.
        note: One paragraph below the heading, plain text.
    """

    title: str
    body: str
    note: str = ""


Maker = Callable[[Subject], Section | None]

_MAKERS: list[tuple[int, str, Maker]] = []


def section(order: int) -> Callable[[Maker], Maker]:
    """Registers a maker of a section; lower orders come first."""

    def register(maker: Maker) -> Maker:
        _MAKERS.append((order, maker.__name__, maker))
        return maker

    return register


def make_sections(subject: Subject) -> list[Section]:
    """All sections that have something to say, in order."""
    for name in SECTION_MODULES:
        import_module(f"sdc.report.sections.{name}")
    made = [maker(subject) for _, _, maker in sorted(_MAKERS, key=lambda entry: entry[:2])]
    return [each for each in made if each is not None]
