"""The locks of a call: few locks whatever it does, no lock that an outsider could hold by its name,
and several accounts always in one order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.sql.helpers import Caller, account_of, at_once, ledger_problems, new_user, session
from tests.support import Database, unique

ROOT = Path(__file__).resolve().parents[2]
MANY = 30_000


def _locks_held(caller: Caller) -> int:
    (row,) = caller.execute("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()")
    return int(row["count"])


def test_nothing_of_ours_takes_an_advisory_lock() -> None:
    # An advisory lock is a number: any login that may call the function can take the same number
    # and keep it.
    ours = [*ROOT.glob("sql/*.sql"), *ROOT.glob("server/**/*.py"), *ROOT.glob("bench/**/*.py")]
    assert len(ours) > 50
    advisory = re.compile("pg_(try_)?advisory_(xact_)?lock")
    assert [file.name for file in ours if advisory.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("options", ["", ", p_wait => false"], ids=["waiting", "not waiting"])
def test_thirty_thousand_first_checks_in_one_statement_hold_no_lock_each(
    module_database: Database, options: str
) -> None:
    prefix = unique()
    # A plan made while there are few accounts must not be one that reads all of them for each item.
    module_database.execute("ANALYZE billing_data.accounts")
    with session(module_database, "t_dba", autocommit=False) as dba:
        dba.execute("SET LOCAL statement_timeout = '120s'")
        (row,) = dba.execute(
            "SELECT count(*) FILTER (WHERE c.account_created) AS created"
            " FROM billing.check_credits("
            " p_oauth_providers => array_fill('oauth:google'::text, ARRAY[%s]),"
            " p_external_ids => ARRAY(SELECT %s || n FROM generate_series(1, %s) AS n)"
            f"{options}) AS c",
            MANY,
            prefix,
            MANY,
        )
        assert row["created"] == MANY
        assert _locks_held(dba) < 200
        dba.connection.rollback()


def test_thirty_thousand_accounts_made_in_one_statement_hold_no_lock_each(
    module_database: Database,
) -> None:
    with session(module_database, "t_dba", autocommit=False) as dba:
        (row,) = dba.execute(
            "SELECT count(c.account_id) FROM generate_series(1, %s) AS n"
            " CROSS JOIN LATERAL billing.create_account("
            " p_oauth_provider => 'oauth:google', p_external_id => %s || n) AS c",
            MANY,
            unique(),
        )
        assert row["count"] == MANY
        assert _locks_held(dba) < 200
        dba.connection.rollback()


def test_opposite_adjustments_of_two_accounts_never_wait_for_each_other(
    module_database: Database,
) -> None:
    users = [new_user(module_database, paid=100) for _ in range(2)]
    ids = [account_of(module_database, user)["id"] for user in users]

    def move(caller: Caller, first: int) -> int:
        given = [ids[first], ids[1 - first]]
        return len(
            caller.rows("adjust_credits", account_ids=given, amounts=[1, -1], reason="moved")
        )

    calls = [lambda caller, n=n: move(caller, n % 2) for n in range(60)]
    assert at_once(module_database, calls, 8) == [2] * 60  # a deadlock would be an error
    assert [account_of(module_database, user)["paid_credits"] for user in users] == [100, 100]
    assert ledger_problems(module_database) == []


def test_adjustments_of_several_accounts_are_all_made_or_none(
    module_database: Database,
) -> None:
    rich, poor = (new_user(module_database, paid=paid) for paid in (10, 1))
    ids = [account_of(module_database, user)["id"] for user in (rich, poor)]
    with session(module_database, "t_dba") as dba:
        refusal = dba.refusal("adjust_credits", account_ids=ids, amounts=[5, -5], reason="too much")
        assert refusal.slug == "insufficient_credits"
        twice = dba.refusal(
            "adjust_credits", account_ids=[ids[0]] * 2, amounts=[1, 1], reason="twice"
        )
        assert twice.slug == "invalid_argument"
        once = {"account_ids": ids, "amounts": [1, 2], "reason": "once", "idempotency_key": "k"}
        first = dba.rows("adjust_credits", **once)
        again = dba.rows("adjust_credits", **once)
    assert [row["account_id"] for row in first] == sorted(ids)
    assert [row["credit_id"] for row in again] == [row["credit_id"] for row in first]
    assert all(row["replayed"] for row in again)
    assert account_of(module_database, rich)["paid_credits"] == 11
    assert account_of(module_database, poor)["paid_credits"] == 3
