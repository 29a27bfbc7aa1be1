"""What cannot be credited, and whose payment it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from tests.http.contract import (
    assert_error,
    make_account,
    set_status,
)
from tests.http.webhooks.helpers import (
    assert_failed,
)
from tests.payments import (
    Json,
    assert_credited_once,
    assert_receipt,
    buy_and_pay,
    credited,
    event_row,
    known_user,
    ledger,
    legacy_metadata,
    log_lines,
    paid_credits,
    problems,
    tell,
)
from tests.stripe_double import StripeDouble
from tests.support import (
    Service,
    identity,
    unique,
)

# What cannot be credited


@dataclass(frozen=True)
class Fault:
    """A payment that cannot be credited, and how it is reported."""

    event: Json
    payment_id: str
    user: str


def a_fault(shop: Service, double: StripeDouble, problem: str) -> Fault:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    event = double.succeeded_event(payment_id)
    intent = event["data"]["object"]
    if problem == "amount_mismatch":
        intent.update(amount=499, amount_received=499)
    if problem == "currency_mismatch":
        intent["currency"] = "eur"
    if problem == "mode_mismatch":
        event = double.succeeded_event(payment_id, livemode=True)
    if problem == "payment_mismatch":
        assert_receipt(tell(shop, double, event), "success")
        second = double.create_intent(amount=500, currency="usd", metadata=intent["metadata"])
        double.pay(second["id"])
        payment_id = second["id"]
        event = double.succeeded_event(payment_id)
    if problem == "balance_overflow":
        shop.database.execute(
            "SELECT c.credit_id FROM billing.create_credit(p_oauth_provider => 'oauth:google',"
            " p_external_id => %s, p_amount_minor => %s, p_currency => 'USD') AS c",
            user,
            2**63 - 20,
            user="t_dba",
        )
    return Fault(event, payment_id, user)


FAULTS = (
    "amount_mismatch",
    "balance_overflow",
    "currency_mismatch",
    "mode_mismatch",
    "payment_mismatch",
)


@pytest.mark.parametrize("problem", FAULTS)
def test_what_cannot_be_credited_is_kept_told_and_asked_for_again(
    shop: Service, double: StripeDouble, problem: str
) -> None:
    fault = a_fault(shop, double, problem)
    before = ledger(shop.database, fault.user)
    for delivery in (1, 2):
        answer = tell(shop, double, fault.event)
        assert_failed(answer)
        stored = event_row(shop.database, fault.event["id"])
        assert (stored["outcome"], stored["deliveries"]) == (problem, delivery)
    assert ledger(shop.database, fault.user) == before
    assert problems(shop.database, fault.payment_id) == [problem]
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
    assert line["event_id"] == fault.event["id"]
    assert line["event_type"] == "payment_intent.succeeded"
    assert f"payment {fault.payment_id} was not credited ({problem}): " in line["message"]
    advice = line["message"].partition("): ")[2]
    assert re.search(r"\b(create|grant|refund|check|resolve)\b", advice)

    # After a person has resolved it, Stripe's next attempt is accepted and changes nothing.
    shop.database.execute(
        "SELECT billing.resolve_payment_event(p_event_id => %s, p_reason => 'refunded')",
        fault.event["id"],
        user="t_dba",
    )
    assert problems(shop.database, fault.payment_id) == []
    assert_receipt(tell(shop, double, fault.event), "success")
    assert ledger(shop.database, fault.user) == before


def test_more_than_was_asked_for_is_not_credited_either(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    event = double.succeeded_event(buy_and_pay(shop, double, user))
    for amount in (0, -500, 501, 500_000, None, "500", 500.0, True, 2**63):
        event["data"]["object"]["amount_received"] = amount
        assert_failed(tell(shop, double, event))
    assert ledger(shop.database, user) == []
    event["data"]["object"]["amount_received"] = 500
    assert_receipt(tell(shop, double, event), "success")
    assert paid_credits(shop.database, user) == 20


def test_an_account_that_does_not_exist_is_told_and_credited_once_it_does(
    shop: Service, double: StripeDouble
) -> None:
    user, account_id = unique("nobody"), str(uuid4())
    metadata = {"account_id": account_id, **identity(user)}
    intent = double.create_intent(amount=500, currency="usd", metadata=metadata)
    double.pay(intent["id"])
    event = double.succeeded_event(intent["id"])
    answer = tell(shop, double, event)
    assert_failed(answer)
    assert problems(shop.database, intent["id"]) == ["account_not_found"]
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
    assert line["event_id"] == event["id"]
    assert intent["id"] in line["message"]
    assert "find out at Stripe who paid" in line["message"]
    # The situation after a restore from a backup. An account that is created again is another
    # account.
    shop.database.execute(
        "INSERT INTO billing_data.accounts (id, oauth_provider, external_id) VALUES (%s, %s, %s)",
        account_id,
        *identity(user).values(),
    )
    assert_receipt(tell(shop, double, event), "success")
    assert problems(shop.database, intent["id"]) == []
    assert_credited_once(shop.database, user, intent["id"])


@pytest.mark.parametrize(
    "kept", [["account_id"], ["oauth_provider"], ["external_id"], ["account_id", "external_id"]]
)
def test_a_payment_that_does_not_say_whom_it_is_for_is_a_400(
    shop: Service, double: StripeDouble, kept: list[str]
) -> None:
    user = known_user(shop)
    whole = legacy_metadata(shop.database, user)
    metadata = {name: whole[name] for name in kept}
    intent = double.create_intent(amount=500, currency="usd", metadata=metadata)
    double.pay(intent["id"])
    event = double.succeeded_event(intent["id"])
    answer = tell(shop, double, event)
    assert_error(answer, 400, "Missing account metadata in webhook")
    assert answer.json()["code"] == "webhook_metadata_missing"
    assert problems(shop.database, intent["id"]) == ["metadata_missing"]
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
    assert (line["event_id"], intent["id"] in line["message"]) == (event["id"], True)
    assert ledger(shop.database, user) == []


@pytest.mark.parametrize("metadata", [{}, {"order": "4711"}, None, "text", []])
def test_a_payment_of_another_shop_is_ignored(
    shop: Service, double: StripeDouble, metadata: Any
) -> None:
    intent = double.create_intent(amount=500, currency="usd")
    double.pay(intent["id"])
    event = double.succeeded_event(intent["id"])
    event["data"]["object"]["metadata"] = metadata
    assert_receipt(tell(shop, double, event), "ignored")
    assert problems(shop.database, intent["id"]) == []


def test_an_account_in_another_currency_is_credited(shop: Service, double: StripeDouble) -> None:
    user = make_account(shop, currency="EUR")
    assert_credited_once(shop.database, user, credited(shop, double, user))
    assert paid_credits(shop.database, user) == 20


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_an_account_that_was_closed_meanwhile_is_credited(
    shop: Service, double: StripeDouble, status: str
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    set_status(shop, user, status)
    assert_receipt(tell(shop, double, double.succeeded_event(payment_id)), "success")
    assert_credited_once(shop.database, user, payment_id)


def test_a_purchase_whose_payment_was_not_written_down_is_found_by_what_the_payment_says(
    shop: Service, double: StripeDouble
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    # The situation after a server that died when Stripe had answered.
    shop.database.execute(
        "UPDATE billing_data.purchases SET payment_id = NULL, payment_status = NULL"
        " WHERE payment_id = %s",
        payment_id,
    )
    assert_receipt(tell(shop, double, double.succeeded_event(payment_id)), "success")
    assert_credited_once(shop.database, user, payment_id)


# Whose payment it is


def foreign_event(double: StripeDouble, metadata: Any, **fields: Any) -> Json:
    """A payment that this service does not know, with this metadata; `fields` are set on the
    event."""
    intent = double.create_intent(amount=500, currency="usd")
    double.pay(intent["id"])
    event = {**double.succeeded_event(intent["id"]), **fields}
    event["data"]["object"]["metadata"] = metadata
    return event


CLAIMS = (
    "another account",
    "a purchase that is unknown",
    "its own account and a purchase that is unknown",
    "a purchase of another account",
    "somebody else beside a purchase",
    "an account that is no id",
    "a purchase that is no id",
    "an account of a connected account",
    "a purchase of a connected account",
)


def claim(shop: Service, kind: str) -> tuple[str, Json]:
    """A user of ours, and metadata that names them without showing that they paid."""
    user, other = known_user(shop), known_user(shop)
    mine, theirs = (legacy_metadata(shop.database, who) for who in (user, other))
    sold = begun(shop, user)
    return user, {
        "another account": {**mine, "account_id": theirs["account_id"]},
        "a purchase that is unknown": {
            **mine,
            "account_id": str(uuid4()),
            "purchase_id": str(uuid4()),
        },
        "its own account and a purchase that is unknown": {**mine, "purchase_id": str(uuid4())},
        "a purchase of another account": {**mine, "purchase_id": begun(shop, other)["purchase_id"]},
        "somebody else beside a purchase": {**theirs, **sold},
        "an account that is no id": {**mine, "account_id": "7"},
        "a purchase that is no id": {**mine, "purchase_id": "7"},
        "an account of a connected account": mine,
        "a purchase of a connected account": {**mine, **sold},
    }[kind]


def begun(shop: Service, user: str) -> Json:
    """A purchase that waits for a payment of which this database has not heard."""
    [(account_id, purchase_id)] = shop.database.execute(
        "SELECT account_id::text, purchase_id::text FROM billing.begin_purchase("
        "p_oauth_provider => 'oauth:google', p_external_id => %s,"
        " p_customer_email => 'ada@example.com')",
        user,
        user="t_dba",
    )
    return {"account_id": account_id, "purchase_id": purchase_id}


@pytest.mark.parametrize("kind", CLAIMS)
def test_a_payment_that_cannot_show_whom_it_is_for_is_kept_and_told_and_not_credited(
    shop: Service, double: StripeDouble, kind: str
) -> None:
    user, metadata = claim(shop, kind)
    connected = {"account": "acct_1"} if "connected" in kind else {}
    event = foreign_event(double, metadata, **connected)
    payment_id = event["data"]["object"]["id"]
    # No further attempt by Stripe could change it, so the event is accepted.
    for _ in range(2):
        answer = tell(shop, double, event)
        assert_receipt(answer, "ignored")
    assert event_row(shop.database, event["id"])["outcome"] == "not_sold_here"
    assert problems(shop.database, payment_id) == ["not_sold_here"]
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
    assert f"payment {payment_id} was not credited (not_sold_here): " in line["message"]
    assert ledger(shop.database, user) == []
    # Its refund moves no credits and is no problem for a person.
    refund = double.refund(payment_id)
    refunded = {**double.refund_event("refund.created", refund), **connected}
    refunded["data"]["object"]["metadata"] = metadata
    assert_receipt(tell(shop, double, refunded), "ignored")
    assert problems(shop.database, payment_id) == ["not_sold_here"]
    assert ledger(shop.database, user) == []


@pytest.mark.parametrize("metadata", [{}, None, "text", {"order": "7"}, "foreign"], ids=str)
@pytest.mark.parametrize("account", [None, "acct_1"])
def test_our_own_payment_is_ours_whatever_its_metadata_says(
    shop: Service, double: StripeDouble, metadata: Any, account: str | None
) -> None:
    user = unique()
    payment_id = buy_and_pay(shop, double, user)
    if metadata == "foreign":
        metadata = {**legacy_metadata(shop.database, known_user(shop)), "purchase_id": str(uuid4())}

    def ours(event: Json) -> Json:
        event["data"]["object"]["metadata"] = metadata
        return {**event, "account": account}

    assert_receipt(tell(shop, double, ours(double.succeeded_event(payment_id))), "success")
    assert_credited_once(shop.database, user, payment_id)
    refund = double.refund(payment_id, 100)
    for event in (
        double.refund_event("refund.created", refund),
        double.refunded_event(payment_id),
        double.dispute_event("charge.dispute.created", double.dispute(payment_id, 150)),
    ):
        assert_receipt(tell(shop, double, ours(event)), "success")
    assert paid_credits(shop.database, user) == 10


@pytest.mark.parametrize("metadata", [{}, {"order": "7"}, "claimed"], ids=str)
def test_nothing_of_the_other_mode_that_is_not_ours_is_asked_for_again(
    shop: Service, double: StripeDouble, metadata: Any
) -> None:
    if metadata == "claimed":
        metadata = {"account_id": str(uuid4()), "purchase_id": str(uuid4()), **identity()}
    paid = foreign_event(double, metadata)
    payment_id = paid["data"]["object"]["id"]
    refund = double.refund(payment_id, 100)
    for event in (
        paid,
        double.refunded_event(payment_id),
        double.refund_event("refund.created", refund),
        double.refund_event("refund.failed", double.fail_refund(refund["id"])),
        *(
            double.dispute_event(f"charge.dispute.{type}", double.dispute(payment_id))
            for type in ("created", "funds_withdrawn", "closed")
        ),
    ):
        event["data"]["object"]["metadata"] = metadata
        answer = tell(shop, double, {**event, "livemode": True})
        assert_receipt(answer, "ignored")
        assert log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR") == []
    assert problems(shop.database, payment_id) == []


def test_a_return_of_the_other_mode_is_told_as_what_it_is(
    shop: Service, double: StripeDouble
) -> None:
    payment_id = credited(shop, double, unique())
    double.refund(payment_id)
    answer = tell(shop, double, double.refunded_event(payment_id, livemode=True))
    assert_failed(answer)
    (line,) = log_lines(shop, request_id=answer.headers["x-request-id"], level="ERROR")
    assert line["message"].startswith(
        f"money that went back of payment {payment_id} was not booked (mode_mismatch): "
    )
