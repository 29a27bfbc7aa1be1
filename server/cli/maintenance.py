"""`ciris-billing maintenance`: the regular work of keeping the database in order, for cron."""

from __future__ import annotations

import argparse
from typing import Any

from server.cli.database import call_function
from server.cli.output import print_json, print_table


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "maintenance", help="partitions, retention, figures, watch: once a day (exit 1: one failed)"
    )
    parser.add_argument(
        "--keep-months",
        type=int,
        default=13,
        metavar="N",
        help="how long checks and refused charges are kept (default: 13; 0: for ever)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    steps = call_function(
        "SELECT * FROM billing.maintenance(p_keep => make_interval(months => %(months)s))",
        months=options.keep_months or None,
    )
    if options.json:
        print_json(steps)
    else:
        headings = {"step": "STEP", "outcome": "OUTCOME", "took": "TOOK", "detail": "DETAIL"}
        print_table(steps, headings, "Nothing to do.")
    return 1 if any(step["outcome"] == "failed" for step in steps) else 0
