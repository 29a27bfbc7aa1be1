"""Payments that do not fit, of the other mode, and of the old service."""

from __future__ import annotations

import uuid
from collections import Counter
from functools import partial
from typing import Any

import pytest

from tests.sql.helpers import (
    BIGGEST,
    NOBODY,
    Caller,
    account_of,
    at_once,
    new_user,
    person,
)
from tests.sql.payment_events.helpers import paid_credits_of, spend
from tests.sql.payments import (
    PRICE,
    USES,
    attach,
    begin,
    configure_provider,
    credits_of,
    deliver,
    event_of,
    give_back,
    legacy,
    metadata,
    problems_of,
    purchases_of,
)
from tests.support import Database, unique

# --- a payment that cannot be credited -----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"amount_minor": PRICE - 1}, ("amount_mismatch", "another amount was paid")),
        ({"amount_minor": PRICE + 1}, ("amount_mismatch", "another amount was paid")),
        ({"amount_minor": 0}, ("amount_mismatch", "another amount was paid")),
        ({"amount_minor": None}, ("amount_mismatch", "another amount was paid")),
        ({"amount_minor": BIGGEST}, ("amount_mismatch", "another amount was paid")),
        ({"currency": "eur"}, ("currency_mismatch", "it was paid in another currency")),
        ({"currency": None}, ("currency_mismatch", "it was paid in another currency")),
        ({"livemode": True}, ("mode_mismatch", "a test event met a live set-up")),
        ({"payment_id": "another"}, ("payment_mismatch", "the purchase already has another")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_payment_that_does_not_fit_is_kept_flagged_and_credited_once_it_fits(
    module_database: Database,
    web: Caller,
    dba: Caller,
    change: dict[str, Any],
    fault: tuple[str, str],
) -> None:
    outcome, what_is_wrong = fault
    who, event_id = new_user(module_database), unique("evt")
    purchase = begin(dba, who)
    payment_id = unique("pi")
    attach(dba, purchase, payment_id)
    if "payment_id" in change:
        change = {"payment_id": unique("pi")}
    sent = {"payment_id": payment_id, **metadata(purchase), **change}
    for number in (1, 2):
        answer = deliver(web, event_id, **sent)
        assert (answer["outcome"], answer["needs_attention"]) == (outcome, True)
        assert (answer["credits_added"], answer["deliveries"]) == (0, number)
    assert credits_of(module_database, purchase["account_id"]) == []
    (row,) = purchases_of(module_database, purchase["account_id"])
    assert (row["settled_at"], row["payment_id"]) == (None, payment_id)
    (problem,) = problems_of(dba, sent["payment_id"])
    assert (problem["problem"], problem["reference"]) == (outcome, event_id)
    assert problem["what_is_wrong"].startswith(what_is_wrong)
    assert problem["happened_at"] == event_of(module_database, event_id)["received_at"]
    if outcome != "mode_mismatch":  # such an event is not examined further
        assert problem["account_id"] == purchase["account_id"]
    mended = deliver(web, event_id, payment_id, purchase)
    assert (mended["outcome"], mended["needs_attention"]) == ("credited", False)
    assert mended["deliveries"] == 3
    assert paid_credits_of(module_database, who) == USES
    assert problems_of(dba, payment_id) == []


def test_a_payment_for_nobody_is_credited_once_the_account_that_it_names_is_there(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, event_id, payment_id = person(), unique("evt"), unique("pi")
    named = {"account_id": uuid.uuid4(), **who}
    answer = deliver(web, event_id, payment_id, **named)
    assert (answer["outcome"], answer["needs_attention"]) == ("account_not_found", True)
    assert answer["account_id"] is None
    (problem,) = problems_of(dba, payment_id)
    assert problem["what_is_wrong"] == "the payment names an identity without an account"
    assert dba.refusal("get_account", **who).slug == "account_not_found"
    # The situation after a restore from a backup. An account that is created again is another
    # account.
    module_database.execute(
        "INSERT INTO billing_data.accounts (id, oauth_provider, external_id) VALUES (%s, %s, %s)",
        *named.values(),
    )
    mended = deliver(web, event_id, payment_id, **named)
    assert (mended["outcome"], mended["credits_added"]) == ("credited", USES)
    assert mended["account_id"] == named["account_id"]
    assert problems_of(dba, payment_id) == []
    again = deliver(web, event_id, payment_id, **named)
    assert (again["outcome"], again["credits_added"]) == ("credited", 0)
    assert paid_credits_of(module_database, who) == USES


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"oauth_provider": "oauth:google"},
        {"external_id": "ada"},
        {"account_id": NOBODY, "purchase_id": NOBODY},
    ],
    ids=str,
)
def test_a_payment_that_does_not_say_whom_it_is_for_is_flagged(
    module_database: Database, web: Caller, dba: Caller, known: dict[str, Any]
) -> None:
    event_id, payment_id = unique("evt"), unique("pi")
    answer = deliver(web, event_id, payment_id, **known)
    assert (answer["outcome"], answer["needs_attention"]) == ("metadata_missing", True)
    (problem,) = problems_of(dba, payment_id)
    assert problem["what_is_wrong"] == "the payment does not say whom it is for"
    named = legacy(module_database, new_user(module_database))
    assert deliver(web, event_id, payment_id, **named)["outcome"] == "credited"


