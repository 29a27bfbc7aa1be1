"""What the tests of payment events share."""

from __future__ import annotations

from typing import Any

from tests.sql.helpers import (
    account_of,
    session,
)
from tests.sql.payments import (
    returns_of,
)
from tests.support import Database


def paid_credits_of(database: Database, who: dict[str, str]) -> int:
    paid: int = account_of(database, who)["paid_credits"]
    return paid


def returns_taken(database: Database, payment_id: str) -> dict[str, tuple[int, int, str]]:
    return {
        return_id: (row["uses_due"], row["uses_taken"], row["status"])
        for return_id, row in returns_of(database, payment_id).items()
    }


def entries_of(database: Database, return_id: str) -> list[Any]:
    """The ledger entries of a return, the oldest first."""
    rows = database.execute(
        "SELECT n.credit_id FROM billing_data.payment_return_credits AS n"
        " INNER JOIN billing_data.credits AS c ON c.id = n.credit_id WHERE n.return_id = %s"
        " ORDER BY c.ledger_version",
        return_id,
    )
    return [credit_id for (credit_id,) in rows]


def spend(database: Database, who: dict[str, str], amount: int) -> None:
    with session(database, "t_dba") as dba:
        dba.row("create_charge", **who, amount_minor=amount)
