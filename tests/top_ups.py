"""People whose saved card buys credits, at a service whose Stripe is the double."""

from __future__ import annotations

from typing import Any

import httpx2

from tests.payments import (
    Json,
    credited,
    paid_credits,
    purchase_rows,
    tell,
)
from tests.stripe_double import StripeDouble
from tests.support import Database, Service, charge_body, unique, wait_for

CONFIRM = "/v1/payment_intents/.*/confirm$"
CANCEL = "/v1/payment_intents/.*/cancel$"
CHARGES = "/v1/billing/charges"
CONSENT = {"agreed": True, "version": "2026-11", "text": "Charge my card $5.00 at 2 credits."}
TERMS = {
    "threshold": 2,
    "amount_minor": 500,
    "currency": "USD",
    "monthly_cap_minor": 2000,
    "consent": CONSENT,
}


def top_up_path(user: str) -> str:
    """Where a user's top-up is."""
    return f"/v1/billing/accounts/oauth:google/{user}/top-up"


def agree(service: Service, user: str, payment_id: str | None, **changes: Any) -> httpx2.Response:
    """The user agrees to have the card charged that a payment saved."""
    with service.client() as client:
        body = {**TERMS, "payment_id": payment_id, **changes}
        return client.put(top_up_path(user), json=body)


def saver(service: Service, double: StripeDouble, **changes: Any) -> tuple[str, str]:
    """A user with a saved card who has agreed and has 20 paid credits: name and payment."""
    user = unique("saver")
    payment_id = credited(service, double, user, save_card=True)
    answer = agree(service, user, payment_id, **changes)
    assert answer.status_code == 200, answer.text
    return user, payment_id


def use_up(service: Service, user: str) -> None:
    """The user uses everything, free uses first."""
    with service.client() as client:
        while True:
            answer = client.post(CHARGES, json=charge_body(user))
            if answer.status_code == 402:
                return
            left = answer.json()["balance_after"]
            if answer.json()["paid_with"] == "paid" and left:
                body = charge_body(user, amount=left)
                assert client.post(CHARGES, json=body).status_code == 201


def attempts(database: Database, user: str) -> list[tuple[str, str | None, str | None]]:
    """The user's attempts, oldest first: state, what went wrong, the payment."""
    return database.execute(
        "SELECT x.state, x.problem, p.payment_id::text FROM billing_data.top_up_attempts AS x"
        " INNER JOIN billing_data.purchases AS p ON p.id = x.purchase_id"
        " INNER JOIN billing_data.accounts AS a ON a.id = x.account_id"
        " WHERE a.external_id = %s ORDER BY x.created_at", user,
    )  # fmt: skip


def wait_for_attempt(database: Database, user: str, state: str, number: int = 1) -> Any:
    """Waits until the user's attempt of this number is in the state; returns it."""

    def found() -> Any:
        rows = attempts(database, user)
        return len(rows) >= number and rows[number - 1][0] == state and rows[number - 1]

    return wait_for(found, f"an attempt that is {state}")


def hurry(database: Database, user: str) -> None:
    """Time passes for the user's attempts and pauses."""
    for statement in (
        "UPDATE billing_data.top_up_attempts SET leased_until = '-infinity' WHERE account_id =",
        "UPDATE billing_data.top_ups SET next_attempt_at = '-infinity' WHERE account_id =",
    ):
        database.execute(
            f"{statement} (SELECT id FROM billing_data.accounts WHERE external_id = %s)", user
        )


def read(service: Service, user: str) -> Json:
    """What the agent's API says of the user's top-up."""
    with service.client() as client:
        answer = client.get(top_up_path(user))
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


def assert_charged_once(service: Service, double: StripeDouble, user: str, payment_id: str) -> None:
    """The user's card was charged once by a top-up, and that brought 20 credits once, however often
    Stripe reports it."""
    paid = [row for row in intents(double, user) if row["status"] == "succeeded"]
    assert len(paid) == 2, paid  # the first one saved the card
    for _ in range(2):
        answer = tell(service, double, double.succeeded_event(payment_id))
        assert answer.status_code == 200, answer.text
    assert paid_credits(service.database, user) == 20
    settled = [row for row in purchase_rows(service.database, user) if row["settled_at"]]
    assert len(settled) == 2
    assert service.database.execute("SELECT * FROM billing.verify_ledger()") == []


def intents(double: StripeDouble, user: str) -> list[Json]:
    """The payments that Stripe has for a user."""
    answer = httpx2.get(
        f"{double.direct_url}/v1/payment_intents",
        params={"limit": 1_000_000},
        headers={"Authorization": f"Bearer {double.api_key}"},
        verify=False,
    )
    rows: list[Json] = answer.json()["data"]
    return [row for row in rows if row["metadata"].get("external_id") == user]
