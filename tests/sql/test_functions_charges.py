"""billing.create_charge and billing.create_charges."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.sql.helpers import (
    BIGGEST,
    Caller,
    Refusal,
    account_of,
    charge_all,
    charge_once,
    is_blocked,
    key_id,
    ledger_problems,
    new_user,
    outcomes,
    person,
    session,
)
from tests.support import Database, held_account, unique, wait_for


def _charges(database: Database, who: dict[str, str]) -> list[dict[str, Any]]:
    with session(database, "postgres") as root:
        return root.execute(
            "SELECT * FROM billing_data.charges WHERE account_id = %s ORDER BY ledger_version",
            account_of(database, who)["id"],
        )


def _set_status(dba: Caller, who: dict[str, str], status: str) -> None:
    dba.row("set_account_status", **who, status=status, reason="a test")


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
    (row,) = _charges(module_database, who)
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
    assert row["request_fingerprint"][0] == 2  # the version of its form
    assert row["id"].version == 7


def test_a_charge_by_a_key_names_the_key(module_database: Database, web: Caller) -> None:
    who, key = new_user(module_database), key_id(module_database)
    web.row("create_charge", **who, api_key_id=key)
    (row,) = _charges(module_database, who)
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
    assert len(_charges(module_database, who)) == 3


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
    _set_status(dba, who, status)
    refusal = dba.refusal("create_charge", **who)
    assert (refusal.sqlstate, refusal.slug) == ("PB403", f"account_{status}")
    assert refusal.message == message
    assert _charges(module_database, who) == []
    _set_status(dba, who, "active")
    assert dba.row("create_charge", **who)["paid_with"] == "free"


def test_a_charge_in_another_currency_is_refused(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, paid=5)
    refusal = dba.refusal("create_charge", **who, currency="EUR")
    assert (refusal.sqlstate, refusal.slug) == ("PB400", "charge_currency_mismatch")
    assert refusal.message == "Data integrity error: Currency mismatch: account=USD, charge=EUR"
    assert refusal.detail["account_currency"] == "USD"
    assert refusal.detail["currency"] == "EUR"
    assert _charges(module_database, who) == []


def test_the_reasons_of_a_refusal_have_an_order(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, free=False)
    assert dba.refusal("create_charge", **who, currency="EUR").slug == "charge_currency_mismatch"
    assert dba.refusal("create_charge", **who).slug == "insufficient_credits"
    _set_status(dba, who, "suspended")
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
        _set_status(dba, who, state)
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
    assert _charges(module_database, who) == []


def test_an_amount_beyond_64_bits_does_not_reach_the_function(dba: Caller) -> None:
    refusal = dba.refusal("create_charge", **person(), amount_minor=BIGGEST + 1)
    assert refusal.sqlstate == "42883"


def test_optional_arguments_may_be_null(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database)
    nothing = dict.fromkeys(
        ("idempotency_key", "customer_email", "user_role", "agent_id", "marketing_opt_in")
    )
    assert dba.row("create_charge", **who, **nothing)["paid_with"] == "free"


# --- the profile a charge carries ----------------------------------------------------------------


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
    _set_status(dba, closed, "closed")
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


# --- several at once -----------------------------------------------------------------------------


def test_each_item_of_a_batch_has_its_own_outcome(module_database: Database, dba: Caller) -> None:
    fine, empty = new_user(module_database, paid=9), new_user(module_database, free=False)
    suspended, closed = new_user(module_database), new_user(module_database)
    _set_status(dba, suspended, "suspended")
    _set_status(dba, closed, "closed")
    used = dba.row("create_charge", **fine, idempotency_key="used")
    rows = charge_all(
        dba,
        [
            fine,
            empty,
            suspended,
            closed,
            person(),
            {**fine, "currency": "EUR"},
            {**fine, "idempotency_key": "used"},
            {**fine, "idempotency_key": "used", "amount_minor": 2},
            {**fine, "description": "the last"},
        ],
    )
    assert outcomes(rows) == [
        "created",
        "insufficient_credits",
        "account_suspended",
        "account_closed",
        "account_not_found",
        "charge_currency_mismatch",
        "replayed",
        "conflict",
        "created",
    ]
    assert rows[1]["balance"] == 0
    assert (rows[5]["account_currency"], rows[5]["currency"]) == ("USD", "EUR")
    for repeated in rows[6:8]:
        assert repeated["charge_id"] == used["charge_id"]
        assert repeated["created_at"] == used["created_at"]
        assert repeated["amount_minor"] == used["amount_minor"]
        assert repeated["free_uses_after"] == used["free_uses_after"]
    assert rows[8]["description"] == "the last"
    refused = [row for row in rows if row["outcome"] not in ("created", "replayed", "conflict")]
    assert [row["charge_id"] for row in refused] == [None] * 5
    assert account_of(module_database, fine)["total_uses"] == 3


def test_items_of_one_account_are_decided_in_their_order(
    module_database: Database, dba: Caller
) -> None:
    who, other = new_user(module_database, paid=3), new_user(module_database)
    amounts = [9, 1, 1, 2, 2, 1, 1]
    items: list[dict[str, Any]] = [{**who, "amount_minor": amount} for amount in amounts]
    items.insert(3, other)
    rows = charge_all(dba, items)
    assert outcomes(rows) == [
        "created",
        "created",
        "created",
        "created",
        "created",
        "insufficient_credits",
        "created",
        "insufficient_credits",
    ]
    mine = [row for index, row in enumerate(rows) if index != 3]
    assert [row["paid_with"] for row in mine] == [*["free"] * 3, "paid", None, "paid", None]
    assert [row["balance_after"] for row in mine] == [3, 3, 3, 1, None, 0, None]
    assert rows[7]["balance"] == 0
    stored = _charges(module_database, who)
    assert [row["ledger_version"] for row in stored] == [2, 3, 4, 5, 6]
    assert [row["id"] for row in stored] == [row["charge_id"] for row in mine if row["charge_id"]]
    assert ledger_problems(module_database) == []


def test_a_key_given_twice_in_one_call_charges_once(module_database: Database, dba: Caller) -> None:
    who, key = new_user(module_database), unique()
    item = {**who, "idempotency_key": key}
    rows = charge_all(dba, [item, item, {**item, "amount_minor": 2}, who])
    assert outcomes(rows) == ["created", "replayed", "conflict", "created"]
    assert {row["charge_id"] for row in rows[:3]} == {rows[0]["charge_id"]}
    assert rows[2]["amount_minor"] == 1
    assert len(_charges(module_database, who)) == 2


def test_one_key_for_two_accounts_in_one_call_charges_both(
    module_database: Database, dba: Caller
) -> None:
    ada, ben, key = new_user(module_database), new_user(module_database), unique()
    items = [{**who, "idempotency_key": key} for who in (ada, ben, ada, ben)]
    assert outcomes(charge_all(dba, items)) == ["created", "created", "replayed", "replayed"]


def test_a_refused_item_leaves_its_key_to_a_later_one(
    module_database: Database, dba: Caller
) -> None:
    who, key = new_user(module_database, free=False, paid=1), unique()
    items = [
        {**who, "idempotency_key": key, "amount_minor": 2},
        {**who, "idempotency_key": key, "amount_minor": 1},
    ]
    assert outcomes(charge_all(dba, items)) == ["insufficient_credits", "created"]


def test_a_thousand_items_are_charged_in_one_call(module_database: Database, dba: Caller) -> None:
    users = [new_user(module_database, paid=100) for _ in range(10)]
    rows = charge_all(dba, [users[number % 10] for number in range(1000)])
    assert set(outcomes(rows)) == {"created"}
    assert [account_of(module_database, who)["paid_credits"] for who in users] == [3] * 10
    assert ledger_problems(module_database) == []


def test_an_empty_batch_does_nothing(dba: Caller) -> None:
    nothing: dict[str, list[Any]] = {
        "oauth_providers": [],
        "external_ids": [],
        "amounts_minor": [],
        "currencies": [],
        "descriptions": [],
    }
    assert dba.rows("create_charges", **nothing) == []
    with pytest.raises(psycopg.Error) as refused:
        dba.rows("create_charges", **dict.fromkeys(nothing))
    assert refused.value.sqlstate == "PB422"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount_minor", None),
        ("amount_minor", 0),
        ("amount_minor", -5),
        ("currency", None),
        ("description", None),
        ("idempotency_key", "x" * 256),
        ("metadata_request_id", "x" * 256),
        ("customer_email", "x" * 256),
        ("user_role", "x" * 51),
    ],
    ids=lambda value: str(value)[:20],
)
def test_one_bad_item_is_refused_alone(
    module_database: Database, dba: Caller, field: str, value: Any
) -> None:
    good = new_user(module_database, paid=5, free=False)
    bad = new_user(module_database, paid=5, free=False)
    before = account_of(module_database, bad)
    rows = charge_all(dba, [good, {**bad, field: value}, good])
    assert outcomes(rows) == ["created", "invalid_argument", "created"]
    assert account_of(module_database, bad) == before


@pytest.mark.parametrize("field", ["oauth_provider", "external_id"])
def test_an_item_without_an_identity_is_refused_alone(
    module_database: Database, dba: Caller, field: str
) -> None:
    good = new_user(module_database)
    rows = charge_all(dba, [good, {**good, field: None}])
    assert rows[0]["outcome"] == "created"
    assert rows[1]["outcome"] in ("account_not_found", "invalid_argument")


@pytest.mark.parametrize(
    "short",
    ["external_ids", "amounts_minor", "currencies", "descriptions", "idempotency_keys"],
)
def test_arrays_of_different_lengths_are_refused_as_a_whole(
    module_database: Database, dba: Caller, short: str
) -> None:
    who = new_user(module_database)
    arrays: dict[str, list[Any]] = {
        "oauth_providers": [who["oauth_provider"]] * 2,
        "external_ids": [who["external_id"]] * 2,
        "amounts_minor": [1, 1],
        "currencies": ["USD", "USD"],
        "descriptions": ["one use", "one use"],
        "idempotency_keys": ["k1", "k2"],
    }
    arrays[short] = arrays[short][:1]
    refusal = dba.refusal("create_charges", **arrays)
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert _charges(module_database, who) == []


def test_fewer_keys_than_items_let_no_item_through_unnamed(
    module_database: Database, web: Caller
) -> None:
    who, key = new_user(module_database), key_id(module_database)
    arrays: dict[str, list[Any]] = {
        "oauth_providers": [who["oauth_provider"]] * 2,
        "external_ids": [who["external_id"]] * 2,
        "amounts_minor": [1, 1],
        "currencies": ["USD", "USD"],
        "descriptions": ["one use", "one use"],
    }
    for keys in ([], [None], [None, None]):
        try:
            rows = web.rows("create_charges", **arrays, api_key_ids=keys)
        except psycopg.Error as error:
            assert Refusal.of(error).slug == "invalid_argument"  # noqa: PT017
        else:
            assert outcomes(rows) == ["api_key_invalid"] * 2
    try:
        rows = web.rows("create_charges", **arrays, api_key_ids=[key])
    except psycopg.Error as error:
        assert Refusal.of(error).slug == "invalid_argument"  # noqa: PT017
    else:
        assert sorted(outcomes(rows)) == ["api_key_invalid", "created"]


def test_each_item_is_charged_by_its_own_key(module_database: Database, web: Caller) -> None:
    who = new_user(module_database)
    keys = [key_id(module_database) for _ in range(2)]
    charge_all(web, [{**who, "api_key_id": key} for key in keys])
    assert [row["api_key_id"] for row in _charges(module_database, who)] == keys


# --- a whole list once --------------------------------------------------------------------------


def test_a_list_takes_effect_once_and_its_answer_is_given_again(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    key, users = key_id(module_database), [new_user(module_database, paid=5) for _ in range(2)]
    more = {**users[0], "amount_minor": 2, "description": "n"}
    items: list[dict[str, Any]] = [users[0], users[1], person(), more]
    first = charge_once(web, items, key, "list")
    assert outcomes(first) == ["created", "created", "account_not_found", "created"]
    assert {row["replayed"] for row in first} == {False}
    states = [account_of(module_database, who) for who in users]
    again = charge_once(web, items, key, "list")
    assert [row.pop("replayed") for row in again] == [True] * 4
    assert again == [{name: row[name] for name in row if name != "replayed"} for row in first]
    assert [account_of(module_database, who) for who in users] == states
    assert states[0]["total_uses"] == 2
    for who in users:
        dba.row("set_account_status", **who, status="closed", reason="a test")
    assert outcomes(charge_once(web, items, key, "list")) == outcomes(first)


def test_a_list_whose_api_key_ends_meanwhile_is_refused_and_free_for_the_next_key(
    database: Database,
) -> None:
    """The refusal is not kept as the list's answer: the next key would be told it for ever."""
    who = new_user(database, paid=5)
    old = database.create_key()
    with (
        session(database, "t_web") as web,
        ThreadPoolExecutor(1) as pool,
        held_account(database, who["external_id"]) as holder,
    ):
        waiting = pool.submit(charge_once, web, [who], uuid.UUID(old.id), "list")
        wait_for(lambda: is_blocked(database, web), "the list to wait for the account")
        new = database.rotate_key(old.id)
        database.execute("SELECT billing.revoke_api_key(p_api_key_id => %s)", old.id, user="t_dba")
        holder.rollback()
        with pytest.raises(psycopg.Error) as caught:
            waiting.result(30)
        assert Refusal.of(caught.value).slug == "api_key_invalid"
        assert _charges(database, who) == []
        (row,) = charge_once(web, [who], uuid.UUID(new.id), "list")
        assert (row["outcome"], row["replayed"]) == ("created", False)


