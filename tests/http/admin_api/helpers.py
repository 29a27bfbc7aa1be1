"""Calls of the staff API, and who makes them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import jwt
import psycopg
import pytest

from server.staff.admin_token import issue_token
from tests.http.contract import (
    make_account,
    set_cap,
)
from tests.http.descriptions import EVERY_OPERATION, validate_answer
from tests.identity_provider import browser_cookie
from tests.payments import ENCRYPTION_KEY, configure_stripe
from tests.sql.alerts import alerted, failed_delivery, forget_endpoints, switch_on
from tests.sql.top_ups import agreed
from tests.stripe_double import StripeDouble
from tests.support import (
    Service,
    unique,
)

Json = dict[str, Any]


SECRET = f"staff-{secrets.token_hex(24)}"


DOUBLE = StripeDouble()  # gives money back


PUBLIC_URL = "https://billing.example.com"


AGENT = "ops-script/1.0"


Z_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z"


NOBODYS_ID = "00000000-0000-7000-8000-000000000000"


STRIPE = {
    "api_key": f"sk_test_{secrets.token_hex(16)}",
    "webhook_secret": f"whsec_{secrets.token_hex(16)}",
    "publishable_key": f"pk_test_{secrets.token_hex(16)}",
}


def find_operation(method: str, path: str) -> str | None:
    """The id of the operation that answers there; the most literal path wins."""
    found = [
        (operation["path"].count("{"), name)
        for name, operation in EVERY_OPERATION.items()
        if operation["method"] == method
        and re.fullmatch(re.sub(r"{\w+}", "[^/]+", operation["path"]), path)
    ]
    return min(found)[1] if found else None


@dataclass(frozen=True)
class Person:
    """Somebody who calls; nobody in particular without a token."""

    service: Service
    id: str = ""
    email: str = ""
    role: str = ""
    token: str = ""

    def call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Sends a request; the answer must be one that the description has."""
        headers = {"User-Agent": AGENT, **options.pop("headers", {})}
        if self.token:
            headers = {"Authorization": f"Bearer {self.token}", **headers}
        answer = httpx2.request(
            method,
            self.service.base_url + path,
            headers=headers,
            timeout=30,
            verify=False,
            **options,
        )
        operation = find_operation(method, path.split("?", maxsplit=1)[0])
        if operation is not None:
            validate_answer(operation, answer)
        return answer

    def get(self, path: str, **query: Any) -> Any:
        """What is there."""
        answer = self.call("GET", f"/admin/api{path}", params=query or None)
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        return answer.json()

    def post(self, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        return self.call("POST", f"/admin/api{path}", json=body, headers=headers)

    def put(self, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        return self.call("PUT", f"/admin/api{path}", json=body, headers=headers)

    def delete(self, path: str) -> httpx2.Response:
        return self.call("DELETE", f"/admin/api{path}")


def staff_environment() -> dict[str, Any]:
    """What a service needs to have staff. Its identity provider never answers."""
    return {
        "ADMIN_JWT_SECRET": SECRET,
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "PUBLIC_BASE_URL": PUBLIC_URL,
        "GOOGLE_CLIENT_ID": "client",
        "GOOGLE_CLIENT_SECRET": "not so secret",
        "OIDC_DISCOVERY_URL": "http://127.0.0.1:9/.well-known/openid-configuration",
    }


def hire(service: Service, role: str) -> Person:
    """A new member of staff with a token."""
    email = f"{unique('ada')}@example.com"
    found = service.database.value(
        "SELECT a.admin_user_id FROM billing.add_admin(p_email => %s, p_role => %s) AS a",
        email,
        role,
        user="t_dba",
    )
    token = service.database.know_token(
        issue_token(SECRET, str(found), email, role, datetime.now(UTC)), email
    )
    return Person(service, str(found), email, role, token)


def session_cookie(person: Person) -> str:
    """The cookie of a browser that this person has signed in with."""
    return browser_cookie(person.service.database, SECRET, person.email, person.id)


def new_account(service: Service, **options: Any) -> str:
    """A new account's id."""
    return account_id(service, make_account(service, **options))


def account_id(service: Service, external_id: str) -> str:
    found = service.database.value(
        "SELECT a.id FROM billing_data.accounts AS a WHERE a.external_id = %s", external_id
    )
    return str(found)


def merged_account(service: Service) -> str:
    """A new account's id that leads to another account."""
    account = new_account(service, paid=20)
    service.database.execute(
        "SELECT m.merge_id FROM billing.merge_accounts(p_account_id => %s,"
        " p_into_account_id => %s, p_reason => 'a test') AS m",
        account,
        new_account(service),
        user="t_dba",
    )
    return account


def account_with_top_up(service: Service) -> str:
    """A new account's id; its person has agreed to a top-up."""
    user = make_account(service)
    agreed(service.database, user)
    return account_id(service, user)


def new_event(service: Service, event_id: str | None = None) -> str:
    """An event that needs a person."""
    name = event_id or unique("evt")
    service.database.execute(
        "SELECT e.outcome FROM billing.process_payment_event(p_event_id => %s,"
        " p_event_type => 'payment_intent.succeeded', p_payload => '{}', p_action => 'settle',"
        " p_payment_id => %s, p_amount_minor => 500, p_currency => 'USD') AS e",
        name,
        unique("pi"),
        user="t_web",
    )
    return name


def resolved_payment(service: Service) -> str:
    """A payment that a DBA has dealt with."""
    payment_id = unique("pi")
    service.database.execute(
        "SELECT billing.resolve_payment(p_payment_id => %s, p_how => 'other', p_reason => 'x')",
        payment_id,
        user="t_dba",
    )
    return payment_id


def _settle(service: Service, payment_id: str) -> None:
    """A new account has bought a pack by this payment."""
    service.database.execute(
        "SELECT billing.settle_purchase(p_payment_id => %s, p_oauth_provider => 'oauth:google',"
        " p_external_id => a.external_id, p_account_id => a.account_id,"
        " p_amount_minor => s.pack_price_minor) FROM billing.get_settings() AS s,"
        " billing.get_account(p_oauth_provider => 'oauth:google', p_external_id => %s) AS a",
        payment_id,
        make_account(service),
        user="t_dba",
    )


def new_payment(service: Service) -> str:
    """A payment of ours, made at the double, which the server asks from now on."""
    configure_stripe(service.database, DOUBLE)
    price = service.database.value(
        "SELECT s.pack_price_minor FROM billing.get_settings() AS s", user="t_dba"
    )
    payment_id = str(DOUBLE.create_intent(amount=price, currency="usd")["id"])
    DOUBLE.pay(payment_id)
    _settle(service, payment_id)
    return payment_id


def new_warning(service: Service) -> str:
    """A report of fraud about a payment of ours."""
    warning_id, payment_id = unique("issfr"), unique("pi")
    _settle(service, payment_id)
    service.database.execute(
        "SELECT e.outcome FROM billing.process_payment_event(p_event_id => %s,"
        " p_event_type => 'radar.early_fraud_warning.created', p_payload => '{}',"
        " p_action => 'warn', p_payment_id => %s, p_warning_id => %s, p_warning_is_open => true)"
        " AS e",
        unique("evt"),
        payment_id,
        warning_id,
        user="t_web",
    )
    return warning_id


def new_shortfall(service: Service) -> str:
    """A refund whose credits were spent before."""
    who, payment_id, return_id = unique("spender"), unique("pi"), unique("re")
    given = {"who": who, "payment_id": payment_id, "return_id": return_id}
    identity_of = "p_oauth_provider => 'oauth:google', p_external_id => %(who)s"
    account = f"(SELECT a.account_id FROM billing.get_account({identity_of}) AS a)"
    price = "(SELECT s.pack_price_minor FROM billing.get_settings() AS s)"
    with psycopg.connect(service.database.dsn("t_dba"), autocommit=True) as dba:
        for call in (
            f"check_credit({identity_of})",
            f"settle_purchase(p_payment_id => %(payment_id)s, p_amount_minor => {price},"
            f" {identity_of}, p_account_id => {account})",
            *[f"create_charge({identity_of})"] * 3,
            f"create_charge({identity_of}, p_amount_minor => 15)",
            "return_payment(p_payment_id => %(payment_id)s, p_return_id => %(return_id)s,"
            f" p_kind => 'refund', p_amount_minor => {price})",
        ):
            dba.execute(f"SELECT billing.{call}", given)
    return return_id


def new_charge(service: Service) -> str:
    """A charge of a new account."""
    charge = service.database.value(
        "SELECT c.charge_id FROM billing.create_charge(p_oauth_provider => 'oauth:google',"
        " p_external_id => %s) AS c",
        make_account(service, free=1),
        user="t_dba",
    )
    return str(charge)


def new_credit(service: Service, amount: int = 20) -> str:
    """A grant of a new account."""
    credit = service.database.value(
        "SELECT c.credit_id FROM billing.create_credit(p_oauth_provider => 'oauth:google',"
        " p_external_id => %s, p_amount_minor => %s) AS c",
        make_account(service),
        amount,
        user="t_dba",
    )
    return str(credit)


def new_hold(service: Service) -> str:
    """An open hold of a new account, of five of its twenty credits."""
    hold = service.database.value(
        "SELECT h.hold_id FROM billing.create_hold(p_oauth_provider => 'oauth:google',"
        " p_external_id => %s, p_amount_minor => 5) AS h",
        make_account(service, free=0, paid=20),
        user="t_dba",
    )
    return str(hold)


def new_schedule(service: Service) -> str:
    """A regular grant of a new account."""
    schedule = service.database.value(
        "SELECT s.schedule_id FROM billing.set_grant_schedule(p_account_id => %s, p_amount => 20,"
        " p_reason => 'a plan') AS s",
        new_account(service),
        user="t_dba",
    )
    return str(schedule)


def paused_schedule(service: Service) -> str:
    """A regular grant that is paused."""
    schedule = new_schedule(service)
    service.database.execute(
        "SELECT billing.pause_grant_schedule(p_schedule_id => %s, p_reason => 'a test')",
        schedule,
        user="t_dba",
    )
    return schedule


def new_endpoint(service: Service, status: str = "on") -> str:
    """The only endpoint for alerts: it is of this status, and a delivery to it failed."""
    forget_endpoints(service.database)
    endpoint = alerted(service.database)
    if status != "off":
        switch_on(service.database, endpoint)
        failed_delivery(service.database, endpoint)
    if status == "paused":
        switch_on(service.database, endpoint, status)
    return str(endpoint)


def lost_delivery(service: Service) -> str:
    """A delivery that failed, to an endpoint that is paused."""
    forget_endpoints(service.database)
    endpoint = alerted(service.database)
    switch_on(service.database, endpoint, "paused")
    return str(failed_delivery(service.database, endpoint))


def audit_rows(service: Service, resource_id: str | None = None) -> list[Any]:
    """Who did what to it, newest first; without `resource_id`, everything."""
    return service.database.execute(
        "SELECT l.action, l.admin_user_id::text, l.reason, l.changes, host(l.ip_address),"
        " l.user_agent, l.resource_type, l.database_role FROM billing_data.admin_audit_logs AS l"
        " WHERE coalesce(l.resource_id = %s, true) ORDER BY l.created_at DESC, l.id DESC",
        resource_id,
    )


# Who may do what


@dataclass(frozen=True)
class Try:
    """A request that succeeds for an administrator."""

    path: str
    body: Any = None
    success: int = 200


def _path(path: str) -> Callable[[Service], Try]:
    return lambda service: Try(path)


def _of_account(what: str) -> Callable[[Service], Try]:
    return lambda service: Try(f"/admin/api/users/{new_account(service)}{what}")


def _write_account(what: str, body: Json, success: int = 200) -> Callable[[Service], Try]:
    return lambda service: Try(f"/admin/api/users/{new_account(service)}{what}", body, success)


def _with_another_account(what: str, field: str, body: Json) -> Callable[[Service], Try]:
    """A write to an account with 20 paid credits that names another account in this field."""
    return lambda service: Try(
        f"/admin/api/users/{new_account(service, paid=20)}{what}",
        {**body, field: new_account(service)},
    )


def _change_somebody(service: Service) -> Try:
    body = {"role": "admin", "reason": "promoted"}
    return Try(f"/admin/api/staff/{hire(service, 'viewer').email}", body)


def _of_endpoint(
    what: str, body: Any = None, success: int = 200, *, status: str = "on"
) -> Callable[[Service], Try]:
    """A call about a new endpoint of this status."""

    return lambda service: Try(
        f"/admin/api/webhooks/{new_endpoint(service, status)}{what}", body, success
    )


def _of_schedule(what: str) -> Callable[[Service], Try]:
    return lambda service: Try(
        f"/admin/api/grant-schedules/{new_schedule(service)}/{what}", {"reason": "asked for"}
    )


def _new_endpoint(service: Service) -> Try:
    forget_endpoints(service.database)
    body = {"name": "shop", "url": "https://93.184.215.14/", "kinds": [], "reason": "a test"}
    return Try("/admin/api/webhooks", body, 201)


def _resend(service: Service) -> Try:
    return Try(
        f"/admin/api/webhook-deliveries/{lost_delivery(service)}/resend",
        {"reason": "it is mended"},
    )


MATRIX: dict[tuple[str, str], Callable[[Service], Try]] = {
    ("GET", "/admin/api/webhooks"): _path("/admin/api/webhooks"),
    ("POST", "/admin/api/webhooks"): _new_endpoint,
    ("PUT", "/admin/api/webhooks/{endpoint_id}"): _of_endpoint(
        "", {"status": "paused", "reason": "a test"}
    ),
    ("DELETE", "/admin/api/webhooks/{endpoint_id}"): _of_endpoint(
        "?reason=gone", success=204, status="off"
    ),
    ("POST", "/admin/api/webhooks/{endpoint_id}/try"): _of_endpoint("/try", status="off"),
    ("POST", "/admin/api/webhooks/{endpoint_id}/rotate"): _of_endpoint(
        "/rotate", {"reason": "it leaked"}
    ),
    ("POST", "/admin/api/webhooks/{endpoint_id}/resend"): _of_endpoint(
        "/resend", {"reason": "it is mended"}, status="paused"
    ),
    ("GET", "/admin/api/webhook-deliveries"): _path("/admin/api/webhook-deliveries"),
    ("POST", "/admin/api/webhook-deliveries/{delivery_id}/resend"): _resend,
    ("GET", "/admin/api/config/low-balance"): _path("/admin/api/config/low-balance"),
    ("PUT", "/admin/api/config/low-balance"): lambda service: Try(
        "/admin/api/config/low-balance", {"threshold": 7, "reason": "a test"}
    ),
    ("GET", "/admin/oauth/user"): _path("/admin/oauth/user"),
    ("GET", "/admin/api/users"): _path("/admin/api/users"),
    ("GET", "/admin/api/users/{account_id}"): _of_account(""),
    ("GET", "/admin/api/users/{account_id}/transactions"): _of_account("/transactions"),
    ("GET", "/admin/api/users/{account_id}/statement"): _of_account("/statement"),
    ("GET", "/admin/api/users/{account_id}/statement.csv"): _of_account("/statement.csv"),
    ("GET", "/admin/api/users/{account_id}/balance"): _of_account("/balance?at=2026-11-22"),
    ("GET", "/admin/api/users/{account_id}/usage"): _of_account("/usage"),
    ("GET", "/admin/api/users/{account_id}/checks"): _of_account("/checks"),
    ("GET", "/admin/api/users/{account_id}/denial"): _of_account("/denial"),
    ("GET", "/admin/api/users/{account_id}/explanation"): _of_account("/explanation"),
    ("GET", "/admin/api/users/{account_id}/timeline"): _of_account("/timeline"),
    ("POST", "/admin/api/users/{account_id}/credits"): _write_account(
        "/credits", {"amount_minor": 5, "reason": "goodwill"}, 201
    ),
    ("POST", "/admin/api/charges/{charge_id}/reverse"): lambda service: Try(
        f"/admin/api/charges/{new_charge(service)}/reverse", {"reason": "the job failed"}
    ),
    ("POST", "/admin/api/credits/{credit_id}/reverse"): lambda service: Try(
        f"/admin/api/credits/{new_credit(service)}/reverse", {"reason": "a mistake"}
    ),
    ("POST", "/admin/api/users/{account_id}/free-uses"): _write_account(
        "/free-uses", {"free_uses": 9, "reason": "a new start"}
    ),
    ("POST", "/admin/api/users/{account_id}/transfer"): _with_another_account(
        "/transfer", "to_account_id", {"amount_minor": 5, "reason": "the wrong sign-in"}
    ),
    ("POST", "/admin/api/users/{account_id}/merge"): _with_another_account(
        "/merge", "into_account_id", {"reason": "one person"}
    ),
    ("POST", "/admin/api/users/{account_id}/undo-merge"): lambda service: Try(
        f"/admin/api/users/{merged_account(service)}/undo-merge", {"reason": "two people"}
    ),
    ("GET", "/admin/api/users/{account_id}/merges"): _of_account("/merges"),
    ("GET", "/admin/api/users/{account_id}/holds"): _of_account("/holds"),
    ("GET", "/admin/api/users/{account_id}/lots"): _of_account("/lots"),
    ("GET", "/admin/api/users/{account_id}/allocations"): _of_account("/allocations"),
    ("GET", "/admin/api/users/{account_id}/grant-schedules"): _of_account("/grant-schedules"),
    ("POST", "/admin/api/users/{account_id}/grant-schedules"): _write_account(
        "/grant-schedules", {"amount": 20, "reason": "a plan"}, 201
    ),
    ("POST", "/admin/api/grant-schedules/{schedule_id}/change"): lambda service: Try(
        f"/admin/api/grant-schedules/{new_schedule(service)}/change",
        {"amount": 30, "reason": "a greater plan"},
    ),
    ("POST", "/admin/api/grant-schedules/{schedule_id}/pause"): _of_schedule("pause"),
    ("POST", "/admin/api/grant-schedules/{schedule_id}/resume"): lambda service: Try(
        f"/admin/api/grant-schedules/{paused_schedule(service)}/resume", {"reason": "asked for"}
    ),
    ("POST", "/admin/api/grant-schedules/{schedule_id}/end"): _of_schedule("end"),
    ("POST", "/admin/api/holds/{hold_id}/release"): lambda service: Try(
        f"/admin/api/holds/{new_hold(service)}/release", {"reason": "the agent is gone"}
    ),
    ("PUT", "/admin/api/users/{account_id}/status"): _write_account(
        "/status", {"status": "suspended", "reason": "abuse"}
    ),
    ("POST", "/admin/api/users/{account_id}/export"): _write_account("/export", {}),
    ("POST", "/admin/api/users/{account_id}/erase"): _write_account(
        "/erase", {"reason": "asked for", "force": True}
    ),
    ("GET", "/admin/api/users/{account_id}/top-up"): lambda service: Try(
        f"/admin/api/users/{account_with_top_up(service)}/top-up"
    ),
    ("POST", "/admin/api/users/{account_id}/end-top-up"): lambda service: Try(
        f"/admin/api/users/{account_with_top_up(service)}/end-top-up", {"reason": "asked for"}
    ),
    ("POST", "/admin/api/users/{account_id}/withdraw-consent"): _write_account(
        "/withdraw-consent", {"reason": "asked for"}
    ),
    ("GET", "/admin/api/api-keys"): _path("/admin/api/api-keys"),
    ("POST", "/admin/api/api-keys"): lambda service: Try(
        "/admin/api/api-keys", {"name": "scout"}, 201
    ),
    ("DELETE", "/admin/api/api-keys/{api_key_id}"): lambda service: Try(
        f"/admin/api/api-keys/{service.database.create_key().id}", success=204
    ),
    ("POST", "/admin/api/api-keys/{api_key_id}/rotate"): lambda service: Try(
        f"/admin/api/api-keys/{service.database.create_key().id}/rotate"
    ),
    ("GET", "/admin/api/caps"): _path("/admin/api/caps"),
    ("PUT", "/admin/api/caps"): lambda service: Try(
        "/admin/api/caps",
        {
            "scope": "agent",
            "subject": unique("scout"),
            "period": "day",
            "limit": 9,
            "reason": "a budget",
        },
    ),
    ("DELETE", "/admin/api/caps/{cap_id}"): lambda service: Try(
        f"/admin/api/caps/{set_cap(service, 'agent', 9, unique('scout'))}?reason=over", success=204
    ),
    ("GET", "/admin/api/analytics/overview"): _path("/admin/api/analytics/overview"),
    ("GET", "/admin/api/analytics/usage"): _path("/admin/api/analytics/usage"),
    ("GET", "/admin/api/analytics/top-consumers"): _path("/admin/api/analytics/top-consumers"),
    ("GET", "/admin/api/analytics/daily"): _path("/admin/api/analytics/daily"),
    ("GET", "/admin/api/config/providers"): _path("/admin/api/config/providers"),
    ("PUT", "/admin/api/config/providers/{provider}"): lambda service: Try(
        "/admin/api/config/providers/square", {"is_enabled": False}
    ),
    ("GET", "/admin/api/config/pricing"): _path("/admin/api/config/pricing"),
    ("PUT", "/admin/api/config/pricing"): lambda service: Try(
        "/admin/api/config/pricing",
        {"pack_price_minor": secrets.randbelow(10**6) + 50, "reason": "a new price"},
    ),
    ("GET", "/admin/api/purchases"): _path("/admin/api/purchases"),
    ("GET", "/admin/api/payment-events"): _path("/admin/api/payment-events"),
    ("GET", "/admin/api/payment-problems"): _path("/admin/api/payment-problems"),
    ("POST", "/admin/api/payment-events/{event_id}/resolve"): lambda service: Try(
        f"/admin/api/payment-events/{new_event(service)}/resolve", {"reason": "granted by hand"}
    ),
    ("POST", "/admin/api/payments/{payment_id}/resolve"): lambda service: Try(
        f"/admin/api/payments/{unique('pi')}/resolve", {"how": "refunded", "reason": "a test"}
    ),
    ("POST", "/admin/api/payments/{payment_id}/refund"): lambda service: Try(
        f"/admin/api/payments/{new_payment(service)}/refund", {"reason": "bought by mistake"}
    ),
    ("POST", "/admin/api/payments/{payment_id}/reopen"): lambda service: Try(
        f"/admin/api/payments/{resolved_payment(service)}/reopen", {"reason": "a wrong payment"}
    ),
    ("POST", "/admin/api/payment-warnings/{warning_id}/resolve"): lambda service: Try(
        f"/admin/api/payment-warnings/{new_warning(service)}/resolve", {"reason": "refunded"}
    ),
    ("POST", "/admin/api/payment-returns/{return_id}/resolve"): lambda service: Try(
        f"/admin/api/payment-returns/{new_shortfall(service)}/resolve", {"reason": "written off"}
    ),
    ("GET", "/admin/api/staff"): _path("/admin/api/staff"),
    ("POST", "/admin/api/staff"): lambda service: Try(
        "/admin/api/staff", {"email": f"{unique('new')}@example.com"}, 201
    ),
    ("PUT", "/admin/api/staff/{email}"): _change_somebody,
    ("GET", "/admin/api/audit-log"): _path("/admin/api/audit-log"),
}


WRITES = [route for route in MATRIX if route[0] != "GET"]


EVERY_WRITE = pytest.mark.parametrize("route", WRITES, ids=" ".join)


# Tokens


def token(person: Person, secret: str = SECRET, **changes: Any) -> str:
    """A token as it should not be, but for that the database knows it."""
    now = datetime.now(UTC)
    claims: Json = {
        "sub": person.id,
        "email": person.email,
        "role": person.role,
        "iat": now,
        "exp": now + timedelta(hours=24),
        "jti": unique(),
        **changes,
    }
    kept = {name: value for name, value in claims.items() if value is not None}
    text = jwt.encode(kept, secret, algorithm="HS256")
    return person.service.database.know_token(text, person.email)


def stranger(person: Person) -> str:
    """A token that is signed as ours are, but that nobody was given."""
    # Tokens of one second are alike, and the person's own may have been made just now.
    before = datetime.now(UTC) - timedelta(minutes=1)
    return issue_token(SECRET, person.id, person.email, person.role, before)


BAD = "Invalid or expired token"
