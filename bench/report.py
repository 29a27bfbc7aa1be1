"""The form of results: on the terminal, and in docs/performance.md, whose figures are written by
this module and never by hand."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.chart import draw
from bench.goals import costs, verdicts
from bench.processes import OTHERS

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
Document = Mapping[str, Any]
_COMMANDS = ("run", "growth", "soak")
_COLUMNS = (
    "load",
    "per second",
    "spread",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "errors",
    "processor µs a request",
    "cores of others",
    "MB",
    "worker MB",
    "WAL bytes",
)
_MB = _COLUMNS.index("MB")  # too wide for a terminal
_REACHED = {True: "reached", False: "not reached", None: "not measured"}


def newest(folder: Path) -> list[Path]:
    """The newest results of each command."""
    found = [sorted(folder.glob(f"{command}-*.json"))[-1:] for command in _COMMANDS]
    return [file for files in found for file in files]


def failures(document: Document) -> int:
    """The sum of the errors of all loads, the scenarios that broke off, and the problems of the
    books."""
    errors = sum(int(one["errors"]) for one in document["results"])
    return errors + int(document.get("failed", 0)) + int(document["wrong_books"])


def text(documents: Sequence[Document]) -> str:
    """The results for a terminal."""
    parts = []
    for document in documents:
        rows = [_COLUMNS, *map(_row, document["results"])]
        parts.append(_aligned([(*row[:_MB], *row[_MB + 1 :]) for row in rows]))
        parts += [f"not run: {name}: {why}" for name, why in _not_run(document)]
        if document.get("tables"):
            parts.append(_aligned([_TABLE_COLUMNS, *_table_rows(document)]))
        if document.get("wal"):
            parts.append(_aligned([_WAL_COLUMNS, *_wal_rows(document)]))
            parts += _wal_rounds(document)
        if document.get("pages"):
            parts.append(_aligned([_PAGE_COLUMNS, *_page_rows(document)]))
        parts.append(_books(document))
    measured = [one for one in verdicts(_results(documents)) if one["value"] is not None]
    if measured:
        parts.append(_aligned([_GOAL_COLUMNS, *map(_goal_row, measured)]))
    return "\n\n".join(parts)


def write(files: Sequence[Path], docs: Path) -> None:
    """Writes the figures of these files between the markers of performance.md and draws the chart
    beside it."""
    documents: list[Document] = [json.loads(file.read_text()) for file in files]
    page = docs / "performance.md"
    before, found, rest = page.read_text().partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"{page} lacks {BEGIN} or {END}")
    page.write_text(f"{before}{BEGIN}\n{_markdown(documents)}\n{END}{after}")
    (docs / "performance.svg").write_text(draw(_results(documents)))


def _results(documents: Iterable[Document]) -> dict[str, Mapping[str, Any]]:
    """All results by id."""
    found: dict[str, Mapping[str, Any]] = {}
    for document in documents:
        found |= {one["id"]: one for one in document["results"]} | document.get("values", {})
    return found


def _markdown(documents: Sequence[Document]) -> str:
    parts = ["### Figures to reach\n", _table([_GOAL_COLUMNS, *_goal_rows(documents)])]
    for document in documents:
        title = {
            "run": "The scenarios",
            "growth": "Growth",
            "soak": f"Soak, {document['options'].get('minutes', 0):g} minutes",
        }[document["command"]]
        parts += [f"\n### {title}\n", _setting(document) + "\n"]
        parts.append(_table([_COLUMNS, *map(_row, document["results"])]))
        parts += [f"\nNot run: {name}: {why}." for name, why in _not_run(document)]
        if document["command"] == "growth":
            parts += ["", _table([_TABLE_COLUMNS, *_table_rows(document)])]
            parts += ["\nThe write-ahead log of a charge:\n"]
            parts.append(_table([_WAL_COLUMNS, *_wal_rows(document)]))
            parts += [f"\n{line}" for line in _wal_rounds(document)]
            parts += ["\nPages of tables and indexes, per request:\n"]
            parts.append(_table([_PAGE_COLUMNS, *_page_rows(document)]))
        if document["command"] == "soak":
            parts += ["", _table([_SAMPLE_COLUMNS, *_sample_rows(document["samples"])])]
        parts.append(f"\n{_books(document).capitalize()}.")
    return "\n".join(parts)


def _setting(document: Document) -> str:
    """A sentence or two about where, when and how it was measured."""
    at, how, settings = document["machine"], document["options"], document["settings"]
    rounds = f"{how['rounds']} rounds of {how['seconds']} s; " if "rounds" in how else ""
    shown = ", ".join(
        f"{name} {value}" for name, value in settings.items() if name != "server_version"
    )
    return (
        f"{document['begun'][:10]}, commit {at['commit'] or 'unknown'}; {at['cores']} cores"
        f" ({at['cpu']}), {at['memory_gb']} GB, {at['system']}, load before {at['load_before']};"
        f" Python {at['python']}, PostgreSQL {settings['server_version']};"
        f" {rounds}{how['workers']} workers, {how['accounts']:,} accounts. PostgreSQL: {shown}."
    )


# --- rows ----------------------------------------------------------------------------------------

_GOAL_COLUMNS = ("figure", "to reach", "measured", "by processor time", "")
_TABLE_COLUMNS = (
    "table",
    "rows before",
    "rows",
    "bytes a row before",
    "bytes a row",
    "HOT updates",
)
_WAL_COLUMNS = (
    "log of a charge",
    "bytes",
    "of these whole pages",
    "pages",
)
_PAGE_COLUMNS = ("pages a request", "in buffers", "read", "waiting for reads, µs")
_SAMPLE_COLUMNS = ("second", "per second", "p50 ms", "p99 ms", "workers MB")


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    cost = ", ".join(f"{group} {used:,.0f}" for group, used in costs(result).items())
    memory = ", ".join(f"{name} {size:,.0f}" for name, size in result["memory_mb"].items())
    p50 = _number(result["p50"], 2)
    if result["p50"] is None and result["mean"] is not None:
        p50 = f"mean {result['mean']:.2f}"
    return (
        result["id"].replace("/", ": ", 1),
        f"{result['per_second']:,.0f}",
        _spread(result["rounds"]),
        p50,
        _number(result["p95"], 2),
        _number(result["p99"], 2),
        str(result["errors"]),
        cost,
        _number(result["cores"].get(OTHERS), 2),
        memory,
        _number(result["worker_mb"], 0),
        _number(result["wal_bytes"], 0),
    )


def _spread(rates: Sequence[float]) -> str:
    """The range of the rounds' rates as a share of their median."""
    middle = statistics.median(rates) if len(rates) > 1 else 0
    return f"{(max(rates) - min(rates)) / middle:.0%}" if middle else "-"


