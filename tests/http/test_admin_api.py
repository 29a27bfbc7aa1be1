"""The staff's calls under /admin/api (contract.md 5, mended by 8): what they answer, who may make
them, what is recorded of them. Every answer is held against its description in /openapi.json."""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import jwt
import psycopg
import pytest

from server.http.route import PAGE, STAFF
from server.routes import ROUTES
from server.staff.admin_token import issue_token
from tests.http.test_openapi import CODES, EVERY_OPERATION, validate_answer
from tests.http.wire import (
    INT64_MAX,
    UUID,
    assert_error,
    fault,
    faults_of,
    make_account,
    make_charges,
    set_status,
)
from tests.identity_provider import browser_cookie
from tests.sql.helpers import set_staff_domain
from tests.support import (
    Database,
    Service,
    charge_body,
    identity,
    running_service,
    unique,
    wait_for,
)

Json = dict[str, Any]

SECRET = f"staff-{secrets.token_hex(24)}"
PUBLIC_URL = "https://billing.example.com"
AGENT = "ops-script/1.0"
Z_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z"
NOBODYS_ID = "00000000-0000-7000-8000-000000000000"
NASTY = "<script>alert(1)</script>'\"; DROP TABLE accounts; -- %_\\ {{7*7}} \u202e"
STRIPE = {
    "api_key": f"sk_test_{secrets.token_hex(16)}",
    "webhook_secret": f"whsec_{secrets.token_hex(16)}",
    "publishable_key": f"pk_test_{secrets.token_hex(16)}",
}
USER = (
    *("account_id", "oauth_provider", "external_id", "wa_id", "tenant_id", "customer_email"),
    *("balance_minor", "currency", "plan_name", "status", "created_at", "last_charge_at"),
    *("last_credit_at", "total_charged", "total_credited", "charge_count", "credit_count"),
    *("paid_credits", "free_uses_remaining", "total_uses"),
)
KEY = (
    *("id", "name", "key_prefix", "environment", "permissions", "status", "created_at"),
    *("expires_at", "last_used_at", "created_by_email"),
)


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

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends a request; the answer must be one that the description has."""
        headers = {"User-Agent": AGENT, **options.pop("headers", {})}
        if self.token:
            headers = {"Authorization": f"Bearer {self.token}", **headers}
        answer = httpx.request(
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

    def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return self.call("POST", f"/admin/api{path}", json=body, headers=headers)

    def put(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return self.call("PUT", f"/admin/api{path}", json=body, headers=headers)

    def delete(self, path: str) -> httpx.Response:
        return self.call("DELETE", f"/admin/api{path}")


def staff_environment() -> dict[str, Any]:
    """What a service needs to have staff. Its identity provider never answers."""
    return {
        "ADMIN_JWT_SECRET": SECRET,
        "ENCRYPTION_KEY": f"encryption-{secrets.token_hex(24)}",
        "PUBLIC_BASE_URL": PUBLIC_URL,
        "GOOGLE_CLIENT_ID": "client",
        "GOOGLE_CLIENT_SECRET": "not so secret",
        "OIDC_DISCOVERY_URL": "http://127.0.0.1:9/.well-known/openid-configuration",
    }


@pytest.fixture(scope="module")
def service(module_database: Database) -> Iterator[Service]:
    """A server whose staff are of example.com."""
    set_staff_domain(module_database)
    with running_service(module_database, **staff_environment()) as service:
        yield service


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


@pytest.fixture(scope="module")
def admin(service: Service) -> Person:
    return hire(service, "admin")


@pytest.fixture(scope="module")
def viewer(service: Service) -> Person:
    return hire(service, "viewer")


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


def new_warning(service: Service) -> str:
    """A report of fraud about a payment of ours."""
    warning_id, payment_id = unique("issfr"), unique("pi")
    service.database.execute(
        "SELECT billing.settle_purchase(p_payment_id => %s, p_oauth_provider => 'oauth:google',"
        " p_external_id => a.external_id, p_account_id => a.account_id,"
        " p_amount_minor => s.pack_price_minor) FROM billing.get_settings() AS s,"
        " billing.get_account(p_oauth_provider => 'oauth:google', p_external_id => %s) AS a",
        payment_id,
        make_account(service),
        user="t_dba",
    )
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


def _change_somebody(service: Service) -> Try:
    body = {"role": "admin", "reason": "promoted"}
    return Try(f"/admin/api/staff/{hire(service, 'viewer').email}", body)


MATRIX: dict[tuple[str, str], Callable[[Service], Try]] = {
    ("GET", "/admin/oauth/user"): _path("/admin/oauth/user"),
    ("GET", "/admin/api/users"): _path("/admin/api/users"),
    ("GET", "/admin/api/users/{account_id}"): _of_account(""),
    ("GET", "/admin/api/users/{account_id}/transactions"): _of_account("/transactions"),
    ("GET", "/admin/api/users/{account_id}/checks"): _of_account("/checks"),
    ("POST", "/admin/api/users/{account_id}/credits"): _write_account(
        "/credits", {"amount_minor": 5, "reason": "goodwill"}, 201
    ),
    ("POST", "/admin/api/users/{account_id}/free-uses"): _write_account(
        "/free-uses", {"free_uses": 9, "reason": "a new start"}
    ),
    ("PUT", "/admin/api/users/{account_id}/status"): _write_account(
        "/status", {"status": "suspended", "reason": "abuse"}
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
    ("GET", "/admin/api/analytics/overview"): _path("/admin/api/analytics/overview"),
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
EVERY_ROUTE = pytest.mark.parametrize("route", MATRIX, ids=" ".join)
EVERY_WRITE = pytest.mark.parametrize("route", WRITES, ids=" ".join)


def test_the_role_matrix_has_every_route_of_the_staff() -> None:
    assert {(route.method, route.path) for route in ROUTES if route.guard == STAFF} == set(MATRIX)


@EVERY_ROUTE
def test_an_administrator_may_do_everything(
    service: Service, admin: Person, route: tuple[str, str]
) -> None:
    wanted = MATRIX[route](service)
    answer = admin.call(route[0], wanted.path, json=wanted.body)
    assert answer.status_code == wanted.success, answer.text
    assert answer.headers["cache-control"] == "no-store"


@EVERY_ROUTE
def test_a_viewer_sees_everything_and_changes_nothing(
    service: Service, viewer: Person, route: tuple[str, str]
) -> None:
    wanted = MATRIX[route](service)
    before = audit_rows(service)
    answer = viewer.call(route[0], wanted.path, json=wanted.body)
    if route[0] == "GET":
        assert answer.status_code == wanted.success
    else:
        assert_error(answer, 403, "Admin role required. Your role: viewer (read-only)")
        assert answer.json()["code"] == "admin_role_required"
    assert audit_rows(service) == before


@EVERY_ROUTE
def test_nobody_gets_nothing(service: Service, route: tuple[str, str]) -> None:
    wanted = MATRIX[route](service)
    before = audit_rows(service)
    answer = Person(service).call(route[0], wanted.path, json=wanted.body)
    assert_error(answer, 401, "Not authenticated")
    if route[1] != "/admin/oauth/user":
        assert answer.headers["www-authenticate"] == "Bearer"
    else:
        assert "www-authenticate" not in answer.headers
    assert audit_rows(service) == before


@EVERY_ROUTE
def test_an_api_key_opens_none_of_it(service: Service, route: tuple[str, str]) -> None:
    wanted = MATRIX[route](service)
    for headers in (
        {"X-API-Key": service.key.secret},
        {"Authorization": f"Bearer {service.key.secret}"},
    ):
        answer = Person(service).call(route[0], wanted.path, json=wanted.body, headers=headers)
        assert answer.status_code == 401


@EVERY_WRITE
@pytest.mark.parametrize("role", ["admin", "viewer"])
def test_a_browser_session_writes_only_for_our_own_pages(
    service: Service, admin: Person, viewer: Person, role: str, route: tuple[str, str]
) -> None:
    cookie = session_cookie(admin if role == "admin" else viewer)
    nobody = Person(service)
    for origin in (
        {},
        {"Origin": "https://evil.example.com"},
        {"Origin": "null"},
        {"Origin": f"{PUBLIC_URL}.evil.example.com"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example.com", "Sec-Fetch-Site": "same-origin"},
    ):
        wanted = MATRIX[route](service)
        before = audit_rows(service)
        answer = nobody.call(
            route[0], wanted.path, json=wanted.body, headers={"Cookie": cookie, **origin}
        )
        assert_error(answer, 403, "Calls with a browser session must come from our own pages")
        assert answer.json()["code"] == "cross_origin"
        assert audit_rows(service) == before
    for origin in ({"Origin": PUBLIC_URL}, {"Sec-Fetch-Site": "same-origin"}):
        wanted = MATRIX[route](service)
        answer = nobody.call(
            route[0], wanted.path, json=wanted.body, headers={"Cookie": cookie, **origin}
        )
        assert answer.status_code == (wanted.success if role == "admin" else 403), answer.text


@EVERY_ROUTE
def test_a_browser_session_reads(service: Service, viewer: Person, route: tuple[str, str]) -> None:
    if route[0] == "GET":
        wanted = MATRIX[route](service)
        cookie = session_cookie(viewer)
        answer = Person(service).call("GET", wanted.path, headers={"Cookie": cookie})
        assert answer.status_code == 200


@EVERY_ROUTE
def test_whoever_was_deactivated_is_out_at_once(
    service: Service, admin: Person, route: tuple[str, str]
) -> None:
    leaver = hire(service, "admin")
    cookie = session_cookie(leaver)
    assert leaver.get("/staff")
    gone = admin.put(f"/staff/{leaver.email}", {"is_active": False, "reason": "left"})
    assert gone.json()["is_active"] is False
    wanted = MATRIX[route](service)
    by_token = leaver.call(route[0], wanted.path, json=wanted.body)
    is_user = route[1] == "/admin/oauth/user"
    assert_error(by_token, 403, "User not authorized" if is_user else "User account is deactivated")
    headers = {"Cookie": cookie, "Origin": PUBLIC_URL}
    by_session = Person(service).call(route[0], wanted.path, json=wanted.body, headers=headers)
    assert_error(by_session, 401, "Invalid or expired token")


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


def unsigned(person: Person, algorithm: str = "none") -> str:
    """A token that says it needs no signature."""
    parts = [
        {"alg": algorithm, "typ": "JWT"},
        {
            "sub": person.id,
            "iat": int(time.time()),
            "exp": int(time.time()) + 3600,
            "jti": unique(),
        },
    ]
    encoded = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts
    ]
    return person.service.database.know_token(".".join([*encoded, ""]), person.email)


def stranger(person: Person) -> str:
    """A token that is signed as ours are, but that nobody was given."""
    return issue_token(SECRET, person.id, person.email, person.role, datetime.now(UTC))


BAD = "Invalid or expired token"
BAD_TOKENS: dict[str, tuple[Callable[[Person], str], str]] = {
    "no header's content": (lambda p: "Bearer", "Not authenticated"),
    "another scheme": (lambda p: f"Basic {p.token}", "Not authenticated"),
    "no scheme": (lambda p: p.token, "Not authenticated"),
    "not a token": (lambda p: "Bearer abc", BAD),
    "more than a token": (lambda p: f"Bearer {p.token} {p.token}", BAD),
    "expired": (
        lambda p: f"Bearer {token(p, exp=datetime.now(UTC) - timedelta(seconds=1))}",
        BAD,
    ),
    "never expiring": (lambda p: f"Bearer {token(p, exp=None)}", BAD),
    "without a time": (lambda p: f"Bearer {token(p, iat=None)}", BAD),
    "of another secret": (lambda p: f"Bearer {token(p, secret='x' * 16 + SECRET)}", BAD),
    "of no secret": (lambda p: f"Bearer {unsigned(p)}", BAD),
    "of no secret, shouted": (lambda p: f"Bearer {unsigned(p, 'NONE')}", BAD),
    "changed": (lambda p: f"Bearer {p.token[:-4]}AAAA", BAD),
    "of nobody": (lambda p: f"Bearer {token(p, sub=None)}", "Invalid token payload"),
    "of no id": (lambda p: f"Bearer {token(p, sub='ada')}", "Invalid token payload"),
    "that nobody was given": (lambda p: f"Bearer {stranger(p)}", BAD),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_token_that_is_not_good_opens_nothing(service: Service, admin: Person, name: str) -> None:
    make, detail = BAD_TOKENS[name]
    for method, path in (("GET", "/admin/api/users"), ("POST", "/admin/api/api-keys")):
        headers = {"Authorization": make(admin)}
        answer = Person(service).call(method, path, json={}, headers=headers)
        assert_error(answer, 401, detail)
        assert answer.headers["www-authenticate"] == "Bearer"


def test_the_header_beats_the_cookie(service: Service, admin: Person, viewer: Person) -> None:
    headers = {"Cookie": session_cookie(admin), "Origin": PUBLIC_URL}
    answer = viewer.post("/api-keys", {"name": "x"}, **headers)
    assert answer.status_code == 403
    bad = Person(service, token="abc").call("GET", "/admin/api/users", headers=headers)
    assert_error(bad, 401, BAD)
    good = admin.post("/api-keys", {"name": "x"}, Cookie="admin_token=rubbish")
    assert good.status_code == 201


@pytest.mark.parametrize("value", ["rubbish", "", "gAAAAA", "\u00ff\u00fe", "a" * 3000])
def test_a_cookie_that_is_not_ours_opens_nothing(service: Service, value: str) -> None:
    headers: Any = {"Cookie": f"admin_token={value}".encode("latin-1")}
    answer = httpx.get(f"{service.base_url}/admin/api/users", headers=headers, verify=False)
    assert_error(answer, 401, BAD)


@pytest.mark.parametrize("header", ["Authorization", "User-Agent", "Origin", "Cookie"])
def test_bytes_that_are_no_text_are_no_fault_of_ours(
    service: Service, admin: Person, header: str
) -> None:
    headers: dict[str, Any] = {"Authorization": f"Bearer {admin.token}".encode()}
    if header == "Origin":
        headers = {"Cookie": session_cookie(admin).encode()}
    headers[header] = {"Authorization": b"Bearer \xff\xfe"}.get(header, b"\xff\xfe")
    answer = httpx.post(
        f"{service.base_url}/admin/api/api-keys", headers=headers, json={"name": "x"}, verify=False
    )
    wanted = {"Authorization": 401, "Origin": 403}.get(header, 201)
    assert answer.status_code == wanted, answer.text


def test_the_role_is_the_databases_not_the_tokens(service: Service, viewer: Person) -> None:
    lying = Person(service, token=token(viewer, role="admin"))
    assert lying.post("/api-keys", {"name": "x"}).status_code == 403


def test_the_command_lines_token_opens_the_door(service: Service, admin: Person) -> None:
    from tests.support import BILLING, Process

    process = Process(
        [BILLING, "admins", "token", admin.email],
        {"ADMIN_JWT_SECRET": SECRET, "DATABASE_URL": service.database.dsn("t_dba")},
    ).start()
    process.process.wait(30)
    assert process.stop() == 0
    printed = process.last_output.strip()
    me = Person(service, token=printed).call("GET", "/admin/oauth/user").json()
    assert me == {
        "id": admin.id,
        "email": admin.email,
        "name": admin.email.split("@")[0],
        "picture": None,
        "role": "admin",
    }


def test_without_a_secret_there_is_no_console(database: Database) -> None:
    with running_service(database) as service:
        nobody = Person(service, token="abc")
        answer = nobody.call("GET", "/admin/api/users")
        assert_error(answer, 503, "The staff console is not set up")
        assert answer.json()["code"] == "console_closed"
        for method, what in (("GET", "login"), ("GET", "callback"), ("POST", "logout")):
            answer = nobody.call(method, f"/admin/oauth/{what}")
            assert_error(answer, 503, CODES["sign_in_not_configured"]["detail"])


def test_without_a_database_staff_are_told_to_come_back(database: Database) -> None:
    set_staff_domain(database)
    with running_service(database, **staff_environment()) as service:
        person = hire(service, "admin")
        with psycopg.connect(database.cluster.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false')
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [database.name],
            )
        for method, path in (("GET", "/admin/api/users"), ("PUT", "/admin/api/config/pricing")):
            answer = person.call(method, path, json={})
            assert answer.status_code == 503
            assert answer.json()["code"] == "unavailable"
            assert int(answer.headers["retry-after"]) > 0


# Validation


@EVERY_WRITE
def test_whoever_may_not_is_told_so_before_what_is_wrong(
    service: Service, viewer: Person, route: tuple[str, str]
) -> None:
    path = re.sub(r"{\w+}", "nonsense", route[1])
    for body in (b"{", b"[]", b"{}", b""):
        headers = {"Content-Type": "application/json"}
        nobody = Person(service).call(route[0], path, content=body, headers=headers)
        assert_error(nobody, 401, "Not authenticated")
        answer = viewer.call(route[0], path, content=body, headers=headers)
        assert_error(answer, 403, "Admin role required. Your role: viewer (read-only)")


WITH_BODY = [(route.method, route.path) for route in ROUTES if route.guard == STAFF and route.body]
EVERY_BODY = pytest.mark.parametrize("route", WITH_BODY, ids=" ".join)


@EVERY_BODY
def test_a_body_that_is_no_json_is_told_where(
    service: Service, admin: Person, route: tuple[str, str]
) -> None:
    path = MATRIX[route](service).path
    headers = {"Content-Type": "application/json"}
    broken = admin.call(route[0], path, content=b'{"reason": ', headers=headers)
    assert faults_of(broken) == [
        fault("json_invalid", ["body", 11], "JSON decode error", {}, {"error": "Expecting value"})
    ]
    absent = admin.call(route[0], path)
    assert faults_of(absent) == [fault("missing", ["body"], "Field required", None)]
    other = admin.call(route[0], path, content=b"reason=x", headers={"Content-Type": "text/plain"})
    assert faults_of(other)[0]["type"] == "model_attributes_type"
    array = admin.call(route[0], path, json=[])
    assert faults_of(array)[0]["type"] == "model_attributes_type"


@EVERY_BODY
def test_a_body_that_is_packed_or_too_large_is_refused(
    service: Service, admin: Person, route: tuple[str, str]
) -> None:
    wanted = MATRIX[route](service)
    packed = admin.call(
        route[0], wanted.path, json=wanted.body, headers={"Content-Encoding": "gzip"}
    )
    assert packed.status_code == 415
    large = admin.call(route[0], wanted.path, json={"filler": "x" * 1_200_000})
    assert large.status_code == 413


def _too_long(field: str, most: int) -> Json:
    return fault(
        "string_too_long",
        ["body", field],
        f"String should have at most {most} characters",
        "x" * (most + 1),
        {"max_length": most},
    )


def _pattern(where: str, field: str, pattern: str, given: str) -> Json:
    return fault(
        "string_pattern_mismatch",
        [where, field],
        f"String should match pattern '{pattern}'",
        given,
        {"pattern": pattern},
    )


def _bound(where: str, field: str, bound: int, given: Any, at_least: bool) -> Json:
    word, kind, name = ("greater", "greater_than_equal", "ge")
    if not at_least:
        word, kind, name = ("less", "less_than_equal", "le")
    return fault(
        kind,
        [where, field],
        f"Input should be {word} than or equal to {bound}",
        given,
        {name: bound},
    )


_ENV, _STATE = "^(test|live)$", "^(active|rotating|revoked)$"
_NUL = "String should not contain NUL characters"


@pytest.mark.parametrize(
    ("path", "query", "entry"),
    [
        ("/users", {"page": "0"}, _bound("query", "page", 1, "0", True)),
        ("/users", {"page_size": "0"}, _bound("query", "page_size", 1, "0", True)),
        ("/users", {"page_size": "501"}, _bound("query", "page_size", 500, "501", False)),
        ("/users", {"search": "a\0"}, fault("string_nul", ["query", "search"], _NUL, "a\0")),
        (
            "/users",
            {"sort": "id; DROP"},
            _pattern("query", "sort", "^(newest|oldest|email|credits|uses)$", "id; DROP"),
        ),
        ("/api-keys", {"environment": "prod"}, _pattern("query", "environment", _ENV, "prod")),
        ("/api-keys", {"environment": "live\n"}, _pattern("query", "environment", _ENV, "live\n")),
        ("/api-keys", {"status_filter": ""}, _pattern("query", "status_filter", _STATE, "")),
        ("/analytics/daily", {"days": "0"}, _bound("query", "days", 1, "0", True)),
        ("/analytics/daily", {"days": "366"}, _bound("query", "days", 365, "366", False)),
        (
            "/analytics/daily",
            {"days": "many"},
            fault(
                "int_parsing",
                ["query", "days"],
                "Input should be a valid integer, unable to parse string as an integer",
                "many",
            ),
        ),
    ],
)
def test_a_query_at_fault_is_told_in_the_contracts_words(
    viewer: Person, path: str, query: Json, entry: Json
) -> None:
    answer = viewer.call("GET", f"/admin/api{path}", params=query)
    assert faults_of(answer) == [entry]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/users", {"page": "1.5"}),
        ("/users", {"page": str(10**30)}),
        ("/users", {"page": "-1"}),
        ("/users", {"match": "regex"}),
        ("/purchases", {"account_id": "ada"}),
        ("/purchases", {"status_filter": "lost"}),
        ("/payment-problems", {"page_size": "101"}),
        ("/audit-log", {"from": "yesterday"}),
        ("/audit-log", {"to": "2026-13-01"}),
        ("/audit-log", {"who": "\0"}),
        ("/users/not-an-id", {}),
        ("/users/not-an-id/transactions", {}),
        ("/users/not-an-id/checks", {}),
    ],
)
def test_a_query_or_path_at_fault_is_no_500(viewer: Person, path: str, query: Json) -> None:
    (entry,) = faults_of(viewer.call("GET", f"/admin/api{path}", params=query))
    if not query:
        assert (entry["type"], entry["loc"]) == ("uuid_parsing", ["path", "account_id"])


@pytest.mark.parametrize(
    ("body", "entry"),
    [
        (
            {},
            fault("missing", ["body", "name"], "Field required", {}),
        ),
        (
            {"name": ""},
            fault(
                "string_too_short",
                ["body", "name"],
                "String should have at least 1 character",
                "",
                {"min_length": 1},
            ),
        ),
        ({"name": "x" * 256}, _too_long("name", 255)),
        ({"name": "x", "environment": "prod"}, _pattern("body", "environment", _ENV, "prod")),
        (
            {"name": "x", "expires_in_days": 0},
            _bound("body", "expires_in_days", 1, 0, True),
        ),
        (
            {"name": "x", "expires_in_days": 3651},
            _bound("body", "expires_in_days", 3650, 3651, False),
        ),
        (
            {"name": "x", "permissions": [1]},
            fault("string_type", ["body", "permissions", 0], "Input should be a valid string", 1),
        ),
        (
            {"name": "x\0"},
            fault("string_nul", ["body", "name"], _NUL, "x\0"),
        ),
    ],
)
def test_a_key_at_fault_is_not_made(
    service: Service, admin: Person, body: Json, entry: Json
) -> None:
    before = audit_rows(service)
    assert faults_of(admin.post("/api-keys", body)) == [entry]
    assert audit_rows(service) == before


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("credits", {"amount_minor": 5}),
        ("credits", {"amount_minor": 5, "reason": ""}),
        ("credits", {"amount_minor": 5, "reason": " \t\n "}),
        ("credits", {"amount_minor": 5, "reason": "x" * 501}),
        ("credits", {"amount_minor": 5, "reason": "x\0"}),
        ("credits", {"amount_minor": 0, "reason": "x"}),
        ("credits", {"amount_minor": 1.5, "reason": "x"}),
        ("credits", {"amount_minor": INT64_MAX + 1, "reason": "x"}),
        ("credits", {"amount_minor": -INT64_MAX - 1, "reason": "x"}),
        ("credits", {"amount_minor": None, "reason": "x"}),
        ("free-uses", {}),
        ("free-uses", {"free_uses": -1, "reason": "x"}),
        ("free-uses", {"free_uses": INT64_MAX + 1, "reason": "x"}),
        ("status", {"status": "frozen", "reason": "x"}),
        ("status", {"status": "active"}),
    ],
)
def test_a_change_of_an_account_that_cannot_be_is_not_made(
    service: Service, admin: Person, what: str, body: Json
) -> None:
    account = new_account(service)
    before = admin.get(f"/users/{account}")
    send = admin.put if what == "status" else admin.post
    assert faults_of(send(f"/users/{account}/{what}", body))
    assert admin.get(f"/users/{account}") == before
    assert audit_rows(service, account) == []


def test_what_is_not_there_is_told_in_json(service: Service, viewer: Person) -> None:
    answer = viewer.call("GET", "/admin/api/nothing")
    assert_error(answer, 404, "Not Found")
    assert_error(viewer.call("DELETE", "/admin/api/users"), 405, "Method Not Allowed")
    moved = viewer.call("GET", "/admin/api/users/?page=2")
    assert (moved.status_code, moved.headers["location"]) == (307, "/admin/api/users?page=2")


# Accounts


def test_a_user_is_as_the_contract_has_it(service: Service, viewer: Person) -> None:
    user = make_account(service, free=1, paid=20)
    make_charges(service.database, user, 3)
    service.database.execute(
        "UPDATE billing_data.accounts SET customer_email = 'Ada@Example.com'"
        " WHERE external_id = %s",
        user,
    )
    account = account_id(service, user)
    found = viewer.get(f"/users/{account}")
    assert tuple(found)[: len(USER)] == USER
    assert {name: found[name] for name in USER if not name.endswith("_at")} == {
        "account_id": account,
        "oauth_provider": "oauth:google",
        "external_id": user,
        "wa_id": None,
        "tenant_id": None,
        "customer_email": "Ada@Example.com",
        "balance_minor": 0,
        "currency": "USD",
        "plan_name": "free",
        "status": "active",
        "total_charged": 2,
        "total_credited": 20,
        "charge_count": 5,
        "credit_count": 1,
        "paid_credits": 18,
        "free_uses_remaining": 0,
        "total_uses": 5,
    }
    for name in ("created_at", "last_charge_at", "last_credit_at", "updated_at"):
        assert re.fullmatch(Z_TIME, found[name]), found[name]
    stored = service.database.value(
        "SELECT created_at FROM billing_data.accounts WHERE id = %s", account
    )
    assert datetime.fromisoformat(found["created_at"]) == stored
    (listed,) = viewer.get("/users", search=user)["users"]
    assert tuple(listed) == USER
    assert listed == {name: found[name] for name in USER}


def test_an_account_without_history_has_no_last_times(service: Service, viewer: Person) -> None:
    found = viewer.get(f"/users/{new_account(service)}")
    assert (found["last_charge_at"], found["last_credit_at"]) == (None, None)
    assert (found["total_charged"], found["total_credited"], found["charge_count"]) == (0, 0, 0)


def test_an_unknown_user_is_told_by_id(viewer: Person, admin: Person) -> None:
    detail = f"User {NOBODYS_ID} not found"
    for what in ("", "/transactions", "/checks"):
        assert_error(viewer.call("GET", f"/admin/api/users/{NOBODYS_ID}{what}"), 404, detail)
    reason = {"reason": "x"}
    assert_error(
        admin.post(f"/users/{NOBODYS_ID}/credits", {"amount_minor": 1, **reason}), 404, detail
    )
    assert_error(admin.post(f"/users/{NOBODYS_ID}/free-uses", reason), 404, detail)
    assert_error(
        admin.put(f"/users/{NOBODYS_ID}/status", {"status": "closed", **reason}), 404, detail
    )


def test_pages_of_users_are_whole_disjoint_and_newest_first(
    service: Service, viewer: Person
) -> None:
    mark = unique("paging")
    with service.client() as client:
        for number in range(7):
            client.post("/v1/billing/credits/check", json=identity(f"{mark}-{number}"))
    seen = []
    for page, size in ((1, 3), (2, 3), (3, 1), (4, 0)):
        found = viewer.get("/users", search=mark, page=page, page_size=3)
        assert (found["total"], found["total_pages"]) == (7, 3)
        assert (found["page"], found["page_size"]) == (page, 3)
        assert len(found["users"]) == size
        seen += [user["external_id"] for user in found["users"]]
    assert seen == [f"{mark}-{number}" for number in reversed(range(7))]
    far = viewer.get("/users", search=mark, page=INT64_MAX // 500)
    assert (far["users"], far["total"]) == ([], 7)
    nothing = viewer.get("/users", search=unique("nobody"))
    assert (nothing["users"], nothing["total"], nothing["total_pages"]) == ([], 0, 0)
    assert viewer.get("/users")["page_size"] == 50
    everything = service.database.value("SELECT count(*) FROM billing_data.accounts")
    assert viewer.get("/users", page_size=1)["total"] == everything
    assert viewer.get("/users", page=10**6)["total"] == everything
    oldest = viewer.get("/users", search=mark, sort="oldest", page_size=1)["users"][0]
    assert oldest["external_id"] == f"{mark}-0"


@pytest.mark.parametrize(
    "external_id",
    [
        "100%sure",
        "under_score",
        "back\\slash",
        "o'brien",
        'quo"te',
        "UPPER lower",
        "dollar$1",
        "' OR 1=1 --",
        "%",
        "_",
        "<b>bold</b>",
        "Ünïcode",
    ],
)
def test_a_search_takes_every_letter_as_itself(
    service: Service, viewer: Person, external_id: str
) -> None:
    mark = unique()
    with service.client() as client:
        for text in (f"{mark}{external_id}x", f"{mark}zzzzzzzz"):
            client.post("/v1/billing/credits/check", json=identity(text))
    for wanted in (external_id, external_id.upper(), external_id.lower()):
        for match in ("substring", "prefix"):
            found = viewer.get("/users", search=f"{mark}{wanted}", match=match)
            assert [user["external_id"] for user in found["users"]] == [f"{mark}{external_id}x"]
            assert found["total"] == 1
    inside = viewer.get("/users", search=f"{mark[3:]}{external_id}")
    assert inside["total"] == 1
    assert viewer.get("/users", search=f"{mark[3:]}{external_id}", match="prefix")["total"] == 0


def test_a_search_finds_by_address_and_by_id_and_filters_by_state(
    service: Service, viewer: Person
) -> None:
    user = make_account(service)
    email = f"{unique('Ada.Love')}@Example.com"
    service.database.execute(
        "UPDATE billing_data.accounts SET customer_email = %s WHERE external_id = %s", email, user
    )
    for search in (email.lower(), email.upper()[4:], account_id(service, user)):
        assert [one["external_id"] for one in viewer.get("/users", search=search)["users"]] == [
            user
        ]
    set_status(service, user, "suspended")
    for status, count in (("suspended", 1), ("active", 0), ("closed", 0), ("odd", 0), ("", 1)):
        found = viewer.get("/users", search=user, status_filter=status)
        assert (found["total"], len(found["users"])) == (count, count)


def test_an_external_id_that_looks_like_an_account_id_is_found(
    service: Service, viewer: Person
) -> None:
    external_id = str(uuid.uuid4())
    with service.client() as client:
        client.post("/v1/billing/credits/check", json=identity(external_id))
    assert viewer.get("/users", search=external_id)["total"] == 1


def test_what_users_are_called_comes_back_as_it_is(service: Service, admin: Person) -> None:
    with service.client() as client:
        body = {**identity(NASTY), "wa_id": NASTY, "context": {"agent_id": NASTY}}
        client.post("/v1/billing/credits/check", json=body)
        charge = charge_body(NASTY, description=NASTY, metadata={"channel_id": NASTY})
        assert client.post("/v1/billing/charges", json=charge).status_code == 201
    answer = admin.call("GET", "/admin/api/users", params={"search": NASTY})
    assert answer.headers["content-type"] == "application/json"
    (user,) = answer.json()["users"]
    assert (user["external_id"], user["wa_id"]) == (NASTY, NASTY)
    account = user["account_id"]
    (entry,) = admin.get(f"/users/{account}/transactions")["transactions"]
    assert (entry["description"], entry["metadata"]["channel_id"]) == (NASTY, NASTY)
    (check,) = admin.get(f"/users/{account}/checks")["checks"]
    assert check["agent_id"] == NASTY
    granted = admin.post(f"/users/{account}/credits", {"amount_minor": 1, "reason": NASTY})
    assert granted.status_code == 201
    (row,) = admin.get("/audit-log", resource_id=account)["entries"]
    assert row["reason"] == NASTY.strip()
    key = admin.post(
        "/api-keys", {"name": NASTY, "permissions": ["billing:read"], "description": NASTY}
    ).json()
    (listed,) = [one for one in admin.get("/api-keys") if one["id"] == key["id"]]
    assert (listed["name"], listed["description"]) == (NASTY, NASTY)
    assert service.database.value("SELECT count(*) FROM billing_data.accounts") > 0


def test_the_ledger_has_a_running_balance(service: Service, viewer: Person) -> None:
    user = make_account(service, free=1, paid=10)
    make_charges(service.database, user, 3)
    account = account_id(service, user)
    page = viewer.get(f"/users/{account}/transactions", page_size=4)
    assert (page["total"], page["total_pages"], page["page"]) == (6, 2, 1)
    assert [entry["amount_minor"] for entry in page["transactions"]] == [-1, -1, -1, 10]
    assert [entry["balance_after"] for entry in page["transactions"]] == [8, 9, 10, 10]
    assert [entry["paid_with"] for entry in page["transactions"]] == ["paid", "paid", "free", None]
    assert all(re.fullmatch(Z_TIME, entry["created_at"]) for entry in page["transactions"])
    rest = viewer.get(f"/users/{account}/transactions", page_size=4, page=2)
    assert [entry["type"] for entry in rest["transactions"]] == ["charge", "charge"]
    past = viewer.get(f"/users/{account}/transactions", page=INT64_MAX // 500)
    assert (past["transactions"], past["total"]) == ([], 6)


def test_checks_tell_why_they_were_denied(service: Service, viewer: Person) -> None:
    user = make_account(service, free=0)
    context = {"agent_id": "scout", "channel_id": "c", "request_id": "r"}
    with service.client() as client:
        client.post("/v1/billing/credits/check", json={**identity(user), "context": context})
        set_status(service, user, "suspended")
        client.post("/v1/billing/credits/check", json=identity(user))
    account = account_id(service, user)
    page = viewer.get(f"/users/{account}/checks", page_size=1)
    assert page["has_more"] is True
    assert page["checks"][0]["reason"] == "Account suspended"
    last = viewer.get(f"/users/{account}/checks", page_size=1, page=2)
    assert last["has_more"] is False
    (check,) = last["checks"]
    assert check["has_credit"] is False
    assert check["reason"] == "No free uses or credits remaining"
    assert {name: check[name] for name in context} == context
    assert viewer.get(f"/users/{account}/checks", page=3)["checks"] == []


def test_credits_are_granted_and_taken_never_below_zero(service: Service, admin: Person) -> None:
    account = new_account(service)
    granted = admin.post(f"/users/{account}/credits", {"amount_minor": 7, "reason": " goodwill "})
    assert granted.status_code == 201
    assert granted.json() == {
        "credit_id": granted.json()["credit_id"],
        "account_id": account,
        "amount_minor": 7,
        "balance_before": 0,
        "balance_after": 7,
        "created_at": granted.json()["created_at"],
    }
    assert re.fullmatch(UUID, granted.json()["credit_id"])
    assert re.fullmatch(Z_TIME, granted.json()["created_at"])
    taken = admin.post(f"/users/{account}/credits", {"amount_minor": -7, "reason": "a mistake"})
    assert (taken.json()["amount_minor"], taken.json()["balance_after"]) == (-7, 0)
    short = admin.post(f"/users/{account}/credits", {"amount_minor": -3, "reason": "again"})
    assert_error(short, 402, "Insufficient credits. Balance: 0, Required: 3")
    assert {name: short.json()[name] for name in ("balance", "required", "shortfall")} == {
        "balance": 0,
        "required": 3,
        "shortfall": 3,
    }
    full = admin.post(f"/users/{account}/credits", {"amount_minor": INT64_MAX, "reason": "max"})
    assert full.status_code == 201
    over = admin.post(f"/users/{account}/credits", {"amount_minor": 1, "reason": "too many"})
    assert over.status_code == 422
    assert over.json()["code"] == "balance_overflow"
    user = admin.get(f"/users/{account}")
    assert (user["paid_credits"], user["total_credited"]) == (INT64_MAX, INT64_MAX + 7)
    admin.post(f"/users/{account}/credits", {"amount_minor": -INT64_MAX, "reason": "back"})
    actions = [
        (row[0], row[1], row[2], row[3]["before"], row[3]["after"], *row[4:6])
        for row in audit_rows(service, account)
    ]
    assert actions == [
        ("account.adjust_credits", admin.id, reason, before, after, "127.0.0.1", AGENT)
        for reason, before, after in (
            ("back", INT64_MAX, 0),
            ("max", 0, INT64_MAX),
            ("a mistake", 7, 0),
            ("goodwill", 0, 7),
        )
    ]


def test_an_idempotency_key_makes_a_repeat_safe(service: Service, admin: Person) -> None:
    account = new_account(service)
    body = {"amount_minor": 5, "reason": "ticket 311"}
    header = {"Idempotency-Key": unique("ticket")}
    first = admin.post(f"/users/{account}/credits", body, **header)
    again = admin.post(f"/users/{account}/credits", body, **header)
    assert (again.status_code, again.json()) == (201, first.json())
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    other = admin.post(f"/users/{account}/credits", {**body, "amount_minor": 6}, **header)
    assert_error(other, 422, "Idempotency key was used with a different request")
    assert admin.get(f"/users/{account}")["paid_credits"] == 5
    assert len(audit_rows(service, account)) == 1
    long = admin.post(f"/users/{account}/credits", body, **{"Idempotency-Key": "x" * 256})
    assert faults_of(long)[0]["loc"] == ["header", "idempotency-key"]
    elsewhere = admin.post(f"/users/{new_account(service)}/credits", body, **header)
    assert "idempotent-replayed" not in elsewhere.headers


def test_free_uses_are_reset(service: Service, admin: Person) -> None:
    account = new_account(service, free=1)
    reset = admin.post(f"/users/{account}/free-uses", {"reason": "a new start"})
    new = admin.get("/config/pricing")["free_uses"]
    assert reset.json() == {
        "account_id": account,
        "free_uses_before": 1,
        "free_uses_remaining": new,
    }
    more = admin.post(f"/users/{account}/free-uses", {"free_uses": 9, "reason": "more"})
    assert more.json()["free_uses_remaining"] == 9
    assert admin.get(f"/users/{account}")["free_uses_remaining"] == 9
    newest = audit_rows(service, account)[0]
    assert newest[:6] == (
        "account.reset_free_uses",
        admin.id,
        "more",
        {"before": new, "after": 9, "ledger_version": 2},
        "127.0.0.1",
        AGENT,
    )


def test_an_account_is_suspended_reactivated_and_closed(service: Service, admin: Person) -> None:
    user = make_account(service)
    account = account_id(service, user)
    previous = "active"
    with service.client() as client:
        for status, charged in (("suspended", 403), ("active", 201), ("closed", 403)):
            answer = admin.put(f"/users/{account}/status", {"status": status, "reason": "why"})
            assert answer.json() == {
                "account_id": account,
                "status": status,
                "previous_status": previous,
            }
            charge = client.post("/v1/billing/charges", json=charge_body(user))
            assert charge.status_code == charged
            newest = audit_rows(service, account)[0]
            assert newest[:6] == (
                "account.set_status",
                admin.id,
                "why",
                {"before": previous, "after": status},
                "127.0.0.1",
                AGENT,
            )
            previous = status


# API keys


def may_check(service: Service, secret: str) -> httpx.Response:
    """Whether a key is good."""
    return httpx.post(
        f"{service.base_url}/v1/billing/credits/check",
        json=identity(),
        headers={"X-API-Key": secret},
        timeout=30,
        verify=False,
    )


def test_a_key_is_made_shown_once_and_works(service: Service, admin: Person) -> None:
    answer = admin.post("/api-keys", {"name": "scout", "description": "for tests", "extra": 1})
    assert answer.status_code == 201
    key = answer.json()
    assert tuple(key) == (
        *("id", "name", "key_prefix", "plaintext_key", "environment", "permissions"),
        *("expires_at", "created_at"),
    )
    assert re.fullmatch(r"cbk_live_[A-Za-z0-9_-]{43}", key["plaintext_key"])
    assert key["key_prefix"] == key["plaintext_key"][:20]
    assert key["permissions"] == ["billing:read", "billing:write"]
    assert (key["environment"], key["expires_at"]) == ("live", None)
    assert re.fullmatch(Z_TIME, key["created_at"])
    assert may_check(service, key["plaintext_key"]).status_code == 200
    listed = admin.get("/api-keys")
    assert isinstance(listed, list)
    assert tuple(listed[0])[: len(KEY)] == KEY
    assert listed[0]["id"] == key["id"]
    assert listed[0]["created_by_email"] == admin.email
    assert listed[0]["description"] == "for tests"
    assert key["plaintext_key"][20:] not in json.dumps(listed)
    (row,) = audit_rows(service, key["id"])
    assert row[:2] == ("api_key.create", admin.id)
    assert row[4:6] == ("127.0.0.1", AGENT)
    everything = service.database.value(
        "SELECT string_agg(l::text, ' ') FROM billing_data.admin_audit_logs AS l"
    )
    assert key["plaintext_key"][20:] not in everything + service.process.output


def test_a_key_may_be_for_tests_read_only_and_for_a_while(service: Service, admin: Person) -> None:
    body = {
        "name": "n" * 255,
        "environment": "test",
        "permissions": ["billing:read"],
        "expires_in_days": 3650,
    }
    key = admin.post("/api-keys", body).json()
    assert key["plaintext_key"].startswith("cbk_test_")
    left = datetime.fromisoformat(key["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=3649) < left <= timedelta(days=3650)
    charge = httpx.post(
        f"{service.base_url}/v1/billing/charges",
        json=charge_body(unique()),
        headers={"X-API-Key": key["plaintext_key"]},
        verify=False,
    )
    assert_error(charge, 403, "Missing required permission: billing:write")
    useless = admin.post("/api-keys", {"name": "x", "permissions": []}).json()
    assert may_check(service, useless["plaintext_key"]).status_code == 403


@pytest.mark.parametrize("permission", ["billing:wirte", "BILLING:READ", "billing:read ", "*", ""])
def test_a_permission_that_there_is_not_is_refused(
    service: Service, admin: Person, permission: str
) -> None:
    name = unique()
    response = admin.post("/api-keys", {"name": name, "permissions": ["billing:read", permission]})
    assert response.status_code == 422
    problem = "it must be a list of billing:read, billing:write"
    assert response.json()["detail"] == f"Invalid permissions: {problem}"
    assert name not in [key["name"] for key in admin.get("/api-keys")]


def test_keys_are_listed_by_environment_and_state(service: Service, admin: Person) -> None:
    made = {
        env: admin.post("/api-keys", {"name": unique(), "environment": env}).json()["id"]
        for env in ("test", "live")
    }
    admin.delete(f"/api-keys/{made['test']}")
    for env, status, expected in (
        ("test", "revoked", {made["test"]}),
        ("test", "active", set()),
        ("live", "active", {made["live"]}),
        ("live", "rotating", set()),
    ):
        listed = admin.get("/api-keys", environment=env, status_filter=status)
        assert all((one["environment"], one["status"]) == (env, status) for one in listed)
        assert {one["id"] for one in listed} & set(made.values()) == expected
    times = [one["created_at"] for one in admin.get("/api-keys")]
    assert times == sorted(times, reverse=True)


def _reasons(service: Service, resource_id: str) -> list[str | None]:
    """Why, oldest first, as the audit log has it."""
    rows = service.database.execute(
        "SELECT l.reason FROM billing_data.admin_audit_logs AS l"
        " WHERE l.resource_id = %s ORDER BY l.created_at",
        resource_id,
    )
    return [reason for (reason,) in rows]


def test_a_revoked_key_is_refused_at_its_next_request(service: Service, admin: Person) -> None:
    key = admin.post("/api-keys", {"name": "x"}).json()
    assert may_check(service, key["plaintext_key"]).status_code == 200
    for _ in range(2):
        gone = admin.delete(f"/api-keys/{key['id']}?reason=it+leaked")
        assert (gone.status_code, gone.content) == (204, b"")
    refused = may_check(service, key["plaintext_key"])
    assert_error(refused, 401, "Authentication failed: Invalid API key")
    assert [row[0] for row in audit_rows(service, key["id"])] == [
        "api_key.revoke",
        "api_key.create",
    ]
    assert _reasons(service, key["id"]) == [None, "it leaked"]
    unknown = admin.delete(f"/api-keys/{NOBODYS_ID}")
    assert_error(unknown, 404, f"API key not found: {NOBODYS_ID}")
    assert faults_of(admin.delete("/api-keys/x"))[0]["type"] == "uuid_parsing"


def test_a_rotated_key_works_for_a_day_more(service: Service, admin: Person) -> None:
    old = admin.post(
        "/api-keys",
        {
            "name": "scout",
            "environment": "test",
            "permissions": ["billing:read"],
            "expires_in_days": 30,
        },
    ).json()
    before = datetime.now(UTC)
    answer = admin.post(f"/api-keys/{old['id']}/rotate?reason=yearly")
    assert answer.status_code == 200
    new = answer.json()
    assert tuple(new) == (
        *("id", "name", "new_key_prefix", "new_plaintext_key", "old_key_expires_at", "new_key"),
    )
    assert new["id"] != old["id"]
    assert new["name"] == "scout"
    assert new["new_plaintext_key"].startswith("cbk_test_")
    assert new["new_key_prefix"] == new["new_plaintext_key"][:20]
    inner = new["new_key"]
    assert inner["plaintext_key"] == new["new_plaintext_key"]
    assert (inner["name"], inner["environment"], inner["permissions"]) == (
        "scout",
        "test",
        ["billing:read"],
    )
    assert re.fullmatch(Z_TIME, new["old_key_expires_at"])
    grace = datetime.fromisoformat(new["old_key_expires_at"]) - before
    assert timedelta(hours=24) <= grace < timedelta(hours=24, minutes=1)
    for secret in (old["plaintext_key"], new["new_plaintext_key"]):
        assert may_check(service, secret).status_code == 200
    (listed,) = [one for one in admin.get("/api-keys") if one["id"] == old["id"]]
    assert (listed["status"], listed["rotated_to"]) == ("rotating", new["id"])
    again = admin.post(f"/api-keys/{old['id']}/rotate")
    assert_error(again, 409, "API key cannot be rotated: its status is rotating")
    service.database.execute(
        "UPDATE billing_data.api_keys SET expires_at = now() - interval '1 second' WHERE id = %s",
        old["id"],
    )
    ended = may_check(service, old["plaintext_key"])
    assert_error(ended, 401, "Authentication failed: API key expired")
    once_more = may_check(service, old["plaintext_key"])
    assert_error(once_more, 401, "Authentication failed: Invalid API key")
    assert may_check(service, new["new_plaintext_key"]).status_code == 200
    assert [row[0] for row in audit_rows(service, old["id"])] == [
        "api_key.rotate",
        "api_key.create",
    ]
    assert _reasons(service, old["id"]) == [None, "yearly"]
    assert _reasons(service, new["id"]) == ["yearly"]
    assert new["new_plaintext_key"][20:] not in service.process.output


def test_a_key_in_its_last_day_can_be_revoked(service: Service, admin: Person) -> None:
    old = admin.post("/api-keys", {"name": "x"}).json()
    admin.post(f"/api-keys/{old['id']}/rotate")
    assert admin.delete(f"/api-keys/{old['id']}").status_code == 204
    assert may_check(service, old["plaintext_key"]).status_code == 401


def test_an_unknown_key_cannot_be_rotated(admin: Person) -> None:
    answer = admin.post(f"/api-keys/{NOBODYS_ID}/rotate")
    assert_error(answer, 400, f"API key not found: {NOBODYS_ID}")


def test_the_last_use_of_a_key_is_told(service: Service, admin: Person) -> None:
    key = admin.post("/api-keys", {"name": "x"}).json()
    may_check(service, key["plaintext_key"])

    def used() -> Any:
        (one,) = [one for one in admin.get("/api-keys") if one["id"] == key["id"]]
        return one if one["last_used_at"] else None

    found = wait_for(used, "the use to be recorded")
    assert found["last_used_ip"] == "127.0.0.1"
    assert re.fullmatch(Z_TIME, found["last_used_at"])


# Figures


OVERVIEW = (
    *("total_users", "active_users", "total_api_keys", "active_api_keys"),
    *("total_balance_minor", "total_charged_all_time", "total_credited_all_time"),
    *("charges_last_24h", "credits_last_24h", "charges_last_7d", "credits_last_7d"),
)


def test_the_overview_agrees_with_the_ledger(service: Service, viewer: Person) -> None:
    user = make_account(service, free=1, paid=10)
    make_charges(service.database, user, 3)
    closed = make_account(service, status="closed")
    assert closed
    found = viewer.get("/analytics/overview")
    assert tuple(found) == OVERVIEW
    assert all(type(value) is int for value in found.values())
    expected = service.database.execute(
        "SELECT (SELECT count(*) FROM billing_data.accounts),"
        " (SELECT count(*) FROM billing_data.accounts WHERE status = 'active'),"
        " (SELECT count(*) FROM billing_data.api_keys),"
        " (SELECT count(*) FROM billing_data.api_keys WHERE status = 'active'),"
        " (SELECT sum(balance_minor) FROM billing_data.accounts),"
        " (SELECT sum(amount_minor) FROM billing_data.charges WHERE paid_with = 'paid'),"
        " (SELECT sum(amount_minor) FROM billing_data.credits WHERE amount_minor > 0),"
        " c.charges, c.credits, c.charges, c.credits"
        " FROM (SELECT (SELECT count(*) FROM billing_data.charges) AS charges,"
        " (SELECT count(*) FROM billing_data.credits WHERE amount_minor > 0) AS credits) AS c"
    )[0]
    assert tuple(found.values()) == expected


def _ledger_days(database: Database) -> dict[date, tuple[Any, ...]]:
    """What the ledger says of each day that it speaks of."""
    rows = database.execute(
        "WITH entries AS ("
        " SELECT (c.created_at AT TIME ZONE 'UTC')::date AS day, c.account_id, c.amount_minor,"
        "   'charge' AS kind, c.paid_with, NULL AS type FROM billing_data.charges AS c"
        " UNION ALL SELECT (c.created_at AT TIME ZONE 'UTC')::date, c.account_id, c.amount_minor,"
        "   'credit', NULL, c.transaction_type FROM billing_data.credits AS c)"
        " SELECT e.day, count(*) FILTER (WHERE e.kind = 'charge'),"
        " count(*) FILTER (WHERE e.kind = 'credit' AND e.amount_minor > 0),"
        " coalesce(sum(e.amount_minor) FILTER (WHERE e.kind = 'charge'), 0),"
        " coalesce(sum(e.amount_minor) FILTER (WHERE e.kind = 'credit' AND e.amount_minor > 0), 0),"
        " count(DISTINCT e.account_id) FILTER (WHERE e.kind = 'charge'),"  # users, not buyers
        " count(*) FILTER (WHERE e.paid_with = 'free'),"
        " coalesce(sum(e.amount_minor) FILTER (WHERE e.type = 'purchase'), 0)"
        " FROM entries AS e GROUP BY e.day"
    )
    return {row[0]: row[1:] for row in rows}


DAILY = ("charges", "credits", "charge_amount", "credit_amount", "unique_users")


def test_daily_figures_agree_with_the_ledger(database: Database) -> None:
    set_staff_domain(database)
    with running_service(database, **staff_environment()) as service:
        viewer = hire(service, "viewer")
        for days_ago in (0, 3, 30, 31):
            for paid in (0, 7):
                user = make_account(service, free=1, paid=paid)
                make_charges(database, user, 1 + min(paid, 2))
                with service.client() as client:
                    bought = {
                        **charge_body(user, 20),
                        "transaction_type": "purchase",
                        "description": "a pack",
                    }
                    assert client.post("/v1/billing/credits", json=bought).status_code == 201
                for table in ("charges", "credits"):
                    for statement in (
                        f"ALTER TABLE billing_data.{table} DISABLE TRIGGER {table}_append_only",
                        f"UPDATE billing_data.{table} SET created_at = created_at"
                        f" - interval '{days_ago} days' WHERE account_id ="
                        f" '{account_id(service, user)}'",
                        f"ALTER TABLE billing_data.{table} ENABLE TRIGGER {table}_append_only",
                    ):
                        database.execute(statement)
        database.execute("SELECT billing.rebuild_figures()", user="t_dba")
        for days in (1, 30, 365):
            found = viewer.get("/analytics/daily", days=days)
            today = datetime.now(UTC).date()
            wanted = [today - timedelta(days=ago) for ago in range(days, -1, -1)]
            assert [row["date"] for row in found] == [day.isoformat() for day in wanted]
            ledger = _ledger_days(database)
            for row in found:
                assert tuple(row)[:6] == ("date", *DAILY)
                figures = [row[name] for name in (*DAILY, "free_charges", "credits_sold")]
                expected = ledger.get(date.fromisoformat(row["date"]), (0,) * 7)
                assert tuple(figures) == expected
            assert sum(row["charges"] for row in found) > 0
        assert viewer.get("/analytics/daily") == viewer.get("/analytics/daily", days=30)
        assert len(viewer.get("/analytics/daily")) == 31


def test_figures_beyond_64_bits_are_whole_numbers_still(database: Database) -> None:
    set_staff_domain(database)
    with running_service(database, **staff_environment()) as service:
        admin = hire(service, "admin")
        for _ in range(3):
            body = {"amount_minor": INT64_MAX, "reason": "very rich"}
            given = admin.post(f"/users/{new_account(service)}/credits", body)
            assert given.status_code == 201
        assert admin.get("/analytics/overview")["total_credited_all_time"] == 3 * INT64_MAX
        assert admin.get("/analytics/daily")[-1]["credit_amount"] == 3 * INT64_MAX


# Settings


def stripe_row(service: Service) -> Any:
    """Stripe's configuration as it is stored."""
    rows = service.database.execute(
        "SELECT c.config_data FROM billing_data.provider_configs AS c"
        " WHERE c.provider_type = 'stripe'"
    )
    return rows[0][0] if rows else None


