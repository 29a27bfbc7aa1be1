"""Compares every account's totals with sums over the ledger."""

from __future__ import annotations

import uuid
from typing import Any

from tests.sql.helpers import (
    session,
)
from tests.support import Database

# --- an account and its totals -------------------------------------------------------------------

TOTALS = (
    "last_charge_at", "last_credit_at", "total_charged", "total_credited", "charge_count",
    "credit_count",
)  # fmt: skip


def _counted(database: Database, account_id: uuid.UUID) -> dict[str, Any]:
    """An account's totals, summed up from the ledger."""
    with session(database, "postgres") as root:
        (row,) = root.execute(
            """
            SELECT
                (SELECT max(c.created_at) FROM billing_data.charges AS c
                    WHERE c.account_id = a.id) AS last_charge_at,
                (SELECT max(c.created_at) FROM billing_data.credits AS c
                    WHERE c.account_id = a.id) AS last_credit_at,
                (SELECT coalesce(sum(c.amount_minor), 0) FROM billing_data.charges AS c
                    WHERE c.account_id = a.id AND c.paid_with = 'paid') AS total_charged,
                (SELECT coalesce(sum(greatest(c.amount_minor, 0)), 0)
                    FROM billing_data.credits AS c WHERE c.account_id = a.id) AS total_credited,
                (SELECT count(*) FROM billing_data.charges AS c
                    WHERE c.account_id = a.id) AS charge_count,
                (SELECT count(*) FROM billing_data.credits AS c
                    WHERE c.account_id = a.id) AS credit_count
            FROM billing_data.accounts AS a WHERE a.id = %s
            """,
            account_id,
        )
    return row


def assert_totals(database: Database) -> None:
    """Checks that every account's totals, in the list and alone, are the sums of its ledger."""
    with session(database, "t_dba") as dba:
        rows = dba.rows("list_accounts", limit=501)
        assert rows
        for row in rows:
            expected = _counted(database, row["account_id"])
            assert {name: row[name] for name in TOTALS} == expected
            alone = dba.row("get_account_by_id", account_id=row["account_id"])
            assert {name: alone[name] for name in TOTALS} == expected
            for name in set(row) & set(alone):
                assert row[name] == alone[name], name
