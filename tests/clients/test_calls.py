"""Every call of the client package, async and sync, answered by a running server."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, assert_type
from uuid import uuid4

import pytest
from ciris_billing_client import (
    AsyncBilling,
    Billing,
    Charge,
    ChargeExists,
    Conflict,
    Context,
    CreditCheck,
    Forbidden,
    InsufficientCredits,
    InvalidRequest,
    Metadata,
    NewCharge,
    NotFound,
    Profile,
    Unauthorized,
    User,
    operations,
)
from ciris_billing_client.exchange import Operation

from tests.clients.conftest import Either
from tests.payments import paying_service, tell
from tests.stripe_double import StripeDouble, running_stripe
from tests.support import Service, unique

PURCHASE_URL = "https://example.com/buy"


def new_user() -> User:
    return User("oauth:google", unique())


async def poor_user(billing: Either) -> User:
    """A user whose free uses are used up."""
    user = new_user()
    await billing.check(user)
    await billing.batch([NewCharge(user=user) for _ in range(3)])
    return user


async def test_a_new_user_may_go_on_and_what_is_known_of_them_is_stored(billing: Either) -> None:
    user = new_user()
    answer = await billing.check(
        user,
        profile=Profile(customer_email="ada@example.com", agent_id="scout", wa_id="wa-1"),
        context=Context(agent_id="scout", request_id="req-1"),
    )
    assert (answer.has_credit, answer.free_uses_remaining, answer.reason) == (True, 3, None)
    account = await billing.account(user)
    assert (account.customer_email, account.wa_id) == ("ada@example.com", "wa-1")
    assert account.created_at.tzinfo is not None


async def test_a_charge_takes_a_use_and_says_where_it_came_from(billing: Either) -> None:
    user = new_user()
    await billing.check(user)
    charge = await billing.charge(user, description="one answer", metadata=Metadata(message_id="m"))
    assert (charge.amount_minor, charge.paid_with, charge.free_uses_remaining) == (1, "free", 2)
    assert (charge.metadata.message_id, charge.replayed) == ("m", False)


async def test_the_same_key_is_charged_once_and_a_call_without_one_each_time(
    billing: Either,
) -> None:
    user = new_user()
    await billing.check(user)
    first = await billing.charge(user, idempotency_key="message-1")
    again = await billing.charge(user, idempotency_key="message-1")
    assert (again.charge_id, again.replayed) == (first.charge_id, True)
    await billing.charge(user)
    assert (await billing.check(user)).total_uses == 2


async def test_a_user_without_credits_is_refused_with_what_is_missing(billing: Either) -> None:
    user = await poor_user(billing)
    await billing.add_credits(user, 2, description="welcome")
    with pytest.raises(InsufficientCredits) as refused:
        await billing.charge(user, 5)
    error = refused.value
    assert (error.balance, error.required, error.shortfall) == (2, 5, 3)
    assert (error.status, error.code, error.retryable) == (402, "insufficient_credits", False)
    assert error.request_id is not None
    assert "Insufficient" in str(error)
    assert error.purchase_url is None
    answer = await billing.check(user)
    assert answer.credits_remaining == 2


async def test_a_batch_answers_each_charge_by_itself(billing: Either) -> None:
    user, stranger = new_user(), new_user()
    await billing.check(user)
    charges = [
        NewCharge(user=user, description="first", idempotency_key="one"),
        NewCharge(user=stranger),
        NewCharge(user=user, idempotency_key="one", description="first"),
        NewCharge(user=user, amount=0),
    ]
    key = unique("batch")
    batch = await billing.batch(charges, idempotency_key=key)
    first, unknown, double, wrong = (result.outcome for result in batch.results)
    assert first.free_uses_remaining == 2
    assert isinstance(unknown, NotFound)
    assert isinstance(double, ChargeExists)
    assert double.charge == first
    assert isinstance(wrong, InvalidRequest)
    assert (batch.created_count, batch.total_count, batch.replayed) == (1, 4, False)
    again = await billing.batch(charges, idempotency_key=key)
    assert again.replayed
    assert again.results[0].outcome == first


async def test_a_failed_jobs_charge_is_given_back_in_parts(billing: Either) -> None:
    user = await poor_user(billing)
    await billing.add_credits(user, 10, description="welcome")
    charge = await billing.charge(user, 5)
    part = await billing.reverse(charge.charge_id, "half failed", amount=2)
    assert (part.amount_minor, part.balance_after, part.reversed_minor) == (2, 7, 2)
    rest = await billing.reverse(charge.charge_id, "all failed", idempotency_key="rest")
    assert (rest.amount_minor, rest.balance_after) == (3, 10)
    assert (await billing.reverse(charge.charge_id, "all failed", idempotency_key="rest")).replayed
    with pytest.raises(Conflict) as refused:
        await billing.reverse(charge.charge_id, "again")
    assert refused.value.code == "already_reversed"
    with pytest.raises(NotFound):
        await billing.reverse(uuid4(), "not mine")


async def test_a_history_is_read_through_all_its_pages(billing: Either) -> None:
    user = await poor_user(billing)
    for amount in range(1, 6):
        await billing.add_credits(user, amount, description=f"gift {amount}")
    entries = await billing.all_history(user, page_size=3)
    assert [entry.amount_minor for entry in entries] == [5, 4, 3, 2, 1, -1, -1, -1]
    page = await billing.history_page(user, limit=3)
    assert (page.total_count, page.has_more, len(page.transactions)) == (8, True, 3)
    assert await billing.all_history(new_user()) == []
    with pytest.raises(ValueError, match="at least one"):  # a page of none leads to itself
        await billing.all_history(user, page_size=0)


def test_processes_that_are_forked_read_their_own_answers(service: Service) -> None:
    with Billing(service.base_url, service.key.secret) as billing:
        users = [new_user() for _ in range(4)]
        for user in users:
            billing.check(user)
        children = []
        for user in users:
            child = os.fork()
            if child == 0:
                own = False
                with suppress(Exception):
                    own = all(
                        billing.account(user).external_id == user.external_id for _ in range(40)
                    )
                os._exit(0 if own else 1)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


async def test_balance_and_statement_tell_what_a_user_had(billing: Either) -> None:
    user = await poor_user(billing)
    credit = await billing.add_credits(user, 4, description="welcome")
    now = await billing.balance(user)
    assert (now.state, now.paid_credits, now.free_uses) == ("known", 4, 0)
    assert now.transaction_id == credit.credit_id
    before = await billing.balance(user, at=datetime(2020, 1, 1, tzinfo=UTC))
    assert (before.state, before.paid_credits) == ("before_account", None)
    statement = await billing.statement(user)
    assert statement.entry_count == 4
    assert [row.kind for row in statement.rows] == ["opening", *["entry"] * 4, "closing"]
    assert statement.rows[-1].balance_after == 4
    day = datetime.now(UTC) + timedelta(days=2)
    later = await billing.statement(user, start=day, end=day + timedelta(hours=1))
    assert (later.entry_count, later.period_start) == (0, day)


async def test_an_account_is_created_once(billing: Either) -> None:
    user = User("oauth:google", f"{unique()} ü?&")
    created = await billing.create_account(user, currency="EUR")
    assert (created.currency, created.status) == ("EUR", "active")
    assert (await billing.create_account(user)).account_id == created.account_id
    assert (await billing.account(user)).account_id == created.account_id


async def test_a_plain_pair_is_a_user_too(billing: Either) -> None:
    user = ("oauth:google", unique())
    await billing.check(user)
    await billing.charge(user)
    assert len(await billing.all_history(user)) == 1


@pytest.fixture(scope="module")
def stripe() -> Iterator[StripeDouble]:
    """Stripe."""
    with running_stripe() as double:
        yield double


@pytest.fixture(scope="module")
def shop(service: Service, stripe: StripeDouble) -> Iterator[Service]:
    """A server that sells packs, and tells where."""
    with paying_service(service.database, stripe, PURCHASE_URL=PURCHASE_URL) as selling:
        yield selling


@pytest.fixture(params=[AsyncBilling, Billing], ids=["async", "sync"])
async def buyer(request: pytest.FixtureRequest, shop: Service) -> AsyncIterator[Either]:
    """Each of the two clients, of the server that sells packs."""
    either = Either(request.param(shop.base_url, shop.key.secret))
    yield either
    await either.end()


async def buy(buyer: Either, shop: Service, stripe: StripeDouble, user: User) -> str:
    """The user pays for a pack, by a card that is saved."""
    sold = await buyer.purchase(user, "ada@example.com", save_card=True, idempotency_key="pack-1")
    assert (sold.uses_purchased, sold.amount_minor, sold.currency) == (20, 500, "USD")
    assert sold.client_secret
    again = await buyer.purchase(user, "ada@example.com", save_card=True, idempotency_key="pack-1")
    assert (again.payment_id, again.replayed) == (sold.payment_id, True)
    stripe.pay(sold.payment_id)
    tell(shop, stripe, stripe.succeeded_event(sold.payment_id))
    return str(sold.payment_id)


async def test_a_user_buys_a_pack_and_the_payment_is_seen(
    buyer: Either, shop: Service, stripe: StripeDouble
) -> None:
    user = new_user()
    assert (await buyer.check(user)).purchase_url == PURCHASE_URL
    paid = await buyer.payment(await buy(buyer, shop, stripe, user))
    assert (paid.status, paid.credits_added, paid.payable) == ("succeeded", 20, True)
    with pytest.raises(NotFound):
        await buyer.payment("pi_unknown")


async def test_a_user_agrees_to_top_ups_reads_them_and_withdraws(
    buyer: Either, shop: Service, stripe: StripeDouble
) -> None:
    user = new_user()
    await buyer.check(user)
    for call in (buyer.get_top_up, buyer.end_top_up):
        with pytest.raises(NotFound) as refused:
            await call(user)
        assert refused.value.code == "top_up_not_found"
    terms = {
        "threshold": 2,
        "amount_minor": 500,
        "currency": "USD",
        "monthly_cap_minor": 2000,
        "consent_version": "2026-11",
        "consent_text": "Charge my card $5.00 at 2 credits.",
        "payment_id": await buy(buyer, shop, stripe, user),
    }
    agreed = await buyer.set_top_up(user, **terms)
    assert (agreed.status, agreed.packs, agreed.uses, agreed.card) == ("on", 1, 20, "visa 4242")
    assert agreed.consent.text == terms["consent_text"]
    assert agreed.attempt.status is None
    again = await buyer.set_top_up(user, **terms)
    assert again.consent == agreed.consent
    assert await buyer.get_top_up(user) == again
    with pytest.raises(Conflict) as dearer:
        await buyer.set_top_up(user, **{**terms, "amount_minor": 499})
    assert dearer.value.code == "top_up_price_changed"
    ended = await buyer.end_top_up(user)
    assert (ended.status, ended.end_reason) == ("off", "withdrawn")
    assert await buyer.end_top_up(user) == ended


@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_what_a_path_would_mean_otherwise_is_refused(billing: Either, name: str) -> None:
    with pytest.raises(ValueError, match="path"):
        await billing.account(User("oauth:google", name))


async def test_each_refusal_has_its_class(billing: Either, service: Service) -> None:
    user = new_user()
    with pytest.raises(NotFound) as unknown:
        await billing.account(user)
    assert unknown.value.code == "account_not_found"
    with pytest.raises(InvalidRequest) as invalid:
        await billing.check(User("google", "ada"))
    assert invalid.value.detail[0]["loc"] == ["body", "oauth_provider"]
    await billing.check(user)
    service.database.execute(
        "UPDATE billing_data.accounts SET status = 'suspended' WHERE external_id = %s",
        user.external_id,
    )
    with pytest.raises(Forbidden) as suspended:
        await billing.charge(user)
    assert suspended.value.code == "account_suspended"
    stranger = Either(type(billing.client)(service.base_url, "cbk_test_" + "x" * 43))
    with pytest.raises(Unauthorized):
        await stranger.check(user)
    await stranger.end()


def test_both_clients_have_every_operation_and_nothing_shows_the_key() -> None:
    made = {
        name
        for name, function in inspect.getmembers(operations, inspect.isfunction)
        if function.__module__ == operations.__name__ and not name.startswith("_")
    }
    assert len(made) > 17
    for kind in (AsyncBilling, Billing):
        assert made <= set(vars(kind))
        client: AsyncBilling | Billing = kind("http://127.0.0.1:1/", "cbk_test_secret")
        assert "secret" not in repr(client)
        assert client.charge.__doc__ == operations.charge.__doc__


async def test_a_type_checker_knows_arguments_and_answers(service: Service) -> None:
    """`make lint` fails here when it does not."""
    user = new_user()
    with Billing(service.base_url, service.key.secret) as billing:
        assert_type(billing.check(user), CreditCheck)
        assert_type(billing.charge(user).paid_with, Literal["free", "paid"])
        for entry in billing.history(user):
            assert_type(entry.created_at, datetime)
        with pytest.raises(InvalidRequest):
            billing.charge(user, "many")  # type: ignore[arg-type]
    async with AsyncBilling(service.base_url, service.key.secret) as client:
        charge = await client.charge(user)
        assert_type(charge, Charge)
        assert_type((await client.reverse(charge.charge_id, "it failed")).reversed_minor, int)


@pytest.mark.parametrize(
    ("url", "key"), [("127.0.0.1:8000", "cbk_test_x"), ("http://127.0.0.1", "sk_x"), ("", "")]
)
def test_a_wrong_address_or_key_is_refused_at_once(url: str, key: str) -> None:
    with pytest.raises(ValueError, match="CIRIS_BILLING_"):
        Billing(url, key)


def test_whatever_writes_carries_a_key_of_its_own_unless_twice_is_harmless() -> None:
    user = new_user()
    writing: list[Operation[Any]] = [
        operations.charge(user),
        operations.batch([]),
        operations.reverse(uuid4(), "why"),
        operations.add_credits(user, 1, description="x"),
        operations.create_account(user),
        operations.purchase(user, "ada@example.com"),
        operations.hold(user, 1),
    ]
    keys = {operation.key for operation in writing}
    assert None not in keys
    assert len(keys) == len(writing)
