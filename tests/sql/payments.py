"""Purchases and a payment provider's events, as the server passes them to schema billing."""

from __future__ import annotations

import json
from typing import Any

from tests.sql.helpers import Caller, account_of, new_user, session
from tests.support import Database, unique

USES, PRICE = 20, 500  # what is sold unless the settings say otherwise
EMAIL = "ada@example.com"


def sealed(secret: str, mode: str | None = None) -> dict[str, str]:
    """A secret as the server stores it; nobody needs to decrypt it in these tests."""
    found = {"encrypted": f"sealed:{unique('x')}", "masked": f"…{secret[-4:]}"}
    return {**found, "mode": mode} if mode else found


def configure_provider(
    database: Database, mode: str = "test", provider: str = "stripe"
) -> dict[str, Any]:
    """A provider that is set up and active; returns what was stored."""
    config = {
        "api_key": sealed(f"sk_{mode}_12345678", mode),
        "webhook_secret": sealed("whsec_abcd"),
        "publishable_key": f"pk_{mode}_12345678",
    }
    with session(database, "t_dba") as dba:
        dba.row(
            "set_provider_config",
            provider_type=provider,
            config_data=json.dumps(config),
            is_active=True,
        )
    return config


def begin(caller: Caller, who: dict[str, str], **arguments: Any) -> dict[str, Any]:
    """Offers a purchase."""
    return caller.row("begin_purchase", **{**who, "customer_email": EMAIL, **arguments})


def attach(caller: Caller, purchase: dict[str, Any], payment_id: str, **actor: Any) -> Any:
    """Records which payment was made for the purchase."""
    return caller.row(
        "attach_payment",
        account_id=purchase["account_id"],
        purchase_id=purchase["purchase_id"],
        payment_id=payment_id,
        payment_status="requires_payment_method",
        **actor,
    )


def metadata(purchase: dict[str, Any] | None) -> dict[str, Any]:
    """The metadata by which a payment names its purchase."""
    names = ("account_id", "purchase_id")
    return {name: purchase[name] for name in names} if purchase else {}


def deliver(
    caller: Caller,
    event_id: str,
    payment_id: str,
    purchase: Any = None,
    **arguments: Any,
) -> dict[str, Any]:
    """The event of a payment that succeeded; it names the purchase when one is given."""
    event = {
        "event_type": "payment_intent.succeeded",
        "payload": "{}",
        "action": "settle",
        "amount_minor": PRICE,
        "currency": "usd",
        **metadata(purchase),
        **arguments,
    }
    return caller.row("process_payment_event", event_id=event_id, payment_id=payment_id, **event)


def legacy(database: Database, who: dict[str, str]) -> dict[str, Any]:
    """The metadata by which a payment of the old service names its user."""
    return {"account_id": account_of(database, who)["id"], **who}


def give_back(
    caller: Caller,
    payment_id: str,
    *returns: tuple[str, int],
    event_id: str | None = None,
    kind: str = "refund",
    withdrawn: bool = True,
    **arguments: Any,
) -> dict[str, Any]:
    """The event of money that went back, or came again, just now: (return id, amount) each."""
    event = {
        "event_type": f"charge.{kind}",
        "payload": "{}",
        "action": "return",
        "currency": "usd",
        "return_ids": [return_id for return_id, _ in returns],
        "return_kinds": [kind] * len(returns),
        "return_amounts_minor": [amount for _, amount in returns],
        "return_away_minor": [amount if withdrawn else 0 for _, amount in returns],
        "return_states": ["open" if withdrawn else "closed"] * len(returns),
        **arguments,
    }
    return caller.row(
        "process_payment_event",
        event_id=event_id or unique("evt"),
        payment_id=payment_id,
        **event,
    )


def warn(
    caller: Caller, payment_id: str, warning_id: str, *, is_open: bool = True, **arguments: Any
) -> dict[str, Any]:
    """The event of a bank's report of fraud."""
    event = {
        "event_type": "radar.early_fraud_warning.created",
        "payload": "{}",
        "action": "warn",
        "warning_id": warning_id,
        "warning_is_open": is_open,
        **arguments,
    }
    return caller.row(
        "process_payment_event", event_id=unique("evt"), payment_id=payment_id, **event
    )


def bought(database: Database, who: dict[str, str] | None = None) -> tuple[dict[str, str], str]:
    """A user without free uses who paid for a pack: their identity and the payment's id."""
    who = who or new_user(database, free=False)
    payment_id = unique("pi")
    with session(database, "t_dba") as dba:
        purchase = begin(dba, who)
        attach(dba, purchase, payment_id)
        assert deliver(dba, unique("evt"), payment_id)["outcome"] == "credited"
    return who, payment_id


def credits_of(database: Database, account_id: Any) -> list[dict[str, Any]]:
    """The account's credits in the table itself, oldest first."""
    return _rows(
        database,
        "SELECT * FROM billing_data.credits WHERE account_id = %s ORDER BY ledger_version",
        account_id,
    )


def purchases_of(database: Database, account_id: Any) -> list[dict[str, Any]]:
    """The account's purchases in the table itself, oldest first."""
    return _rows(
        database,
        "SELECT * FROM billing_data.purchases WHERE account_id = %s ORDER BY created_at",
        account_id,
    )


def returns_of(database: Database, payment_id: str) -> dict[str, dict[str, Any]]:
    """The payment's returns in the table itself, by their ids."""
    rows = _rows(
        database,
        "SELECT r.* FROM billing_data.payment_returns AS r INNER JOIN billing_data.purchases AS p"
        " ON p.id = r.purchase_id WHERE p.payment_id = %s",
        payment_id,
    )
    return {row["return_id"]: row for row in rows}


def event_of(database: Database, event_id: str) -> dict[str, Any]:
    """The stored event."""
    (row,) = _rows(
        database, "SELECT * FROM billing_data.payment_events WHERE event_id = %s", event_id
    )
    return row


def problems_of(caller: Caller, payment_id: str, **actor: Any) -> list[dict[str, Any]]:
    """The listed problems of a payment."""
    rows = caller.rows("list_payment_problems", limit=500, **actor)
    return [row for row in rows if row["payment_id"] == payment_id]


def _rows(database: Database, statement: str, *arguments: Any) -> list[dict[str, Any]]:
    with session(database, "postgres") as root:
        return root.execute(statement, *arguments)
