"""The output of commands: tables for people, JSON for scripts, faults on standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from server.config import ConfigError


class CommandFailed(Exception):
    """The command could not do its work. The text says why and what to do."""


def print_json(value: Any) -> None:
    """Prints one JSON document on standard output."""
    import orjson

    sys.stdout.write(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2).decode() + "\n")


def print_result(value: Any, *lines: str, as_json: bool) -> None:
    """Prints what a command did: as JSON, or as these lines for people."""
    if as_json:
        print_json(value)
    else:
        print("\n".join(lines))


def print_rows(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], empty: str, *, as_json: bool
) -> None:
    """Prints what a command found: as JSON, or as a table for people."""
    if as_json:
        print_json(rows)
    else:
        print_table(rows, columns, empty)


def print_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], empty: str) -> None:
    """Prints rows as aligned columns under headings (`columns` maps keys to them), or `empty`."""
    if not rows:
        print(empty)
        return
    from tabulate import tabulate

    cells = [[_cell(row[key]) for key in columns] for row in rows]
    print(tabulate(cells, list(columns.values()), tablefmt="plain", disable_numparse=True))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ",".join(map(str, value))
    if hasattr(value, "isoformat"):
        return str(value.isoformat(sep=" ", timespec="seconds"))
    return str(value)


def report_config_faults(error: ConfigError) -> None:
    """Prints every fault on a line of its own."""
    print("ciris-billing: the configuration is not usable:", file=sys.stderr)
    for fault in error.faults:
        print(f"  - {fault}", file=sys.stderr)
