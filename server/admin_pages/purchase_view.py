"""Purchases as their tables show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server.admin_pages.money import money_text
from server.gateway import Row


def purchase_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of billing.list_purchases, with the money that went back as money."""
    return [
        {
            **dict(row),
            "returned_text": money_text(row["returned_minor"], row["currency"])
            if row["returned_minor"]
            else "",
        }
        for row in rows
    ]
