"""The output of commands: tables for people, JSON for scripts, faults on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from server.config import ConfigError

Item = TypeVar("Item")


class CommandFailed(Exception):
    """The command could not do its work. The text says why and what to do; `slug` is that of the
    database's refusal, where it is one."""

    def __init__(self, text: str, slug: str | None = None) -> None:
        super().__init__(text)
        self.slug = slug


def on_one_line(text: str, most: int = 60) -> str:
    """A person's text without what would move the terminal's cursor, and not longer than this."""
    words = " ".join(text.split())[:most]
    return "".join(char if char.isprintable() else "?" for char in words)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says on standard error, to a person at a terminal, what a command waits for when that takes
    longer than two seconds, and for how long it waits."""
    done = threading.Event()

    def tell() -> None:
        seconds = 2
        patience = 2
        while not done.wait(patience):
            print(f"\r{what}: {seconds} s", end="", file=sys.stderr, flush=True)
            seconds += 1
            patience = 1

    if not sys.stderr.isatty():
        yield
        return
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        print("\r\033[K", end="", file=sys.stderr, flush=True)


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


def print_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    empty: str,
    output: TextIO | None = None,
) -> None:
    """Prints rows as aligned columns under headings (`columns` maps keys to them), or `empty`."""
    if not rows:
        print(empty, file=output)
        return
    from tabulate import tabulate

    cells = [[_cell(row[key]) for key in columns] for row in rows]
    table = tabulate(cells, list(columns.values()), tablefmt="plain", disable_numparse=True)
    print(table, file=output)


def progress(items: Iterable[Item], what: str) -> Iterator[Item]:
    """Passes items on. Where standard output is a file or pipe, a person at a terminal sees on
    standard error how many there were, once a second."""
    shows = sys.stderr.isatty() and not sys.stdout.isatty()
    shown_at = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if shows and time.monotonic() > shown_at + 1:
            shown_at = time.monotonic()
            print(f"\r{count:,} {what}", end="", file=sys.stderr, flush=True)
    if shows:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


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