def assert_silent(service: Service, answer: httpx.Response) -> None:
    """No secret of STRIPE is told, recorded or logged."""
    recorded = service.database.value(
        "SELECT string_agg(l::text, ' ') FROM billing_data.admin_audit_logs AS l"
    )
    stored = json.dumps(stripe_row(service))
    for name in ("api_key", "webhook_secret"):
        for place in (answer.text, recorded, stored, service.process.output):
            assert STRIPE[name] not in place
            assert STRIPE[name][8:24] not in place


def test_a_provider_is_set_up_masked_and_kept(service: Service, admin: Person) -> None:
    body = {"config_data": STRIPE, "reason": "first set-up"}
    made = admin.put("/config/providers/stripe", body)
    assert made.status_code == 200
    provider = made.json()
    assert tuple(provider)[:5] == (
        *("id", "provider_name", "is_enabled", "config_data", "updated_at"),
    )
    masked = {
        "api_key": f"sk_…{STRIPE['api_key'][-4:]}",
        "webhook_secret": f"whsec_…{STRIPE['webhook_secret'][-4:]}",
        "publishable_key": STRIPE["publishable_key"],
    }
    assert provider["config_data"] == masked
    assert (provider["provider_name"], provider["is_enabled"]) == ("stripe", True)
    assert provider["mode"] == "test"
    assert re.fullmatch(Z_TIME, provider["updated_at"])
    assert_silent(service, made)
    (listed,) = [one for one in admin.get("/config/providers") if one["provider_name"] == "stripe"]
    assert listed == provider
    stored = stripe_row(service)
    kept = (masked, {**masked, "api_key": ""}, dict.fromkeys(masked, "  "), None)
    for config_data in kept:
        again = admin.put("/config/providers/stripe", {"config_data": config_data})
        assert again.json()["config_data"] == masked
        assert stripe_row(service) == stored
    off = admin.put("/config/providers/stripe", {"is_enabled": False})
    assert (off.json()["is_enabled"], off.json()["config_data"]) == (False, masked)
    still = admin.put("/config/providers/stripe", {"is_enabled": None, "config_data": None})
    assert still.json()["is_enabled"] is False
    part = {name: masked[name] for name in ("api_key", "publishable_key")}
    replaced = admin.put("/config/providers/stripe", {"config_data": part})
    assert replaced.json()["config_data"] == part
    emptied = admin.put("/config/providers/stripe", {"config_data": {"api_key": None}})
    assert emptied.json()["config_data"] == {}
    newest, *_, first = audit_rows(service, "stripe")
    assert first[:3] == ("provider_config.set", admin.id, "first set-up")
    assert first[4:6] == ("127.0.0.1", AGENT)
    assert first[3]["before"] in (None, {"is_active": True})  # there was none
    assert first[3]["after"] == {**masked, "is_active": True}
    assert newest[3]["before"] == {**part, "is_active": False}
    assert_silent(service, emptied)


