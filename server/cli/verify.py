"""`ciris-billing verify`: checks whether every account's ledger agrees with its balance."""

from __future__ import annotations

import argparse
from typing import Any

from server.cli.database import call_function
from server.cli.output import print_json, print_table


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "verify", help="check every account's ledger against its balance (exit 1: they differ)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    problems = call_function("SELECT * FROM billing.verify_ledger()")
    openings = call_function("SELECT * FROM billing.describe_openings()")
    if options.json:
        # Only a database that was taken over has openings.
        print_json({"problems": problems} | ({"openings": openings} if openings else {}))
    else:
        headings = {
            "account_id": "ACCOUNT",
            "problem": "PROBLEM",
            "expected": "EXPECTED",
            "found": "FOUND",
        }
        print_table(problems, headings, "The books agree.")
        for opening in openings:
            print(
                f"Only counted: {opening['entries']} entries of the old service on"
                f" {opening['accounts']} accounts, before their books begin"
                f" ({_REASONS.get(opening['reason'], 'opened otherwise')})."
            )
    return 1 if problems else 0


_REASONS = {
    "agrees": "they led to the balance that was taken over",
    "other_balance": "they ended at another balance",
    "no_chain": "they do not continue each other",
    "no_entries": "nothing explains what was taken over",
}
