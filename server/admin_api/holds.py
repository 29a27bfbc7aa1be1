"""The routes of staff about holds: what is kept of an account's credits, and giving it back."""

from aiohttp import web

from server.admin_api.endpoint import Call, answer
from server.admin_api.models import ReasonRequest, UserHoldsQuery, UserPath
from server.gateway import functions
from server.http.example_values import ACCOUNT_ID, HOLD_ID
from server.http.holds import EXAMPLE_HOLD, RELEASED_HOLD, HoldPath, hold_of, page_of_holds
from server.http.route import Example

LIST = Example(
    {"holds": [EXAMPLE_HOLD], "has_more": False},
    values={"account_id": ACCOUNT_ID, "status": "open"},
)
RELEASED = Example(
    RELEASED_HOLD, request={"reason": "The agent is gone"}, values={"hold_id": HOLD_ID}
)


async def list_user_holds(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists an account's holds, newest first, whichever API key made them, also those of accounts
    that were merged into it."""
    path: UserPath = call.path
    query: UserHoldsQuery = call.query
    rows = await call.rows(
        functions.list_holds(
            account_id=path.account_id,
            state=query.status,
            after=query.after,
            limit=query.limit + 1,
        )
    )
    return answer(200, page_of_holds(rows, query.limit))


async def release_user_hold(request: web.Request, call: Call) -> web.StreamResponse:
    """Gives back all that a hold keeps: it cannot be captured any more. A hold whose time is over
    keeps nothing, but can be captured late until it is released. Releasing it again gets the same
    answer."""
    path: HoldPath = call.path
    body: ReasonRequest = call.body
    row = await call.row(functions.release_hold(hold_id=path.hold_id, reason=body.reason))
    replayed = row["outcome"] == "replayed"
    return answer(200, hold_of(row), {"Idempotent-Replayed": "true"} if replayed else None)
