"""billing.create_charge and billing.create_charges."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.charges import charges_of, set_status
from tests.sql.helpers import (
    BIGGEST,
    Caller,
    account_of,
    charge_all,
    key_id,
    new_user,
    outcomes,
    person,
)
from tests.support import Database, unique

# --- one charge ----------------------------------------------------------------------------------


def test_free_uses_go_first_one_for_each_charge_whatever_the_amount(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=10)
    answers = [dba.row("create_charge", **who, amount_minor=n) for n in (7, BIGGEST, 1, 4)]
    assert [answer["paid_with"] for answer in answers] == ["free", "free", "free", "paid"]
    assert [answer["free_uses_after"] for answer in answers] == [2, 1, 0, 0]
    assert [answer["balance_before"] for answer in answers] == [10, 10, 10, 10]
    assert [answer["balance_after"] for answer in answers] == [10, 10, 10, 6]
    assert [answer["amount_minor"] for answer in answers] == [7, BIGGEST, 1, 4]
    account = account_of(module_database, who)
    assert (account["free_uses_remaining"], account["paid_credits"]) == (0, 6)
    assert (account["total_uses"], account["ledger_version"]) == (4, 5)


def test_a_charge_is_one_ledger_row_that_says_all_that_was_asked(
    module_database: Database, dba: Caller
) -> None:
    who, key = new_user(module_database), unique()
    answer = dba.row(
        "create_charge",
        **who,
        amount_minor=2,
        description="two uses",
        idempotency_key=key,
        metadata_message_id="m",
        metadata_agent_id="a",
        metadata_channel_id="c",
        metadata_request_id="r",
    )
    (row,) = charges_of(module_database, who)
    assert row["id"] == answer["charge_id"]
    assert row["account_id"] == answer["account_id"]
    assert row["created_at"] == answer["created_at"]
    expected = {
        "ledger_version": 1,
        "amount_minor": 2,
        "currency": "USD",
        "description": "two uses",
        "idempotency_key": key,
        "metadata_message_id": "m",
        "metadata_agent_id": "a",
        "metadata_channel_id": "c",
        "metadata_request_id": "r",
        "balance_before": 0,
        "balance_after": 0,
        "free_uses_after": 2,
        "paid_with": "free",
        "database_role": "t_dba",
        "api_key_id": None,
        "admin_user_id": None,
    }
    assert {name: row[name] for name in expected} == expected
    assert row["request_fingerprint"][0] == 2  # the version of the fingerprint's format
    assert row["id"].version == 7


def test_a_charge_by_a_key_names_the_key(module_database: Database, web: Caller) -> None:
    who, key = new_user(module_database), key_id(module_database)
    web.row("create_charge", **who, api_key_id=key)
    (row,) = charges_of(module_database, who)
    assert (row["api_key_id"], row["database_role"]) == (key, None)


@pytest.mark.parametrize(("paid", "amount"), [(1, 1), (5, 5), (BIGGEST, BIGGEST)])
def test_a_charge_of_exactly_what_is_left_leaves_zero(
    module_database: Database, dba: Caller, paid: int, amount: int
) -> None:
    who = new_user(module_database, paid=paid, free=False)
    assert dba.row("create_charge", **who, amount_minor=amount)["balance_after"] == 0
    assert account_of(module_database, who)["paid_credits"] == 0


@pytest.mark.parametrize(("paid", "amount"), [(0, 1), (4, 5), (1, BIGGEST), (BIGGEST - 1, BIGGEST)])
def test_a_charge_of_one_more_than_is_left_is_refused_and_changes_nothing(
    module_database: Database, dba: Caller, paid: int, amount: int
) -> None:
    who = new_user(module_database, paid=paid, free=False)
    before = account_of(module_database, who)
    refusal = dba.refusal("create_charge", **who, amount_minor=amount)
    assert (refusal.sqlstate, refusal.slug) == ("PB402", "insufficient_credits")
    assert refusal.message == f"Insufficient credits. Balance: {paid}, Required: {amount}"
    assert refusal.hint == "Buy or grant credits first."
    assert refusal.detail["balance"] == paid
    assert refusal.detail["required"] == amount
    assert account_of(module_database, who) == before
    assert len(charges_of(module_database, who)) == 3


def test_free_uses_and_credits_are_never_mixed_for_one_charge(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=2)
    for _ in range(2):
        dba.row("create_charge", **who)
    # One free use and two credits are left: the free use pays for three.
    assert dba.row("create_charge", **who, amount_minor=3)["balance_after"] == 2
    assert dba.refusal("create_charge", **who, amount_minor=3).slug == "insufficient_credits"


def test_an_unknown_account_cannot_be_charged_and_is_not_made(
    module_database: Database, dba: Caller
) -> None:
    who = person()
    refusal = dba.refusal("create_charge", **who)
    assert (refusal.sqlstate, refusal.slug) == ("PB404", "account_not_found")
    assert refusal.message == "Account not found"
    assert refusal.hint is not None
    assert "billing.check_credit" in refusal.hint
    assert dba.refusal("get_account", **who).slug == "account_not_found"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("suspended", "Account suspended: Account suspended"),
        ("closed", "Account is closed"),
    ],
)
def test_a_suspended_or_closed_account_cannot_be_charged(
    module_database: Database, dba: Caller, status: str, message: str
) -> None:
    who = new_user(module_database, paid=5)
    set_status(dba, who, status)
    refusal = dba.refusal("create_charge", **who)
    assert (refusal.sqlstate, refusal.slug) == ("PB403", f"account_{status}")
    assert refusal.message == message
    assert charges_of(module_database, who) == []
    set_status(dba, who, "active")
    assert dba.row("create_charge", **who)["paid_with"] == "free"


def test_a_charge_in_another_currency_is_refused(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, paid=5)
    refusal = dba.refusal("create_charge", **who, currency="EUR")
    assert (refusal.sqlstate, refusal.slug) == ("PB400", "charge_currency_mismatch")
    assert refusal.message == "Data integrity error: Currency mismatch: account=USD, charge=EUR"
    assert refusal.detail["account_currency"] == "USD"
    assert refusal.detail["currency"] == "EUR"
    assert charges_of(module_database, who) == []


def test_the_reasons_of_a_refusal_have_an_order(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, free=False)
    assert dba.refusal("create_charge", **who, currency="EUR").slug == "charge_currency_mismatch"
    assert dba.refusal("create_charge", **who).slug == "insufficient_credits"
    set_status(dba, who, "suspended")
    assert dba.refusal("create_charge", **who, currency="EUR").slug == "account_suspended"


@pytest.mark.parametrize("change", [{}, {"description": "another"}, {"amount_minor": 9}])
@pytest.mark.parametrize("state", ["active", "suspended", "closed", "empty"])
def test_a_used_key_is_answered_with_its_charge_whatever_became_of_the_account(
    module_database: Database, dba: Caller, state: str, change: dict[str, Any]
) -> None:
    who, key = new_user(module_database), unique()
    first = dba.row("create_charge", **who, idempotency_key=key)
    if state == "empty":
        for _ in range(2):
            dba.row("create_charge", **who)
    elif state != "active":
        set_status(dba, who, state)
    before = account_of(module_database, who)
    refusal = dba.refusal("create_charge", **who, idempotency_key=key, **change)
    assert (refusal.sqlstate, refusal.slug) == ("PB409", "charge_already_exists")
    assert refusal.message == "Charge already exists"
    assert refusal.detail["charge_id"] == str(first["charge_id"])
    assert account_of(module_database, who) == before


def test_a_key_belongs_to_its_account_and_to_charges_only(
    module_database: Database, dba: Caller
) -> None:
    ada, ben, key = new_user(module_database), new_user(module_database), unique()
    one = dba.row("create_charge", **ada, idempotency_key=key)
    other = dba.row("create_charge", **ben, idempotency_key=key)
    assert one["charge_id"] != other["charge_id"]
    dba.row("create_credit", **ada, amount_minor=1, idempotency_key=key)


def test_a_refused_charge_does_not_use_up_its_key(module_database: Database, dba: Caller) -> None:
    who, key = new_user(module_database, free=False), unique()
    assert dba.refusal("create_charge", **who, idempotency_key=key).slug == "insufficient_credits"
    dba.row("create_credit", **who, amount_minor=1)
    assert dba.row("create_charge", **who, idempotency_key=key)["balance_after"] == 0


def test_charges_without_a_key_are_all_new(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database)
    ids = {dba.row("create_charge", **who)["charge_id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"oauth_provider": "google"}, "p_oauth_provider"),
        ({"oauth_provider": None}, "p_oauth_provider"),
        ({"oauth_provider": "oauth:" + "x" * 250}, "p_oauth_provider"),
        ({"external_id": ""}, "p_external_id"),
        ({"external_id": None}, "p_external_id"),
        ({"external_id": "x" * 256}, "p_external_id"),
        ({"amount_minor": 0}, "p_amount_minor"),
        ({"amount_minor": -1}, "p_amount_minor"),
        ({"amount_minor": None}, "p_amount_minor"),
        ({"description": ""}, "p_description"),
        ({"description": None}, "p_description"),
        ({"currency": "US"}, "p_currency"),
        ({"currency": None}, "p_currency"),
        ({"idempotency_key": "x" * 256}, "p_idempotency_key"),
        ({"metadata_message_id": "x" * 256}, "p_metadata_message_id"),
        ({"customer_email": "x" * 256}, "p_customer_email"),
        ({"user_role": "x" * 51}, "p_user_role"),
    ],
    ids=lambda value: (
        ",".join(f"{k}={str(v)[:9]}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_a_faulty_argument_is_named(
    module_database: Database, dba: Caller, arguments: dict[str, Any], argument: str
) -> None:
    who = new_user(module_database)
    refusal = dba.refusal("create_charge", **{**who, **arguments})
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.detail["argument"] == argument
    assert refusal.message == f"Invalid {argument}: {refusal.detail['problem']}"
    assert refusal.hint == "SELECT * FROM billing.help();"
    assert charges_of(module_database, who) == []


def test_an_amount_beyond_64_bits_does_not_reach_the_function(dba: Caller) -> None:
    refusal = dba.refusal("create_charge", **person(), amount_minor=BIGGEST + 1)
    assert refusal.sqlstate == "42883"


def test_optional_arguments_may_be_null(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database)
    nothing = dict.fromkeys(
        ("idempotency_key", "customer_email", "user_role", "agent_id", "marketing_opt_in")
    )
    assert dba.row("create_charge", **who, **nothing)["paid_with"] == "free"


# --- the profile that a charge carries -----------------------------------------------------------


def test_a_charge_updates_the_profile(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database)
    dba.row(
        "create_charge",
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
    assert (account["marketing_opt_in"], account["marketing_opt_in_source"]) == (True, "chat")
    assert account["marketing_opt_in_at"] is not None


def test_consent_is_stamped_once_and_never_taken_back(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    dba.row("create_charge", **who, marketing_opt_in=False, marketing_opt_in_source="ignored")
    assert account_of(module_database, who)["marketing_opt_in_source"] is None
    dba.row("create_charge", **who, marketing_opt_in=True, marketing_opt_in_source="chat")
    stamped = account_of(module_database, who)
    dba.row("create_charge", **who, marketing_opt_in=True, marketing_opt_in_source="web")
    with pytest.raises(psycopg.Error, match="Insufficient credits"):
        dba.row("create_charge", **who, marketing_opt_in=False)
    account = account_of(module_database, who)
    for field in ("marketing_opt_in", "marketing_opt_in_at", "marketing_opt_in_source"):
        assert account[field] == stamped[field]


def test_the_raising_form_keeps_nothing_of_a_refused_charge(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, free=False)
    dba.refusal("create_charge", **who, customer_email="ada@example.com")
    assert account_of(module_database, who)["customer_email"] is None


def test_the_batch_form_keeps_the_profile_of_refused_and_replayed_items(
    module_database: Database, dba: Caller
) -> None:
    empty, closed, used = (new_user(module_database, free=False) for _ in range(3))
    set_status(dba, closed, "closed")
    dba.row("create_credit", **used, amount_minor=1)
    dba.row("create_charge", **used, idempotency_key="k", description="one use")
    items: list[dict[str, Any]] = [
        {**empty, "customer_email": "empty@example.com"},
        {**closed, "customer_email": "closed@example.com", "marketing_opt_in": True},
        {**used, "customer_email": "used@example.com", "idempotency_key": "k"},
    ]
    rows = charge_all(dba, items)
    assert outcomes(rows) == ["insufficient_credits", "account_closed", "conflict"]
    found = [account_of(module_database, who) for who in (empty, closed, used)]
    assert [account["customer_email"] for account in found] == [
        "empty@example.com",
        "closed@example.com",
        "used@example.com",
    ]
    assert [account["marketing_opt_in"] for account in found] == [False, True, False]
    assert [account["paid_credits"] for account in found] == [0, 0, 0]
    assert [account["total_uses"] for account in found] == [3, 3, 4]
