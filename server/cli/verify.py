"""`ciris-billing verify`: checks whether every account's ledger agrees with its balance, and
whether what was sealed is as it was sealed."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

from server.cli.database import call_function
from server.cli.output import print_json, print_table


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "verify",
        help="check every account's ledger against its balance (exit 1: they differ)",
        description="Goes through all accounts in ranges. It can be stopped, and the next call goes"
        " on where it was, for a day. What it found is kept: `SELECT * FROM"
        " billing.list_book_problems();`",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--account", metavar="ID", help="check only this account")
    parser.add_argument(
        "--restart", action="store_true", help="begin anew, though the last run is not finished"
    )
    parser.add_argument(
        "--jobs", type=_jobs, default=1, metavar="N", help="connections side by side (default 1)"
    )
    parser.set_defaults(run=_run)


def _jobs(text: str) -> int:
    jobs = int(text)
    if not 1 <= jobs <= 64:
        raise argparse.ArgumentTypeError("must be 1 to 64")
    return jobs


def _run(options: argparse.Namespace) -> int:
    if options.account:
        problems = call_function(
            "SELECT * FROM billing.verify_ledger(p_account_id => %(id)s::uuid)", id=options.account
        )
        checked, openings = "", []
    else:
        checked = verify_all(restart=options.restart, jobs=options.jobs)
        problems = call_function("SELECT * FROM billing.list_book_problems()")
        openings = call_function("SELECT * FROM billing.describe_openings()")
    if options.json:
        # Only a database that was taken over has openings.
        print_json({"problems": problems} | ({"openings": openings} if openings else {}))
    else:
        print_problems(problems)
        for opening in openings:
            print(
                f"Only counted: {opening['entries']} entries of the old service on"
                f" {opening['accounts']} accounts, before their books begin"
                f" ({_REASONS.get(opening['reason'], 'opened otherwise')})."
            )
    if checked:
        print(checked, file=sys.stderr if options.json else sys.stdout)
    return 1 if problems else 0


def print_problems(problems: list[dict[str, Any]]) -> None:
    """Prints what is wrong with the books, or that nothing is."""
    headings = {
        "account_id": "ACCOUNT",
        "problem": "PROBLEM",
        "expected": "EXPECTED",
        "found": "FOUND",
    }
    print_table(problems, headings, "The books agree.")


def verify_all(*, restart: bool, jobs: int) -> str:
    """Verifies all ranges that are left of the newest run, or all of a new one, with progress on
    standard error. Returns what was checked, in words."""
    from tqdm import tqdm

    [run] = call_function(
        "SELECT * FROM billing.begin_verification(p_restart => %(restart)s)", restart=restart
    )
    if run["ranges_done"]:
        began = run["started_at"].isoformat(sep=" ", timespec="seconds")
        print(
            f"Going on with the run of {began}: {run['ranges_done']} of {run['ranges']} ranges"
            " were done.",
            file=sys.stderr,
        )
    bar = tqdm(
        desc="verifying",
        unit="range",
        total=run["ranges"],
        initial=run["ranges_done"],
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
    )
    lock = Lock()

    def work() -> None:
        while rows := call_function("SELECT * FROM billing.continue_verification()"):
            with lock:
                bar.set_postfix_str(f"{rows[0]['entries']} entries", refresh=False)
                bar.update()

    try:
        with ThreadPoolExecutor(jobs) as pool:
            for done in [pool.submit(work) for _ in range(jobs)]:
                done.result()
    finally:
        bar.close()
    [proof] = call_function("SELECT * FROM billing.get_proof()")
    checked = (
        f"Checked: {proof['accounts_verified']} accounts, {proof['entries_verified']} entries;"
        f" sealed: {proof['entries_sealed'] or 0} entries"
        + (f", up to {proof['sealed_through']}" if proof["sealed_through"] else "")
        + "."
    )
    if proof["verified_at"] is None:
        checked += " Another session is still verifying the rest."
    return checked


_REASONS = {
    "agrees": "they led to the balance that was taken over",
    "other_balance": "they ended at another balance",
    "no_chain": "they do not continue each other",
    "no_entries": "nothing explains what was taken over",
}
