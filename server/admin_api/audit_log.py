"""/admin/api/audit-log: who did what."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer, page_of
from server.admin_api.models import (
    AuditQuery,
)
from server.gateway import Row, functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.example_values import ACCOUNT_ID, AT, BOUNDED
from server.http.route import Example


def _changes(row: Row) -> Any:
    return orjson.loads(row["changes"]) if row["changes"] is not None else None


class AuditEntry(TypedDict):
    """Something that was done."""

    id: Annotated[UUID, f.ITS_ID]
    created_at: Annotated[datetime, f.WHEN]
    who: Annotated[str | None, f.WHO]
    action: Annotated[str, f.ACTION]
    resource_type: Annotated[
        str, f.means("The kind of thing it was done to, such as `account`, `payment` or `api_key`.")
    ]
    resource_id: Annotated[str | None, f.RESOURCE_ID]
    reason: Annotated[
        str | None, f.means("Why, in the words of who did it; null where nobody asked.")
    ]
    changes: Annotated[
        dict[str, Any] | None,
        From(_changes),
        f.means(
            "`before` and `after`, each a value or an object of the fields that changed, null for"
            " what did not exist; and by name what else the act tells, such as `amount`,"
            " `credit_id` or `other_account_id`. Never a secret; null where nothing is told."
        ),
    ]
    ip_address: Annotated[
        str | None, f.means("Where the call came from; null when that is not known.")
    ]
    user_agent: Annotated[
        str | None, f.means("The program the call came from; null when that is not known.")
    ]
    database_login: Annotated[
        str | None,
        f.means(
            "The database login of the session that did it: the web tier's own for what staff do"
            " here; null for entries from before it was recorded."
        ),
    ]


class AuditPage(f.BoundedPage):
    """A page of the audit log."""

    entries: Annotated[list[AuditEntry], f.means("The entries of this page.")]


EXAMPLE = Example(
    {
        "entries": [
            {
                "id": "019a9c2e-7f06-7a52-9c1e-0b8d4f6a2e94",
                "created_at": AT,
                "who": "grace@example.com",
                "action": "account.set_status",
                "resource_type": "account",
                "resource_id": ACCOUNT_ID,
                "reason": "Card reported stolen",
                "changes": {"before": "active", "after": "suspended"},
                "ip_address": "203.0.113.7",
                "user_agent": "curl/8.14.1",
                "database_login": "billing_web",
            }
        ],
        **BOUNDED,
    },
    values={"action": "account", "from": "2026-11-01"},
)

_entry = reader(AuditEntry, functions.list_audit_log.columns)


async def list_audit_log(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists what staff and database administrators did, newest first."""
    query: AuditQuery = call.query
    filters: dict[str, Any] = {
        "who": query.who,
        "action": query.action,
        "resource_id": query.resource_id,
        **query.days,
    }
    rows = await call.rows(
        functions.list_audit_log(**filters, limit=query.page_size + 1, offset=query.offset)
    )
    counted = await call.row(functions.count_audit_log(**filters))
    return answer(200, page_of("entries", rows, query, _entry, counted))
