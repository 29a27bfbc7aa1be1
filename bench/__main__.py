"""`make bench`: how fast the service is beside the least that does the same job and beside what its
database does alone, in one run on one cluster, durable commits on all sides.

    python -m bench [--only NAME,...] [--quick]     the scenarios
    python -m bench growth                          a new database beside one of a year
    python -m bench soak [--minutes 10]             does it stay as it is?
    python -m bench report [FILE...]                docs/performance.md and its chart from results

It is a benchmark, not a test: it fails when something is answered wrongly or the books do not
agree, never because it was slow. Compare the ratios, not the numbers: machines differ and are
shared. docs/performance.md says what is measured how."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import psycopg

from bench import report, thin
from bench.cluster import (
    charge_once,
    durable_cluster,
    filled,
    machine,
    settings,
    stage,
    wrong_books,
)
from bench.data import Contents
from bench.growth import growth
from bench.growth import rounds_of as growth_rounds
from bench.load import MissingProgram, want_programs
from bench.rounds import Progress, Result, take
from bench.scenarios import LOADS, SCENARIOS, NotRun
from bench.soak import rounds_of as soak_samples
from bench.soak import soak

# Exceptions that a scenario may raise when the server or the database fails under its load.
FAULTS = (OSError, RuntimeError, subprocess.SubprocessError, psycopg.Error, asyncpg.PostgresError)
RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"


def main(arguments: list[str] | None = None) -> int:
    """Runs one of the commands; 1 when an answer was wrong or the books do not agree."""
    options = _parser().parse_args(_with_command(sys.argv[1:] if arguments is None else arguments))
    if options.command == "report":
        files = options.files or report.newest(RESULTS)
        if not files:
            print(f"there are no results in {RESULTS}: make bench", file=sys.stderr)
            return 1
        report.write(files, options.docs)
        return 0
    try:
        want_programs()
    except MissingProgram as missing:
        print(missing, file=sys.stderr)
        return 1
    _prepare_process()
    if getattr(options, "quick", False):
        options.rounds, options.seconds = 2, 1
    begun = datetime.now(UTC)
    document: dict[str, Any] = {
        "command": options.command,
        "begun": begun.isoformat(timespec="seconds"),
        "machine": machine(),
        "options": {name: value for name, value in vars(options).items() if name != "output"},
    }
    total = {"run": _rounds, "growth": growth_rounds, "soak": soak_samples}[options.command]
    progress = Progress(total(options))
    try:
        document |= {"run": run, "growth": growth, "soak": soak}[options.command](options, progress)
    finally:
        progress.close()
    document["results"] = [asdict(result) for result in document["results"]]
    output = options.output or RESULTS / f"{options.command}-{begun:%Y%m%d-%H%M%S}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=2) + "\n")
    print(report.text([document]))
    print(f"written: {output}")
    return 1 if report.failures(document) else 0


def run(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Returns the results: every chosen scenario at one database."""
    results: list[Result] = []
    not_run: dict[str, str] = {}
    failed = 0
    with durable_cluster() as cluster, contextlib.ExitStack() as stack:
        shown = settings(cluster)
        contents = Contents(options.accounts, options.charges)
        database = stack.enter_context(filled(cluster, contents, progress.say))
        thin.make(database, contents)
        charge_once(database, options.accounts, "replay-")
        with stage(cluster, database, options.accounts, "replay-", workers=options.workers) as at:
            chosen = at
            if options.wrong_key:
                key = replace(at.service.key, secret="cbk_test_" + "0" * 43)
                chosen = replace(at, service=replace(at.service, key=key))
            for name in options.only:
                database.execute("CHECKPOINT")  # so that no scenario pays for what another wrote
                try:
                    with SCENARIOS[name](chosen) as loads:
                        results += take(name, loads, options.rounds, options.seconds, progress)
                except NotRun as reason:
                    not_run[name] = str(reason)
                # The other scenarios go on, because a run takes half an hour.
                except FAULTS as fault:
                    not_run[name] = f"failed: {fault}"
                    failed += 1
        progress.say("verifying the books")
        wrong = wrong_books(database) + thin.wrong_books(database)
    return {
        "results": results,
        "not_run": not_run,
        "failed": failed,
        "settings": shown,
        "wrong_books": wrong,
    }


def _rounds(options: argparse.Namespace) -> int:
    return sum(LOADS[name] for name in options.only) * (options.rounds + 1)


def _with_command(arguments: list[str]) -> list[str]:
    """Adds the command `run` where no command is named."""
    if arguments and (arguments[0] in ("run", "growth", "soak", "report", "-h", "--help")):
        return arguments
    return ["run", *arguments]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    made = {name: commands.add_parser(name) for name in ("run", "growth", "soak")}
    for command in made.values():
        command.add_argument("--workers", type=int, default=os.cpu_count() or 1)
        command.add_argument("--output", type=Path, help="where the results go")
    for name in ("run", "growth"):
        made[name].add_argument("--rounds", type=int, default=5)
        made[name].add_argument("--seconds", type=int, default=8, help="length of a round")
        made[name].add_argument("--quick", action="store_true", help="2 rounds of a second")
    for name in ("run", "soak"):
        made[name].add_argument("--accounts", type=int, default=10_000)
        made[name].add_argument("--charges", type=int, default=50, help="made before, an account")
    made["run"].add_argument(
        "--only", type=_names, default=list(SCENARIOS), help=", ".join(SCENARIOS)
    )
    made["run"].add_argument(
        "--wrong-key", action="store_true", help="tries the benchmark itself: every answer is wrong"
    )
    made["growth"].add_argument("--accounts", type=int, default=1_000_000)
    made["growth"].add_argument("--ledger", type=int, default=10_000_000, help="ledger rows")
    made["growth"].add_argument("--small-accounts", type=int, default=1_000)
    made["growth"].add_argument("--shared-buffers", default="512MB", help="PostgreSQL's buffers")
    made["soak"].add_argument("--minutes", type=float, default=10)
    made["soak"].add_argument("--every", type=int, default=15, help="seconds of a sample")
    written = commands.add_parser("report")
    written.add_argument("files", nargs="*", type=Path, help="by default the newest of each kind")
    written.add_argument("--docs", type=Path, default=DOCS, help="the folder of performance.md")
    return parser


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"choose from {', '.join(SCENARIOS)}")
    return names


def _prepare_process() -> None:
    """Allows 1,000 open files for this process and all programs it starts, and ends on SIGTERM as
    on Ctrl-C, so that nothing is left running."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


if __name__ == "__main__":
    sys.exit(main())