def test_several_webhook_secrets_are_set_added_and_taken_away(
    service: Service, admin: Person
) -> None:
    first, second, third = (f"whsec_{secrets.token_hex(16)}" for _ in range(3))
    one, two, three = (f"whsec_…{secret[-4:]}" for secret in (first, second, third))

    def put(value: Any) -> Any:
        answer = admin.put("/config/providers/stripe", {"config_data": {"webhook_secret": value}})
        assert answer.status_code == 200, answer.text
        for secret in (first, second, third):
            assert secret not in answer.text
        return answer.json()["config_data"].get("webhook_secret")

    assert put([first, second]) == f"{one},{two}"
    assert put(f"{one},{two}") == f"{one},{two}"  # as it was read
    assert put([one, two, third]) == f"{one},{two},{three}"
    assert put([three, one]) == f"{three},{one}"
    assert put(f"{one}, {second}") == f"{one},{two}"
    assert put("") == put(f"{two}") == f"{one},{two}"  # one mask alone keeps what is stored
    assert put([two]) == two
    assert put(third) == three
    for wrong in ([one], [5], {"a": "b"}, [third, "sk_test_1"], [f"{third}x", one]):
        answer = admin.put("/config/providers/stripe", {"config_data": {"webhook_secret": wrong}})
        assert answer.status_code == 422
        assert third not in answer.text
    assert put(three) == three
    assert put([]) is None


