"""/admin/api/users: finding accounts and reading one (contract.md 5, changed by 8.14)."""

from datetime import datetime
from typing import Annotated, Literal

from aiohttp import web

from server.admin_api.endpoint import Call, answer
from server.admin_api.models import UserPath, UsersQuery
from server.gateway import functions
from server.http import fields as f
from server.http.answers import reader
from server.http.example_values import ACCOUNT_ID, ADA, AT, COUNTED, PAGING, THEN
from server.http.route import Example


class User(f.AccountState):
    """An account as staff see it in a list."""

    # Agents never see an account that was merged: they see the account that it leads to.
    status: Annotated[  # type: ignore[misc]
        Literal["active", "suspended", "closed", "merged"],
        f.means("`merged`: its id and its identity lead to another account."),
    ]
    created_at: Annotated[datetime, f.WHEN]
    last_charge_at: Annotated[
        datetime | None, f.means("When the account was last charged, in UTC; null before that.")
    ]
    last_credit_at: Annotated[
        datetime | None,
        f.means("When credits were last added or taken away, in UTC; null before that."),
    ]
    total_charged: Annotated[f.Count, f.means("Paid credits that were charged in all.")]
    total_credited: Annotated[f.Count, f.means("Credits that were added in all.")]
    charge_count: Annotated[
        f.Count, f.means("How many charges there are, those that free uses paid for included.")
    ]
    credit_count: Annotated[f.Count, f.means("How many credits and corrections there are.")]
    paid_credits: Annotated[f.Count, f.CREDITS_LEFT]
    free_uses_remaining: Annotated[f.Count, f.FREE_USES_REMAINING]
    total_uses: Annotated[f.Count, f.TOTAL_USES]


class UserDetails(User):
    """An account, and what is known of its owner."""

    user_role: Annotated[str | None, f.means("The user's role.")]
    agent_id: Annotated[str | None, f.AGENT_ID]
    marketing_opt_in: Annotated[bool, f.MARKETING_OPT_IN]
    marketing_opt_in_at: Annotated[datetime | None, f.MARKETING_OPT_IN_AT]
    marketing_opt_in_source: Annotated[str | None, f.MARKETING_OPT_IN_SOURCE]
    updated_at: Annotated[datetime, f.UPDATED_AT]


class UserPage(f.CountedPage):
    """A page of accounts."""

    users: Annotated[list[User], f.means("The accounts of this page.")]


_EXAMPLE = {
    "account_id": ACCOUNT_ID,
    **ADA,
    "wa_id": None,
    "tenant_id": None,
    "customer_email": "ada@example.com",
    "balance_minor": 0,
    "currency": "USD",
    "plan_name": "free",
    "status": "active",
    "created_at": THEN,
    "last_charge_at": AT,
    "last_credit_at": THEN,
    "total_charged": 3,
    "total_credited": 20,
    "charge_count": 6,
    "credit_count": 1,
    "paid_credits": 17,
    "free_uses_remaining": 0,
    "total_uses": 6,
}
LIST = Example({"users": [_EXAMPLE], **COUNTED}, values={"search": "ada@", **PAGING})
DETAILS = Example(
    {
        **_EXAMPLE,
        "user_role": "user",
        "agent_id": "scout",
        "marketing_opt_in": False,
        "marketing_opt_in_at": None,
        "marketing_opt_in_source": None,
        "updated_at": AT,
    },
    values={"account_id": ACCOUNT_ID},
)

_user = reader(User, functions.list_accounts.columns)
_user_details = reader(UserDetails, functions.get_account_by_id.columns)


async def list_users(request: web.Request, call: Call) -> web.StreamResponse:
    """Finds accounts, newest first unless `sort` says otherwise. Without `search`, lists all
    accounts."""
    query: UsersQuery = call.query
    rows = await call.rows(
        functions.list_accounts(
            search=query.search,
            status=query.status_filter or None,
            sort=query.sort,
            match=query.match,
            limit=query.page_size,
            offset=query.offset,
            count=True,
            **query.days,
        )
    )
    total = rows[0]["total_count"]
    page: UserPage = {
        "users": [_user(row) for row in rows if row["account_id"]],
        "total": total,
        "page": query.page,
        "page_size": query.page_size,
        "total_pages": -(-total // query.page_size),
    }
    return answer(200, page)


async def get_user(request: web.Request, call: Call) -> web.StreamResponse:
    """Reads one account: its owner, its balances and its totals."""
    path: UserPath = call.path
    row = await call.row(functions.get_account_by_id(account_id=path.account_id))
    return answer(200, _user_details(row))
