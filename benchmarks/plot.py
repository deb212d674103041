"""Line charts as SVG, without a plotting library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Line", "line_chart"]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 420, 60, 50, 20, 150
COLOURS = ("#2563a8", "#c2571a", "#2c8a4b", "#8a3a8f", "#6b5b1e")


@dataclass(frozen=True)
class Line:
    """Points (x, y) in the order of x; ``dash`` is SVG's pattern of dashes and gaps, a full line if empty."""

    name: str
    points: Sequence[tuple[float, float]]
    dash: str = ""


def line_chart(lines: Sequence[Line], x_title: str, y_title: str, *, level: float | None = None) -> str:
    """The chart, from 0 on both axes; ``level`` draws a line across. Lines of other dashes share colours."""
    right = max(x for line in lines for x, _ in line.points)
    high = 1.05 * max(y for line in lines for _, y in line.points)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / right * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - y / high * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for tick in range(6):
        x, y = place(right * tick / 5, high * tick / 5)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_label(LEFT - 6, y + 4, f"{high * tick / 5:.2g}", "end"))
        parts.append(_label(x, HEIGHT - BOTTOM + 18, f"{right * tick / 5:.2g}"))
    if level is not None:
        _, y = place(0, level)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#333"/>')
    parts += _drawn(lines, place)
    parts.append(_label((WIDTH - RIGHT + LEFT) / 2, HEIGHT - 12, x_title))
    turned = f'<g transform="rotate(-90 14 {HEIGHT / 2})">'
    return "\n".join([*parts, turned + _label(14, HEIGHT / 2, y_title) + "</g>", "</svg>"]) + "\n"


def _drawn(lines: Sequence[Line], place: object) -> list[str]:
    assert callable(place)
    parts, alike = [], Counter[str]()
    for number, line in enumerate(lines):
        colour = COLOURS[alike[line.dash] % len(COLOURS)]
        alike[line.dash] += 1
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in line.points))
        style = f'stroke="{colour}"' + (f' stroke-dasharray="{line.dash}"' if line.dash else "")
        parts.append(f'<polyline points="{path}" fill="none" {style}/>')
        y = TOP + 16 * number + 10
        parts.append(f'<line x1="{WIDTH - RIGHT + 12}" x2="{WIDTH - RIGHT + 36}" y1="{y}" y2="{y}" {style}/>')
        parts.append(_label(WIDTH - RIGHT + 42, y + 4, line.name, "start"))
    return parts


def _label(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#555">{escape(text)}</text>'