def _goal_rows(documents: Sequence[Document]) -> list[tuple[str, ...]]:
    return [_goal_row(one) for one in verdicts(_results(documents))]


def _goal_row(goal: Mapping[str, Any]) -> tuple[str, ...]:
    bound = f"at {'most' if goal['at_most'] else 'least'} {goal['bound']:g}"
    value, by_time = (_number(goal[name], 2) for name in ("value", "by_processor_time"))
    return (goal["name"], bound, value, by_time, _REACHED[goal["reached"]])


def _table_rows(document: Document) -> list[tuple[str, ...]]:
    return [
        (
            f"{size}: {table}",
            f"{one['rows_before']:,}",
            f"{one['rows']:,}",
            _number(one["bytes_per_row_before"], 0),
            _number(one["bytes_per_row"], 0),
            "-" if one["hot_share"] is None else f"{one['hot_share']:.1%}",
        )
        for size, tables in document["tables"].items()
        for table, one in tables.items()
    ]


def _wal_rows(document: Document) -> list[tuple[str, ...]]:
    """The total, and every part of more than a hundredth of it."""
    return [
        (
            f"{size}: {name}",
            _number(one["bytes"], 0),
            f"{one['page_bytes'] / one['bytes']:.0%}",
            _number(one["pages"], 2),
        )
        for size, written in document["wal"].items()
        for name, one in ({"all": written} | written["relations"]).items()
        if one["bytes"] > 0.01 * written["bytes"]
    ]


def _wal_rounds(document: Document) -> list[str]:
    """How it falls after a checkpoint."""
    return [
        f"{size}, bytes a charge, from the checkpoint on, round by round:"
        f" {', '.join(f'{one:,}' for one in written['rounds'])}"
        for size, written in document["wal"].items()
    ]


def _page_rows(document: Document) -> list[tuple[str, ...]]:
    return [
        (
            name,
            _number(one["found"], 1),
            _number(one["read"], 2),
            _number(one["read_us"], 1),
        )
        for name, one in document["pages"].items()
    ]


def _sample_rows(samples: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """About ten of the samples."""
    return [
        (
            str(one["second"]),
            f"{one['per_second']:,.0f}",
            _number(one["p50"], 2),
            _number(one["p99"], 2),
            ", ".join(f"{size:.0f}" for size in one["worker_mb"]),
        )
        for one in samples[:: max(1, len(samples) // 10)]
    ]


def _not_run(document: Document) -> list[tuple[str, str]]:
    return list(document.get("not_run", {}).items())


def _books(document: Document) -> str:
    wrong = document["wrong_books"]
    return f"{wrong} things in the books do not agree" if wrong else "the books agree"


# --- layout --------------------------------------------------------------------------------------


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 or not _is_number(cell) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(",", "").replace(".", "").rstrip("%").isdigit()


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