def test_providers_are_listed_by_name(service: Service, admin: Person) -> None:
    for name in ("stripe", "paypal", "square"):
        answer = admin.put(f"/config/providers/{name}", {"is_enabled": False})
        assert answer.json()["provider_name"] == name
    names = [one["provider_name"] for one in admin.get("/config/providers")]
    assert names == ["paypal", "square", "stripe"]


@pytest.mark.parametrize("name", ["Stripe", "adyen", "stripe%20", "%27;--"])
def test_an_unknown_provider_is_refused(admin: Person, name: str) -> None:
    answer = admin.put(f"/config/providers/{name}", {"is_enabled": True})
    (entry,) = faults_of(answer)
    assert (entry["type"], entry["loc"]) == ("string_pattern_mismatch", ["path", "provider"])


@pytest.mark.parametrize(
    "config_data",
    [
        STRIPE["api_key"],
        [STRIPE["api_key"]],
        {"api_key": 7},
        {"api_key": {"encrypted": "x", "masked": STRIPE["api_key"]}},
        {"api_key": f"wrong {STRIPE['api_key']}"},
        {"api_key": STRIPE["webhook_secret"]},
        {"secret": STRIPE["api_key"]},
        {"webhook_secret": f"{STRIPE['api_key']}\0"},
        {f"{STRIPE['api_key']}\0": "x"},
        {"publishable_key": "pk_test_\0"},
        {"publishable_key": STRIPE["api_key"]},
    ],
    ids=[str(number) for number in range(11)],
)
def test_settings_that_cannot_be_are_refused_without_repeating_them(
    service: Service, admin: Person, config_data: Any
) -> None:
    before = stripe_row(service)
    answer = admin.put("/config/providers/stripe", {"config_data": config_data})
    for entry in faults_of(answer):
        assert entry["loc"][:2] == ["body", "config_data"]
        assert entry["input"] is None
    assert stripe_row(service) == before
    if not any("\0" in name for name in config_data if isinstance(config_data, dict)):
        assert_silent(service, answer)


