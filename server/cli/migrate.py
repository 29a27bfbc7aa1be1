"""`ciris-billing migrate`: brings the database to this release."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from server.cli.output import CommandFailed, print_json, print_table
from server.config import load_migration_config

if TYPE_CHECKING:
    from server.migrate import OpenDoor, Progress


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "migrate",
        help="apply migrations and load the functions",
        description="Connects by MIGRATION_DATABASE_URL, else DATABASE_URL: a login that owns the"
        " database. Running it again changes nothing.",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--status", action="store_true", help="list the steps, change nothing")
    action.add_argument(
        "--rollback", type=_positive, metavar="N", help="undo the newest N steps (needs --yes)"
    )
    action.add_argument(
        "--adopt",
        action="store_true",
        help="take over a database of the old service (docs/adopting.md)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="with --adopt: say what it would find and leave and how long it would take, change"
        " nothing",
    )
    parser.add_argument(
        "--idle-login",
        action="append",
        metavar="LOGIN",
        default=[],
        help="with --adopt: sessions of this login are none of the old service's and may stay open"
        " while they are idle; may be given more than once",
    )
    parser.add_argument("--yes", action="store_true", help="yes, undo steps and lose their data")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _run(options: argparse.Namespace) -> int:
    url, seed = load_migration_config(os.environ)
    for sentence in seed.old_names:
        print(f"ciris-billing: {sentence}", file=sys.stderr)
    _require_adopt(options)
    from server import migrate as migrations

    try:
        if options.adopt:
            from server.cli.adopt import take_over

            return take_over(
                url, seed, options.idle_login, dry_run=options.dry_run, as_json=options.json
            )
        if options.status:
            return _print_status(url, as_json=options.json)
        if options.rollback:
            if not options.yes:
                raise CommandFailed(
                    "rolling back drops what the steps added, data included: add --yes to go on"
                )
            report = migrations.rollback(url, options.rollback, _progress(options))
        else:
            report = migrations.migrate(url, seed, _progress(options))
    except migrations.MigrationError as error:
        raise CommandFailed(str(error)) from error
    if options.json:
        print_json(
            {
                "applied": report.applied,
                "rolled_back": report.rolled_back,
                "dropped_definitions": report.dropped_definitions,
                "settings_seeded": report.seeded,
                "kept_settings": [asdict(setting) for setting in report.kept_settings],
                "open_doors": [asdict(door) for door in report.open_doors],
            }
        )
    elif options.rollback:
        print(f"Rolled back {len(report.rolled_back)} steps.")
    else:
        print(
            f"The database is at {migrations.latest_step()}; {len(report.applied)} steps applied."
        )
        for setting in report.kept_settings:
            print(
                f"{setting.name} is {setting.given}, and the database has {setting.kept}: the"
                f" environment counts on the first deploy only. To change it: {setting.change}.",
                file=sys.stderr,
            )
        _print_doors(report.open_doors)
    return 0


def _require_adopt(options: argparse.Namespace) -> None:
    for option, given in (("--dry-run", options.dry_run), ("--idle-login", options.idle_login)):
        if given and not options.adopt:
            raise CommandFailed(f"{option} goes with --adopt")


def _progress(options: argparse.Namespace) -> Progress:
    if options.json:
        return lambda _: None
    return lambda text: print(text, file=sys.stderr)


def _print_doors(doors: list[OpenDoor]) -> None:
    """Prints what this login could not close, for somebody who can (docs/dba.md)."""
    for door in doors:
        print(f"open: {door.door}. A superuser closes it: {door.mend};", file=sys.stderr)


def _print_status(url: str, *, as_json: bool) -> int:
    from server import migrate as migrations

    steps = [{"step": step.step, "applied": step.applied} for step in migrations.status(url)]
    pending = sum(not step["applied"] for step in steps)
    doors = migrations.open_doors(url)
    if as_json:
        print_json(
            {"steps": steps, "pending": pending, "open_doors": [asdict(door) for door in doors]}
        )
    else:
        print_table(steps, {"step": "STEP", "applied": "APPLIED"}, "")
        print(f"{pending} pending" if pending else "up to date")
        _print_doors(doors)
    return 0
