"""Compares the schema with its committed dump."""

from __future__ import annotations

import difflib
import re
import subprocess
from pathlib import Path

from server.embedded import find_binaries
from tests.support import Database

GOLDEN = Path(__file__).with_name("golden_schema.sql")


_HEADING = (
    "-- The schema after all migrations, function bodies, grants and comments left out.\n"
    "-- Written by GOLDEN_UPDATE=1 pytest tests/sql/test_golden_schema.py; not for running.\n"
)


def dump(database: Database) -> str:
    """pg_dump's output for both schemas, without what depends on its version or on the month."""
    text = subprocess.run(
        [
            find_binaries(18) / "pg_dump",
            "--schema-only",
            "--no-owner",
            "--no-privileges",
            "--no-comments",
            "--schema=billing",
            "--schema=billing_data",
            "--exclude-table=billing_data.credit_checks_[0-9]*",
            database.dsn(),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    entries = re.split(r"\n--\n-- Name: [^\n]*\n--\n", text)[1:]
    return _HEADING + "".join(f"\n{_normalised(entry)}\n" for entry in entries)


def _normalised(entry: str) -> str:
    entry = re.sub(r"\n--\n-- PostgreSQL database dump complete.*", "", entry, flags=re.DOTALL)
    lines = [line for line in entry.splitlines() if not line.startswith(("SET ", "\\"))]
    entry = "\n".join(lines).strip()
    if entry.startswith(("CREATE FUNCTION", "CREATE PROCEDURE")):
        entry = re.split(r"\n\s*(?:AS \$|BEGIN ATOMIC|RETURN )", entry)[0] + ";"
    if entry.startswith("CREATE VIEW"):
        # Whether the columns of a single table are shown with its alias depends on the version.
        entry = re.sub(r"\b[a-z]\.(\w+)", r"\1", entry)
        entry = re.sub(r"\( VALUES .*\) (\w+\()", r"(VALUES ...) \1", entry)
    # PostgreSQL 18 names these constraints; older versions have a flag on the column instead.
    return re.sub(r" CONSTRAINT \w+ NOT NULL", " NOT NULL", entry)


def assert_golden(database: Database) -> None:
    """Fails with the differences from the committed dump."""
    golden, found = GOLDEN.read_text(encoding="utf-8"), dump(database)
    difference = difflib.unified_diff(
        golden.splitlines(), found.splitlines(), "golden", "database", lineterm="", n=0
    )
    differences = "\n".join(difference)
    assert not differences, differences
