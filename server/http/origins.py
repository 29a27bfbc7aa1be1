"""Words for entries of a ledger that another entry explains: sides of transfers and merges, and
reversals. Agents are not told them, since they name other accounts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import orjson

from server.gateway import FunctionCall, Row, functions
from server.timeline_words import origin_told


async def with_origins(
    read: Callable[[FunctionCall], Awaitable[Sequence[Row]]], account_id: UUID, rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """The rows of an account's ledger with `origin`, where each comes from in words, and
    `other_account_id`, the other account of a transfer; both are None for most rows."""
    versions = [row["ledger_version"] for row in rows if row["corrects_id"] or row["transfer_id"]]
    found = {}
    if versions:
        part = functions.list_origins(
            account_id=account_id, after=min(versions) - 1, through=max(versions)
        )
        found = {row["transaction_id"]: _json(row["origin"]) for row in await read(part)}
    return [_told(row, found.get(row["transaction_id"])) for row in rows]


def _told(row: Row, origin: dict[str, Any] | None) -> dict[str, Any]:
    if origin is None:
        return {**row, "origin": None, "other_account_id": None}
    change = row.get("credits_change", row["amount_minor"])
    words = origin_told(origin, change)
    return {**row, "origin": words, "other_account_id": origin.get("account_id")}


def _json(value: Any) -> Any:
    return orjson.loads(value) if isinstance(value, str) else value
