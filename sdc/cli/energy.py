"""``sdc energy``: what a token costs, compute only and everything, beside other formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdc.cli.progress import Bars
from sdc.cli.tables import print_json, print_rows
from sdc.energy import (
    DENSE,
    Comparison,
    Format,
    compare,
    find_shape,
    find_table,
    llama_work,
    paper_rows,
    program_entries,
    sdc_format,
    spikellm_format,
)
from sdc.energy.account import Accumulators
from sdc.energy.paper import PaperRow
from sdc.errors import ConfigError

__all__ = ["architecture_energy", "energy_of_program"]

PAPERS_MODEL = "llama2-7b"
MILLI = 1e-9  # pJ to mJ
SHORT = {
    "other": "arithmetic",
    "weights": "weights",
    "sums": "accumulators",
    "act": "activations",
    "KV": "kv_cache",
    "spikes": "packets",
}
"""Names of the components that fit into a table's head."""


def architecture_energy(
    arch: str, table: str, tokens: int, context: int, accumulators: str, *, json: bool
) -> None:
    """``sdc energy --arch``: from shapes alone.

    Args:
        tokens: Length of a prompt; 0: one token is decoded.
        context: Keys that it meets then.
    """
    shape, keys = find_shape(arch), (tokens + 1) / 2 if tokens else float(context)
    work = llama_work(shape, keys)
    formats: list[Format] = [
        sdc_format(coding, levels, weight_bits=4, keys=keys)
        for levels in (7, 15)
        for coding in ("ternary", "bitwise")
    ]
    formats += [spikellm_format(7), *DENSE]
    made = compare(
        [(work, form) for form in formats],
        find_table(table),
        batch=tokens or 1,
        accumulators=_place(accumulators),
    )
    paper = paper_rows((formats[0], formats[1], spikellm_format(7))) if arch == PAPERS_MODEL else []
    _print(made, tokens, paper, json)


def energy_of_program(
    path: Path,
    table: str,
    tokens: int,
    accumulators: str,
    statistics: Path | None,
    text: Path | None,
    windows: int,
    window: int,
    *,
    json: bool,
    quiet: bool,
) -> None:
    """``sdc energy PROGRAM.sdc``: from spikes measured now, or by an earlier ``sdc eval --json``."""
    from sdc.artefact import open_artefact
    from sdc.cli.evaluations import read_evaluation

    if statistics is not None:
        manifest = open_artefact(path).manifest
        firing: Mapping[str, Any] = read_evaluation(statistics)
    else:
        manifest, firing = _measured_firing(path, text, windows, window, quiet)
    made = compare(
        program_entries(manifest, firing),
        find_table(table),
        batch=tokens or 1,
        accumulators=_place(accumulators),
    )
    _print(made, tokens, [], json)


def _measured_firing(
    path: Path, text: Path | None, windows: int, window: int, quiet: bool
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The manifest, and what fired on the first windows of a text (default: sdc's demo text)."""
    from sdc.cli.verbs import measure, read_text
    from sdc.data import demo_text
    from sdc.runtime import Program

    program = Program.load(path)
    content = demo_text()[1] if text is None else read_text(text)
    with Bars(quiet) as bars:
        found = measure(program, content, windows, window, bars, reference=False)
    return program.manifest, found.to_json()


def _place(name: str) -> Accumulators:
    if name not in ("memory", "register"):
        raise ConfigError(f'accumulators = "{name}": must be memory or register')
    return name  # type: ignore[return-value]  # checked above


def _print(made: Comparison, tokens: int, paper: Sequence[PaperRow], json: bool) -> None:
    if json:
        print_json({**made.to_json(), **({"paper": [asdict(row) for row in paper]} if paper else {})})
        return
    print_rows(_title(made, tokens), _rows(made), ("format", "compute_only", "everything", *SHORT))
    columns = ("format", "time_steps", "firing_rate", "operation", "word_width", "compute_only", "everything")
    rows = [{**asdict(f), "format": f.base} for f in made.factors]
    print_rows(f"energy over that of {made.accounts[0].format}, factor by factor", rows, columns)
    if paper:
        _print_paper(paper)
    print(f"energies: {made.table.source}")
    if made.table.derived:
        print(f"scaled from other entries: {', '.join(made.table.derived)}")


def _title(made: Comparison, tokens: int) -> str:
    what = f"a prompt of {tokens} tokens" if tokens else "decoding"
    return f"{made.model}, {what}, {made.context:.0f} keys, {made.table.name}: mJ per token"


def _rows(made: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "format": a.format,
            "compute_only": a.compute_only * MILLI,
            "everything": a.everything * MILLI,
            **{short: a.components[name] * MILLI for short, name in SHORT.items()},
        }
        for a in made.accounts
    ]


def _print_paper(paper: Sequence[PaperRow]) -> None:
    rows = [
        {
            "format": row.format,
            "published": row.published,
            "its_convention": row.convention,
            "45_nm_compute": row.compute_only[0],
            "45_nm_all": row.everything[0],
            "7_nm_compute": row.compute_only[1],
            "7_nm_all": row.everything[1],
        }
        for row in paper
    ]
    print_rows("SDLLM's table (arXiv 2604.16475), J for 1024 tokens of LLaMA-2-7B", rows, tuple(rows[0]))
    for row in paper:
        print(f"{row.format}: {row.remark}")
