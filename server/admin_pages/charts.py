"""Bar charts as plain SVG with one bar a day, or one an hour. They use only attributes, because the
content security policy forbids styles in the page; colours come from the style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

WIDTH, HEIGHT = 420, 170
_LEFT, _BOTTOM, _TOP = 52, 24, 8
_LABEL_WIDTH = 52  # of "24 Nov" in the style sheet's font, with room to spare
_MOST_LABELS = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """One day's or hour's bar, in the chart's own units. `when` is what people call its time, and
    `exact` what tables call it."""

    x: float
    y: float
    width: float
    height: float
    when: str
    exact: str
    value: int


@dataclass(frozen=True, slots=True)
class Label:
    """A time below the bars. `anchor` is the end of the text that is at `x`."""

    x: float
    anchor: str
    when: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart ready to draw, whose bars are each of a `unit`: day or hour. `lines` are (y, label)
    of the scale."""

    name: str
    title: str
    unit: str
    total: int
    bars: Sequence[Bar]
    labels: Sequence[Label]
    lines: Sequence[tuple[float, int]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    base: int = HEIGHT - _BOTTOM


def bar_chart(
    name: str, title: str, rows: Sequence[Mapping[str, Any]], total: int | None = None
) -> Chart:
    """The chart of column `name` over rows with a `day` or an `hour`; `total` is given where it is
    not the sum of the rows."""
    values = [int(row[name]) for row in rows]
    top = _round_up(max([*values, 1]))
    step = (WIDTH - _LEFT) / len(values)
    scale = (HEIGHT - _BOTTOM - _TOP) / top
    bars = [
        Bar(
            round(_LEFT + index * step + step * 0.1, 2),
            round(HEIGHT - _BOTTOM - value * scale, 2),
            round(step * 0.8, 2),
            round(value * scale, 2),
            *_named(rows[index]),
            value,
        )
        for index, value in enumerate(values)
    ]
    marks = sorted({0, top // 2, top}) if top > 1 else [0, 1]
    lines = [(round(HEIGHT - _BOTTOM - mark * scale, 2), mark) for mark in marks]
    unit = "hour" if "hour" in rows[0] else "day"
    total = sum(values) if total is None else total
    return Chart(name, title, unit, total, bars, _labels(bars), lines)


def _named(row: Mapping[str, Any]) -> tuple[str, str]:
    """What a row's day or hour is called, briefly and exactly."""
    if "hour" in row:
        hour = row["hour"].astimezone(UTC)
        return f"{hour:%H:%M}", f"{hour:%Y-%m-%d %H:%M}"
    return f"{row['day'].day} {row['day']:%b}", str(row["day"])


def _labels(bars: Sequence[Bar]) -> list[Label]:
    """Labels for a few bars, equally far apart, so that the texts can be read on a narrow screen. A
    text that would not fit beside the bar's start ends at the chart's right edge."""
    step = max(-(-len(bars) // _MOST_LABELS), 1)
    return [
        Label(bar.x, "start", bar.when)
        if bar.x + _LABEL_WIDTH <= WIDTH
        else Label(WIDTH, "end", bar.when)
        for bar in bars[::step]
    ]


def _round_up(value: int) -> int:
    """The next number of the kind that scales are marked with: 1, 2, 4, 10, 20, 40, 100 ..."""
    power = 1
    while True:
        for factor in (1, 2, 4):
            if factor * power >= value:
                return factor * power
        power *= 10
