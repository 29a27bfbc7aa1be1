"""`ciris-billing verify`: does every account's ledger agree with its balance?"""

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
    if options.json:
        print_json({"problems": problems})
    else:
        headings = {
            "account_id": "ACCOUNT",
            "problem": "PROBLEM",
            "expected": "EXPECTED",
            "found": "FOUND",
        }
        print_table(problems, headings, "The books agree.")
    return 1 if problems else 0
