"""The chart of docs/performance.md: throughput by connections, processor time of a request, and
each figure compared with its bound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from bench.goals import costs, verdicts
from bench.processes import GENERATOR
from bench.scenarios import CLIENTS, CONNECTIONS

_WIDTH, _PANEL, _ROW = 860, 300, 22
_INK, _MUTED, _GRID = "#1f2937", "#6b7280", "#e5e7eb"
_BLUE, _VIOLET, _ORANGE, _GREEN, _RED = "#2563eb", "#7c3aed", "#c2410c", "#15803d", "#b91c1c"
# The loads whose processor time is drawn.
_COSTS = tuple(
    f"{kind}/{load}"
    for kind in ("charge", "check")
    for load in (
        *(f"{via} {kind} {count}" for count in (1, 64) for via in ("HTTP", "thin")),
        *(f"{via} {kind} 16" for via in ("pgbench", "plain")),
        "aiohttp echo 64",
    )
)

Results = Mapping[str, Mapping[str, Any]]


def draw(results: Results) -> str:
    """The chart as SVG; parts whose loads were not measured are left out."""
    goals = [goal for goal in verdicts(results) if goal["value"] is not None]
    taken = {name: costs(results[name]) for name in _COSTS if name in results}
    goals_top = _PANEL + (70 + _ROW * len(taken) if taken else 0)
    height = goals_top + 60 + _ROW * len(goals)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        f' font-family="system-ui, sans-serif" font-size="12" fill="{_INK}" role="img">',
        "<title>Throughput by connections, processor time, and the figures to reach</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number, kind in enumerate(("charge", "check")):
        parts += _lines(results, kind, number * _WIDTH // 2)
    parts += _costs(taken, _PANEL + 20)
    if goals:
        said = "figures to reach (the upright line); a dot: the same ratio by processor time"
        parts.append(_text(_WIDTH / 2, goals_top + 30, said, "middle", weight=600))
    for number, goal in enumerate(goals):
        parts += _bar(goal, goals_top + 50 + number * _ROW)
    return "\n".join([*parts, "</svg>", ""])


def _lines(results: Results, kind: str, left: int) -> list[str]:
    """Requests a second over the number of connections, for ours and the thin service. pgbench's
    best rates, on our function and on the plain one, are dashed lines."""
    lines = {via: _rates(results, kind, via, CONNECTIONS) for via in ("thin", "HTTP")}
    best = {via: _rates(results, kind, via, CLIENTS) for via in ("plain", "pgbench")}
    if not lines["HTTP"]:
        return []
    rates = [rate for line in (lines | best).values() for rate in line.values()]
    top = _round_up(max(rates))
    x0, x1, y0, y1 = left + 65, left + _WIDTH // 2 - 20, 40, _PANEL - 40

    def y(rate: float) -> float:
        return y1 - (y1 - y0) * rate / top

    places = {
        count: x0 + (x1 - x0) * (index + 0.5) / len(CONNECTIONS)
        for index, count in enumerate(CONNECTIONS)
    }
    title = f"{kind}s a second over HTTP; violet: the thin service"
    parts = [_text(left + _WIDTH // 4, 22, title, "middle", weight=600)]
    for step in range(5):
        rate = top * step / 4
        parts.append(f'<path d="M{x0} {y(rate):.1f}H{x1}" stroke="{_GRID}"/>')
        parts.append(_text(x0 - 8, y(rate) + 4, f"{rate:,.0f}", "end", _MUTED))
    parts += [_text(at, y1 + 18, str(count), "middle", _MUTED) for count, at in places.items()]
    parts.append(_text((x0 + x1) / 2, y1 + 36, "connections", "middle", _MUTED))
    for via, name, colour in (
        ("pgbench", "pgbench at its best", _ORANGE),
        ("plain", "pgbench on the plain function", _MUTED),
    ):
        if best[via]:
            rate = max(best[via].values())
            dashed = f'stroke="{colour}" stroke-dasharray="6 4"'
            parts.append(f'<path d="M{x0} {y(rate):.1f}H{x1}" {dashed}/>')
            parts.append(_text(x0 + 4, y(rate) - 5, f"{name}: {rate:,.0f}", fill=colour))
    for via, colour, label in (("thin", _VIOLET, -9), ("HTTP", _BLUE, 18)):
        points = [(places[count], y(rate), rate) for count, rate in lines[via].items()]
        path = " ".join(f"{x:.1f},{at:.1f}" for x, at, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, at, rate in points:
            parts.append(f'<circle cx="{x:.1f}" cy="{at:.1f}" r="4" fill="{colour}"/>')
            parts.append(_text(x, at + label, f"{rate:,.0f}", "middle", colour))
    return parts


def _rates(results: Results, kind: str, via: str, connections: Sequence[int]) -> dict[int, float]:
    """Requests per second, by the number of connections."""
    found = {count: results.get(f"{kind}/{via} {kind} {count}") for count in connections}
    return {count: float(one["per_second"]) for count, one in found.items() if one}


def _costs(taken: Mapping[str, Mapping[str, float]], top: float) -> list[str]:
    """The microseconds of processor time of a request by group of processes, one bar for each
    load."""
    if not taken:
        return []
    left, full = 330, 260
    title = "processor time of a request, microseconds"
    parts = [_text(_WIDTH / 2, top + 10, title, "middle", weight=600)]
    most = max(sum(cost.values()) for cost in taken.values())
    for number, (name, cost) in enumerate(taken.items()):
        y, x = top + 24 + number * _ROW, float(left)
        parts.append(_text(left - 10, y + 13, name.replace("/", ": ", 1), "end"))
        for group, used in cost.items():
            colour = {"postgres": _ORANGE, GENERATOR: _GRID}.get(group, _BLUE)
            width = full * used / most
            place = f'x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="14"'
            parts.append(f'<rect {place} fill="{colour}"/>')
            x += width
        said = ", ".join(f"{group} {used:,.0f}" for group, used in cost.items())
        parts.append(_text(_WIDTH - 10, y + 13, said, "end", _MUTED))
    return parts


def _bar(goal: Mapping[str, Any], top: float) -> list[str]:
    """A figure as a share of its bound, which is the vertical line."""
    left, full = 330, 260  # full is the length of the bound
    length = max(1, min(float(goal["value"]) / goal["bound"], 1.5) * full)
    colour = _GREEN if goal["reached"] else _RED
    bound = f"at {'most' if goal['at_most'] else 'least'} {goal['bound']:g}"
    dot = []
    if (by_time := goal["by_processor_time"]) is not None:
        x = left + min(by_time / goal["bound"], 1.5) * full
        dot = [f'<circle cx="{x:.1f}" cy="{top + 10}" r="4" fill="{_INK}" stroke="#ffffff"/>']
    return [
        _text(left - 10, top + 13, goal["name"], "end"),
        f'<rect x="{left}" y="{top + 3}" width="{length:.1f}" height="14" fill="{colour}"/>',
        f'<path d="M{left + full} {top}V{top + 20}" stroke="{_INK}" stroke-width="2"/>',
        _text(_WIDTH - 10, top + 13, f"{goal['value']:,.2f} ({bound})", "end", colour),
        *dot,
    ]


def _text(
    x: float, y: float, text: str, anchor: str = "start", fill: str = _INK, *, weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"'
        f' font-weight="{weight}">{escape(text)}</text>'
    )


def _round_up(value: float) -> float:
    """The next number of the form 1, 2, 4, 5, 8 or 10 times a power of ten, so that quarters are
    round too."""
    power = 10.0 ** math.floor(math.log10(max(value, 1)))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value)