def test_test_and_live_keys_are_not_mixed(service: Service, admin: Person) -> None:
    live = STRIPE["publishable_key"].replace("_test_", "_live_")
    answer = admin.put(
        "/config/providers/stripe", {"config_data": {**STRIPE, "publishable_key": live}}
    )
    assert_error(
        answer,
        422,
        "Invalid config_data: test and live keys cannot be mixed: give api_key and publishable_key"
        " of one mode together",
    )
    assert answer.json()["code"] == "invalid_argument"
    assert_silent(service, answer)


def test_without_an_encryption_key_no_secret_is_stored(database: Database) -> None:
    set_staff_domain(database)
    environment = {k: v for k, v in staff_environment().items() if k != "ENCRYPTION_KEY"}
    with running_service(database, **environment) as service:
        admin = hire(service, "admin")
        answer = admin.put("/config/providers/stripe", {"config_data": STRIPE})
        (entry,) = faults_of(answer)
        assert entry["msg"].endswith("cannot be stored: ENCRYPTION_KEY is not set")
        assert admin.get("/config/providers") == []


def test_the_price_is_changed_in_part(service: Service, admin: Person) -> None:
    before = admin.get("/config/pricing")
    assert tuple(before) == ("free_uses", "pack_uses", "pack_price_minor", "pack_currency")
    try:
        body = {"pack_uses": before["pack_uses"] + 1, "pack_currency": "eur", "reason": "Europe"}
        changed = admin.put("/config/pricing", body).json()
        assert changed == {**before, "pack_uses": body["pack_uses"], "pack_currency": "EUR"}
        assert admin.get("/config/pricing") == changed
        newest = audit_rows(service, "pricing")[0]
        assert newest[:6] == (
            "settings.set_pricing",
            admin.id,
            "Europe",
            {"before": before, "after": changed},
            "127.0.0.1",
            AGENT,
        )
        rows = len(audit_rows(service, "pricing"))
        assert admin.put("/config/pricing", {"reason": "nothing"}).json() == changed
        assert len(audit_rows(service, "pricing")) == rows
    finally:
        admin.put("/config/pricing", {**before, "reason": "back"})
    for fault_ in (
        {"free_uses": -1},
        {"pack_uses": 0},
        {"pack_price_minor": 0},
        {"pack_price_minor": INT64_MAX + 1},
        {"pack_currency": "dollars"},
        {"pack_currency": "U$D"},
        {"reason": " "},
    ):
        assert faults_of(admin.put("/config/pricing", {"reason": "x", **fault_}))
    for refused, allowed in (
        ({"pack_price_minor": 49}, "The least price that Stripe takes in USD is $0.50"),
        ({"pack_price_minor": 10**8}, "The highest price that Stripe takes in USD is $999999.99"),
        ({"pack_price_minor": 500_001, "pack_currency": "UGX"}, "only multiples of 1 UGX"),
        ({"pack_currency": "XXX"}, "It must be a currency that billing.currencies lists"),
    ):
        answer = admin.put("/config/pricing", {"reason": "x", **refused})
        assert answer.status_code == 422
        assert allowed in answer.text
    assert admin.get("/config/pricing") == before


