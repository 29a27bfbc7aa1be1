"""What the tests of a payment's effects share."""

from __future__ import annotations

import json
from typing import Any

from tests.sql.helpers import (
    Caller,
    account_of,
    person,
)
from tests.sql.payments import (
    PRICE,
    USES,
    deliver,
)
from tests.support import Database, unique


def paid_credits_of(database: Database, who: dict[str, str]) -> int:
    return int(account_of(database, who)["paid_credits"])


def payload_of(payment_id: str, amount: int = PRICE, currency: str = "usd") -> str:
    """The payload of a payment that succeeded."""
    subject = {"id": payment_id, "amount_received": amount, "currency": currency}
    return json.dumps({"data": {"object": subject}})


def grant_by_hand(caller: Caller, who: dict[str, str], amount: int = USES, **arguments: Any) -> Any:
    """The id of a credit given by hand."""
    return caller.row("create_credit", **who, amount_minor=amount, **arguments)["credit_id"]


def lost_payment(
    database: Database, dba: Caller, amount: int = PRICE
) -> tuple[dict[str, str], str, str]:
    """A payment whose account did not exist when it was reported and exists by now: the identity,
    the payment's id, the event's id."""
    who, payment_id, event_id = person(), unique("pi"), unique("evt")
    payload = payload_of(payment_id, amount)
    answer = deliver(dba, event_id, payment_id, **who, amount_minor=amount, payload=payload)
    assert answer["outcome"] == "account_not_found"
    dba.row("create_account", **who)
    return who, payment_id, event_id


def settle(caller: Caller, who: dict[str, Any], payment_id: str, amount: int = PRICE) -> Any:
    row = caller.row("settle_purchase", payment_id=payment_id, amount_minor=amount, **who)
    return row["outcome"], row["credits_added"]
