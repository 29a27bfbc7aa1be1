"""Charges on accounts that somebody else holds, and their durability."""

from __future__ import annotations

import time
import uuid

import pytest

from tests.sql.helpers import (
    Caller,
    account_of,
    charge_all,
    new_user,
    outcomes,
    person,
    session,
)
from tests.support import Database, unique

# --- not waiting ---------------------------------------------------------------------------------


def test_without_waiting_only_the_items_of_a_locked_account_are_busy(
    module_database: Database, dba: Caller
) -> None:
    held, free = new_user(module_database), new_user(module_database)
    with session(module_database, "t_dba", autocommit=False) as other:
        other.row("create_charge", **held)
        began = time.monotonic()
        rows = charge_all(
            dba,
            [{**held, "customer_email": "ada@example.com"}, free, held, person(), free],
            wait=False,
        )
        assert time.monotonic() - began < 1
        assert outcomes(rows) == ["busy", "created", "busy", "account_not_found", "created"]
        other.connection.rollback()
    assert account_of(module_database, held)["total_uses"] == 0
    assert account_of(module_database, held)["customer_email"] is None
    assert outcomes(charge_all(dba, [held], wait=False)) == ["created"]


@pytest.mark.parametrize("wait", [True, False])
def test_a_used_key_is_recognised_without_a_lock_and_nothing_is_written(
    module_database: Database, dba: Caller, wait: bool
) -> None:
    who, key = new_user(module_database, paid=5), unique()
    used = {**who, "idempotency_key": key}
    (first,) = charge_all(dba, [used])
    with (
        session(module_database, "t_dba", autocommit=False) as other,
        session(module_database, "t_dba", autocommit=False) as caller,
    ):
        other.row("create_charge", **who)  # holds the account
        caller.execute("SET LOCAL lock_timeout = '2s'")
        again, another = charge_all(caller, [used, {**used, "amount_minor": 2}], wait=wait)
        (written,) = caller.execute("SELECT pg_current_xact_id_if_assigned() AS id")
        caller.connection.rollback()
        other.connection.rollback()
    assert outcomes([again, another]) == ["replayed", "conflict"]
    assert again["charge_id"] == another["charge_id"] == first["charge_id"]
    assert written["id"] is None


def test_a_used_key_that_brings_a_new_profile_waits_for_the_account(
    module_database: Database, dba: Caller
) -> None:
    who, key = new_user(module_database), unique()
    used = {**who, "idempotency_key": key}
    charge_all(dba, [used])
    newer = {**used, "customer_email": "ada@example.com"}
    with session(module_database, "t_dba", autocommit=False) as other:
        other.row("create_charge", **who)
        assert outcomes(charge_all(dba, [newer, used], wait=False)) == ["busy", "replayed"]
        other.connection.rollback()
    assert outcomes(charge_all(dba, [newer], wait=False)) == ["conflict"]
    assert account_of(module_database, who)["customer_email"] == "ada@example.com"


def test_without_waiting_an_account_that_is_only_being_read_is_not_busy(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    with session(module_database, "t_dba", autocommit=False) as other:
        other.row("get_account", **who)
        other.row("check_credit", **who)
        assert outcomes(charge_all(dba, [who], wait=False)) == ["created"]
        other.connection.rollback()


def test_waiting_for_a_locked_account_ends_with_its_newest_state(
    module_database: Database,
) -> None:
    who = new_user(module_database, free=False, paid=1)
    with (
        session(module_database, "t_dba", autocommit=False) as first,
        session(module_database, "t_dba") as second,
    ):
        first.row("create_charge", **who)
        second.execute("SET lock_timeout = '200ms'")
        assert second.refusal("create_charge", **who).sqlstate == "55P03"
        first.connection.commit()
        assert second.refusal("create_charge", **who).slug == "insufficient_credits"


# --- durability ----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["on", "off"])
def test_a_charge_commits_durably_even_in_a_session_that_does_not(
    module_database: Database, start: str
) -> None:
    who = new_user(module_database)
    with session(module_database, "t_dba", autocommit=False) as dba:
        dba.execute(f"SET synchronous_commit = {start}")
        dba.row("create_charge", **who)
        assert dba.execute("SHOW synchronous_commit") == [{"synchronous_commit": "on"}]
        dba.connection.commit()
        assert dba.execute("SHOW synchronous_commit") == [{"synchronous_commit": start}]


def test_a_stricter_durability_than_on_is_kept(module_database: Database) -> None:
    who = new_user(module_database)
    with session(module_database, "t_dba", autocommit=False) as dba:
        dba.execute("SET synchronous_commit = remote_apply")
        dba.row("create_charge", **who)
        assert dba.execute("SHOW synchronous_commit") == [{"synchronous_commit": "remote_apply"}]
        dba.connection.rollback()


def test_a_charge_that_is_rolled_back_never_happened(module_database: Database) -> None:
    who, key = new_user(module_database), unique()
    before = account_of(module_database, who)
    with session(module_database, "t_dba", autocommit=False) as dba:
        first = dba.row("create_charge", **who, idempotency_key=key)
        dba.connection.rollback()
        again = dba.row("create_charge", **who, idempotency_key=key)
        assert again["charge_id"] != first["charge_id"]
        dba.connection.rollback()
    assert account_of(module_database, who) == before


def test_charge_ids_are_in_the_order_of_time(module_database: Database, dba: Caller) -> None:
    ids: list[uuid.UUID] = []
    for _ in range(3):
        ids.append(dba.row("create_charge", **new_user(module_database))["charge_id"])
    assert ids == sorted(ids)
