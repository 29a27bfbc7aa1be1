"""Every URL of the service: method, path, guard, handler. Nothing is served that is not here, and
each line names its guard, public ones too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from pydantic import BaseModel

from server.agent import accounts, charges, checks, credits, purchases, transactions
from server.agent import models as m
from server.agent.endpoint import READ, WRITE, Handler, agent_endpoint
from server.http_server import ignore_other_expectations
from server.public import docs, service
from server.webhooks import stripe

PUBLIC = "public"
INTERNAL = "internal"  # private addresses only, and never through the proxy
SIGNED = "signed"  # by the payment provider, with the webhook's secret

RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One URL. `guard` is PUBLIC, INTERNAL, SIGNED or the permission an API key needs."""

    method: str
    path: str
    guard: str
    handler: RequestHandler
    summary: str
    body: type[BaseModel] | None = None
    parameters: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    success: int = 200
    idempotent: bool = False


def _agent(
    method: str,
    path: str,
    guard: str,
    handler: Handler,
    summary: str,
    *,
    body: type[BaseModel] | None = None,
    parameters: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    success: int = 200,
    idempotent: bool = False,
) -> Route:
    guarded = agent_endpoint(
        guard, handler, body=body, path=parameters, query=query, idempotent=idempotent
    )
    return Route(
        method, path, guard, guarded, summary, body, parameters, query, success, idempotent
    )


# fmt: off
ROUTES: tuple[Route, ...] = (
    Route("GET", "/", PUBLIC, service.root, "What answers here"),
    Route("GET", "/health", PUBLIC, service.health, "Is the service fit to serve?"),
    Route("GET", "/metrics", INTERNAL, service.prometheus, "Prometheus metrics"),
    Route("GET", "/openapi.json", PUBLIC, docs.openapi, "This description"),
    Route("GET", "/docs", PUBLIC, docs.page, "This description as a page"),
    Route("GET", "/static/{name}", PUBLIC, docs.static, "Style sheets"),

    _agent("POST", "/v1/billing/credits/check", READ, checks.check_credit,
           "May this user go on?", body=m.CheckRequest),
    _agent("POST", "/v1/billing/charges", WRITE, charges.create_charge,
           "This user used one", body=m.ChargeRequest, success=201, idempotent=True),
    _agent("POST", "/v1/billing/charges:batch", WRITE, charges.create_charges,
           "Up to 1,000 charges, an outcome each", body=m.ChargeBatchRequest, idempotent=True),
    _agent("POST", "/v1/billing/credits", WRITE, credits.create_credit,
           "Add paid credits", body=m.CreditRequest, success=201, idempotent=True),
    _agent("POST", "/v1/billing/accounts", WRITE, accounts.create_account,
           "Find or create an account", body=m.AccountRequest, success=201, idempotent=True),
    _agent("GET", "/v1/billing/accounts/{oauth_provider}/{external_id}", READ,
           accounts.get_account, "Read an account", parameters=m.AccountPath,
           query=m.AccountQuery),
    _agent("POST", "/v1/billing/purchases", WRITE, purchases.create_purchase,
           "Sell a pack of uses", body=m.PurchaseRequest, success=201, idempotent=True),
    _agent("GET", "/v1/billing/purchases/{payment_id}", READ, purchases.get_purchase,
           "Read a payment", parameters=m.PurchasePath),
    _agent("GET", "/v1/billing/purchases/{payment_id}/status", READ, purchases.get_purchase,
           "Read a payment, by its other address", parameters=m.PurchasePath),
    Route("POST", "/v1/billing/webhooks/stripe", SIGNED, stripe.receive, "Stripe's events"),
    _agent("GET", "/v1/billing/transactions", READ, transactions.list_transactions,
           "An account's history, newest first", query=m.TransactionsQuery),
)
# fmt: on


def add_routes(app: web.Application) -> None:
    """Puts every route on the application; GET routes answer HEAD too."""
    for route in ROUTES:
        if route.method == "GET":
            app.router.add_get(
                route.path,
                route.handler,
                allow_head=True,
                expect_handler=ignore_other_expectations,
            )
        else:
            app.router.add_route(
                route.method, route.path, route.handler, expect_handler=ignore_other_expectations
            )
