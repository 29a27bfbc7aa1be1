"""`ciris-billing accounts statement|balance|top`: an account's statement of a period, its balance
at a time, and who used most."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TextIO

from server.cli.account_acts import ACCOUNT_HELP
from server.cli.database import call_function, stream_function
from server.cli.output import CommandFailed, on_one_line, print_json, print_table, progress
from server.csv_text import csv_lines
from server.timeline_words import origin_told

_STATEMENT = (
    "SELECT s.*, o.origin FROM billing.find_account(%(account)s) AS a (id)"
    " CROSS JOIN LATERAL billing.statement("
    "p_account_id => a.id, p_from => %(from)s, p_to => %(to)s) WITH ORDINALITY AS s"
    " LEFT JOIN LATERAL billing.list_origins(p_account_id => a.id) AS o"
    " ON o.transaction_id = s.transaction_id"
    " ORDER BY s.ordinality"
)
_HEADINGS = {
    "at": "WHEN",
    "what": "WHAT",
    "credits_change": "CREDITS",
    "balance_after": "BALANCE",
    "free_uses_change": "FREE",
    "free_uses_after": "LEFT",
    "writer": "WRITER",
    "reason": "REASON",
}


def add_actions(actions: Any) -> None:
    """Adds the sub-commands."""
    statement = actions.add_parser(
        "statement",
        help="opening, every entry and closing of a period",
        description="Days are UTC days. The period is half open: --to is not included.",
    )
    statement.add_argument("account", metavar="ACCOUNT", help=ACCOUNT_HELP)
    _add_period(statement)
    statement.add_argument(
        "--format", choices=("table", "csv", "json"), default="table", help="(default: table)"
    )
    statement.add_argument("--output", metavar="FILE", help="write to this file")
    statement.set_defaults(run=_statement)

    balance = actions.add_parser("balance", help="what an account had at a time")
    balance.add_argument("account", metavar="ACCOUNT", help=ACCOUNT_HELP)
    balance.add_argument("--at", type=_time, metavar="TIME", help="a UTC day or time (now)")
    balance.set_defaults(run=_balance)

    top = actions.add_parser("top", help="who used most in a period")
    _add_period(top)
    top.add_argument("--sort", choices=("uses", "credits"), default="uses")
    top.add_argument("--limit", type=int, default=20, metavar="N", help="1 to 1000")
    top.set_defaults(run=_top)

    for action in (balance, top):
        action.add_argument("--json", action="store_true", help="print JSON")


def _add_period(parser: argparse.ArgumentParser) -> None:
    kind = _time if parser.prog.endswith("statement") else _day
    parser.add_argument(
        "--from", dest="first", type=kind, metavar="DAY", help="the first day (this month's)"
    )
    parser.add_argument(
        "--to",
        dest="beyond",
        type=kind,
        metavar="DAY",
        help="the day after the last (a month after --from)",
    )


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day: give one as 2026-11-01") from None


def _time(text: str) -> datetime:
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no day or time: give one as 2026-11-01 or 2026-11-01T12:00Z"
        ) from None
    return given.replace(tzinfo=UTC) if given.tzinfo is None else given


def _statement(options: argparse.Namespace) -> int:
    with ExitStack() as stack:
        rows = stack.enter_context(
            stream_function(
                _STATEMENT,
                **{"account": options.account, "from": options.first, "to": options.beyond},
            )
        )
        output = sys.stdout
        if options.output:
            output = stack.enter_context(_created(options.output))
        write = {"csv": _write_csv, "json": _write_json, "table": _write_table}[options.format]
        count = write(output, progress(map(_in_words, rows), "rows"))
    if options.output:
        print(f"{count} rows written to {options.output}", file=sys.stderr)
    return 0


def _in_words(row: dict[str, Any]) -> dict[str, Any]:
    """The row with words for where it comes from, as the console has them."""
    origin = row["origin"]
    del row["ordinality"]
    return {**row, "origin": origin_told(origin, row["credits_change"]) if origin else None}


def _created(name: str) -> TextIO:
    try:
        return Path(name).open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise CommandFailed(f"cannot write {name}: {error.strerror}") from None


def _write_csv(output: TextIO, rows: Iterator[dict[str, Any]]) -> int:
    count = 0
    for count, row in enumerate(rows, 1):
        lines: list[Sequence[Any]] = [list(row.values())]
        if count == 1:
            lines.insert(0, list(row))
        output.write(csv_lines(lines).decode())
    return count


def _write_json(output: TextIO, rows: Iterator[dict[str, Any]]) -> int:
    import orjson

    count = 0
    for count, row in enumerate(rows, 1):
        output.write("[\n" if count == 1 else ",\n")
        output.write(orjson.dumps(row, default=str, option=orjson.OPT_UTC_Z).decode())
    output.write("\n]\n")
    return count


def _write_table(output: TextIO, rows: Iterator[dict[str, Any]]) -> int:
    shown = [
        {
            **row,
            "at": row["at"] and row["at"].astimezone(UTC),
            "what": on_one_line(row["origin"] or "")
            or row["transaction_type"]
            or row["paid_with"]
            or row["kind"],
            "reason": on_one_line(row["reason"] or ""),
        }
        for row in rows
    ]
    print_table(shown, _HEADINGS, "", output)
    return len(shown)


def _balance(options: argparse.Namespace) -> int:
    [row] = call_function(
        "SELECT * FROM billing.balance_at(p_account_id => billing.find_account(%(account)s),"
        " p_at => %(at)s)",
        account=options.account,
        at=options.at or datetime.now(UTC),
    )
    if options.json:
        print_json(row)
        return 0
    at = row["at"].astimezone(UTC).isoformat(sep=" ", timespec="seconds")
    if row["state"] == "known":
        print(f"{row['paid_credits']} paid credits and {row['free_uses']} free uses at {at}")
        if row["transaction_id"]:
            since = row["created_at"].astimezone(UTC).isoformat(sep=" ", timespec="seconds")
            print(
                f"since {since}: {row['type']} {row['transaction_id']} by {row['writer']}:"
                f" {on_one_line(row['reason'])}"
            )
    else:
        print(f"{_STATES[row['state']]} at {at}")
    return 0


_STATES = {
    "before_account": "The account did not exist yet",
    "before_books": "The old service kept this account, in another unit,",
}


def _top(options: argparse.Namespace) -> int:
    rows = call_function(
        "SELECT * FROM billing.list_top_consumers(p_from => %(from)s, p_to => %(to)s,"
        " p_sort => %(sort)s, p_limit => %(limit)s)",
        **{
            "from": options.first,
            "to": options.beyond,
            "sort": options.sort,
            "limit": options.limit,
        },
    )
    if options.json:
        print_json(rows)
        return 0
    headings = {
        "place": "",
        "account_id": "ACCOUNT",
        "oauth_provider": "PROVIDER",
        "external_id": "EXTERNAL ID",
        "charges": "CHARGES",
        "free_charges": "FREE",
        "credits_used": "CREDITS",
    }
    print_table(rows, headings, "Nobody was charged in this period.")
    return 0
