"""The routes below one account of /admin/api/users that concern the person's data: exported,
erased, and the consent withdrawn."""

from datetime import datetime
from typing import Annotated, Any

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import NO_STORE, Call, answer
from server.admin_api.models import ErasePersonRequest, UserPath, WithdrawConsentRequest
from server.gateway import functions
from server.http import fields as f
from server.http.answers import reader
from server.http.example_values import ACCOUNT_ID, AT
from server.http.json_answer import JSON
from server.http.route import Example


class PersonalData(TypedDict):
    """Everything that is stored of a person."""

    account_id: Annotated[str, f.ACCOUNT_ID]
    exported_at: Annotated[datetime, f.means("When it was read, in UTC.")]
    tables: Annotated[
        dict[str, list[dict[str, Any]]],
        f.means("The person's rows of each table of the database that may have any."),
    ]


class Erasure(TypedDict):
    """What was erased of a person, or would be."""

    dry_run: Annotated[bool, f.means("Whether nothing was changed.")]
    obstacle: Annotated[
        str | None,
        f.means(
            "Paid credits or payment problems that are left: without `force` the account is not"
            " erased. Null when there are none, or with `force`."
        ),
    ]
    erased: Annotated[
        dict[str, f.Count],
        f.means("How many rows of each table; `credits_given_up` counts credits."),
    ]


class Consent(TypedDict):
    """A consent to marketing that was withdrawn, or may be given again."""

    account_id: Annotated[str, f.ACCOUNT_ID]
    withdrawn_at: Annotated[
        datetime | None, f.means("Since when; null when the next consent counts again.")
    ]
    changed: Annotated[bool, f.means("Whether this call changed it.")]


_PATH = {"account_id": ACCOUNT_ID}
EXPORT = Example(
    {
        "account_id": ACCOUNT_ID,
        "exported_at": AT,
        "tables": {"accounts": [{"id": ACCOUNT_ID, "customer_email": "ada@example.com"}]},
    },
    values=_PATH,
)
ERASE = Example(
    {
        "dry_run": True,
        "obstacle": "7 paid credits",
        "erased": {"accounts": 1, "credit_checks": 12, "credits_given_up": 7},
    },
    request={"reason": "Asked for by letter", "dry_run": True},
    values=_PATH,
)
CONSENT = Example(
    {"account_id": ACCOUNT_ID, "withdrawn_at": AT, "changed": True},
    request={"reason": "Asked for by e-mail"},
    values=_PATH,
)

_consent = reader(Consent, functions.withdraw_consent.columns)


async def export_user(request: web.Request, call: Call) -> web.StreamResponse:
    """Gives everything that is stored of a person, as one document. The accounts that were merged
    into this one are a part of it. It is written to the audit log, so it is not a GET."""
    path: UserPath = call.path
    row = await call.row(functions.export_personal_data(account_id=path.account_id))
    return web.Response(
        text=row["export_personal_data"], content_type=JSON, charset="utf-8", headers=NO_STORE
    )


async def erase_user(request: web.Request, call: Call) -> web.StreamResponse:
    """Erases a person's data everywhere: the identity is replaced, the account is closed, and
    free text about the person goes. Amounts, dates and the ledger stay. With paid credits left or
    open payment problems it is refused unless `force` is true. It cannot be undone; with
    `dry_run` it only says what it would do."""
    path: UserPath = call.path
    body: ErasePersonRequest = call.body
    rows = await call.rows(
        functions.erase_personal_data(
            account_id=path.account_id,
            reason=body.reason,
            dry_run=body.dry_run,
            force=body.force,
        )
    )
    erasure: Erasure = {
        "dry_run": body.dry_run,
        "obstacle": rows[0]["obstacle"] if rows else None,
        "erased": {row["table_name"]: row["rows_erased"] for row in rows},
    }
    return answer(200, erasure)


async def withdraw_consent(request: web.Request, call: Call) -> web.StreamResponse:
    """Withdraws the person's consent to marketing. What agents go on sending does not give it
    again; with `undo`, the next consent that an agent sends counts again."""
    path: UserPath = call.path
    body: WithdrawConsentRequest = call.body
    row = await call.row(
        functions.withdraw_consent(account_id=path.account_id, reason=body.reason, undo=body.undo)
    )
    return answer(200, _consent(row))
