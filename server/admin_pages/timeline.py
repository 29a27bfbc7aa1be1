"""The timeline of an account's page: one list of what happened, filtered by the address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

import orjson

from server.admin_pages.lists import days_given, days_of
from server.admin_pages.page import PAGE_SIZE, FormFault
from server.gateway import Refused, Row, functions
from server.staff.guard import Visit
from server.timeline_words import KINDS, other_account_of, reason_told, told


@dataclass(frozen=True, slots=True)
class Timeline:
    """A page of the timeline, ready to show. `kinds` are (address, name, whether it is shown)."""

    rows: Sequence[Mapping[str, Any]] = ()
    kinds: Sequence[tuple[str, str, bool]] = ()
    form: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    is_filtered: bool = False
    newest: str | None = None
    older: str | None = None


async def read_timeline(visit: Visit, account_id: UUID, path: str) -> Timeline:
    """The page of the timeline that the address asks for; with `row`, it begins with this row. A
    cursor or row that is not this account's leads to the first page."""
    query = visit.request.query
    kind = query.get("kind", "").strip()
    kind = kind if kind in KINDS else ""
    chosen = {"kind": kind, **days_given(query)}
    faults: Mapping[str, str] = {}
    rows: list[Row] = []
    cursor = query.get("cursor", "").replace("\0", "").strip()
    row_id = _id(query.get("row", "").strip())
    try:
        days = days_of(chosen)
    except FormFault as error:
        faults = error.faults
    else:
        asked = functions.list_timeline(account_id=account_id, limit=PAGE_SIZE, **days)
        asked = asked.given(kinds=[kind] if kind else None)
        try:
            rows = await visit.rows(asked.given(cursor=cursor or None, row_id=row_id))
        except Refused as error:
            if error.values.get("argument") not in ("p_cursor", "p_row_id"):
                raise
            cursor, row_id = "", None
            rows = await visit.rows(asked)
    following = rows[-1]["next_cursor"] if rows else None
    return Timeline(
        rows=[_shown(account_id, row) for row in rows if row["kind"] is not None],
        kinds=[
            (_address(path, {**chosen, "kind": name}), title, name == kind)
            for name, title in {"": "All", **KINDS}.items()
        ],
        form=chosen,
        faults=faults,
        is_filtered=any(chosen.values()),
        newest=_address(path, chosen) if cursor or row_id else None,
        older=_address(path, {**chosen, "cursor": following}) if following else None,
    )


def row_address(account_id: object, row_id: object) -> str:
    """Where a charge, credit, hold or purchase is shown: the account's timeline, from it on."""
    return f"/admin/accounts/{account_id}?{urlencode({'row': str(row_id)})}#row-{row_id}"


def origin_address(account_id: object, row: Mapping[str, Any]) -> str:
    """Where the other account of a transfer, or the entry that a reversal reverses, is shown."""
    if row["corrects_id"]:
        return row_address(account_id, row["corrects_id"])
    return f"/admin/accounts/{row['other_account_id']}" if row["other_account_id"] else ""


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _address(path: str, query: Mapping[str, str]) -> str:
    given = urlencode({name: value for name, value in query.items() if value})
    return f"{path}{'?' if given else ''}{given}#history"


def _shown(account_id: UUID, row: Row) -> dict[str, Any]:
    changes = row["changes"]
    shown = {**row, "changes": orjson.loads(changes) if isinstance(changes, str) else changes}
    shown["words"] = told(shown)
    shown["why"] = reason_told(shown)
    shown["is_denied"] = row["kind"] == "denial" or row["what"] == "denied"
    shown["entry"] = row["kind"] if row["kind"] in ("charge", "credit") else ""
    shown["payment_url"] = f"/admin/payments/{quote(row['payment_id'] or '', safe='')}"
    shown["other_account_id"] = other_account_of(shown)
    shown["origin_url"] = origin_address(account_id, shown)
    shown["audit_url"] = ""
    if row["audit_id"]:
        shown["audit_url"] = f"/admin/audit?entry={row['audit_id']}#{row['audit_id']}"
    return shown
