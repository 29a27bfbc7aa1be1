"""A service that sells: its payment provider is the Stripe double, set up as the command line sets
it up. Also helpers that read the resulting credits."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2

from server.encryption import Cipher
from server.payments.settings import seal_settings
from tests.http.contract import CHECK
from tests.stripe_double import StripeDouble
from tests.support import Database, Service, identity, running_service, unique

PURCHASES = "/v1/billing/purchases"
EMAIL = "ada@example.com"
ENCRYPTION_KEY = f"encryption-{secrets.token_hex(24)}"
USES, PRICE = 20, 500  # the pack that is sold unless the settings say otherwise

Json = dict[str, Any]


def seal_for(double: StripeDouble, encryption_key: str = ENCRYPTION_KEY, **changes: Any) -> Json:
    """The double's keys as they are stored, with `changes` applied."""
    keys = {
        "api_key": double.api_key,
        "webhook_secret": double.webhook_secret,
        "publishable_key": double.publishable_key,
    }
    return seal_settings("stripe", {**keys, **changes}, Cipher([encryption_key]))


def set_provider(database: Database, config: Mapping[str, Any], *, is_active: bool = True) -> None:
    """Stores a provider's settings as staff do; settings that are not named stay."""
    database.execute(
        "SELECT c.mode FROM billing.set_provider_config(p_provider_type => 'stripe',"
        " p_config_data => %s::jsonb, p_is_active => %s) AS c",
        json.dumps(config),
        is_active,
        user="t_dba",
    )


def configure_stripe(
    database: Database, double: StripeDouble, encryption_key: str = ENCRYPTION_KEY
) -> None:
    """Makes payments go through the double from now on."""
    set_provider(database, seal_for(double, encryption_key))


def payment_environment(double: StripeDouble, **environment: str) -> dict[str, Any]:
    """The variables a service needs to use the double. One second is enough for it, and short
    enough for tests that make it slow."""
    return {
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "STRIPE_API_BASE": double.base_url,
        "STRIPE_TIMEOUT": "1",
        **environment,
    }


@contextlib.contextmanager
def paying_service(
    database: Database, double: StripeDouble, *, workers: int = 1, **environment: str
) -> Iterator[Service]:
    """A running server whose payments go through the double."""
    configure_stripe(database, double)
    with running_service(
        database, workers=workers, **payment_environment(double, **environment)
    ) as service:
        yield service


def forget_faults(double: StripeDouble) -> None:
    """Removes the faults that no request has met."""
    double._front.scripts.clear()


# What people do


def purchase_body(user: str, **fields: Any) -> Json:
    """A request to buy a pack."""
    return {**identity(user), "customer_email": EMAIL, **fields}


def buy(service: Service, user: str | None = None, key: str | None = None, **fields: Any) -> Json:
    """A purchase that must succeed; returns the answer's body."""
    headers = {"Idempotency-Key": key} if key else {}
    with service.client() as client:
        answer = client.post(
            PURCHASES, json=purchase_body(user or unique("buyer"), **fields), headers=headers
        )
    assert answer.status_code == 201, answer.text
    body: Json = answer.json()
    return body


def buy_and_pay(service: Service, double: StripeDouble, user: str, **fields: Any) -> str:
    """A purchase that its user has paid and that Stripe has not reported yet; returns the payment's
    id."""
    payment_id = str(buy(service, user, **fields)["payment_id"])
    double.pay(payment_id)
    return payment_id


def credited(service: Service, double: StripeDouble, user: str, **fields: Any) -> str:
    """A purchase whose credits have arrived; returns the payment's id."""
    payment_id = buy_and_pay(service, double, user, **fields)
    assert_receipt(tell(service, double, double.succeeded_event(payment_id)), "success")
    return payment_id


def tell(service: Service, double: StripeDouble, event: Json, **options: Any) -> httpx2.Response:
    """Stripe delivers the event; `options` as of StripeDouble.deliver."""
    return double.deliver(service.base_url, event, **options)


def assert_receipt(answer: httpx2.Response, status: str) -> None:
    """The 200 that tells Stripe that it need not send the event again."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(body) == {"status", "event_id"}
    assert body["status"] == status


def legacy_metadata(database: Database, user: str) -> dict[str, str]:
    """The metadata that the old service wrote on a payment of this existing user."""
    account_id = database.value(
        "SELECT a.id::text FROM billing_data.accounts AS a WHERE a.external_id = %s", user
    )
    return {"account_id": account_id, **identity(user)}


# What came of it


def paid_credits(database: Database, user: str) -> int:
    """The user's balance."""
    value: int = database.value(
        "SELECT a.paid_credits FROM billing_data.accounts AS a WHERE a.external_id = %s", user
    )
    return value


def ledger(database: Database, user: str) -> list[tuple[int, str, str | None, str]]:
    """The user's credit entries, oldest first: amount, type, external id, description."""
    return database.execute(
        "SELECT c.amount_minor, c.transaction_type::text, c.external_transaction_id::text,"
        " c.description::text FROM billing_data.credits AS c INNER JOIN billing_data.accounts AS a"
        " ON a.id = c.account_id WHERE a.external_id = %s ORDER BY c.ledger_version",
        user,
    )


def purchase_rows(database: Database, user: str) -> list[Json]:
    """The user's purchases in the table itself, oldest first."""
    rows = database.execute(
        "SELECT to_jsonb(p) FROM billing_data.purchases AS p INNER JOIN billing_data.accounts AS a"
        " ON a.id = p.account_id WHERE a.external_id = %s ORDER BY p.created_at",
        user,
    )
    return [row for (row,) in rows]


def event_row(database: Database, event_id: str) -> Json:
    """The stored event; an error when there is none."""
    row: Json = database.value(
        "SELECT to_jsonb(e) FROM billing_data.payment_events AS e WHERE e.event_id = %s", event_id
    )
    return row


def problems(database: Database, payment_id: str) -> list[str]:
    """The problems that staff see for the payment."""
    return [
        problem
        for (problem,) in database.execute(
            "SELECT p.problem FROM billing.list_payment_problems(p_limit => 500) AS p"
            " WHERE p.payment_id = %s",
            payment_id,
            user="t_dba",
        )
    ]


def assert_credited_once(database: Database, user: str, payment_id: str) -> None:
    """One credit for the payment, one settled purchase, and books that agree."""
    entries = [entry for entry in ledger(database, user) if entry[2] == payment_id]
    assert entries == [(USES, "purchase", payment_id, "Purchased $5.00 (20 uses) via Stripe")]
    rows = [row for row in purchase_rows(database, user) if row["payment_id"] == payment_id]
    assert len(rows) == 1
    assert rows[0]["settled_at"] is not None
    assert database.execute("SELECT * FROM billing.verify_ledger()") == []


def known_user(service: Service) -> str:
    """A user whose account a check created."""
    user = unique("known")
    with service.client() as client:
        assert client.post(CHECK, json=identity(user)).status_code == 200
    return user


def log_lines(service: Service, **wanted: Any) -> list[Json]:
    """The records of the server's log that have these fields."""
    found = []
    for line in service.process.output.splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if all(record.get(name) == value for name, value in wanted.items()):
                found.append(record)
    return found
