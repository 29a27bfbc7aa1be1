"""billing.create_account, get_account and set_account_status."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.sql.helpers import (
    BIGGEST,
    Caller,
    account_of,
    key_id,
    new_user,
    person,
    session,
    staff,
)
from tests.support import Database, unique


def test_an_account_is_made_as_asked(module_database: Database, dba: Caller) -> None:
    who = person()
    asked = {
        "wa_id": "w",
        "tenant_id": "t",
        "currency": "EUR",
        "plan_name": "pro",
        "customer_email": "ada@example.com",
        "marketing_opt_in": True,
        "marketing_opt_in_source": "chat",
    }
    answer = dba.row(
        "create_account",
        **who,
        **asked,
        initial_balance_minor=BIGGEST,
        user_role="member",
        agent_id="agent-1",
    )
    assert {name: answer[name] for name in {**who, **asked}} == {**who, **asked}
    assert answer["balance_minor"] == BIGGEST
    assert (answer["paid_credits"], answer["status"]) == (0, "active")
    assert (answer["account_created"], answer["replayed"]) == (True, False)
    assert answer["marketing_opt_in_at"] == answer["created_at"] == answer["updated_at"]
    account = account_of(module_database, who)
    assert account["id"] == answer["account_id"]
    assert (account["user_role"], account["agent_id"]) == ("member", "agent-1")
    assert account["free_uses_remaining"] == 3


def test_the_defaults_are_a_free_plan_in_dollars(dba: Caller) -> None:
    answer = dba.row("create_account", **person())
    assert (answer["currency"], answer["plan_name"], answer["balance_minor"]) == ("USD", "free", 0)
    assert (answer["marketing_opt_in"], answer["marketing_opt_in_at"]) == (False, None)
    assert (answer["wa_id"], answer["customer_email"]) == (None, None)


def test_an_initial_balance_cannot_be_spent(module_database: Database, dba: Caller) -> None:
    who = person()
    dba.row("create_account", **who, initial_balance_minor=100)
    for _ in range(3):
        dba.row("create_charge", **who)
    refusal = dba.refusal("create_charge", **who)
    assert refusal.message == "Insufficient credits. Balance: 0, Required: 1"
    assert account_of(module_database, who)["balance_minor"] == 100


def test_an_account_that_exists_is_returned_untouched(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=5)
    before = account_of(module_database, who)
    answer = dba.row(
        "create_account",
        **who,
        wa_id="w",
        currency="EUR",
        plan_name="pro",
        initial_balance_minor=9,
        customer_email="ada@example.com",
        marketing_opt_in=True,
    )
    assert (answer["account_created"], answer["replayed"]) == (False, False)
    assert answer["account_id"] == before["id"]
    assert (answer["paid_credits"], answer["currency"]) == (5, "USD")
    assert (answer["customer_email"], answer["wa_id"]) == (None, None)
    assert account_of(module_database, who) == before


def test_identity_is_provider_and_external_id_together(dba: Caller) -> None:
    external_id = unique()
    ids = {
        dba.row("create_account", oauth_provider=provider, external_id=name)["account_id"]
        for provider in ("oauth:google", "oauth:discord")
        for name in (external_id, external_id.upper(), f"{external_id} ")
    }
    assert len(ids) == 6


def test_identities_that_only_look_alike_when_joined_are_two_accounts(dba: Caller) -> None:
    end = unique()
    one = dba.row("create_account", oauth_provider="oauth:a", external_id=f"b {end}")
    other = dba.row("create_account", oauth_provider="oauth:a b", external_id=end)
    assert one["account_id"] != other["account_id"]
    assert other["account_created"]


def test_the_same_request_with_a_key_gets_the_first_answer(
    module_database: Database, dba: Caller
) -> None:
    who, key = person(), unique()
    request = {**who, "plan_name": "pro", "customer_email": "ada@example.com"}
    first = dba.row("create_account", **request, idempotency_key=key)
    assert (first["account_created"], first["replayed"]) == (True, False)
    dba.row("create_credit", **who, amount_minor=5)
    dba.row("check_credit", **who, customer_email="lovelace@example.com")
    again = dba.row("create_account", **request, idempotency_key=key)
    assert (again.pop("account_created"), again.pop("replayed")) == (False, True)
    assert again == {name: first[name] for name in again}
    assert account_of(module_database, who)["paid_credits"] == 5


@pytest.mark.parametrize(
    "change",
    [
        {"plan_name": "pro"},
        {"currency": "EUR"},
        {"initial_balance_minor": 1},
        {"wa_id": "w"},
        {"marketing_opt_in": True},
        {"customer_email": "ada@example.com"},
    ],
    ids=str,
)
def test_another_request_with_a_used_key_is_refused(
    module_database: Database, dba: Caller, change: dict[str, Any]
) -> None:
    who, key = person(), unique()
    dba.row("create_account", **who, idempotency_key=key)
    before = account_of(module_database, who)
    refusal = dba.refusal("create_account", **who, **change, idempotency_key=key)
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "idempotency_key_reused")
    assert refusal.message == "Idempotency key was used with a different request"
    assert refusal.hint == "Use a new key for a new request."
    assert account_of(module_database, who) == before


def test_a_key_is_remembered_for_each_account_apart(dba: Caller) -> None:
    key = unique()
    for _ in range(2):
        answer = dba.row("create_account", **person(), idempotency_key=key)
        assert (answer["account_created"], answer["replayed"]) == (True, False)


def test_a_key_on_an_account_that_exists_remembers_that_answer(
    module_database: Database, dba: Caller
) -> None:
    who, key = new_user(module_database), unique()
    first = dba.row("create_account", **who, idempotency_key=key)
    assert (first["account_created"], first["replayed"]) == (False, False)
    again = dba.row("create_account", **who, idempotency_key=key)
    assert (again["account_created"], again["replayed"]) == (False, True)


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"oauth_provider": "google"}, "p_oauth_provider"),
        ({"oauth_provider": None}, "p_oauth_provider"),
        ({"external_id": ""}, "p_external_id"),
        ({"external_id": None}, "p_external_id"),
        ({"external_id": "x" * 256}, "p_external_id"),
        ({"initial_balance_minor": -1}, "p_initial_balance_minor"),
        ({"initial_balance_minor": None}, "p_initial_balance_minor"),
        ({"currency": "usd"}, "p_currency"),
        ({"currency": "US"}, "p_currency"),
        ({"currency": "USD\n"}, "p_currency"),
        ({"currency": None}, "p_currency"),
        ({"plan_name": ""}, "p_plan_name"),
        ({"plan_name": "x" * 101}, "p_plan_name"),
        ({"plan_name": None}, "p_plan_name"),
        ({"wa_id": "x" * 256}, "p_wa_id"),
        ({"customer_email": "x" * 256}, "p_customer_email"),
        ({"idempotency_key": "x" * 256}, "p_idempotency_key"),
    ],
    ids=lambda value: (
        ",".join(f"{k}={str(v)[:9]!r}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_a_faulty_argument_is_named(dba: Caller, arguments: dict[str, Any], argument: str) -> None:
    who = person()
    refusal = dba.refusal("create_account", **{**who, **arguments})
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.detail["argument"] == argument
    assert refusal.message == f"Invalid {argument}: {refusal.detail['problem']}"
    assert dba.refusal("get_account", **who).slug == "account_not_found"


def test_making_an_account_commits_durably(module_database: Database) -> None:
    with session(module_database, "t_dba", autocommit=False) as dba:
        dba.execute("SET synchronous_commit = off")
        dba.row("create_account", **person())
        assert dba.execute("SHOW synchronous_commit") == [{"synchronous_commit": "on"}]
        dba.connection.rollback()


def test_an_account_is_read_by_its_identity(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, paid=5)
    dba.row("create_charge", **who, customer_email="ada@example.com", user_role="member")
    answer = dba.row("get_account", **who)
    account = account_of(module_database, who)
    assert answer.pop("account_id") == account["id"]
    assert answer.pop("held") is None
    assert answer == {name: account[name] for name in answer}
    assert (answer["free_uses_remaining"], answer["total_uses"]) == (2, 1)
    assert (answer["paid_credits"], answer["ledger_version"]) == (5, 2)


@pytest.mark.parametrize(
    "who",
    [
        {"oauth_provider": "oauth:google", "external_id": "nobody"},
        {"oauth_provider": "google", "external_id": "nobody"},
        {"oauth_provider": None, "external_id": None},
    ],
    ids=str,
)
def test_reading_nobody_is_not_found(dba: Caller, who: dict[str, Any]) -> None:
    refusal = dba.refusal("get_account", **who)
    assert (refusal.sqlstate, refusal.slug) == ("PB404", "account_not_found")
    assert refusal.message == "Account not found"


@pytest.mark.parametrize("before", ["active", "suspended", "closed"])
@pytest.mark.parametrize("after", ["active", "suspended", "closed"])
def test_a_status_changes_to_any_other_and_the_change_is_audited(
    module_database: Database, dba: Caller, before: str, after: str
) -> None:
    who = new_user(module_database)
    if before != "active":
        dba.row("set_account_status", **who, status=before, reason="at first")
    answer = dba.row("set_account_status", **who, status=after, reason="then")
    account = account_of(module_database, who)
    assert answer == {"account_id": account["id"], "status": after, "previous_status": before}
    assert account["status"] == after
    rows = module_database.execute(
        "SELECT l.action, l.resource_type, l.changes, l.database_role, l.admin_user_id"
        " FROM billing_data.admin_audit_logs AS l WHERE l.resource_id = %s AND l.reason = 'then'",
        str(account["id"]),
    )
    audited = (
        "account.set_status",
        "account",
        {"before": before, "after": after},
        "t_dba",
        None,
    )
    assert rows == ([] if before == after else [audited])


def test_an_administrator_who_changes_a_status_is_in_the_audit_log(
    module_database: Database, web: Caller
) -> None:
    who, ada = new_user(module_database), staff(module_database, "admin")
    web.row(
        "set_account_status",
        **who,
        status="closed",
        reason="asked to",
        session_hash=ada.session_hash,
    )
    rows = module_database.execute(
        "SELECT l.database_role, l.reason FROM billing_data.admin_audit_logs AS l"
        " WHERE l.admin_user_id = %s",
        ada.id,
    )
    assert rows == [(None, "asked to")]


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"status": "odd"}, "p_status"),
        ({"status": "Active"}, "p_status"),
        ({"status": None}, "p_status"),
        ({"reason": ""}, "p_reason"),
        ({"reason": None}, "p_reason"),
    ],
    ids=str,
)
def test_a_status_change_needs_a_known_status_and_a_reason(
    module_database: Database, dba: Caller, arguments: dict[str, Any], argument: str
) -> None:
    who = new_user(module_database)
    asked = {"status": "closed", "reason": "a test", **arguments}
    refusal = dba.refusal("set_account_status", **who, **asked)
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.detail["argument"] == argument
    assert account_of(module_database, who)["status"] == "active"


def test_the_status_of_nobody_cannot_be_set(dba: Caller) -> None:
    refusal = dba.refusal("set_account_status", **person(), status="closed", reason="a test")
    assert (refusal.sqlstate, refusal.slug) == ("PB404", "account_not_found")


def test_an_api_key_cannot_set_a_status(module_database: Database, web: Caller) -> None:
    refusal = web.refusal(
        "set_account_status",
        **new_user(module_database),
        status="closed",
        reason="a test",
        session_hash=key_id(module_database).bytes,
    )
    assert refusal.slug == "session_over"


def test_ids_of_accounts_are_uuids(dba: Caller) -> None:
    assert isinstance(dba.row("create_account", **person())["account_id"], uuid.UUID)
