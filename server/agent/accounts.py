"""POST /v1/billing/accounts and GET /v1/billing/accounts/{provider}/{id} (contract.md 2.4, 2.5)."""

from datetime import datetime
from typing import Annotated, NotRequired

from aiohttp import web

from server.agent.endpoint import Call
from server.agent.models import AccountPath, AccountRequest
from server.gateway import Row, functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.errors import json_response
from server.http.example_values import ACCOUNT_ID, ADA
from server.http.route import Example
from server.observe import metrics


def _available(row: Row) -> int | None:
    return None if row["held"] is None else row["paid_credits"] - row["held"]


class Account(f.AccountState):
    """A user's account."""

    paid_credits: Annotated[f.Count, f.CREDITS_LEFT]
    marketing_opt_in: Annotated[bool, f.MARKETING_OPT_IN]
    marketing_opt_in_at: Annotated[datetime | None, f.MARKETING_OPT_IN_AT]
    marketing_opt_in_source: Annotated[str | None, f.MARKETING_OPT_IN_SOURCE]
    created_at: Annotated[datetime, f.WHEN]
    updated_at: Annotated[datetime, f.UPDATED_AT]


class AccountNow(Account):
    """A user's account, with what its open holds keep."""

    held: NotRequired[Annotated[f.Count, f.HELD]]
    available: NotRequired[
        Annotated[
            f.Count,
            From(_available),
            f.means("Paid credits that no open hold keeps; absent while nothing is held."),
        ]
    ]


EXAMPLE_ACCOUNT = {
    "account_id": ACCOUNT_ID,
    **ADA,
    "wa_id": None,
    "tenant_id": None,
    "customer_email": "ada@example.com",
    "balance_minor": 0,
    "currency": "USD",
    "plan_name": "free",
    "status": "active",
    "paid_credits": 20,
    "marketing_opt_in": False,
    "marketing_opt_in_at": None,
    "marketing_opt_in_source": None,
    "created_at": "2026-11-22T10:23:58.120006+00:00",
    "updated_at": "2026-11-22T10:25:12.004117+00:00",
}
CREATED = Example(
    EXAMPLE_ACCOUNT,
    request={**ADA, "customer_email": "ada@example.com"},
    idempotency_key="signup-user-1042",
)
READ = Example(EXAMPLE_ACCOUNT, values=ADA)

_account = reader(Account, functions.create_account.columns)
_account_now = reader(AccountNow, functions.get_account.columns)


async def create_account(request: web.Request, call: Call) -> web.StreamResponse:
    """Creates the user's account with free uses, or returns the existing one unchanged. The answer
    is 201 either way."""
    body: AccountRequest = call.body
    row = await call.gateway.write(
        functions.create_account(
            oauth_provider=body.oauth_provider,
            external_id=body.external_id,
            wa_id=body.wa_id,
            tenant_id=body.tenant_id,
            initial_balance_minor=body.initial_balance_minor,
            currency=body.currency,
            plan_name=body.plan_name,
            customer_email=body.customer_email,
            user_role=body.user_role,
            agent_id=body.agent_id,
            marketing_opt_in=body.marketing_opt_in,
            marketing_opt_in_source=body.marketing_opt_in_source,
            idempotency_key=call.idempotency_key,
            api_key_id=call.api_key_id,
        )
    )
    if row["account_created"]:
        metrics.ACCOUNTS_CREATED.inc()
    headers = {"Idempotent-Replayed": "true"} if row["replayed"] else None
    return json_response(201, _account(row), headers)


async def get_account(request: web.Request, call: Call) -> web.StreamResponse:
    """Reads one account. Percent-encode special characters in the path; an `external_id` with a
    slash cannot be read here."""
    path: AccountPath = call.path
    [row] = await call.gateway.read(
        functions.get_account(
            oauth_provider=path.oauth_provider,
            external_id=path.external_id,
            api_key_id=call.api_key_id,
        )
    )
    return json_response(200, _account_now(row))
