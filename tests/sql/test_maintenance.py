"""billing.maintenance(): the regular work in one call. A step that fails does not undo the others,
two calls do not meet, and what is kept for a time goes after it."""

from __future__ import annotations

import json
from typing import Any

from tests.ops.command_line import run
from tests.sql.alerts import failed_delivery, listening, old_delivery
from tests.sql.helpers import Caller, account_of, new_user, session
from tests.support import Database

STEPS = [
    "figures",
    "holds",
    "seals",
    "watch",
    "books",
    "erased people",
    "caps",
    "refused charges",
    "deliveries",
    "partitions",
    "checks",
]


def told(dba: Caller, **arguments: Any) -> dict[str, tuple[str, str]]:
    """Step -> outcome and detail."""
    rows = dba.rows("maintenance", **arguments)
    return {row["step"]: (row["outcome"], row["detail"]) for row in rows}


def _age(database: Database) -> None:
    """Checks and refused charges of long ago, and no partition of a coming month."""
    for at in ("2020-02-01 12:00Z", "2020-03-01 12:00Z"):
        database.execute(
            "INSERT INTO billing_data.credit_checks (id, oauth_provider, external_id, has_credit,"
            " created_at) VALUES (gen_random_uuid(), 'oauth:google', 'x', true, %s)",
            at,
        )
    database.execute(
        "INSERT INTO billing_data.refused_charges (account_id, minute, reason, database_role,"
        " refusals, first_at, last_at, amount_minor, currency, paid_credits, free_uses_remaining,"
        " account_currency)"
        " SELECT a.id, m.at, 'insufficient_credits', 't_dba', 1, m.at, m.at, 1, 'USD', 0, 0, 'USD'"
        " FROM billing_data.accounts AS a, (VALUES (timestamptz '2020-02-01 12:00Z')) AS m (at)"
        " LIMIT 1"
    )
    newest = database.value(
        "SELECT max(c.relname) FROM pg_class AS c WHERE c.relname ~ '^credit_checks_2' "
        " AND c.relkind = 'r'"
    )
    database.execute(f"DROP TABLE billing_data.{newest}")


def test_one_call_does_every_step_and_tells_each_in_a_row_and_in_the_audit_log(
    database: Database,
) -> None:
    new_user(database, paid=5)
    _age(database)
    endpoint = listening(database)
    old_delivery(database, endpoint)
    recent = failed_delivery(database, endpoint)
    with session(database, "t_dba") as dba:
        rows = told(dba)
        assert list(rows) == STEPS
        assert {outcome for outcome, _ in rows.values()} == {"done"}
        assert "0 do not agree" in rows["watch"][1]
        assert rows["books"][1] == "1 of 1 ranges: 1 accounts with 1 entries, 0 problems"
        assert rows["refused charges"][1] == "1 deleted"
        assert rows["deliveries"][1] == "1 deleted"
        assert rows["partitions"][1].startswith("made credit_checks_2")
        assert rows["checks"][1] == "dropped from credit_checks_default"
        assert [row["delivery_id"] for row in dba.rows("list_deliveries")] == [recent]
        left = database.value("SELECT count(*) FROM ONLY billing_data.credit_checks_default")
        assert left == 0
        (log,) = dba.rows("list_audit_log", action="maintenance.run")
        assert [step["step"] for step in log["changes"]] == STEPS
        assert log["who"] == "t_dba"
        again = told(dba)
        assert again["partitions"] == ("done", "all months are there")
        assert again["checks"] == ("done", "nothing to drop")


def test_what_is_kept_for_ever_stays_and_a_step_can_be_done_alone(database: Database) -> None:
    new_user(database)
    _age(database)
    with session(database, "t_dba") as dba:
        assert told(dba, keep=None)["checks"] == ("done", "everything is kept")
        assert list(told(dba, steps=["checks"])) == ["checks"]
        for wrong in (["chekcs"], [None]):
            assert dba.refusal("maintenance", steps=wrong).slug == "invalid_argument"
        assert dba.refusal("maintenance", keep="1 day").detail["argument"] == "p_keep"


def test_a_step_that_fails_is_told_and_undoes_no_other(database: Database) -> None:
    new_user(database, paid=5)
    _age(database)
    database.execute(
        "CREATE TABLE billing_data.credit_checks_2019_01 PARTITION OF billing_data.credit_checks"
        " FOR VALUES FROM ('2019-01-01 00:00Z') TO ('2019-02-01 00:00Z')"
    )
    database.execute("DROP TRIGGER credits_append_only ON billing_data.credits")
    with (
        session(database, "t_dba", autocommit=False) as reader,
        session(database, "t_dba") as dba,
    ):
        # It holds off the drop, and nothing else.
        reader.execute("LOCK TABLE ONLY billing_data.credit_checks IN ACCESS SHARE MODE")
        rows = told(dba)
        reader.connection.rollback()
        assert rows["watch"][0] == "failed"
        assert "1 guards are missing" in rows["watch"][1]
        assert rows["checks"][0] == "failed"
        assert "55P03" in rows["checks"][1]
        assert (rows["figures"][0], rows["refused charges"]) == ("done", ("done", "1 deleted"))
        assert rows["partitions"][1].startswith("made credit_checks_2")
        assert told(dba)["checks"] == (
            "done", "dropped from credit_checks_default, credit_checks_2019_01"
        )  # fmt: skip


def test_books_that_do_not_agree_fail_the_step_and_are_named(database: Database) -> None:
    account = account_of(database, new_user(database, paid=5))
    database.execute("UPDATE billing_data.accounts SET paid_credits = 6")
    with session(database, "t_dba") as dba:
        outcome, detail = told(dba, steps=["books"])["books"]
    assert outcome == "failed"
    assert str(account["id"]) in detail


def test_a_second_call_at_the_same_time_does_nothing_and_says_so(database: Database) -> None:
    with (
        session(database, "t_dba", autocommit=False) as first,
        session(database, "t_dba") as second,
    ):
        assert list(told(first)) == STEPS
        second.execute("SET lock_timeout = '5s'")  # it must not wait at all
        (row,) = second.rows("maintenance")
        assert (row["step"], row["outcome"]) == (None, "busy")
        first.connection.commit()
        assert list(told(second)) == STEPS
    logs = database.value(
        "SELECT count(*) FROM billing_data.admin_audit_logs WHERE action = 'maintenance.run'"
    )
    assert logs == 2


def test_the_command_fails_when_a_step_did(database: Database) -> None:
    environment = {"DATABASE_URL": database.dsn("t_dba")}
    well = run("maintenance", "--json", environment=environment)
    assert well.returncode == 0
    assert [row["step"] for row in json.loads(well.stdout)] == STEPS
    database.execute("DROP TRIGGER credits_append_only ON billing_data.credits")
    ill = run("maintenance", "--keep-months", "0", environment=environment)
    assert ill.returncode == 1
    assert "everything is kept" in ill.stdout
