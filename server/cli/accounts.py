"""`ciris-billing accounts grant`: credits for one account, or for many by a list in CSV."""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from server.cli import account_acts, account_books
from server.cli.database import call_function
from server.cli.output import CommandFailed, print_result
from server.cli.parser import idempotency_key

_LINES_IN_A_CALL = 1000
_NAMES = ("account_id", "oauth_provider", "external_id")
_FIELDS = (*_NAMES, "amount", "expires_at")
_COLUMNS = ("line", "account", "outcome", "credit_id", "amount_minor", "balance")
_PASSING = re.compile(r"SQLSTATE (55P03|40\w+)\b")
_WELL = ("granted", "replayed", "would_grant")


def add_parser(commands: Any) -> None:
    """Adds the command and its sub-commands."""
    parser = commands.add_parser(
        "accounts", help="find, read and correct accounts; statements; credits for one or many"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    account_acts.add_actions(actions)
    account_books.add_actions(actions)
    grant = actions.add_parser(
        "grant",
        help="give credits to an account, or by a list in CSV, which grants nothing twice",
        usage="%(prog)s [-h] (ACCOUNT AMOUNT | --file FILE) --reason REASON [options]",
        description="Gives credits to one account: `grant ada@example.com 5 --reason goodwill`;"
        " with --key, the same call again grants nothing. Or gives credits by a list in CSV, a"
        " thousand lines at a time. Its first line names the columns: account_id, or"
        " oauth_provider and external_id; and amount. A bad line does not stop the others; the"
        " result, in CSV, has the outcome of each (exit 1: some were not granted). What was granted"
        " under a key prefix before is not granted again, also if the list was corrected meanwhile"
        " or an earlier run was cut off.",
    )
    grant.add_argument("account", metavar="ACCOUNT", nargs="?", help=account_acts.ACCOUNT_HELP)
    grant.add_argument("amount", metavar="AMOUNT", nargs="?", type=int, help="credits")
    grant.add_argument(
        "--key", type=idempotency_key, help="an idempotency key for the grant to one account"
    )
    grant.add_argument("--json", action="store_true", help="print JSON, for one account")
    grant.add_argument("--file", help="the list; - for standard input")
    grant.add_argument("--reason", required=True, help="why, for the ledger and the audit log")
    grant.add_argument(
        "--key-prefix", metavar="TEXT", help="what this round of grants is called (the file's name)"
    )
    grant.add_argument("--dry-run", action="store_true", help="say what would be granted")
    grant.add_argument("--output", metavar="FILE", help="where the result goes (standard output)")
    grant.set_defaults(run=_grant)


def _grant(options: argparse.Namespace) -> int:
    of_list = (options.file, options.key_prefix, options.output)
    of_one = (options.account, options.amount, options.key)
    if options.file and not any(of_one) and not options.json:
        return _grant_list(options)
    if options.account and options.amount is not None and not any(of_list):
        return _grant_one(options)
    raise CommandFailed("give an account and an amount, or a list with --file, and not both")


def _grant_one(options: argparse.Namespace) -> int:
    if options.amount < 1:
        raise CommandFailed("amount: it must be 1 or more")
    [row] = call_function(
        "SELECT * FROM billing.adjust_credits(p_account_id => billing.find_account(%(account)s),"
        " p_amount => %(amount)s, p_reason => %(reason)s, p_idempotency_key => %(key)s,"
        " p_dry_run => %(dry)s)",
        account=options.account,
        amount=options.amount,
        reason=options.reason,
        key=options.key,
        dry=options.dry_run,
    )
    what = f"{row['amount_minor']:,} credit{'' if row['amount_minor'] == 1 else 's'}"
    before, after = f"{row['balance_before']:,}", f"{row['balance_after']:,}"
    if row["replayed"]:
        words = f"This was done before, and was not done again: {what} granted."
    elif options.dry_run:
        words = f"Nothing was changed. The balance is {before} and would be {after}."
    else:
        words = f"{what} granted. The balance was {before} and is {after} now."
    print_result(row, words, as_json=options.json)
    return 0


def _grant_list(options: argparse.Namespace) -> int:
    prefix = options.key_prefix or Path(options.file).stem
    if not prefix or prefix == "-":
        raise CommandFailed("a list from standard input needs --key-prefix")
    counts: Counter[str] = Counter()
    try:
        with (
            _opened(options.file, sys.stdin, "r") as source,
            _opened(options.output, sys.stdout, "w") as target,
        ):
            result = csv.writer(target, lineterminator="\n")
            result.writerow(_COLUMNS)
            for rows in _granted(_chunks(source), options.reason, prefix, dry=options.dry_run):
                for row in rows:
                    counts[row["outcome"]] += 1
                    result.writerow([row[column] for column in _COLUMNS])
                target.flush()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CommandFailed(f"{options.file}: {error}") from None
    told = ", ".join(f"{number} {outcome}" for outcome, number in counts.most_common())
    print(f"{sum(counts.values())} lines under the key prefix {prefix!r}: {told}", file=sys.stderr)
    return 0 if all(outcome in _WELL for outcome in counts) else 1


def _opened(name: str | None, standard: TextIO, mode: str) -> Any:
    if name in (None, "-"):
        return nullcontext(standard)
    return open(name, mode, encoding="utf-8-sig" if mode == "r" else "utf-8", newline="")


def _chunks(source: TextIO) -> Iterator[tuple[str, int]]:
    """The list in parts, each with columns of its own that number the lines of the whole, and the
    lines of an account in the whole; and how many lines each has."""
    reader = csv.DictReader(source)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    if "amount" not in reader.fieldnames or not {"account_id", "external_id"} & {
        *reader.fieldnames
    }:
        raise CommandFailed(
            "the first line must name the columns account_id, or oauth_provider and external_id;"
            " and amount"
        )
    seen: Counter[tuple[str, ...]] = Counter()
    lines = iter(reader)
    while part := [(reader.line_num, row) for row in islice(lines, _LINES_IN_A_CALL)]:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("line", *_FIELDS, "key"))
        for line, row in part:
            # A line end within a field would be two lines for the database.
            fields = [" ".join((row.get(name) or "").split()) for name in _FIELDS]
            extra = ["?"] if None in row else []  # too many fields: the line counts as invalid
            seen[tuple(fields[:3])] += 1
            writer.writerow((line, *fields, seen[tuple(fields[:3])], *extra))
        yield text.getvalue(), len(part)


def _granted(
    chunks: Iterator[tuple[str, int]], reason: str, prefix: str, *, dry: bool
) -> Iterator[list[dict[str, Any]]]:
    from tqdm import tqdm

    bar = tqdm(
        desc="granting", unit=" lines", file=sys.stderr, delay=2, disable=not sys.stderr.isatty()
    )
    with bar:
        for text, count in chunks:
            yield _call(text, reason, prefix, dry=dry)
            bar.update(count)


def _call(text: str, reason: str, prefix: str, *, dry: bool) -> list[dict[str, Any]]:
    """Grants the lines of one part. The call is made again while an account is held, or when one
    was merged at this moment. In both cases it had no effect, so nothing is granted twice."""
    for patience in (1, 2, 4, None):
        try:
            return call_function(
                "SELECT * FROM billing.grant_credits(p_csv => %(csv)s, p_reason => %(reason)s,"
                " p_key_prefix => %(prefix)s, p_dry_run => %(dry)s)",
                csv=text,
                reason=reason,
                prefix=prefix,
                dry=dry,
            )
        except CommandFailed as failure:
            if patience is None or not _PASSING.search(str(failure)):
                raise
            time.sleep(patience)
    raise AssertionError  # the last attempt returns or raises
