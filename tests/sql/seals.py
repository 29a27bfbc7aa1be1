"""Ledgers whose days are over, and their seals, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from tests.sql.helpers import tamper
from tests.support import Database

# An attacker who rewrites an entry makes its digest fit again.
FITTING = {
    "charges": "UPDATE billing_data.charges AS c SET digest = billing_data.charge_digest(c)",
    "credits": "UPDATE billing_data.credits AS c SET digest = billing_data.credit_digest(c)",
}


def age(database: Database, days: int) -> None:
    """Moves the whole ledger into the past."""
    for table, fitting in FITTING.items():
        if database.value(f"SELECT count(*) FROM billing_data.{table}"):
            moved = f"SET created_at = created_at - interval '{days} days'"
            tamper(database, f"UPDATE billing_data.{table} {moved}", fitting)


def seal_all(database: Database, **arguments: Any) -> list[Any]:
    """Seals everything that can be sealed, as a server does; returns (day, seals, entries) of the
    days that were closed."""
    given = ", ".join(f"p_{name} => {value}" for name, value in arguments.items())
    closed = []
    while rows := database.execute(f"SELECT * FROM billing.seal_entries({given})", user="t_web"):
        ((day, seals, entries, head),) = rows
        if head is not None:
            closed.append((day, seals, entries))
    return closed


def forge_seals(
    database: Database, *changes: str, fitting: Iterable[str] = FITTING, **arguments: Any
) -> None:
    """Changes the ledger, and makes all seals and heads of all days anew, as nobody but a superuser
    with much knowledge could."""
    first = database.value("SELECT min(day) FROM billing_data.seal_heads")
    tamper(
        database,
        *changes,
        *(FITTING[table] for table in fitting),
        "DELETE FROM billing_data.seals",
        "DELETE FROM billing_data.seal_heads",
        f"UPDATE billing_data.seal_state SET day = '{first}', after = NULL",
        **arguments,
    )
    seal_all(database)


def days_ago(days: int) -> date:
    """A UTC day."""
    return datetime.now(UTC).date() - timedelta(days=days)