def test_a_purchase_of_another_account_is_not_paid_by_naming_it(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    ada, ben = begin(dba, person()), begin(dba, person())
    mixed = {"account_id": ada["account_id"], "purchase_id": ben["purchase_id"]}
    assert deliver(web, unique("evt"), unique("pi"), **mixed)["outcome"] == "metadata_missing"
    for purchase in (ada, ben):
        assert credits_of(module_database, purchase["account_id"]) == []


def test_a_balance_that_would_overflow_waits_until_there_is_room(
    module_database: Database, dba: Caller
) -> None:
    who, event_id, payment_id = new_user(module_database, free=False), unique("evt"), unique("pi")
    dba.row("create_credit", **who, amount_minor=BIGGEST - USES + 1)
    purchase = begin(dba, who)
    assert deliver(dba, event_id, payment_id, purchase)["outcome"] == "balance_overflow"
    (problem,) = problems_of(dba, payment_id)
    assert problem["what_is_wrong"] == "the account cannot hold that many credits"
    spend(module_database, who, 1)
    assert deliver(dba, event_id, payment_id, purchase)["outcome"] == "credited"
    assert paid_credits_of(module_database, who) == BIGGEST


def test_a_second_payment_for_one_purchase_is_not_credited(
    module_database: Database, dba: Caller
) -> None:
    who, first, second = new_user(module_database), unique("pi"), unique("pi")
    purchase = begin(dba, who)
    assert deliver(dba, unique("evt"), first, purchase)["outcome"] == "credited"
    assert deliver(dba, unique("evt"), second, purchase)["outcome"] == "payment_mismatch"
    assert give_back(dba, second, (unique("re"), PRICE), **metadata(purchase))["outcome"] == (
        "payment_mismatch"
    )
    assert {row["problem"] for row in problems_of(dba, second)} == {"payment_mismatch"}
    assert paid_credits_of(module_database, who) == USES


def test_two_payments_for_one_purchase_at_once_credit_one(
    module_database: Database, dba: Caller
) -> None:
    for _ in range(5):
        who = new_user(module_database)
        purchase = begin(dba, who)
        calls = [
            partial(deliver, event_id=unique("evt"), payment_id=unique("pi"), purchase=purchase)
            for _ in range(8)
        ]
        counted = Counter(answer["outcome"] for answer in at_once(module_database, calls, 8))
        assert counted == {"credited": 1, "payment_mismatch": 7}
        assert paid_credits_of(module_database, who) == USES


@pytest.mark.parametrize(
    ("mode", "livemode", "outcome"),
    [
        ("live", True, "credited"),
        ("live", False, "mode_mismatch"),
        ("test", False, "credited"),
        ("test", True, "mode_mismatch"),
        ("live", None, "credited"),
        (None, True, "credited"),
    ],
)
def test_an_event_of_the_other_mode_is_flagged(
    own: tuple[Database, Caller], mode: str | None, livemode: bool | None, outcome: str
) -> None:
    database, dba = own
    who = new_user(database)
    purchase = begin(dba, who)
    if mode:
        configure_provider(database, mode)
    else:
        dba.row("set_provider_config", provider_type="stripe", config_data='{"api_key": null}')
    answer = deliver(dba, "evt_1", "pi_1", purchase, livemode=livemode)
    assert answer["outcome"] == outcome
    assert paid_credits_of(database, who) == (USES if outcome == "credited" else 0)
    returned = give_back(dba, "pi_1", ("re_1", PRICE), livemode=livemode, **metadata(purchase))
    assert returned["outcome"] == ("taken_back" if outcome == "credited" else "mode_mismatch")
    assert paid_credits_of(database, who) == 0


def test_a_mode_that_was_mended_lets_the_event_through(own: tuple[Database, Caller]) -> None:
    database, dba = own
    who = new_user(database)
    purchase = begin(dba, who)
    assert deliver(dba, "evt_1", "pi_1", purchase, livemode=True)["outcome"] == "mode_mismatch"
    configure_provider(database, "live")
    assert deliver(dba, "evt_1", "pi_1", purchase, livemode=True)["outcome"] == "credited"


# --- payments of the old service -----------------------------------------------------------------


def test_an_old_payment_is_credited_to_its_identity_at_the_present_price(
    module_database: Database, web: Caller
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    answer = deliver(web, unique("evt"), payment_id, **legacy(module_database, who))
    assert (answer["outcome"], answer["credits_added"]) == ("credited", USES)
    account = account_of(module_database, who)
    (credit,) = credits_of(module_database, account["id"])
    (row,) = purchases_of(module_database, account["id"])
    assert answer["purchase_id"] == row["id"] == row["credit_id"] == credit["id"]
    assert (row["payment_id"], row["database_role"]) == (payment_id, "legacy")
    assert (row["uses"], row["price_minor"], row["currency"]) == (USES, PRICE, "USD")
    assert credit["description"] == "Purchased $5.00 (20 uses) via Stripe"
    assert give_back(web, payment_id, (unique("re"), PRICE))["outcome"] == "taken_back"


def test_an_old_payment_at_another_price_is_flagged(module_database: Database, dba: Caller) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    for change, outcome in (
        ({"amount_minor": PRICE + 1}, "amount_mismatch"),
        ({"currency": "eur"}, "currency_mismatch"),
    ):
        named = legacy(module_database, who)
        answer = deliver(dba, unique("evt"), payment_id, **named, **change)
        assert (answer["outcome"], answer["purchase_id"]) == (outcome, None)
    account = account_of(module_database, who)
    assert purchases_of(module_database, account["id"]) == []
    assert account["ledger_version"] == 0


def test_what_the_old_service_credited_is_not_credited_again(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    dba.row(
        "create_credit",
        **who,
        amount_minor=USES,
        transaction_type="purchase",
        external_transaction_id=payment_id,
        idempotency_key=f"stripe-{payment_id}",
    )
    answer = deliver(dba, unique("evt"), payment_id, **legacy(module_database, who))
    assert (answer["outcome"], answer["credits_added"]) == ("already_credited", 0)
    assert paid_credits_of(module_database, who) == USES
