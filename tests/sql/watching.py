"""What the alarms see."""

from __future__ import annotations

from typing import Any

from tests.support import Database


def watch(database: Database, known: list[Any] | None = None, entries: int = 500) -> Any:
    return database.execute(
        "SELECT w.accounts_checked, w.mismatched, w.payment_problems"
        " FROM billing.watch_books(p_known => %s::uuid[], p_entries => %s) AS w",
        known or [],
        entries,
        user="t_web",
    )[0]
