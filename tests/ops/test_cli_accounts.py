"""`ciris-billing accounts`, as a DBA runs it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.ops.command_line import refused, run
from tests.sql.helpers import account_of, new_user, session
from tests.support import BILLING, Database, clean_environment

WHO = "oauth:google:ada:1"
PERIOD = ("--from", "2020-01-01", "--to", "2099-01-01")


@pytest.fixture(scope="module")
def environment(module_database: Database) -> dict[str, str]:
    """The environment of a DBA whose database has an account with 5 credits, a free use used."""
    who = new_user(module_database, paid=5, external_id="ada:1")
    with session(module_database, "t_dba") as dba:
        dba.row("create_charge", **who, description="=1+1\x1b[2J")
    return {"DATABASE_URL": module_database.dsn("t_dba")}


def _run(environment: dict[str, str], *arguments: str) -> str:
    done = run("accounts", *arguments, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_statement_is_printed_as_a_table_json_or_csv(
    module_database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    table = _run(environment, "statement", WHO, *PERIOD).splitlines()
    assert [line.split()[2] for line in table[1:]] == ["opening", "grant", "free", "closing"]
    assert "\x1b" not in table[3]
    account = str(account_of(module_database, {"oauth_provider": "oauth:google",
                                               "external_id": "ada:1"})["id"])  # fmt: skip
    rows: list[dict[str, Any]] = json.loads(
        _run(environment, "statement", account, *PERIOD, "--format", "json")
    )
    assert [row["kind"] for row in rows] == ["opening", "entry", "entry", "closing"]
    assert (rows[-1]["balance_after"], rows[-1]["free_uses_after"]) == (5, 2)
    output = tmp_path / "statement.csv"
    done = run(
        "accounts", "statement", WHO, *PERIOD, "--format", "csv", "--output", str(output),
        environment=environment,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"4 rows written to {output}\n"
    with output.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, strict=True))
    assert [line["reason"] for line in lines][2] == "'=1+1\x1b[2J"
    assert lines[2]["amount_minor"] == "-1"


def test_a_balance_and_the_top_consumers_are_told(environment: dict[str, str]) -> None:
    told = _run(environment, "balance", WHO)
    assert told.startswith("5 paid credits and 2 free uses at ")
    assert "by t_dba: =1+1?[2J" in told
    assert "did not exist yet" in _run(environment, "balance", WHO, "--at", "2020-01-01")
    row = json.loads(_run(environment, "balance", WHO, "--json"))
    assert row["state"] == "known"
    (top,) = json.loads(_run(environment, "top", "--json"))
    assert (top["external_id"], top["charges"]) == ("ada:1", 1)
    nobody = _run(environment, "top", "--from", "2020-01-01")
    assert nobody == "Nobody was charged in this period.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("statement", "oauth:google:nobody"), 1, "Account not found"),
        (("statement", WHO, "--from", "yesterday"), 2, "give one as 2026-11-01"),
        (("statement", WHO, "--from", "2026-02-01", "--to", "2026-01-01"), 1,
         "to: it must not be before from"),
        (("statement", WHO, "--output", "/nowhere/at/all"), 1, "cannot write /nowhere/at/all"),
        (("top", "--limit", "0x"), 2, "invalid int value"),
        (("top", "--limit", "99999"), 1, "limit: it must be 0 to 10001"),
        (("grant", WHO, str(2**63), "--reason", "r"), 2, f"no number beyond {2**63 - 1}"),
        (("grant", WHO, "1", "--reason", "r", "--key", ""), 2, "a key needs at least one"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_done_is_said_without_a_traceback(
    environment: dict[str, str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = run("accounts", *arguments, environment=environment)
    assert words in refused(done, code)


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_reader_that_goes_away_ends_the_command_without_a_traceback(
    environment: dict[str, str], form: str
) -> None:
    command = [BILLING, "accounts", "statement", WHO, *PERIOD, "--format", form]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command,
            check=False,
            stdout=writer,
            stderr=subprocess.PIPE,
            env={**clean_environment(), **environment},
            cwd="/",
            timeout=60,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_statement_says_in_the_consoles_words_where_an_entry_comes_from(
    module_database: Database, environment: dict[str, str]
) -> None:
    who = new_user(module_database, paid=2, free=False, external_id="grace:1")
    with session(module_database, "t_dba") as dba:
        charge = dba.row("create_charge", **who, description="a job")["charge_id"]
        dba.row("reverse_charge", charge_id=charge, reason="it failed")
    statement = ("statement", "oauth:google:grace:1", *PERIOD)
    assert "Reversal of the charge of 1 on " in _run(environment, *statement)
    lines = list(csv.DictReader(_run(environment, *statement, "--format", "csv").splitlines()))
    assert [bool(line["origin"]) for line in lines] == [
        line["transaction_type"] == "refund" for line in lines
    ]
    assert lines[-2]["origin"].startswith("Reversal of the charge of 1 on ")
    assert "ordinality" not in lines[0]