# Payments


def sell(service: Service, user: str, payment_id: str) -> None:
    """A purchase of a pack for 500 cents, paid."""
    database = service.database
    key = database.create_key()
    offer = database.execute(
        "SELECT b.account_id, b.purchase_id, b.price_minor, b.currency FROM"
        " billing.begin_purchase(p_oauth_provider => 'oauth:google', p_external_id => %s,"
        " p_customer_email => 'ada@example.com', p_api_key_id => %s) AS b",
        user,
        key.id,
        user="t_web",
    )[0]
    database.execute(
        "SELECT * FROM billing.attach_payment(p_account_id => %s, p_purchase_id => %s,"
        " p_payment_id => %s, p_payment_status => 'requires_payment_method', p_api_key_id => %s)",
        offer[0],
        offer[1],
        payment_id,
        key.id,
        user="t_web",
    )
    database.execute(
        "SELECT * FROM billing.process_payment_event(p_event_id => %s,"
        " p_event_type => 'payment_intent.succeeded', p_payload => '{}', p_action => 'settle',"
        " p_payment_id => %s, p_amount_minor => %s, p_currency => %s, p_account_id => %s,"
        " p_purchase_id => %s, p_livemode => false)",
        unique("evt"),
        payment_id,
        offer[2],
        offer[3],
        offer[0],
        offer[1],
        user="t_web",
    )


