"""billing.check_credit, billing.check_credits, and the audit rows they leave."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sql.checks import recorded_checks, set_status
from tests.sql.helpers import (
    Caller,
    account_of,
    check_all,
    key_id,
    new_user,
    outcomes,
    person,
    session,
)
from tests.support import Database

# --- one check -----------------------------------------------------------------------------------


def test_the_first_check_makes_the_account_with_its_free_uses(
    module_database: Database, dba: Caller
) -> None:
    who = person()
    answer = dba.row("check_credit", **who, wa_id="w", tenant_id="t")
    assert answer == {
        "has_credit": True,
        "reason": None,
        "credits_remaining": 0,
        "free_uses_remaining": 3,
        "total_uses": 0,
        "plan_name": "free",
        "purchase_required": False,
        "purchase_price_minor": None,
        "purchase_uses": None,
        "low_balance": None,
        "held": None,
        "next_expiry_at": None,
        "next_expiry_amount_minor": None,
    }
    account = account_of(module_database, who)
    assert (account["status"], account["currency"]) == ("active", "USD")
    assert (account["wa_id"], account["tenant_id"]) == ("w", "t")
    assert (account["balance_minor"], account["ledger_version"]) == (0, 0)
    assert account["created_at"] == account["updated_at"]


def test_a_check_consumes_nothing(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, paid=1)
    before = account_of(module_database, who)
    for _ in range(5):
        assert dba.row("check_credit", **who)["has_credit"]
    assert account_of(module_database, who) == before


def test_a_check_ignores_wa_id_and_tenant_id_of_an_account_that_exists(
    module_database: Database, dba: Caller
) -> None:
    who = person()
    dba.row("check_credit", **who, wa_id="w", tenant_id="t")
    dba.row("check_credit", **who, wa_id="another", tenant_id=None)
    account = account_of(module_database, who)
    assert (account["wa_id"], account["tenant_id"]) == ("w", "t")


@pytest.mark.parametrize(
    ("free", "paid", "has_credit"),
    [(True, 0, True), (True, 1, True), (False, 1, True), (False, 0, False)],
)
def test_a_user_may_go_on_while_a_free_use_or_a_credit_is_left(
    module_database: Database, dba: Caller, free: bool, paid: int, has_credit: bool
) -> None:
    who = new_user(module_database, paid=paid, free=free)
    answer = dba.row("check_credit", **who)
    assert answer["has_credit"] is has_credit
    assert answer["credits_remaining"] == paid
    assert answer["free_uses_remaining"] == (3 if free else 0)
    assert answer["total_uses"] == (0 if free else 3)
    if has_credit:
        assert (answer["reason"], answer["purchase_required"]) == (None, False)
        assert (answer["purchase_price_minor"], answer["purchase_uses"]) == (None, None)
    else:
        assert answer["reason"] == "No free uses or credits remaining"
        assert answer["purchase_required"] is True
        assert (answer["purchase_price_minor"], answer["purchase_uses"]) == (500, 20)


@pytest.mark.parametrize(
    ("status", "reason"),
    [("suspended", "Account suspended"), ("closed", "Account closed")],
)
@pytest.mark.parametrize("free", [True, False], ids=["with uses", "without"])
def test_a_suspended_or_closed_account_may_not_go_on_nor_buy(
    module_database: Database, dba: Caller, status: str, reason: str, free: bool
) -> None:
    who = new_user(module_database, paid=4 if free else 0, free=free)
    set_status(dba, who, status)
    answer = dba.row("check_credit", **who)
    assert (answer["has_credit"], answer["reason"]) == (False, reason)
    assert answer["purchase_required"] is False
    assert (answer["purchase_price_minor"], answer["purchase_uses"]) == (None, None)
    assert answer["credits_remaining"] == (4 if free else 0)


def test_the_offer_and_the_free_uses_are_the_settings(database: Database) -> None:
    database.execute(
        "UPDATE billing_data.settings SET free_uses = 0, pack_uses = 7, pack_price_minor = 99"
    )
    with session(database, "t_dba") as dba:
        answer = dba.row("check_credit", **person())
    assert (answer["has_credit"], answer["free_uses_remaining"]) == (False, 0)
    assert (answer["purchase_price_minor"], answer["purchase_uses"]) == (99, 7)


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"oauth_provider": "google"}, "p_oauth_provider"),
        ({"oauth_provider": ""}, "p_oauth_provider"),
        ({"oauth_provider": None}, "p_oauth_provider"),
        ({"external_id": ""}, "p_external_id"),
        ({"external_id": None}, "p_external_id"),
        ({"external_id": "x" * 256}, "p_external_id"),
        ({"wa_id": "x" * 256}, "p_wa_id"),
        ({"context_request_id": "x" * 256}, "p_context_request_id"),
        ({"customer_email": "x" * 256}, "p_customer_email"),
    ],
    ids=lambda value: (
        ",".join(f"{k}={str(v)[:9]}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_a_faulty_argument_is_named(dba: Caller, arguments: dict[str, Any], argument: str) -> None:
    refusal = dba.refusal("check_credit", **{**person(), **arguments})
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.detail["argument"] == argument
    assert refusal.message == f"Invalid {argument}: {refusal.detail['problem']}"


# --- the audit row -------------------------------------------------------------------------------


def test_each_check_leaves_a_row_with_the_decision_it_made(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who, key = new_user(module_database, free=False), key_id(module_database)
    web.row(
        "check_credit",
        **who,
        wa_id="w",
        tenant_id="t",
        context_agent_id="a",
        context_channel_id="c",
        context_request_id="r",
        api_key_id=key,
    )
    dba.row("create_credit", **who, amount_minor=2)
    dba.row("check_credit", **who)
    account = account_of(module_database, who)["id"]
    _, denied, granted = recorded_checks(module_database, who)
    expected = {
        "account_id": account,
        "wa_id": "w",
        "tenant_id": "t",
        "has_credit": False,
        "credits_remaining": 0,
        "free_uses_remaining": 0,
        "plan_name": "free",
        "denial_reason": "No free uses or credits remaining",
        "context_agent_id": "a",
        "context_channel_id": "c",
        "context_request_id": "r",
        "api_key_id": key,
        "database_role": None,
    }
    assert {name: denied[name] for name in expected} == expected
    assert (granted["has_credit"], granted["denial_reason"]) == (True, None)
    assert granted["credits_remaining"] == 2
    assert (granted["api_key_id"], granted["database_role"]) == (None, "t_dba")
    assert (granted["context_agent_id"], granted["wa_id"]) == (None, None)


def test_who_still_has_free_uses_is_not_recorded_as_denied(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    dba.row("check_credit", **who)
    assert {row["has_credit"] for row in recorded_checks(module_database, who)} == {True}


def test_a_refused_check_leaves_no_row(module_database: Database, web: Caller) -> None:
    who, writer = person(), key_id(module_database, "billing:write")
    assert web.refusal("check_credit", **who, api_key_id=writer).slug == "permission_missing"
    rows = check_all(web, [{**who, "api_key_id": writer}])
    assert outcomes(rows) == ["permission_missing"]
    assert recorded_checks(module_database, who) == []
    assert module_database.execute(
        "SELECT a.id FROM billing_data.accounts AS a WHERE a.external_id = %s", who["external_id"]
    ) == []  # fmt: skip


def test_the_row_lies_in_the_partition_of_its_month(module_database: Database, dba: Caller) -> None:
    who = person()
    dba.row("check_credit", **who)
    rows = module_database.execute(
        "SELECT c.tableoid::regclass::text, c.created_at FROM billing_data.credit_checks AS c"
        " WHERE c.external_id = %s",
        who["external_id"],
    )
    ((partition, created_at),) = rows
    assert partition == f"billing_data.credit_checks_{created_at.astimezone(UTC):%Y_%m}"
    assert abs(created_at - datetime.now(UTC)) < timedelta(minutes=5)


# --- profile -------------------------------------------------------------------------------------


def test_the_first_check_stores_the_whole_profile(module_database: Database, dba: Caller) -> None:
    who = person()
    dba.row(
        "check_credit",
        **who,
        customer_email="ada@example.com",
        user_role="member",
        agent_id="agent-1",
        marketing_opt_in=True,
        marketing_opt_in_source="chat",
    )
    account = account_of(module_database, who)
    assert account["customer_email"] == "ada@example.com"
    assert (account["user_role"], account["agent_id"]) == ("member", "agent-1")
    assert account["marketing_opt_in"] is True
    assert account["marketing_opt_in_at"] == account["created_at"]
    assert account["marketing_opt_in_source"] == "chat"


def test_the_source_is_stored_at_creation_even_without_consent(
    module_database: Database, dba: Caller
) -> None:
    who = person()
    dba.row("check_credit", **who, marketing_opt_in_source="chat")
    account = account_of(module_database, who)
    assert (account["marketing_opt_in"], account["marketing_opt_in_at"]) == (False, None)
    assert account["marketing_opt_in_source"] == "chat"


def test_a_later_check_replaces_what_it_gives_and_leaves_the_rest(
    module_database: Database, dba: Caller
) -> None:
    who = person()
    dba.row("check_credit", **who, customer_email="ada@example.com", user_role="member")
    before = account_of(module_database, who)
    dba.row("check_credit", **who, customer_email="lovelace@example.com", agent_id="agent-2")
    account = account_of(module_database, who)
    assert account["customer_email"] == "lovelace@example.com"
    assert (account["user_role"], account["agent_id"]) == ("member", "agent-2")
    assert account["updated_at"] > before["updated_at"]
    dba.row("check_credit", **who, customer_email="lovelace@example.com")
    assert account_of(module_database, who)["updated_at"] == account["updated_at"]


@pytest.mark.parametrize("given", [True, False, None])
def test_consent_goes_from_no_to_yes_only(
    module_database: Database, dba: Caller, given: bool | None
) -> None:
    who = person()
    dba.row("check_credit", **who, marketing_opt_in=True, marketing_opt_in_source="chat")
    before = account_of(module_database, who)
    dba.row("check_credit", **who, marketing_opt_in=given, marketing_opt_in_source="web")
    assert account_of(module_database, who) == before


def test_consent_given_later_is_stamped_then_and_keeps_an_older_source_if_it_names_none(
    module_database: Database, dba: Caller
) -> None:
    who = person()
    dba.row("check_credit", **who, marketing_opt_in_source="signup")
    dba.row("check_credit", **who, marketing_opt_in=True)
    account = account_of(module_database, who)
    assert account["marketing_opt_in"] is True
    assert account["marketing_opt_in_at"] > account["created_at"]
    assert account["marketing_opt_in_source"] == "signup"


def test_a_denied_check_still_updates_the_profile(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database)
    set_status(dba, who, "closed")
    dba.row("check_credit", **who, customer_email="ada@example.com")
    assert account_of(module_database, who)["customer_email"] == "ada@example.com"
