"""Charges as tests make them."""

from __future__ import annotations

from typing import Any

from tests.sql.helpers import (
    Caller,
    account_of,
    session,
)
from tests.support import Database


def charges_of(database: Database, who: dict[str, str]) -> list[dict[str, Any]]:
    with session(database, "postgres") as root:
        return root.execute(
            "SELECT * FROM billing_data.charges WHERE account_id = %s ORDER BY ledger_version",
            account_of(database, who)["id"],
        )


def set_status(dba: Caller, who: dict[str, str], status: str) -> None:
    dba.row("set_account_status", **who, status=status, reason="a test")
