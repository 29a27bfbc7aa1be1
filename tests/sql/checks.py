"""Checks as tests make them."""

from __future__ import annotations

from typing import Any

from tests.sql.helpers import (
    Caller,
    session,
)
from tests.support import Database


def recorded_checks(database: Database, who: dict[str, str]) -> list[dict[str, Any]]:
    with session(database, "postgres") as root:
        return root.execute(
            "SELECT * FROM billing_data.credit_checks WHERE oauth_provider = %s"
            " AND external_id = %s ORDER BY created_at, id",
            who["oauth_provider"],
            who["external_id"],
        )


def set_status(dba: Caller, who: dict[str, str], status: str) -> None:
    dba.row("set_account_status", **who, status=status, reason="a test")
