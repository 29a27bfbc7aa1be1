"""Credits for many accounts by a list in CSV, in psql and by the command: a line has its outcome,
and a list given again grants nothing twice."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.ops.command_line import refused, run
from tests.sql.helpers import (
    BIGGEST,
    Caller,
    account_of,
    at_once,
    new_user,
    session,
)
from tests.support import Database

HEAD = "oauth_provider,external_id,amount"
REASON = "an outage"


def listed(*lines: str, head: str = HEAD) -> str:
    """A list in CSV."""
    return "\n".join((head, *lines))


def granted(
    database: Database, text: str, prefix: str = "round-1", **options: Any
) -> list[tuple[int, str, int | None]]:
    """Line, outcome and balance of each line."""
    with session(database, "t_dba") as dba:
        rows = dba.rows("grant_credits", csv=text, reason=REASON, key_prefix=prefix, **options)
    return [(row["line"], row["outcome"], row["balance"]) for row in rows]


def paid(database: Database, who: dict[str, str]) -> int:
    balance: int = account_of(database, who)["paid_credits"]
    return balance


def test_each_line_has_its_outcome_and_a_bad_one_stops_no_other(module_database: Database) -> None:
    ada, ben = new_user(module_database, paid=1), new_user(module_database)
    full = new_user(module_database, paid=BIGGEST)
    quoted = new_user(module_database, external_id='a "b", c')
    text = listed(
        f"oauth:google,{ada['external_id']},5",
        f"oauth:google,{ben['external_id']},0",
        f"oauth:google,{ben['external_id']},-3",
        f"oauth:google,{ben['external_id']},1.5",
        f"oauth:google,{ben['external_id']},9223372036854775808",
        f"oauth:google,{ben['external_id']}",
        f"oauth:google,{ben['external_id']},1,2",
        "",
        "oauth:google,nobody,5",
        f"oauth:google,{full['external_id']},1",
        'oauth:google,"a ""b"", c",7',
        f"oauth:google,{ada['external_id']},2\r",
    )
    assert granted(module_database, text) == [
        (2, "granted", 6),
        *((line, "invalid", None) for line in range(3, 9)),
        (10, "account_not_found", None),
        (11, "balance_overflow", None),
        (12, "granted", 7),
        (13, "granted", 8),
    ]
    assert (paid(module_database, ada), paid(module_database, quoted)) == (8, 7)
    again = {line: outcome for line, outcome, _ in granted(module_database, text)}
    assert {again[2], again[12], again[13]} == {"replayed"}
    assert paid(module_database, ada) == 8
    with session(module_database, "t_dba") as dba:
        assert dba.rows("verify_ledger") == []


def test_an_account_is_granted_once_a_round_by_whatever_name_and_in_whatever_order(
    module_database: Database,
) -> None:
    ada = new_user(module_database)
    account_id = account_of(module_database, ada)["id"]
    first = granted(module_database, listed(f"oauth:google,{ada['external_id']},5"))
    assert first == [(2, "granted", 5)]
    by_id = listed("6,", f"5,{account_id}", head="Amount, Account_ID")
    by_id = "\ufeff\r\n" + by_id.replace("\n", "\r\n")  # as some programs write it
    assert granted(module_database, by_id)[1] == (4, "replayed", 5)
    other_amount = listed(f"oauth:google,{ada['external_id']},6")
    assert granted(module_database, other_amount) == [(2, "idempotency_key_reused", None)]
    assert granted(module_database, by_id, prefix="round-2")[1] == (4, "granted", 10)


def test_credits_of_a_line_end_when_it_says_so(module_database: Database) -> None:
    ada, ben = new_user(module_database), new_user(module_database)
    head = f"{HEAD},expires_at"
    lines = [
        f"oauth:google,{ada['external_id']},5,2037-02-28",
        f"oauth:google,{ada['external_id']},6,2037-03-01T12:30:00Z",
        f"oauth:google,{ada['external_id']},7,",
        *(
            f"oauth:google,{ben['external_id']},1,{wrong}"
            for wrong in ("2037-02-29", "2020-01-01", "soon", "2037-01-01 12:00", "0000-01-01")
        ),
    ]
    dry = granted(module_database, listed(*lines, head=head), dry_run=True)
    assert [outcome for _, outcome, _ in dry] == ["would_grant"] * 3 + ["invalid_argument"] * 5
    module_database.execute("ALTER ROLE t_dba SET TimeZone = 'America/New_York'")
    outcomes = granted(module_database, listed(*lines, head=head))
    module_database.execute("ALTER ROLE t_dba RESET TimeZone")
    assert outcomes[:3] == [(2, "granted", 5), (3, "granted", 11), (4, "granted", 18)]
    assert {outcome for _, outcome, _ in outcomes[3:]} == {"invalid_argument"}
    with session(module_database, "t_dba") as dba:
        lots = dba.rows("list_lots", account_id=account_of(module_database, ada)["id"])
    ends = {lot["amount_minor"]: lot["expires_at"] for lot in lots}
    assert ends == {
        5: datetime(2037, 2, 28, tzinfo=UTC),
        6: datetime(2037, 3, 1, 12, 30, tzinfo=UTC),
        7: None,
    }
    assert paid(module_database, ben) == 0
    sooner = [lines[0].replace("02-28", "02-27")]
    assert granted(module_database, listed(*sooner, head=head)) == [
        (2, "idempotency_key_reused", None)
    ]


def test_a_dry_run_writes_nothing(module_database: Database) -> None:
    ada = new_user(module_database, paid=3)
    text = listed(f"oauth:google,{ada['external_id']},5", "oauth:google,nobody,5")
    before = module_database.value("SELECT count(*) FROM billing_data.admin_audit_logs")
    assert granted(module_database, text, dry_run=True) == [
        (2, "would_grant", 8),
        (3, "account_not_found", None),
    ]
    assert paid(module_database, ada) == 3
    assert module_database.value("SELECT count(*) FROM billing_data.admin_audit_logs") == before
    assert granted(module_database, text)[0] == (2, "granted", 8)


def test_the_same_list_twice_at_once_grants_once(module_database: Database) -> None:
    users = [new_user(module_database) for _ in range(5)]
    lines = [f"oauth:google,{user['external_id']},5" for user in users]

    def call(text: str) -> Callable[[Caller], list[dict[str, Any]]]:
        return lambda dba: dba.rows("grant_credits", csv=text, reason=REASON, key_prefix="round-1")

    calls = [call(listed(*order)) for order in (lines, lines[::-1])]
    both = at_once(module_database, calls, connections=2)
    outcomes = sorted(row["outcome"] for rows in both for row in rows)
    assert outcomes == ["granted"] * 5 + ["replayed"] * 5
    assert {paid(module_database, user) for user in users} == {5}


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"csv": None}, "p_csv"),
        ({"csv": ""}, "p_csv"),
        ({"csv": "external_id,amount\n1,2"}, "p_csv"),
        ({"csv": HEAD + "\nx,y,1" * 50_001}, "p_csv"),
        ({"reason": " "}, "p_reason"),
        ({"key_prefix": None}, "p_key_prefix"),
        ({"key_prefix": "x" * 201}, "p_key_prefix"),
        ({"dry_run": None}, "p_dry_run"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(
    module_database: Database, arguments: dict[str, Any], wrong: str
) -> None:
    good = {"csv": HEAD, "reason": REASON, "key_prefix": "round-1"}
    with session(module_database, "t_dba") as dba:
        refusal = dba.refusal("grant_credits", **{**good, **arguments})
        assert (refusal.slug, refusal.detail["argument"]) == ("invalid_argument", wrong)
        assert dba.rows("grant_credits", **good) == []


def test_the_command_grants_in_parts_and_tells_each_line(
    module_database: Database, tmp_path: Path
) -> None:
    module_database.execute(
        "INSERT INTO billing_data.accounts (oauth_provider, external_id)"
        " SELECT 'oauth:google', 'many-' || n FROM generate_series(1, 1100) AS n"
    )
    file = tmp_path / "november.csv"
    lines = [f"oauth:google,many-{n},2" for n in range(1, 1101)]
    # The second line of an account is in another part than the first.
    ending = ["oauth:google,many-1,2,2037-01-01", "oauth:google,nobody,2,"]
    lines = [f"{line}," for line in lines]
    file.write_text(listed(*lines, *ending, head=f"{HEAD},expires_at"))
    environment = {"DATABASE_URL": module_database.dsn("t_dba")}

    def grant(*options: str) -> tuple[int, list[dict[str, str]], str]:
        done = run(
            *("accounts", "grant", "--file", str(file), "--reason", REASON, *options),
            environment=environment,
        )
        return done.returncode, list(csv.DictReader(io.StringIO(done.stdout))), done.stderr

    code, rows, said = grant("--dry-run")
    assert code == 1  # one line would not be granted
    assert [row["outcome"] for row in rows] == ["would_grant"] * 1101 + ["account_not_found"]
    code, rows, said = grant()
    assert [row["outcome"] for row in rows] == ["granted"] * 1101 + ["account_not_found"]
    assert [int(row["line"]) for row in rows] == list(range(2, 1104))
    assert rows[1100]["balance"] == "4"
    ends = "SELECT count(*) FROM billing_data.lots AS l WHERE l.expires_at = '2037-01-01 00:00Z'"
    assert module_database.value(ends) == 1
    assert "'november': 1101 granted, 1 account_not_found" in said
    file.write_text(file.read_text().replace("nobody", "many-2"))  # it was corrected
    code, rows, said = grant()
    assert code == 0
    assert "1101 replayed, 1 granted" in said
    total = "SELECT sum(paid_credits) FROM billing_data.accounts WHERE external_id LIKE 'many-%'"
    assert module_database.value(total) == 2204


def test_the_command_refuses_what_it_cannot_read(module_database: Database, tmp_path: Path) -> None:
    environment = {"DATABASE_URL": module_database.dsn("t_dba")}
    file = tmp_path / "list.csv"
    for content, said in ((b"who,what\n", "columns"), (b"account_id,amount\n\xff,1\n", "utf-8")):
        file.write_bytes(content)
        done = run(
            *("accounts", "grant", "--file", str(file), "--reason", "x"), environment=environment
        )
        assert said in refused(done, 1)
    for name, said in ((str(tmp_path / "gone.csv"), "No such file"), ("-", "--key-prefix")):
        done = run("accounts", "grant", "--file", name, "--reason", "x", environment=environment)
        assert said in refused(done, 1)