@pytest.fixture
def selling(service: Service, admin: Person) -> None:
    """Stripe is set up for test payments."""
    body = {"is_enabled": True, "config_data": STRIPE}
    assert admin.put("/config/providers/stripe", body).status_code == 200


@pytest.mark.usefixtures("selling")
def test_purchases_and_events_are_listed(service: Service, viewer: Person) -> None:
    user = make_account(service)
    account = account_id(service, user)
    payments = [unique("pi") for _ in range(3)]
    for payment in payments:
        sell(service, user, payment)
    page = viewer.get("/purchases", account_id=account, page_size=2)
    assert [one["payment_id"] for one in page["purchases"]] == payments[:0:-1]
    assert page["has_more"] is True
    last = viewer.get("/purchases", account_id=account, page_size=2, page=2)
    assert ([one["payment_id"] for one in last["purchases"]], last["has_more"]) == (
        payments[:1],
        False,
    )
    purchase = last["purchases"][0]
    assert (purchase["status"], purchase["account_id"]) == ("settled", account)
    assert purchase["customer_email"] == "ada@example.com"
    assert re.fullmatch(Z_TIME, purchase["settled_at"])
    assert viewer.get("/purchases", account_id=account, status_filter="pending")["purchases"] == []
    settled = viewer.get("/purchases", account_id=account, status_filter="settled")
    assert len(settled["purchases"]) == 3
    assert viewer.get("/purchases", account_id=NOBODYS_ID)["purchases"] == []
    (event,) = viewer.get("/payment-events", page_size=1)["events"]
    assert (event["payment_id"], event["account_id"]) == (payments[-1], account)
    assert (event["needs_attention"], event["livemode"]) == (False, False)
    assert viewer.get("/payment-events", page=INT64_MAX // 500)["events"] == []


def test_a_shortfall_is_listed_until_a_person_wrote_it_off(service: Service, admin: Person) -> None:
    return_id = new_shortfall(service)
    (mine,) = [
        one for one in admin.get("/payment-problems")["problems"] if one["reference"] == return_id
    ]
    assert mine["problem"] == "shortfall"
    path = f"/payment-returns/{return_id}/resolve"
    resolved = admin.post(path, {"reason": "written off"})
    assert resolved.json() == {"return_id": return_id, "resolution": "written off"}
    listed = admin.get("/payment-problems")["problems"]
    assert return_id not in [one["reference"] for one in listed]
    again = admin.post(path, {"reason": "again"})
    assert_error(again, 404, f"No open shortfall of {return_id}")


def test_a_payment_is_resolved_with_the_credit_that_was_given_for_it_and_opened_again(
    service: Service, admin: Person
) -> None:
    account, payment_id = new_account(service), unique("pi")
    pack = admin.get("/config/pricing")
    amounts = {"amount_minor": pack["pack_uses"], "reason": "by hand"}
    given = admin.post(f"/users/{account}/credits", amounts)
    credit_id = given.json()["credit_id"]
    path = f"/payments/{payment_id}"
    paid = {"amount_minor": pack["pack_price_minor"], "currency": pack["pack_currency"].lower()}
    body = {"how": "credited", "reason": "granted by hand", **paid}
    missing = admin.post(f"{path}/resolve", body)
    assert_error(
        missing,
        422,
        "Invalid credit_id: it is needed when the payment was credited by hand, and only then",
    )
    resolved = admin.post(f"{path}/resolve", {**body, "credit_id": credit_id})
    assert resolved.json() == {"payment_id": payment_id, "resolution": "granted by hand"}
    (purchase,) = admin.get("/purchases", account_id=account)["purchases"]
    assert (purchase["payment_id"], purchase["status"]) == (payment_id, "settled")
    (row,) = audit_rows(service, payment_id)
    assert row[:4] == (
        "payment.resolve",
        admin.id,
        "granted by hand",
        {"how": "credited", "credit_id": credit_id},
    )
    other = admin.post(f"/payments/{unique('pi')}/resolve", {**body, "credit_id": credit_id})
    assert (other.status_code, other.json()["code"]) == (409, "credit_not_usable")
    again = admin.post(f"{path}/resolve", {"how": "refunded", "reason": "x"})
    assert_error(again, 409, f"Payment {payment_id} was credited or dealt with before")
    opened = admin.post(f"{path}/reopen", {"reason": "another payment"})
    assert opened.json() == {"payment_id": payment_id, "reason": "another payment"}
    assert admin.get("/purchases", account_id=account)["purchases"] == []
    assert_error(
        admin.post(f"{path}/reopen", {"reason": "again"}),
        409,
        f"Payment {payment_id} cannot be opened again: no person has resolved it",
    )


@pytest.mark.parametrize(
    "body",
    [
        {"how": "paid", "reason": "x"},
        {"reason": "x"},
        {"how": "refunded"},
        {"how": "credited", "reason": "x", "credit_id": "7"},
        {"how": "other", "reason": "x", "amount_minor": 0},
    ],
)
def test_a_senseless_resolution_of_a_payment_is_422(admin: Person, body: dict[str, Any]) -> None:
    assert admin.post(f"/payments/{unique('pi')}/resolve", body).status_code == 422


def test_an_event_is_resolved_by_how_its_payment_was_dealt_with(
    service: Service, admin: Person
) -> None:
    event = new_event(service)
    body = {"reason": "in the dashboard", "how": "refunded"}
    assert admin.post(f"/payment-events/{event}/resolve", body).status_code == 200
    effect = service.database.value(
        "SELECT x.effect FROM billing_data.payment_effects AS x INNER JOIN"
        " billing_data.payment_events AS e USING (payment_id) WHERE e.event_id = %s",
        event,
    )
    assert effect == "refunded"


def test_a_report_of_fraud_is_listed_until_a_person_dealt_with_it(
    service: Service, admin: Person
) -> None:
    warning_id = new_warning(service)
    (mine,) = [
        one for one in admin.get("/payment-problems")["problems"] if one["reference"] == warning_id
    ]
    assert mine["problem"] == "fraud_warning"
    path = f"/payment-warnings/{warning_id}/resolve"
    resolved = admin.post(path, {"reason": "refunded"})
    assert resolved.json() == {"warning_id": warning_id, "resolution": "refunded"}
    listed = admin.get("/payment-problems")["problems"]
    assert warning_id not in [one["reference"] for one in listed]
    assert_error(admin.post(path, {"reason": "again"}), 404, f"No open warning {warning_id}")


def test_a_problem_is_listed_until_a_person_resolved_it(service: Service, admin: Person) -> None:
    event = new_event(service)
    problems = admin.get("/payment-problems")["problems"]
    (mine,) = [one for one in problems if one["reference"] == event]
    assert mine["problem"] == "metadata_missing"
    assert mine["what_is_wrong"] == "the payment does not say whom it is for"
    resolved = admin.post(f"/payment-events/{event}/resolve", {"reason": "granted by hand"})
    assert resolved.json() == {"event_id": event, "resolution": "granted by hand"}
    assert event not in [one["reference"] for one in admin.get("/payment-problems")["problems"]]
    (listed,) = [one for one in admin.get("/payment-events")["events"] if one["event_id"] == event]
    assert (listed["resolution"], listed["needs_attention"]) == ("granted by hand", False)
    (row,) = audit_rows(service, event)
    assert row[:6] == (
        "payment_event.resolve",
        admin.id,
        "granted by hand",
        {"outcome": "metadata_missing"},
        "127.0.0.1",
        AGENT,
    )
    for unknown in (event, "evt_unknown"):
        again = admin.post(f"/payment-events/{unknown}/resolve", {"reason": "again"})
        assert_error(again, 404, f"Payment event not found: {unknown}")


def test_problems_come_in_pages(service: Service, viewer: Person) -> None:
    events = [new_event(service) for _ in range(3)]
    first = viewer.get("/payment-problems", page_size=2)
    assert [one["reference"] for one in first["problems"]] == events[:0:-1]
    assert first["has_more"] is True
    second = viewer.get("/payment-problems", page_size=2, page=2)
    assert second["problems"][0]["reference"] == events[0]
    assert viewer.get("/payment-problems", page_size=100, page=1000)["problems"] == []


# Staff


def test_somebody_is_added_promoted_deactivated_and_brought_back(
    service: Service, admin: Person
) -> None:
    email = f"{unique('Grace')}@example.com"
    added = admin.post("/staff", {"email": email, "name": "Grace Hopper"})
    assert added.status_code == 201
    member = added.json()
    assert member == {
        "id": member["id"],
        "email": email.lower(),
        "name": "Grace Hopper",
        "role": "viewer",
        "is_active": True,
    }
    promoted = admin.put(f"/staff/{email}", {"role": "admin", "reason": "trusted"})
    assert promoted.json() == {**member, "role": "admin"}
    gone = admin.put(f"/staff/{email}", {"is_active": False, "reason": "left"})
    assert gone.json() == {**member, "role": "admin", "is_active": False}
    back = admin.put(f"/staff/{email}", {"is_active": True, "role": "viewer", "reason": "back"})
    assert back.json() == member
    (listed,) = [one for one in admin.get("/staff")["staff"] if one["id"] == member["id"]]
    assert {**member, **listed} == listed
    assert (listed["last_login_at"], bool(re.fullmatch(Z_TIME, listed["created_at"]))) == (
        None,
        True,
    )
    rows = audit_rows(service, member["id"])
    assert [(row[0], row[2]) for row in rows] == [
        ("admin.set", "back"),
        ("admin.set", "left"),
        ("admin.set", "trusted"),
        ("admin.add", None),
    ]
    assert rows[1][3]["before"] == {"role": "admin", "is_active": True}
    assert rows[1][3]["after"] == {"role": "admin", "is_active": False}
    assert {(row[1], row[4], row[5]) for row in rows} == {(admin.id, "127.0.0.1", AGENT)}


def test_staff_come_from_the_staffs_domain(admin: Person) -> None:
    for email in ("ada@evil.example.org", "ada", "ada@example.com@evil.example.org"):
        answer = admin.post("/staff", {"email": email})
        assert answer.status_code == 422
        assert answer.json()["code"] == "invalid_argument"
        assert answer.json()["detail"].startswith("Invalid email: ")
    assert faults_of(admin.post("/staff", {"email": "a@example.com", "role": "root"}))
    unknown = admin.put("/staff/nobody@example.com", {"role": "admin", "reason": "x"})
    assert_error(unknown, 404, "Staff member not found: nobody@example.com")


@pytest.mark.parametrize("local", ["o'brien", "ada<b>", "ünï", "a!#$&*=?^`{|}~b", '"quoted"'])
def test_an_odd_address_is_taken_or_refused_but_no_fault_of_ours(admin: Person, local: str) -> None:
    answer = admin.post("/staff", {"email": f"{local}{unique()}@example.com"})
    assert answer.status_code in (201, 422), answer.text


def test_the_last_administrator_stays_one(database: Database) -> None:
    set_staff_domain(database)
    with running_service(database, **staff_environment()) as service:
        only = hire(service, "admin")
        for change in ({"role": "viewer"}, {"is_active": False}):
            answer = only.put(f"/staff/{only.email}", {**change, "reason": "oops"})
            assert_error(answer, 409, "This would leave nobody with the role admin")
            assert answer.json()["code"] == "last_admin"
        assert only.get("/audit-log", action="admin.set")["entries"] == []


def test_the_last_administrator_stays_one_however_they_are_added_again(database: Database) -> None:
    set_staff_domain(database)
    with running_service(database, **staff_environment()) as service:
        only = hire(service, "admin")
        only.post("/staff", {"email": only.email, "role": "viewer"})
        assert only.call("GET", "/admin/oauth/user").json()["role"] == "admin"


def test_two_administrators_who_remove_each_other_leave_one(database: Database) -> None:
    set_staff_domain(database)
    with running_service(database, **staff_environment()) as service:
        people = [hire(service, "admin") for _ in range(2)]
        for change in ({"is_active": False}, {"role": "viewer"}):
            answers: list[httpx.Response] = []
            barrier = threading.Barrier(2)

            def remove(
                who: Person,
                whom: Person,
                change: Json = change,
                barrier: threading.Barrier = barrier,
                answers: list[httpx.Response] = answers,
            ) -> None:
                barrier.wait(10)
                answers.append(who.put(f"/staff/{whom.email}", {**change, "reason": "a quarrel"}))

            threads = [
                threading.Thread(target=remove, args=(people[first], people[1 - first]))
                for first in range(2)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert sorted(answer.status_code for answer in answers)[0] == 200
            assert {answer.status_code for answer in answers} <= {200, 403, 409}
            left = database.execute(
                "SELECT u.email FROM billing_data.admin_users AS u"
                " WHERE u.role = 'admin' AND u.is_active"
            )
            assert len(left) == 1
            for person in people:
                database.execute(
                    "SELECT billing.add_admin(p_email => %s, p_role => 'admin')",
                    person.email,
                    user="t_dba",
                )


# The audit log


def test_the_audit_log_is_filtered_and_paged(service: Service, admin: Person) -> None:
    other = hire(service, "admin")
    account = new_account(service)
    for number, who in enumerate((admin, other, admin), 1):
        who.post(f"/users/{account}/credits", {"amount_minor": number, "reason": f"no. {number}"})
    admin.put(f"/users/{account}/status", {"status": "closed", "reason": "the end"})
    whole = admin.get("/audit-log", resource_id=account)
    assert [one["reason"] for one in whole["entries"]] == ["the end", "no. 3", "no. 2", "no. 1"]
    assert whole["has_more"] is False
    entry = whole["entries"][0]
    assert {name: entry[name] for name in entry if name not in ("id", "created_at")} == {
        "who": admin.email,
        "action": "account.set_status",
        "resource_type": "account",
        "resource_id": account,
        "reason": "the end",
        "changes": {"before": "active", "after": "closed"},
        "ip_address": "127.0.0.1",
        "user_agent": AGENT,
    }
    assert re.fullmatch(Z_TIME, entry["created_at"])

    def reasons(**query: Any) -> list[str]:
        found = admin.get("/audit-log", resource_id=account, **query)
        return [one["reason"] for one in found["entries"]]

    assert reasons(who=other.email.upper()) == ["no. 2"]
    assert reasons(action="account.adjust_credits") == ["no. 3", "no. 2", "no. 1"]
    assert len(reasons(action="account")) == 4
    assert reasons(action="acc") == reasons(action="%") == reasons(who="' OR 1=1 --") == []
    today, yesterday = datetime.now(UTC).date(), datetime.now(UTC).date() - timedelta(days=1)
    assert len(reasons(**{"from": str(yesterday), "to": str(today)})) == 4
    assert reasons(to=str(yesterday)) == []
    assert reasons(**{"from": "9999-12-31", "to": "9999-12-31"}) == []
    assert reasons(page_size=3, page=2) == ["no. 1"]
    assert admin.get("/audit-log", resource_id=account, page_size=3)["has_more"] is True
    assert reasons(page=INT64_MAX // 500) == []


@EVERY_WRITE
def test_every_write_leaves_a_row_that_says_who_where_from_and_what(
    service: Service, admin: Person, route: tuple[str, str]
) -> None:
    wanted = MATRIX[route](service)
    before = len(audit_rows(service))
    answer = admin.call(route[0], wanted.path, json=wanted.body)
    assert answer.is_success
    new = audit_rows(service)[: len(audit_rows(service)) - before]
    assert len(new) == (2 if route[1].endswith("/rotate") else 1)
    for row in new:
        assert row[1] == admin.id
        assert row[4:6] == ("127.0.0.1", AGENT)
        assert row[7] is None
    if wanted.body and "reason" in wanted.body:
        assert new[0][2] == wanted.body["reason"]


# The description


STAFFS = [
    name
    for name, operation in EVERY_OPERATION.items()
    if {"StaffToken": []} in operation["security"]
]


def test_every_staff_operation_is_described_with_both_ways_in() -> None:
    assert len(STAFFS) == len(MATRIX)
    for name in STAFFS:
        operation = EVERY_OPERATION[name]
        assert operation["security"] == [{"StaffToken": []}, {"StaffSession": []}]
        assert operation["tags"][0].startswith("Staff: ")
    assert not [path for path in EVERY_OPERATION.values() if path["path"] == "/admin"]
    assert [route for route in ROUTES if route.guard == PAGE]


def _prepare_examples(service: Service) -> None:
    """Makes what the examples speak of."""
    database = service.database
    if database.execute(
        "SELECT 1 FROM billing_data.accounts WHERE external_id = 'example-of-staff'"
    ):
        return
    make = make_account(service)
    parameters = EVERY_OPERATION["getUser"]["parameters"]
    database.execute(
        "UPDATE billing_data.accounts SET id = %s, external_id = 'example-of-staff'"
        " WHERE external_id = %s",
        parameters[0]["example"],
        make,
    )


@pytest.mark.parametrize("name", STAFFS)
def test_the_example_request_is_answered_as_described(
    service: Service, admin: Person, name: str
) -> None:
    _prepare_examples(service)
    operation = EVERY_OPERATION[name]
    path = operation["path"]
    query: dict[str, Any] = {}
    headers: dict[str, str] = {}
    for parameter in operation.get("parameters", ()):
        if "example" not in parameter:
            continue
        value = parameter["example"]
        if parameter["name"] == "api_key_id":
            value = service.database.create_key().id
        if parameter["name"] == "event_id":
            value = new_event(service)
        if parameter["name"] == "return_id":
            value = new_shortfall(service)
        if parameter["name"] == "warning_id":
            value = new_warning(service)
        if name == "reopenPayment" and parameter["name"] == "payment_id":
            value = resolved_payment(service)
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", value)
        else:
            place = query if parameter["in"] == "query" else headers
            place[parameter["name"]] = value
    if name == "changeStaff":
        admin.post("/staff", {"email": "grace@example.com"})
    if name == "setProvider":
        admin.put("/config/providers/stripe", {"config_data": STRIPE})
    body = None
    if "requestBody" in operation:
        body = operation["requestBody"]["content"]["application/json"]["example"]
    answer = admin.call(operation["method"], path, params=query or None, headers=headers, json=body)
    assert str(answer.status_code) == next(iter(operation["responses"])), answer.text


def test_signing_in_and_out_is_described(service: Service, viewer: Person) -> None:
    nobody = Person(service)
    unavailable = nobody.call("GET", "/admin/oauth/login")
    assert_error(unavailable, 500, "Failed to initiate OAuth login")
    elsewhere = nobody.call("GET", "/admin/oauth/login?redirect_uri=https://evil.example.com")
    assert_error(elsewhere, 400, CODES["invalid_redirect"]["detail"])
    forged = nobody.call("GET", "/admin/oauth/callback?code=x&state=y")
    assert_error(forged, 400, "OAuth authentication failed: Invalid OAuth state")
    assert len(faults_of(nobody.call("GET", "/admin/oauth/callback"))) == 2
    out = nobody.call("POST", "/admin/oauth/logout")
    assert out.json() == {"message": "Logged out successfully"}
    unknown = Person(service, token=stranger(viewer))
    assert_error(unknown.call("GET", "/admin/oauth/user"), 401, BAD)


def test_a_session_is_over_after_signing_out(service: Service, viewer: Person) -> None:
    cookie = {"Cookie": session_cookie(viewer)}
    nobody = Person(service)
    assert nobody.call("GET", "/admin/oauth/user", headers=cookie).json()["email"] == viewer.email
    nobody.call("POST", "/admin/oauth/logout", headers=cookie)
    assert_error(nobody.call("GET", "/admin/oauth/user", headers=cookie), 401, BAD)
    assert_error(nobody.call("GET", "/admin/api/users", headers=cookie), 401, BAD)


def test_a_ledger_goes_on_by_cursor_while_entries_are_added(
    service: Service, admin: Person
) -> None:
    account = new_account(service)
    for amount in range(1, 6):
        assert admin.post(
            f"/users/{account}/credits", {"amount_minor": amount, "reason": "x"}
        ).is_success
    path, seen = f"/users/{account}/transactions", []
    page = admin.get(path, page_size=2)
    while True:
        seen += [entry["amount_minor"] for entry in page["transactions"]]
        admin.post(f"/users/{account}/credits", {"amount_minor": 99, "reason": "new"})
        if page["next_cursor"] is None:
            break
        page = admin.get(path, page_size=2, cursor=page["next_cursor"])
    assert seen == [5, 4, 3, 2, 1]
    other = new_account(service)
    cursor = admin.get(path, page_size=1)["next_cursor"]
    for bad in ({"cursor": "x"}, {"cursor": cursor, "page": 2}):
        assert admin.call("GET", f"/admin/api{path}", params=bad).status_code == 422
    strange = admin.call("GET", f"/admin/api/users/{other}/transactions", params={"cursor": cursor})
    assert strange.status_code == 422
