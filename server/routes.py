"""Every URL of the service: method, path, guard, handler. Nothing is served that is not here, and
each line names its guard, public ones too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from pydantic import BaseModel

from server.admin_api import accounts as accounts_api
from server.admin_api import analytics as analytics_api
from server.admin_api import api_keys as keys_api
from server.admin_api import console as console_api
from server.admin_api import models as s
from server.admin_api import providers as providers_api
from server.admin_api import users as users_api
from server.admin_api.endpoint import Handler as StaffApiHandler
from server.admin_api.endpoint import staff_endpoint
from server.admin_pages import accounts as accounts_page
from server.admin_pages import api_keys as keys_page
from server.admin_pages import audit as audit_page
from server.admin_pages import dashboard, sign_in
from server.admin_pages import payments as payments_page
from server.admin_pages import settings as settings_page
from server.admin_pages import staff as staff_pages
from server.admin_pages.page import page, page_for_browsers, public_page
from server.agent import accounts, charges, checks, credits, purchases, transactions
from server.agent import models as m
from server.agent.endpoint import READ, WRITE, Handler, agent_endpoint
from server.http.aiohttp_server import ignore_other_expectations
from server.http.app_keys import ROUTE_TABLE
from server.http.route import INTERNAL, OPEN_PAGE, PAGE, PUBLIC, SIGNED, STAFF, Route
from server.public import docs, service
from server.staff import oauth
from server.staff.guard import Visit, staff_api
from server.webhooks import stripe

StaffHandler = Callable[[web.Request, Visit], Awaitable[web.StreamResponse]]


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


def _page(method: str, path: str, handler: StaffHandler, summary: str) -> Route:
    return Route(method, path, PAGE, page(handler), summary)


def _staff(
    method: str,
    path: str,
    handler: StaffApiHandler,
    summary: str,
    *,
    body: type[BaseModel] | None = None,
    parameters: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    success: int = 200,
    idempotent: bool = False,
    secret: bool = False,
) -> Route:
    shaped = staff_endpoint(
        handler,
        writes=method != "GET",
        body=body,
        path=parameters,
        query=query,
        idempotent=idempotent,
        secret=secret,
    )
    guarded = staff_api(shaped)
    return Route(
        method, path, STAFF, guarded, summary, body, parameters, query, success, idempotent
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

    Route("GET", "/admin/oauth/login", PUBLIC, page_for_browsers(oauth.login), "To Google",
          query=s.LoginQuery, success=302),
    Route("GET", "/admin/oauth/callback", PUBLIC, page_for_browsers(oauth.callback), "And back",
          query=s.CallbackQuery, success=302),
    Route("POST", "/admin/oauth/logout", PUBLIC, oauth.logout, "End the session"),
    Route("GET", "/admin/oauth/user", STAFF, oauth.user, "Who is signed in"),

    Route("GET", "/admin/sign-in", OPEN_PAGE, public_page(sign_in.sign_in), "Sign in"),
    Route("GET", "/admin/sign-in/{token}", OPEN_PAGE, public_page(sign_in.use_link), "By link"),
    _page("POST", "/admin/sign-out", sign_in.sign_out, "Sign out"),
    _page("GET", "/admin", dashboard.show, "Dashboard"),
    _page("GET", "/admin/accounts", accounts_page.find, "Find accounts"),
    _page("GET", "/admin/accounts/{account_id}", accounts_page.show, "One account"),
    _page("POST", "/admin/accounts/{account_id}/credits", accounts_page.adjust_credits,
          "Grant or take credits"),
    _page("POST", "/admin/accounts/{account_id}/free-uses", accounts_page.reset_free_uses,
          "Reset free uses"),
    _page("POST", "/admin/accounts/{account_id}/status", accounts_page.set_status,
          "Suspend, reactivate, close"),
    _page("GET", "/admin/payments", payments_page.purchases, "Purchases"),
    _page("GET", "/admin/payments/events", payments_page.events, "Stripe's events"),
    _page("GET", "/admin/payments/problems", payments_page.problems, "What needs a person"),
    _page("POST", "/admin/payments/problems/{event_id}", payments_page.resolve, "Resolve"),
    _page("GET", "/admin/keys", keys_page.list_keys, "API keys"),
    _page("POST", "/admin/keys", keys_page.create, "Create a key"),
    _page("POST", "/admin/keys/{api_key_id}/rotate", keys_page.rotate, "Rotate a key"),
    _page("POST", "/admin/keys/{api_key_id}/revoke", keys_page.revoke, "Revoke a key"),
    _page("GET", "/admin/settings", settings_page.show, "Pricing and Stripe"),
    _page("POST", "/admin/settings/pricing", settings_page.set_pricing, "Set the price"),
    _page("POST", "/admin/settings/stripe", settings_page.set_provider, "Set up Stripe"),
    _page("POST", "/admin/settings/stripe/test", settings_page.test_provider, "Try Stripe"),
    _page("GET", "/admin/staff", staff_pages.list_staff, "Staff"),
    _page("POST", "/admin/staff", staff_pages.add, "Add somebody"),
    _page("POST", "/admin/staff/{email}", staff_pages.change, "Change role, deactivate"),
    _page("GET", "/admin/audit", audit_page.list_entries, "Audit log"),
    _page("GET", "/admin/audit.csv", audit_page.export, "Audit log as CSV"),

    _staff("GET", "/admin/api/users", users_api.list_users, "Find accounts", query=s.UsersQuery),
    _staff("GET", "/admin/api/users/{account_id}", users_api.get_user, "Read an account",
           parameters=s.UserPath),
    _staff("GET", "/admin/api/users/{account_id}/transactions", accounts_api.list_ledger,
           "An account's ledger", parameters=s.UserPath, query=s.LedgerQuery),
    _staff("GET", "/admin/api/users/{account_id}/checks", accounts_api.list_checks,
           "An account's checks", parameters=s.UserPath, query=s.PageQuery),
    _staff("POST", "/admin/api/users/{account_id}/credits", accounts_api.adjust_credits,
           "Grant or take credits", parameters=s.UserPath, body=s.AdjustCreditsRequest,
           success=201, idempotent=True),
    _staff("POST", "/admin/api/users/{account_id}/free-uses", accounts_api.reset_free_uses,
           "Reset free uses", parameters=s.UserPath, body=s.ResetFreeUsesRequest),
    _staff("PUT", "/admin/api/users/{account_id}/status", accounts_api.set_status,
           "Suspend, reactivate, close", parameters=s.UserPath, body=s.SetStatusRequest),
    _staff("GET", "/admin/api/api-keys", keys_api.list_keys, "List API keys", query=s.KeysQuery),
    _staff("POST", "/admin/api/api-keys", keys_api.create_key, "Create an API key",
           body=s.CreateKeyRequest, success=201),
    _staff("DELETE", "/admin/api/api-keys/{api_key_id}", keys_api.revoke_key,
           "Revoke an API key", parameters=s.KeyPath, query=s.ReasonQuery, success=204),
    _staff("POST", "/admin/api/api-keys/{api_key_id}/rotate", keys_api.rotate_key,
           "Rotate an API key", parameters=s.KeyPath, query=s.ReasonQuery),
    _staff("GET", "/admin/api/analytics/overview", analytics_api.overview, "At a glance"),
    _staff("GET", "/admin/api/analytics/daily", analytics_api.daily, "Figures by day",
           query=s.DailyQuery),
    _staff("GET", "/admin/api/config/providers", providers_api.list_providers,
           "Payment providers"),
    _staff("PUT", "/admin/api/config/providers/{provider}", providers_api.set_provider,
           "Set up a payment provider", parameters=s.ProviderPath, body=s.SetProviderRequest,
           secret=True),
    _staff("GET", "/admin/api/config/pricing", console_api.get_settings, "Read the price"),
    _staff("PUT", "/admin/api/config/pricing", console_api.set_pricing, "Set the price",
           body=s.SetPricingRequest),
    _staff("GET", "/admin/api/purchases", console_api.list_purchases, "List purchases",
           query=s.PurchasesQuery),
    _staff("GET", "/admin/api/payment-events", console_api.list_payment_events,
           "List Stripe's events", query=s.PageQuery),
    _staff("GET", "/admin/api/payment-problems", console_api.list_payment_problems,
           "What needs a person", query=s.ProblemsQuery),
    _staff("POST", "/admin/api/payment-events/{event_id}/resolve",
           console_api.resolve_payment_event, "Resolve an event", parameters=s.EventPath,
           body=s.ResolveEventRequest),
    _staff("POST", "/admin/api/payments/{payment_id}/resolve",
           console_api.resolve_payment, "Resolve a payment", parameters=s.PaymentPath,
           body=s.ResolvePaymentRequest),
    _staff("POST", "/admin/api/payments/{payment_id}/reopen",
           console_api.reopen_payment, "Take a resolution back", parameters=s.PaymentPath,
           body=s.ResolveRequest),
    _staff("POST", "/admin/api/payment-warnings/{warning_id}/resolve",
           console_api.resolve_payment_warning, "Resolve a warning", parameters=s.WarningPath,
           body=s.ResolveRequest),
    _staff("POST", "/admin/api/payment-returns/{return_id}/resolve",
           console_api.resolve_shortfall, "Write off a shortfall", parameters=s.ReturnPath,
           body=s.ResolveRequest),
    _staff("GET", "/admin/api/staff", console_api.list_staff, "List staff"),
    _staff("POST", "/admin/api/staff", console_api.add_staff, "Add somebody",
           body=s.AddStaffRequest, success=201),
    _staff("PUT", "/admin/api/staff/{email}", console_api.change_staff, "Change somebody",
           parameters=s.StaffPath, body=s.ChangeStaffRequest),
    _staff("GET", "/admin/api/audit-log", console_api.list_audit_log, "Read the audit log",
           query=s.AuditQuery),
    # Scripts are told in JSON what is not there.
    Route("GET", "/admin/api/{path:.*}", OPEN_PAGE, dashboard.not_found, "Not found"),

    # Last: what no other address of the console is.
    Route("GET", "/admin/{path:.*}", OPEN_PAGE, public_page(dashboard.not_found), "Not found"),
    _agent("GET", "/v1/billing/transactions", READ, transactions.list_transactions,
           "An account's history, newest first", query=m.TransactionsQuery),
)
# fmt: on


def add_routes(app: web.Application) -> None:
    """Puts every route on the application; GET routes answer HEAD too."""
    app[ROUTE_TABLE] = ROUTES
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
