"""`ciris-billing seal`: seals days that are over, writes their heads to files, and compares the
books with such files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from server.cli.database import call_function
from server.cli.output import CommandFailed, print_json
from server.cli.verify import print_problems, verify_all

_HEAD = ("day", "head", "seals", "entries", "closed_at")
_LEAF_DIGITS = 16


def add_parser(commands: Any) -> None:
    """Adds the command with its three actions."""
    parser = commands.add_parser(
        "seal",
        help="seal days that are over; export their heads, check the books against them",
        description="The servers seal by themselves. A head that is kept where nobody can change it"
        " proves the ledger of its day and of all days before (docs/proof.md).",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    run = actions.add_parser("run", help="seal now whatever can be sealed, without pauses")
    run.set_defaults(run=_seal)
    export = actions.add_parser("export", help="write the heads of sealed days")
    export.add_argument(
        "folder",
        nargs="?",
        type=Path,
        metavar="FOLDER",
        help="write a file for each day that has none there yet; without it, print all heads",
    )
    export.add_argument(
        "--rows", action="store_true", help="write the day's seals, too: they name a changed entry"
    )
    export.set_defaults(run=_export)
    check = actions.add_parser(
        "check", help="compare the books with exported heads (exit 1: they differ)"
    )
    check.add_argument("paths", nargs="+", type=Path, metavar="FILE", help="a file, or a folder")
    check.add_argument("--heads-only", action="store_true", help="do not verify the books, too")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=_check)


def _seal(options: argparse.Namespace) -> int:
    del options
    entries = 0
    while rows := call_function("SELECT * FROM billing.seal_entries(p_entries => 20000)"):
        [row] = rows
        if row["head"] is None:
            entries += row["entries"]
        else:
            print(f"{row['day']} {row['head']} ({row['entries']} entries)")
    print(f"Sealed {entries} entries. Nothing is left to seal.", file=sys.stderr)
    return 0


def _export(options: argparse.Namespace) -> int:
    heads = call_function("SELECT * FROM billing.list_seal_heads()")
    if options.folder is None:
        for head in heads:
            sys.stdout.writelines(_lines(head, rows=options.rows))
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    written = [head for head in heads if _write(options.folder, head, rows=options.rows)]
    print(f"Wrote {len(written)} of {len(heads)} days to {options.folder}.", file=sys.stderr)
    return 0


def _write(folder: Path, head: Mapping[str, Any], *, rows: bool) -> bool:
    """Writes a day's file unless there is one, which must then have the same head."""
    path = folder / f"seal-{head['day']}.jsonl"
    if path.exists():
        kept = next(_read(path))
        if kept["head"] != head["head"]:
            raise CommandFailed(
                f"{path} has another head than the database: run `ciris-billing seal check`"
            )
        return False
    # It appears under its name only when it is complete, and never replaces another one.
    part = folder / f".seal-{head['day']}.part"
    with part.open("w", encoding="utf-8") as file:
        file.writelines(_lines(head, rows=rows))
    try:
        path.hardlink_to(part)
    except FileExistsError:
        raise CommandFailed(f"{path} appeared meanwhile: another export runs") from None
    finally:
        part.unlink()
    return True


def _lines(head: Mapping[str, Any], *, rows: bool) -> Iterator[str]:
    yield json.dumps({name: head[name] for name in _HEAD}, default=str) + "\n"
    if rows:
        for seal in call_function(
            "SELECT * FROM billing.list_seals(p_day => %(day)s)", day=head["day"]
        ):
            yield json.dumps({"seal_of": str(head["day"])} | seal, default=str) + "\n"


def _read(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if not isinstance(row, dict) or not ("head" in row or "seal_of" in row):
                    raise ValueError
                yield row
    except (OSError, ValueError):
        raise CommandFailed(f"{path} cannot be read as an export of seals") from None


def _check(options: argparse.Namespace) -> int:
    problems: list[dict[str, Any]] = []
    days = 0
    heads = {
        str(row["day"]): row["head"] for row in call_function(
            "SELECT * FROM billing.list_seal_heads()"
        )
    }  # fmt: skip
    for path in _files(options.paths):
        seals: dict[str, list[dict[str, Any]]] = {}
        for row in _read(path):
            if "head" in row:
                days += 1
                problems += _compare_head(row, heads.get(row["day"]))
            else:
                seals.setdefault(row["seal_of"], []).append(row)
        for day, kept in seals.items():
            problems += _compare_seals(day, kept)
    if not options.heads_only:
        print(verify_all(restart=True, jobs=1), file=sys.stderr)
        problems += call_function("SELECT * FROM billing.list_book_problems()")
    if options.json:
        print_json({"days": days, "problems": problems})
    else:
        print_problems(problems)
    print(f"Compared with the exported heads of {days} days.", file=sys.stderr)
    return 1 if problems else 0


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.glob("seal-*.jsonl"))
        else:
            yield path


def _problem(account_id: Any, problem: str, expected: Any, found: Any) -> dict[str, Any]:
    return {"account_id": account_id, "problem": problem, "expected": expected, "found": found}


def _compare_head(kept: Mapping[str, Any], head: str | None) -> list[dict[str, Any]]:
    if kept["head"] == head:
        return []
    what = f"the head of {kept['day']} is not the one that was exported"
    return [_problem(None, what, kept["head"], head or "none")]


def _compare_seals(day: str, kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first entry of each account whose seal differs from the one that was exported."""
    present = {
        (str(row["account_id"]), row["last_version"]): row
        for row in call_function("SELECT * FROM billing.list_seals(p_day => %(day)s)", day=day)
    }
    problems: dict[str, dict[str, Any]] = {}
    for seal in kept:
        account = seal["account_id"]
        found = present.pop((account, seal["last_version"]), None)
        if account in problems or (found and found["digest"] == seal["digest"]):
            continue
        what = (
            f"entries {seal['first_version']} to {seal['last_version']} of {day} are not sealed"
            " as they were exported"
        )
        expected, other = seal["digest"], found["digest"] if found else "none"
        if found:
            for place in range(seal["last_version"] - seal["first_version"] + 1):
                part = slice(place * _LEAF_DIGITS, (place + 1) * _LEAF_DIGITS)
                expected_leaf, leaf = seal["leaves"][part], found["leaves"][part]
                if expected_leaf != leaf:
                    version = seal["first_version"] + place
                    what = f"entry {version} of {day} is not as it was exported"
                    expected, other = f"leaf {expected_leaf}", f"leaf {leaf}"
                    break
        problems[account] = _problem(account, what, expected, other)
    for (account, last_version), seal in present.items():
        if account not in problems:
            what = f"entries up to {last_version} of {day} were sealed after it was exported"
            problems[account] = _problem(account, what, "none", seal["digest"])
    return list(problems.values())
