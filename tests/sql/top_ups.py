"""Top-ups, as agents agree to them and as the servers work on them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from tests.sql.helpers import Caller, account_of, person, session
from tests.sql.payments import PRICE, bought, deliver
from tests.support import Database, unique

TERMS = {
    "threshold": 2,
    "packs": 1,
    "amount_minor": PRICE,
    "currency": "USD",
    "monthly_cap_minor": 4 * PRICE,
    "consent_version": "2026-11",
    "consent_text": "Charge my card $5.00 when 2 credits are left.",
}
CARD = {"customer_id": "cus_1", "payment_method_id": "pm_1", "card": "visa 4242"}


def agree(
    caller: Caller, who: dict[str, str], payment_id: str | None, **terms: Any
) -> dict[str, Any]:
    """The person agrees; the card is that of the payment."""
    card = CARD if payment_id else {}
    return caller.row("set_top_up", **{**who, **TERMS, **card, "payment_id": payment_id, **terms})


def agreed(database: Database, external_id: str) -> None:
    """Has somebody agree who never bought anything: a DBA settles a payment and records it."""
    with session(database, "t_dba") as dba:
        pack, who, payment_id = dba.row("get_settings"), person(external_id), unique("pi")
        price, account = pack["pack_price_minor"], dba.row("get_account", **who)["account_id"]
        dba.row(
            "settle_purchase", payment_id=payment_id, amount_minor=price, account_id=account,
            currency=pack["pack_currency"], **who,
        )  # fmt: skip
        terms = {"amount_minor": price, "monthly_cap_minor": 4 * price}
        agree(dba, who, payment_id, currency=pack["pack_currency"], **terms)


def claim(web: Caller, limit: int = 100) -> list[dict[str, Any]]:
    """What a server is to work on."""
    return web.rows("claim_top_ups", limit=limit)


def note(web: Caller, attempt: dict[str, Any], outcome: str, **more: Any) -> dict[str, Any]:
    """What a server says of an attempt."""
    names = ("account_id", "purchase_id")
    return web.row("note_top_up", outcome=outcome, **{n: attempt[n] for n in names}, **more)


def stop_clock(database: Database, at: datetime) -> None:
    """Stops the clock of the rules for good, in a database of the test's own."""
    database.execute(
        "CREATE OR REPLACE FUNCTION billing_data.clock() RETURNS timestamptz LANGUAGE sql VOLATILE"
        f" RETURN '{at.isoformat()}'::timestamptz"
    )


class Saver:
    """A person with a saved card and a consent, whose paid credits are `left`."""

    def __init__(self, database: Database, left: int = 2, **terms: Any) -> None:
        self.database = database
        self.who, self.payment_id = bought(database)
        self.id: UUID = account_of(database, self.who)["id"]
        with session(database, "t_dba") as dba:
            self.keep(dba, left)
            agree(dba, self.who, self.payment_id, **terms)

    def keep(self, dba: Caller, left: int) -> None:
        """The person uses credits until so many are left."""
        have = account_of(self.database, self.who)["paid_credits"]
        if have > left:
            dba.row("create_charge", **self.who, amount_minor=have - left)

    def attempts(self, web: Caller) -> list[dict[str, Any]]:
        """What is handed out for this person now."""
        return [row for row in claim(web) if row["account_id"] == self.id]

    def attempt(self, web: Caller) -> dict[str, Any]:
        """The one attempt that is handed out for this person now."""
        (row,) = self.attempts(web)
        return row

    def state(self, dba: Caller) -> dict[str, Any]:
        """What billing.get_top_up says."""
        return dba.row("get_top_up", account_id=self.id)

    def paid(self, dba: Caller, web: Caller, attempt: dict[str, Any]) -> str:
        """The card is charged, which is noted and reported. Returns the payment."""
        payment_id = unique("pi")
        note(web, attempt, "made", payment_id=payment_id)
        note(web, attempt, "succeeded")
        event = deliver(dba, unique("evt"), payment_id, amount_minor=attempt["price_minor"])
        assert event["outcome"] == "credited"
        return payment_id

    def later(self) -> None:
        """Time passes: the columns that wait for a time are moved back."""
        self.database.execute(
            "UPDATE billing_data.top_ups SET next_attempt_at = '-infinity'"
            " WHERE account_id = %s AND ended_at IS NULL", self.id,
        )  # fmt: skip
        self.database.execute(
            "UPDATE billing_data.top_up_attempts SET leased_until = '-infinity'"
            " WHERE account_id = %s", self.id,
        )  # fmt: skip
