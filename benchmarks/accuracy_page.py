"""The page that benchmarks/accuracy.py writes: tables in Markdown, the Pareto plot as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["pareto", "write_page"]

Rows = Mapping[str, Mapping[str, Any]]

HEAD = """# Accuracy against spikes and energy

Made by `benchmarks/accuracy.py`; every row is one compiled program, measured on the same text.

- *ratio*: perplexity over that of the ONNX model, with a 95 % bootstrap interval over windows, window by
  window; windows do not overlap, the first token of each is not predicted, head and attention products are
  spiking.
- *KL*: divergence of next-token distributions from the ONNX model's, nats. *greedy*: share of tokens after
  which both find the same token likeliest.
- *spikes per neuron* over all encoders of linears and queries, for the same counts in two codings. Attention
  probabilities are counted apart (*synops, p*): there is one for each key.
- *synops*: additions that spikes of linears and queries cause, per token, in millions.
- *energy*: millijoules of one decoded token (docs/energy.md), compute only / everything, {table}.

{protocol}
"""

TABLE = "horowitz-45nm"
MILLI = 1e3
PICO = 1e12


def write_page(
    out: Path,
    rows: Rows,
    points: Sequence[str],
    parts_of: tuple[str, Sequence[str], Collection[str]],
    earlier: str,
    code: str,
) -> None:
    """Writes the page, and the plot beside it; settings without a row are left out.

    Rows that do not have the codings of :data:`COLOURS` (``earlier``) are only in the table that compares
    with them. Rows that other sources than ``code`` made are named.

    Args:
        out: The page.
        rows: By name.
        points: Settings, in order.
        parts_of: The setting that ablations change, these, and those of them that add something.
        earlier: The setting that presets are compared with.
        code: The sources of now.
    """
    ablated, ablations, added = parts_of
    missing = [name for name in (*points, *ablations) if name not in rows]
    everyone = [name for name in points if name in rows]
    points = [name for name in everyone if "ternary" in rows[name]["codings"]]
    ablations = [name for name in (ablated, *ablations) if name in rows]
    first = next(iter(rows.values()))
    protocol = f"{first['windows']} windows, {first['tokens']} tokens; perplexity of the ONNX model "
    protocol += f"{first['perplexity_reference']:.2f}."
    protocol += _sources({name: rows[name] for name in (*points, *ablations) if name in rows}, code)
    plot = out.with_suffix(".svg")
    best = pareto(rows, points)
    shown = [name for name in everyone if name in points or not rows[name]["codings"]]
    parts = [
        HEAD.format(table=TABLE, protocol=protocol),
        "## Settings\n",
        _settings(rows, shown, best),
        _remarks(rows, everyone),
        f"![Perplexity ratio against spikes per neuron]({plot.name})\n",
        "## What each part earns\n",
        f"Each row leaves one thing out of `{ablated}`, or adds one.\n",
        _table(rows, ablations),
        _idle(rows, ablated, ablations[1:], added),
        "## Energy beside other formats\n",
        "The same products in other formats, from the same shapes, mJ a decoded token:\n",
        _formats(rows, points),
        "\nFactor by factor against SpikeLLM-like spikes (unsigned about a zero point, T = 2 D) at the same "
        "weight bits and levels, ternary. Settings whose levels only bound outliers (less than one spike in "
        "ten steps) are left out: nobody would give the older scheme as many levels, and a factor would "
        "flatter. The preset below is measured at levels of its own:\n",
        _factors(rows, [name for name in points if not _bounds_outliers(rows[name])]),
        *_against(rows, points, earlier),
        "## Settings in full\n",
        *(f"- `{name}`: {_spelled(rows[name]['settings'])}" for name in (*everyone, *ablations[1:])),
    ]
    if missing:
        parts.append(f"\nNot measured yet: {', '.join(missing)}.")
    out.write_text("\n".join(parts) + "\n", encoding="utf-8")
    plot.write_text(_plot(rows, points, best), encoding="utf-8")


def _sources(rows: Rows, code: str) -> str:
    """A sentence on which sources made the rows."""
    older = [name for name, row in rows.items() if row.get("code") != code]
    if not older:
        return f" All rows were measured by the same sources ({code})."
    return f" Measured by other sources than {code}: {', '.join(f'`{name}`' for name in older)}."


def pareto(rows: Rows, names: Sequence[str], coding: str = "ternary") -> set[str]:
    """Names that no other beats in both perplexity and spikes per neuron."""
    at = {n: (rows[n]["ratio"], rows[n]["codings"][coding]["spikes_per_neuron"]) for n in names}
    return {
        n
        for n, mine in at.items()
        if not any(o != mine and o[0] <= mine[0] and o[1] <= mine[1] for o in at.values())
    }


def _settings(rows: Rows, names: Sequence[str], best: set[str]) -> str:
    return (
        _table(rows, names, {n: f"**{n}**" for n in best})
        + "\nBold: no other row has both fewer spikes and less perplexity.\n"
    )


def _table(rows: Rows, names: Sequence[str], shown: Mapping[str, str] | None = None) -> str:
    head = ("setting", "ratio", "KL", "greedy", "zeros", "spikes, ternary / bitwise", "synops, t / b")
    head += ("synops, p, t / b", "energy, ternary", "energy, bitwise")
    lines = [_line(head), _line(["---"] * len(head))]
    for name in names:
        row, codings = rows[name], rows[name]["codings"]
        interval = "({:.3f} to {:.3f})".format(*row["ratio_interval"])
        cells = [
            (shown or {}).get(name, name),
            f"{row['ratio']:.3f} {interval}",
            f"{row['kl_divergence']:.3f}",
            f"{row['greedy_agreement']:.1%}",
            f"{row['zero_fraction']:.0%}" if codings else "-",
            _each(codings, lambda c: f"{c['spikes_per_neuron']:.2f}"),
            _each(codings, lambda c: f"{c['synops_per_token'] / 1e6:.0f}"),
            _each(codings, lambda c: f"{c['probability_synops_per_token'] / 1e6:.0f}"),
            *(_joules(codings, name, 0) for name in COLOURS),
        ]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _idle(rows: Rows, ablated: str, ablations: Sequence[str], added: Collection[str]) -> str:
    """Parts that earn nothing here: without them perplexity is no higher, at 1 % more spikes at most."""

    def at(name: str) -> tuple[float, float]:
        return rows[name]["ratio"], rows[name]["codings"]["ternary"]["spikes_per_neuron"]

    def beats(one: str, other: str) -> bool:
        return at(one)[0] <= at(other)[0] and at(one)[1] <= 1.01 * at(other)[1]

    def listed(names: Sequence[str]) -> str:
        return ", ".join(f"`{name}` ({at(name)[0]:.3f} against {at(ablated)[0]:.3f})" for name in names)

    without = [name for name in ablations if name not in added and beats(name, ablated)]
    useless = [name for name in ablations if name in added and beats(ablated, name)]
    found = (
        f"What is left out in these rows earns nothing on this model: {listed(without)}.\n" if without else ""
    )
    return found + (
        f"What these rows add earns nothing on this model: {listed(useless)}.\n" if useless else ""
    )


def _remarks(rows: Rows, names: Sequence[str]) -> str:
    """What passes noted on budgets."""
    notes = [(name, note) for name in names for note in rows[name].get("notes", ()) if "allocate" in note]
    return "".join(f"\n`{name}`: {note.removeprefix('allocate: ')}.\n" for name, note in notes)


def _each(codings: Mapping[str, Any], show: Callable[[Any], str]) -> str:
    """A value for each coding; - where it was not counted."""
    return " / ".join(show(codings[name]) if name in codings else "-" for name in COLOURS)


def _formats(rows: Rows, names: Sequence[str]) -> str:
    lines: list[str] = []
    for name in names:
        codings = rows[name]["codings"]
        formats = next(iter(codings.values()))[TABLE]["formats"]
        head = ["setting", *COLOURS, *(f["format"].split(" ")[0] for f in formats[1:])]
        lines = lines or [_line(head), _line(["---"] * len(head))]
        own = [_joules(codings, coding, 0) for coding in COLOURS]
        others = [_joules(codings, next(iter(codings)), i) for i in range(1, len(formats))]
        if _bounds_outliers(rows[name]):
            others[0] = "-"
        lines.append(_line([name, *own, *others]))
    return "\n".join(lines) + "\n"


def _bounds_outliers(row: Mapping[str, Any]) -> bool:
    """Whether levels are far above what counts reach: thresholds have floors, and do not follow max|x|."""
    ternary = row["codings"]["ternary"]
    return bool(ternary["spikes_per_neuron"] < 0.1 * ternary.get("time_steps", 0))


def _factors(rows: Rows, names: Sequence[str]) -> str:
    keys = ("time_steps", "firing_rate", "operation", "word_width", "compute_only", "everything")
    lines = [_line(["setting", *(k.replace("_", " ") for k in keys)]), _line(["---"] * (len(keys) + 1))]
    for name in names:
        found = rows[name]["codings"]["ternary"][TABLE]["factors"][0]
        lines.append(_line([name, *(f"{found[k]:.2f}" for k in keys)]))
    return "\n".join(lines) + "\n"


def _against(rows: Rows, points: Sequence[str], earlier: str) -> list[str]:
    """A section on every preset beside the earlier scheme, both as measured."""
    if earlier not in rows:
        return []
    head = ("setting", "perplexity, ratio", "time steps", "spikes per neuron and step", "spikes per neuron")
    head += ("synops, with probabilities", "pJ a synop", "compute only, mJ", "everything, mJ")
    lines = [_line((*head, "factors", "")), _line(["---"] * (len(head) + 2))]
    (base,) = rows[earlier]["codings"].values()
    lines.append(_line([earlier, *_own(rows[earlier], base), "1", "1"]))
    for name in points:
        if not name.startswith("preset"):
            continue
        for coding, mine in rows[name]["codings"].items():
            pairs = zip(_energies(base), _energies(mine), strict=True)
            cells = [f"{name}, {coding}", *_own(rows[name], mine), *(f"{a / b:.2f}" for a, b in pairs)]
            lines.append(_line(cells))
    return [
        f"## Against `{earlier}`\n",
        "Both measured in this run; factors are its energy over the setting's, compute only and everything. "
        "Time steps times spikes per neuron and step are the spikes per neuron; those, over all synapses, "
        "are the synops; synops times the energy of one addition are the energy of compute only.\n",
        "\n".join(lines) + "\n",
    ]


def _own(row: Mapping[str, Any], coded: Mapping[str, Any]) -> list[str]:
    steps, spikes = coded["time_steps"], coded["spikes_per_neuron"]
    synops = coded["synops_per_token"] + coded["probability_synops_per_token"]
    compute, everything = _energies(coded)
    cells = [f"{row['ratio']:.3f}", f"{steps}", f"{spikes / steps:.3f}", f"{spikes:.2f}"]
    cells += [f"{synops / 1e6:.0f} M", f"{compute / synops * PICO:.2f}"]
    return [*cells, f"{compute * MILLI:.3g}", f"{everything * MILLI:.3g}"]


def _energies(coded: Mapping[str, Any]) -> tuple[float, float]:
    entry = coded[TABLE]["formats"][0]
    return entry["compute_only_joules"], entry["everything_joules"]


def _joules(codings: Mapping[str, Any], coding: str, index: int) -> str:
    if coding not in codings:
        return "-"
    entry = codings[coding][TABLE]["formats"][index]
    return f"{entry['compute_only_joules'] * MILLI:.3g} / {entry['everything_joules'] * MILLI:.3g}"


def _spelled(settings: Mapping[str, Any]) -> str:
    shown = {k: v for k, v in settings.items() if v != []}
    return ", ".join(f"{k} {v}" for k, v in shown.items()) or "defaults"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 420, 60, 50, 20
COLOURS = {"ternary": "#2563a8", "bitwise": "#c2571a"}


def _plot(rows: Rows, names: Sequence[str], best: set[str]) -> str:
    """Perplexity ratio (log above 1) against spikes per neuron (log), both codings; filled where Pareto."""
    points = [
        (coding, name, rows[name]["codings"][coding]["spikes_per_neuron"], rows[name]["ratio"])
        for coding in COLOURS
        for name in names
        if coding in rows[name]["codings"]
    ]
    xs, ys = [math.log(p[2]) for p in points], [math.log(max(p[3], 1.001)) for p in points]
    left, right, low, high = min(xs) - 0.2, max(xs) + 0.5, 0.0, max(ys) * 1.15

    def place(spikes: float, ratio: float) -> tuple[float, float]:
        x = LEFT + (math.log(spikes) - left) / (right - left) * (WIDTH - LEFT - 20)
        y = HEIGHT - BOTTOM - (math.log(max(ratio, 1.001)) - low) / (high - low) * (HEIGHT - BOTTOM - TOP)
        return x, y

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *_axes(place, math.exp(left), math.exp(right), math.exp(high)),
    ]
    for coding, name, spikes, ratio in points:
        x, y = place(spikes, ratio)
        colour = COLOURS[coding]
        fill = colour if name in best else "white"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}"/>')
        if coding == "ternary":
            parts.append(f'<text x="{x + 7:.1f}" y="{y + 4:.1f}" fill="#333">{escape(name)}</text>')
    for number, (coding, colour) in enumerate(COLOURS.items()):
        parts.append(f'<text x="{WIDTH - 90}" y="{TOP + 14 * number + 10}" fill="{colour}">{coding}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes(place: Any, left: float, right: float, high: float) -> list[str]:
    parts = []
    for ratio in (1.01, 1.05, 1.1, 1.2, 1.4, 1.7, 2, 3, 5, 10, 30, 100, 300):
        if ratio <= high:
            _, y = place(left, ratio)
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(_label(LEFT - 6, y + 4, f"{ratio:g}", "end"))
    for spikes in (0.5, 0.7, 1, 1.4, 2, 3, 4, 6, 10, 20, 40):
        if left <= spikes <= right:
            parts.append(_label(place(spikes, 1.0)[0], HEIGHT - BOTTOM + 18, f"{spikes:g}"))
    parts.append(_label((WIDTH + LEFT) / 2, HEIGHT - 12, "spikes per neuron"))
    turned = f'<g transform="rotate(-90 14 {HEIGHT / 2})">'
    return [*parts, turned + _label(14, HEIGHT / 2, "perplexity over the float model's") + "</g>"]


def _label(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#555">{escape(text)}</text>'
