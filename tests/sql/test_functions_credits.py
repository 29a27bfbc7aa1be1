"""billing.create_credit and billing.record_credit."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sql.helpers import (
    BIGGEST,
    Caller,
    account_of,
    key_id,
    ledger_problems,
    new_user,
    person,
    session,
)
from tests.support import Database, unique

GIFT = {"amount_minor": 5, "transaction_type": "grant", "description": "a gift"}


def _credits(database: Database, who: dict[str, str]) -> list[dict[str, Any]]:
    with session(database, "postgres") as root:
        return root.execute(
            "SELECT * FROM billing_data.credits WHERE account_id = %s ORDER BY ledger_version",
            account_of(database, who)["id"],
        )


@pytest.mark.parametrize("kind", ["purchase", "grant", "refund", "adjustment"])
def test_every_kind_of_credit_adds(module_database: Database, dba: Caller, kind: str) -> None:
    who = new_user(module_database, paid=2)
    answer = dba.row("create_credit", **who, amount_minor=5, transaction_type=kind)
    assert (answer["balance_before"], answer["balance_after"]) == (2, 7)
    assert answer["transaction_type"] == kind
    assert answer["description"] == "Granted"
    account = account_of(module_database, who)
    assert (account["paid_credits"], account["ledger_version"]) == (7, 2)
    assert (account["total_uses"], account["free_uses_remaining"]) == (0, 3)


def test_a_credit_is_one_ledger_row_that_says_all_that_was_asked(
    module_database: Database, dba: Caller
) -> None:
    who, key = new_user(module_database), unique()
    answer = dba.row(
        "create_credit",
        **who,
        amount_minor=20,
        transaction_type="purchase",
        description="a pack",
        external_transaction_id="pi_1",
        idempotency_key=key,
    )
    (row,) = _credits(module_database, who)
    assert row["id"] == answer["credit_id"]
    assert row["account_id"] == answer["account_id"]
    assert row["created_at"] == answer["created_at"]
    expected = {
        "ledger_version": 1,
        "amount_minor": 20,
        "currency": "USD",
        "balance_before": 0,
        "balance_after": 20,
        "transaction_type": "purchase",
        "description": "a pack",
        "external_transaction_id": "pi_1",
        "idempotency_key": key,
        "database_role": "t_dba",
        "api_key_id": None,
        "admin_user_id": None,
    }
    assert {name: row[name] for name in expected} == expected


def test_a_credit_by_a_key_names_the_key(module_database: Database, web: Caller) -> None:
    who, key = new_user(module_database), key_id(module_database)
    web.row("record_credit", **who, **GIFT, api_key_id=key)
    (row,) = _credits(module_database, who)
    assert (row["api_key_id"], row["database_role"]) == (key, None)


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_suspended_and_closed_accounts_take_credits(
    module_database: Database, dba: Caller, status: str
) -> None:
    who = new_user(module_database)
    dba.row("set_account_status", **who, status=status, reason="a test")
    assert dba.row("create_credit", **who, amount_minor=5)["balance_after"] == 5


def test_an_unknown_account_takes_no_credit_and_is_not_made(dba: Caller) -> None:
    who = person()
    refusal = dba.refusal("create_credit", **who, amount_minor=5)
    assert (refusal.sqlstate, refusal.slug) == ("PB404", "account_not_found")
    assert refusal.message == "Account not found"
    answer = dba.row("record_credit", **who, **GIFT)
    assert answer["outcome"] == "account_not_found"
    assert answer["credit_id"] is None
    assert dba.refusal("get_account", **who).slug == "account_not_found"


def test_a_credit_in_another_currency_is_refused(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database)
    refusal = dba.refusal("create_credit", **who, amount_minor=5, currency="EUR")
    assert (refusal.sqlstate, refusal.slug) == ("PB400", "credit_currency_mismatch")
    assert refusal.message == "Data integrity error: Currency mismatch: account=USD, credit=EUR"
    assert refusal.detail["account_currency"] == "USD"
    assert refusal.detail["currency"] == "EUR"
    assert refusal.hint == "Credit in the account's currency."
    answer = dba.row("record_credit", **who, **GIFT, currency="EUR")
    assert answer["outcome"] == "credit_currency_mismatch"
    assert (answer["account_currency"], answer["currency"]) == ("USD", "EUR")
    assert _credits(module_database, who) == []


def test_a_balance_fills_64_bits_and_not_one_more(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database)
    assert dba.row("create_credit", **who, amount_minor=BIGGEST - 1)["balance_after"] == BIGGEST - 1
    refusal = dba.refusal("create_credit", **who, amount_minor=2)
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "balance_overflow")
    assert refusal.message == (f"Balance overflow: {BIGGEST - 1} and 2 together exceed {BIGGEST}")
    assert refusal.detail["balance"] == BIGGEST - 1
    assert refusal.hint == "Grant a smaller amount."
    assert dba.row("create_credit", **who, amount_minor=1)["balance_after"] == BIGGEST
    assert dba.row("record_credit", **who, **GIFT)["outcome"] == "balance_overflow"
    assert dba.refusal("create_credit", **who, amount_minor=BIGGEST).slug == "balance_overflow"
    assert account_of(module_database, who)["paid_credits"] == BIGGEST
    assert ledger_problems(module_database) == []
    with session(module_database, "t_analyst") as analyst:
        (row,) = analyst.execute("SELECT sum(d.credits_added) AS added FROM billing.daily_usage d")
    assert row["added"] >= BIGGEST


def test_a_used_key_is_refused_with_its_credit(module_database: Database, dba: Caller) -> None:
    who, key = new_user(module_database), unique()
    first = dba.row("create_credit", **who, amount_minor=5, idempotency_key=key)
    before = account_of(module_database, who)
    for change in ({}, {"amount_minor": 6}, {"currency": "EUR"}, {"amount_minor": BIGGEST}):
        refusal = dba.refusal(
            "create_credit", **{**who, "amount_minor": 5, **change}, idempotency_key=key
        )
        assert (refusal.sqlstate, refusal.slug) == ("PB409", "credit_already_exists")
        assert refusal.message == "Credit already exists"
        assert refusal.detail["credit_id"] == str(first["credit_id"])
    assert account_of(module_database, who) == before


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, "replayed"),
        ({"amount_minor": 6}, "conflict"),
        ({"description": "another"}, "conflict"),
        ({"transaction_type": "refund"}, "conflict"),
        ({"external_transaction_id": "pi_2"}, "conflict"),
        ({"customer_email": "ada@example.com"}, "conflict"),
        ({"marketing_opt_in": None}, "replayed"),
    ],
    ids=str,
)
def test_the_same_request_is_replayed_and_another_is_a_conflict(
    module_database: Database, dba: Caller, change: dict[str, Any], outcome: str
) -> None:
    who, key = new_user(module_database), unique()
    first = dba.row("record_credit", **who, **GIFT, idempotency_key=key)
    assert first["outcome"] == "created"
    again = dba.row("record_credit", **{**who, **GIFT, **change}, idempotency_key=key)
    assert again["outcome"] == outcome
    for field in ("credit_id", "amount_minor", "balance_after", "created_at", "description"):
        assert again[field] == first[field]
    assert account_of(module_database, who)["paid_credits"] == 5


def test_a_key_belongs_to_its_account(module_database: Database, dba: Caller) -> None:
    ada, ben, key = new_user(module_database), new_user(module_database), unique()
    for who in (ada, ben):
        dba.row("create_credit", **who, amount_minor=1, idempotency_key=key)


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, "created"),
        ({"currency": "EUR"}, "credit_currency_mismatch"),
        ({"idempotency_key": "used"}, "conflict"),
        ({"amount_minor": BIGGEST}, "balance_overflow"),
    ],
    ids=str,
)
def test_the_outcome_form_keeps_the_profile_whatever_the_outcome(
    module_database: Database, dba: Caller, change: dict[str, Any], outcome: str
) -> None:
    who = new_user(module_database)
    dba.row("create_credit", **who, amount_minor=1, idempotency_key="used")
    profile = {"customer_email": "ada@example.com", "marketing_opt_in": True}
    answer = dba.row("record_credit", **{**who, **GIFT, **change}, **profile)
    assert answer["outcome"] == outcome
    account = account_of(module_database, who)
    assert account["customer_email"] == "ada@example.com"
    assert account["marketing_opt_in"] is True
    assert account["paid_credits"] == (6 if outcome == "created" else 1)


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"oauth_provider": "google"}, "p_oauth_provider"),
        ({"oauth_provider": None}, "p_oauth_provider"),
        ({"external_id": None}, "p_external_id"),
        ({"external_id": ""}, "p_external_id"),
        ({"amount_minor": 0}, "p_amount_minor"),
        ({"amount_minor": -1}, "p_amount_minor"),
        ({"amount_minor": None}, "p_amount_minor"),
        ({"transaction_type": "gift"}, "p_transaction_type"),
        ({"transaction_type": None}, "p_transaction_type"),
        ({"description": ""}, "p_description"),
        ({"description": None}, "p_description"),
        ({"currency": None}, "p_currency"),
        ({"idempotency_key": "x" * 256}, "p_idempotency_key"),
        ({"external_transaction_id": "x" * 256}, "p_external_transaction_id"),
    ],
    ids=lambda value: (
        ",".join(f"{k}={str(v)[:9]}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
@pytest.mark.parametrize("function", ["create_credit", "record_credit"])
def test_a_faulty_argument_is_named(
    module_database: Database,
    dba: Caller,
    function: str,
    arguments: dict[str, Any],
    argument: str,
) -> None:
    who = new_user(module_database)
    refusal = dba.refusal(function, **{**who, **GIFT, **arguments})
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.detail["argument"] == argument
    assert refusal.message == f"Invalid {argument}: {refusal.detail['problem']}"
    assert _credits(module_database, who) == []


@pytest.mark.parametrize("function", ["create_credit", "record_credit"])
def test_a_credit_commits_durably(module_database: Database, function: str) -> None:
    who = new_user(module_database)
    with session(module_database, "t_dba", autocommit=False) as dba:
        dba.execute("SET synchronous_commit = off")
        dba.row(function, **who, **GIFT)
        assert dba.execute("SHOW synchronous_commit") == [{"synchronous_commit": "on"}]
        dba.connection.rollback()


def test_credits_and_charges_make_one_chain(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, free=False)
    for amount in (3, 4):
        dba.row("create_credit", **who, amount_minor=amount)
        dba.row("create_charge", **who, amount_minor=2)
    account = account_of(module_database, who)
    assert (account["paid_credits"], account["ledger_version"]) == (3, 7)
    rows = module_database.execute(
        "SELECT l.ledger_version, l.balance_change, l.balance_after FROM billing.ledger AS l"
        " WHERE l.account_id = %s AND l.ledger_version > 3 ORDER BY 1",
        account["id"],
    )
    assert rows == [(4, 3, 3), (5, -2, 1), (6, 4, 5), (7, -2, 3)]
    assert ledger_problems(module_database) == []