def test_another_list_under_a_used_key_is_refused_and_charges_nothing(
    module_database: Database, web: Caller
) -> None:
    key, who = key_id(module_database), new_user(module_database)
    charge_once(web, [who], key, "list")
    with pytest.raises(psycopg.Error) as caught:
        charge_once(web, [who, who], key, "list", b"another")
    assert Refusal.of(caught.value).slug == "idempotency_key_reused"
    assert len(_charges(module_database, who)) == 1


def test_a_lists_key_belongs_to_its_api_key(module_database: Database, web: Caller) -> None:
    who = new_user(module_database)
    for _ in range(2):
        (row,) = charge_once(web, [who], key_id(module_database), "list")
        assert (row["outcome"], row["replayed"]) == ("created", False)


def test_a_lists_key_survives_the_rotation_of_its_api_key(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who = new_user(module_database, paid=5)
    line = [key_id(module_database)]
    for _ in range(2):
        line.append(uuid.UUID(module_database.rotate_key(line[-1]).id))
    # The one in the middle asks first; the oldest no longer works and the newest came later.
    dba.row("revoke_api_key", api_key_id=line[0])
    first = charge_once(web, [who, who], line[1], "list", b"by 1", batch_fingerprint=b"as sent")
    assert outcomes(first) == ["created", "created"]
    again = charge_once(web, [who, who], line[2], "list", b"by 2", batch_fingerprint=b"as sent")
    assert [{**row, "replayed": False} for row in again] == first
    assert {row["replayed"] for row in again} == {True}
    assert len(_charges(module_database, who)) == 2
    with pytest.raises(psycopg.Error) as caught:
        charge_once(web, [who], line[2], "list", b"by 2", batch_fingerprint=b"another")
    assert Refusal.of(caught.value).slug == "idempotency_key_reused"


@pytest.mark.parametrize("older", ["old key", "new key"])
def test_one_list_under_both_keys_of_a_rotation_at_once_takes_effect_once(
    module_database: Database, web: Caller, older: str
) -> None:
    who = new_user(module_database, paid=5)
    old = key_id(module_database)
    keys = [old, uuid.UUID(module_database.rotate_key(old).id)]
    if older == "new key":
        keys.reverse()
    sent = {"batch_fingerprint": b"as sent"}
    with (
        session(module_database, "t_web", autocommit=False) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        first = charge_once(other, [who], keys[0], "list", b"by 1", **sent)
        waiting = pool.submit(charge_once, web, [who], keys[1], "list", b"by 2", **sent)
        wait_for(lambda: is_blocked(module_database, web), "the second to wait for the first")
        other.connection.commit()
        again = waiting.result(timeout=30)
    assert [row["charge_id"] for row in again] == [row["charge_id"] for row in first]
    assert (first[0]["replayed"], again[0]["replayed"]) == (False, True)
    assert len(_charges(module_database, who)) == 1


def _all_but_the_last(database: Database, count: int = 4) -> tuple[list[Any], dict[str, str]]:
    """Identities in the order in which their accounts are locked, and the last one."""
    users = [new_user(database, paid=5) for _ in range(count)]
    users.sort(key=lambda who: account_of(database, who)["id"])
    return users[:-1], users[-1]


def _take(database: Database, users: list[dict[str, str]]) -> None:
    """Locks the accounts for a moment; fails when somebody holds one of them."""
    with session(database, "postgres") as root:
        for who in users:
            root.execute(
                "SELECT FROM billing_data.accounts WHERE external_id = %s FOR UPDATE NOWAIT",
                who["external_id"],
            )


@pytest.mark.parametrize("form", ["once per key", "by hand"])
def test_a_list_that_waits_for_an_account_holds_no_other(
    module_database: Database, web: Caller, dba: Caller, form: str
) -> None:
    others, held = _all_but_the_last(module_database)
    caller = web if form == "once per key" else dba
    with (
        ThreadPoolExecutor(1) as pool,
        held_account(module_database, held["external_id"]) as holder,
    ):
        if form == "once per key":
            key = key_id(module_database)
            waiting = pool.submit(charge_once, web, [*others, held], key, "list")
        else:
            waiting = pool.submit(charge_all, dba, [*others, held])
        wait_for(lambda: is_blocked(module_database, caller), "the list to wait")
        _take(module_database, others)
        assert not waiting.done()
        holder.rollback()
        assert outcomes(waiting.result(timeout=30)) == ["created"] * 4
    for who in (*others, held):
        assert len(_charges(module_database, who)) == 1
    assert ledger_problems(module_database) == []


@pytest.mark.parametrize("form", ["once per key", "by hand"])
def test_a_list_whose_account_stays_held_does_nothing_at_all(
    module_database: Database, form: str
) -> None:
    others, held = _all_but_the_last(module_database)
    key = key_id(module_database)

    def charge(caller: Caller) -> list[dict[str, Any]]:
        if form == "by hand":
            return charge_all(caller, [*others, held])
        return charge_once(caller, [*others, held], key, "list")

    with session(module_database, "t_web" if form == "once per key" else "t_dba") as caller:
        caller.execute("SET lock_timeout = '300ms'")
        with held_account(module_database, held["external_id"]):
            began = time.monotonic()
            with pytest.raises(psycopg.errors.LockNotAvailable):
                charge(caller)
            assert 0.25 < time.monotonic() - began < 5
            assert [_charges(module_database, who) for who in others] == [[]] * 3
        assert outcomes(charge(caller)) == ["created"] * 4
        assert caller.execute("SHOW lock_timeout") == [{"lock_timeout": "300ms"}]


def test_without_waiting_a_list_with_a_held_account_is_busy_as_a_whole(
    module_database: Database, web: Caller
) -> None:
    others, held = _all_but_the_last(module_database)
    key = key_id(module_database)
    with held_account(module_database, held["external_id"]):
        rows = charge_once(web, [*others, held, person()], key, "list", wait=False)
        assert outcomes(rows) == ["busy"] * 5
        _take(module_database, others)
    assert [_charges(module_database, who) for who in (*others, held)] == [[]] * 4
    rows = charge_once(web, [*others, held, person()], key, "list", wait=False)
    assert outcomes(rows) == ["created"] * 4 + ["account_not_found"]
    assert {row["replayed"] for row in rows} == {False}
    with held_account(module_database, held["external_id"]):  # what was done is only read
        again = charge_once(web, [*others, held, person()], key, "list", wait=False)
    assert outcomes(again) == outcomes(rows)
    assert {row["replayed"] for row in again} == {True}


def test_one_list_sent_twice_that_waits_for_an_account_takes_effect_once(
    module_database: Database,
) -> None:
    others, held = _all_but_the_last(module_database)
    key = key_id(module_database)
    with (
        session(module_database, "t_web") as one,
        session(module_database, "t_web") as other,
        ThreadPoolExecutor(2) as pool,
    ):
        with held_account(module_database, held["external_id"]):
            sent = [
                pool.submit(charge_once, caller, [*others, held], key, "list")
                for caller in (one, other)
            ]
            for caller in (one, other):
                wait_for(partial(is_blocked, module_database, caller), "both to wait")
        answers = [answer.result(timeout=30) for answer in sent]
    assert sorted(rows[0]["replayed"] for rows in answers) == [False, True]
    first, again = ([row["charge_id"] for row in rows] for rows in answers)
    assert first == again
    for who in (*others, held):
        assert len(_charges(module_database, who)) == 1


def test_lists_get_through_while_others_take_their_accounts_again_and_again(
    module_database: Database,
) -> None:
    users = [new_user(module_database, paid=1000) for _ in range(6)]
    key, stop = key_id(module_database), threading.Event()

    def charge(number: int) -> int:
        made = 0
        with session(module_database, "t_web") as caller:
            while not stop.is_set():
                items = [{**who, "api_key_id": key} for who in users[number % 3 :: 2]]
                made += outcomes(charge_all(caller, items, wait=False)).count("created")
        return made

    with session(module_database, "t_web") as web, ThreadPoolExecutor(4) as pool:
        web.execute("SET lock_timeout = '20s'")
        others = [pool.submit(charge, number) for number in range(4)]
        try:
            for number in range(20):
                rows = charge_once(web, users, key, f"list {number}")
                assert set(outcomes(rows)) <= {"created", "insufficient_credits"}
        finally:
            stop.set()
        assert sum(other.result(timeout=30) for other in others) > 0
    assert ledger_problems(module_database) == []


def test_an_empty_list_has_an_empty_answer(module_database: Database, web: Caller) -> None:
    key = key_id(module_database)
    assert charge_once(web, [], key, "empty") == []
    assert charge_once(web, [], key, "empty") == []


def test_a_dba_who_makes_a_list_is_refused_in_words_or_served(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    try:
        rows = charge_once(dba, [who], None, unique())
    except psycopg.Error as error:
        assert Refusal.of(error).sqlstate.startswith("PB")  # noqa: PT017
    else:
        assert outcomes(rows) == ["created"]


@pytest.mark.parametrize("key", [None, "x" * 256], ids=["null", "too long"])
def test_a_list_needs_a_key_that_can_be_kept(
    module_database: Database, web: Caller, key: Any
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        charge_once(web, [new_user(module_database)], key_id(module_database), key)
    assert Refusal.of(caught.value).slug == "invalid_argument"


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
