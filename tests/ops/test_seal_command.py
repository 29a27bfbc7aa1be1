"""`ciris-billing seal`: heads in files, and books that are compared with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ops.command_line import run
from tests.sql.helpers import account_of, new_user, session
from tests.sql.seals import FITTING, age, forge_seals
from tests.support import Database

ONE = "WHERE account_id = %(id)s AND ledger_version = "


def seal(database: Database, *arguments: object, code: int = 0) -> Any:
    done = run("seal", *map(str, arguments), environment={"DATABASE_URL": database.dsn()})
    assert done.returncode == code, done.stderr + done.stdout
    return done


@pytest.fixture
def exported(database: Database, tmp_path: Path) -> tuple[Database, Any, Path]:
    """A ledger that is sealed, an account in it with three charges, and the exported heads."""
    who = new_user(database)
    with session(database, "t_dba") as dba:
        for _ in range(3):
            dba.row("create_charge", **who)
    new_user(database, paid=5)
    age(database, 3)
    assert "4 entries" in seal(database, "run").stdout
    seal(database, "export", "--rows", tmp_path / "seals")
    return database, account_of(database, who)["id"], tmp_path / "seals"


def test_an_export_has_a_file_for_each_day_that_is_never_replaced(
    exported: tuple[Database, Any, Path],
) -> None:
    database, _, folder = exported
    [path] = folder.iterdir()
    head, *seals = map(json.loads, path.read_text().splitlines())
    assert (head["entries"], len(seals), path.name) == (4, 2, f"seal-{head['day']}.jsonl")
    assert json.loads(seal(database, "export").stdout) == head
    written = path.stat()
    assert "Wrote 0 of 1 days" in seal(database, "export", folder).stderr
    assert path.stat() == written
    # A file that says otherwise is kept, and the command says so.
    path.write_text(json.dumps(head | {"head": "00"}) + "\n")
    assert "another head" in seal(database, "export", folder, code=1).stderr
    assert json.loads(path.read_text())["head"] == "00"


def test_books_that_are_as_they_were_agree_with_their_heads(
    exported: tuple[Database, Any, Path],
) -> None:
    database, _, folder = exported
    done = seal(database, "check", folder)
    assert "The books agree." in done.stdout
    assert "heads of 1 days" in done.stderr
    assert "Checked: 2 accounts, 4 entries; sealed: 4 entries" in done.stderr


def test_a_forger_who_makes_all_seals_anew_is_found_by_the_exported_heads_and_the_entry_is_named(
    exported: tuple[Database, Any, Path],
) -> None:
    database, account, folder = exported
    forge_seals(
        database,
        f"UPDATE billing_data.charges SET description = 'another' {ONE} 2",
        FITTING["charges"],
        id=account,
    )
    verified = run("verify", environment={"DATABASE_URL": database.dsn()})
    assert verified.returncode == 0
    found = json.loads(seal(database, "check", "--json", folder, code=1).stdout)
    day = next(folder.iterdir()).stem.removeprefix("seal-")
    assert [problem["problem"] for problem in found["problems"]] == [
        f"the head of {day} is not the one that was exported",
        f"entry 2 of {day} is not as it was exported",
    ]
    assert found["problems"][1]["account_id"] == str(account)
    # The head alone tells the day.
    lines = next(folder.iterdir()).read_text().splitlines()
    heads = folder.parent / "heads.jsonl"
    heads.write_text(lines[0] + "\n")
    assert f"the head of {day}" in seal(database, "check", "--heads-only", heads, code=1).stdout


def test_a_forger_who_removes_an_account_and_its_seals_is_found(
    exported: tuple[Database, Any, Path],
) -> None:
    database, account, folder = exported
    forge_seals(
        database,
        "DELETE FROM billing_data.charges WHERE account_id = %(id)s",
        "DELETE FROM billing_data.accounts WHERE id = %(id)s",
        id=account,
        fitting=("credits",),
    )
    found = json.loads(seal(database, "check", "--json", folder, code=1).stdout)["problems"]
    assert {problem["account_id"] for problem in found} == {None, str(account)}
    assert "entries 1 to 3" in found[1]["problem"]


def test_a_file_that_is_no_export_is_refused(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    for text in ("hello", "[1]", '{"a": 1}'):
        path.write_text(text)
        assert "cannot be read" in seal(database, "check", path, code=1).stderr
    assert "cannot be read" in seal(database, "check", tmp_path / "none", code=1).stderr


def test_verify_says_what_it_checked_and_goes_on_where_it_was(
    exported: tuple[Database, Any, Path],
) -> None:
    database, account, _ = exported
    with session(database, "t_dba") as dba:
        dba.row("begin_verification", entries=1)
        dba.row("continue_verification")
    environment = {"DATABASE_URL": database.dsn()}
    done = run("verify", "--jobs", "2", environment=environment)
    assert (done.returncode, "1 of 2 ranges were done" in done.stderr) == (0, True)
    assert "Checked: 2 accounts, 4 entries" in done.stdout
    done = run("verify", "--restart", environment=environment)
    assert (done.returncode, "Going on" in done.stderr) == (0, False)
    one = run("verify", "--account", str(account), "--json", environment=environment)
    assert (one.returncode, json.loads(one.stdout)) == (0, {"problems": []})
