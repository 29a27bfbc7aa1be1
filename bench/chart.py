"""The chart of docs/performance.md: throughput by connections, and each figure beside its bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from bench.goals import verdicts
from bench.scenarios import CLIENTS, CONNECTIONS

_WIDTH, _PANEL, _ROW = 860, 300, 22
_INK, _MUTED, _GRID = "#1f2937", "#6b7280", "#e5e7eb"
_BLUE, _ORANGE, _GREEN, _RED = "#2563eb", "#c2410c", "#15803d", "#b91c1c"

Results = Mapping[str, Mapping[str, Any]]


def draw(results: Results) -> str:
    """The chart as SVG; parts whose loads were not measured are left out."""
    goals = [goal for goal in verdicts(results) if goal["value"] is not None]
    height = _PANEL + 60 + _ROW * len(goals)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        f' font-family="system-ui, sans-serif" font-size="12" fill="{_INK}" role="img">',
        "<title>Throughput by connections, and the figures to reach</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number, kind in enumerate(("charge", "check")):
        parts += _lines(results, kind, number * _WIDTH // 2)
    for number, goal in enumerate(goals):
        parts += _bar(goal, _PANEL + 50 + number * _ROW)
    return "\n".join([*parts, "</svg>", ""])


def _lines(results: Results, kind: str, left: int) -> list[str]:
    """Requests a second over the number of connections, pgbench's best as a dashed line."""
    rates = [
        (count, float(results[name]["per_second"]))
        for count in CONNECTIONS
        if (name := f"{kind}/HTTP {kind} {count}") in results
    ]
    best = [
        float(results[name]["per_second"])
        for clients in CLIENTS
        if (name := f"{kind}/pgbench {kind} {clients}") in results
    ]
    if not rates:
        return []
    top = _round_up(max([rate for _, rate in rates] + best))
    x0, x1, y0, y1 = left + 65, left + _WIDTH // 2 - 20, 40, _PANEL - 40

    def y(rate: float) -> float:
        return y1 - (y1 - y0) * rate / top

    places = {
        count: x0 + (x1 - x0) * (index + 0.5) / len(CONNECTIONS)
        for index, count in enumerate(CONNECTIONS)
    }
    parts = [_text(left + _WIDTH // 4, 22, f"{kind}s a second over HTTP", "middle", weight=600)]
    for step in range(5):
        rate = top * step / 4
        parts.append(f'<path d="M{x0} {y(rate):.1f}H{x1}" stroke="{_GRID}"/>')
        parts.append(_text(x0 - 8, y(rate) + 4, f"{rate:,.0f}", "end", _MUTED))
    parts += [_text(at, y1 + 18, str(count), "middle", _MUTED) for count, at in places.items()]
    parts.append(_text((x0 + x1) / 2, y1 + 36, "connections", "middle", _MUTED))
    if best:
        level = y(max(best))
        parts.append(
            f'<path d="M{x0} {level:.1f}H{x1}" stroke="{_ORANGE}" stroke-dasharray="6 4"/>'
        )
        parts.append(
            _text(x0 + 4, level - 5, f"pgbench at its best: {max(best):,.0f}", fill=_ORANGE)
        )
    points = " ".join(f"{places[count]:.1f},{y(rate):.1f}" for count, rate in rates)
    parts.append(f'<polyline points="{points}" fill="none" stroke="{_BLUE}" stroke-width="2"/>')
    for count, rate in rates:
        parts.append(f'<circle cx="{places[count]:.1f}" cy="{y(rate):.1f}" r="4" fill="{_BLUE}"/>')
        parts.append(_text(places[count], y(rate) - 9, f"{rate:,.0f}", "middle", _BLUE))
    return parts


def _bar(goal: Mapping[str, Any], top: float) -> list[str]:
    """A figure as a share of its bound, which is the upright line."""
    left, full = 330, 260  # full: the bound
    length = max(1, min(float(goal["value"]) / goal["bound"], 1.5) * full)
    colour = _GREEN if goal["reached"] else _RED
    bound = f"at {'most' if goal['at_most'] else 'least'} {goal['bound']:g}"
    return [
        _text(left - 10, top + 13, goal["name"], "end"),
        f'<rect x="{left}" y="{top + 3}" width="{length:.1f}" height="14" fill="{colour}"/>',
        f'<path d="M{left + full} {top}V{top + 20}" stroke="{_INK}" stroke-width="2"/>',
        _text(_WIDTH - 10, top + 13, f"{goal['value']:,.2f} ({bound})", "end", colour),
    ]


def _text(
    x: float, y: float, text: str, anchor: str = "start", fill: str = _INK, *, weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"'
        f' font-weight="{weight}">{escape(text)}</text>'
    )


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 8, 10 times a power of ten, so that quarters are round too."""
    power = 10.0 ** math.floor(math.log10(max(value, 1)))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value)
