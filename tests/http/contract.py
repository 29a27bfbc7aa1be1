"""The contract with clients, written down a second time: what tests/http compares answers with.
Nothing here comes from server/, so that a change of wording there fails a test."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from tests.support import Database, Service, charge_body, credit_body, identity, unique

CHECK = "/v1/billing/credits/check"
CHARGES = "/v1/billing/charges"
BATCH = "/v1/billing/charges:batch"
CREDITS = "/v1/billing/credits"
ACCOUNTS = "/v1/billing/accounts"
TRANSACTIONS = "/v1/billing/transactions"

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
INT64_MAX = 2**63 - 1

CHECK_FIELDS = (
    "has_credit",
    "credits_remaining",
    "plan_name",
    "reason",
    "free_uses_remaining",
    "total_uses",
    "purchase_required",
    "purchase_price_minor",
    "purchase_uses",
)
CHARGE_FIELDS = (
    "charge_id",
    "account_id",
    "amount_minor",
    "currency",
    "balance_after",
    "created_at",
    "description",
    "metadata",
)
CREDIT_FIELDS = (
    "credit_id",
    "account_id",
    "amount_minor",
    "currency",
    "balance_after",
    "transaction_type",
    "description",
    "external_transaction_id",
    "created_at",
)
ACCOUNT_FIELDS = (
    "account_id",
    "oauth_provider",
    "external_id",
    "wa_id",
    "tenant_id",
    "customer_email",
    "balance_minor",
    "currency",
    "plan_name",
    "status",
    "paid_credits",
    "marketing_opt_in",
    "marketing_opt_in_at",
    "marketing_opt_in_source",
    "created_at",
    "updated_at",
)
TRANSACTION_FIELDS = (
    "transaction_id",
    "type",
    "amount_minor",
    "currency",
    "description",
    "created_at",
    "balance_after",
    "transaction_type",
    "external_transaction_id",
    "metadata",
)
METADATA_FIELDS = ("message_id", "agent_id", "channel_id", "request_id")

NOT_AN_OBJECT = "Input should be a valid dictionary or object to extract fields from"
ENDPOINTS = ("check", "charges", "batch", "credits", "accounts", "account", "transactions")
READING = ("check", "account", "transactions")
BODIES = ("check", "charges", "credits", "accounts")
PATHS = {
    "check": CHECK,
    "charges": CHARGES,
    "batch": BATCH,
    "credits": CREDITS,
    "accounts": ACCOUNTS,
    "transactions": TRANSACTIONS,
}


def account_path(external_id: str, provider: str = "oauth:google") -> str:
    return f"{ACCOUNTS}/{quote(provider, safe=':')}/{quote(external_id, safe='')}"


def body_for(endpoint: str, user: str | None = None, /, **fields: Any) -> dict[str, Any]:
    """A valid body for a POST endpoint, `fields` on top."""
    user = user or unique()
    body: dict[str, Any]
    if endpoint == "charges":
        body = charge_body(user)
    elif endpoint == "credits":
        body = credit_body(user)
    elif endpoint == "batch":
        body = {"charges": [charge_body(user)]}
    else:
        body = identity(user)
    return {**body, **fields}


def call(
    client: httpx2.Client, endpoint: str, external_id: str | None = None, **headers: str
) -> httpx2.Response:
    """A valid request to an endpoint."""
    user = external_id or unique()
    if endpoint == "account":
        return client.get(account_path(user), headers=headers)
    if endpoint == "transactions":
        return client.get(TRANSACTIONS, params=identity(user), headers=headers)
    return client.post(PATHS[endpoint], json=body_for(endpoint, user), headers=headers)


def call_with_faults(client: httpx2.Client, endpoint: str, **headers: str) -> httpx2.Response:
    """A request with invalid fields."""
    if endpoint == "account":
        return client.get(f"{ACCOUNTS}/google/1", headers=headers)
    if endpoint == "transactions":
        return client.get(TRANSACTIONS, params={"limit": "many"}, headers=headers)
    return client.post(PATHS[endpoint], json={}, headers=headers)


def fault(
    kind: str, loc: list[Any], msg: str, given: Any, ctx: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One entry of a 422 list."""
    entry = {"type": kind, "loc": loc, "msg": msg, "input": given}
    return entry if ctx is None else {**entry, "ctx": ctx}


def faults_of(response: httpx2.Response) -> list[dict[str, Any]]:
    """The list of a 422, after checking the answer's shape."""
    assert_error_shape(response, 422)
    detail = response.json()["detail"]
    assert isinstance(detail, list), detail
    for entry in detail:
        assert set(entry) in (
            {"type", "loc", "msg", "input"},
            {"type", "loc", "msg", "input", "ctx"},
        )
    return detail


def assert_error_shape(response: httpx2.Response, status: int) -> None:
    """Checks that the answer is JSON with detail, code and the request id of the header."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body["detail"]
    assert isinstance(body["code"], str)
    assert body["code"]
    assert body["request_id"] == response.headers["x-request-id"] != ""


def assert_error(response: httpx2.Response, status: int, detail: str) -> None:
    """Checks that the answer is a refusal with exactly this wording."""
    assert_error_shape(response, status)
    assert response.json()["detail"] == detail


def part(body: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    """The contract's fields of an answer; each of them must be there."""
    return {field: body[field] for field in fields}


def make_account(
    service: Service,
    *,
    free: int = 3,
    paid: int = 0,
    status: str = "active",
    currency: str = "USD",
) -> str:
    """An account with this many free uses and paid credits left; returns its external id."""
    user = unique()
    database = service.database
    database.execute(
        "SELECT a.account_id FROM billing.create_account(p_oauth_provider => 'oauth:google',"
        " p_external_id => %s, p_currency => %s) AS a",
        user,
        currency,
        user="t_dba",
    )
    if free < 3:
        make_charges(database, user, 3 - free, currency)
    if paid:
        database.execute(
            "SELECT c.credit_id FROM billing.create_credit(p_oauth_provider => 'oauth:google',"
            " p_external_id => %s, p_amount_minor => %s, p_currency => %s) AS c",
            user,
            paid,
            currency,
            user="t_dba",
        )
    set_status(service, user, status)
    return user


def make_charges(database: Database, external_id: str, count: int, currency: str = "USD") -> None:
    """Makes this many charges of 1, which must all succeed."""
    made = database.value(
        "SELECT count(*) FROM billing.create_charges("
        " p_oauth_providers => array_fill('oauth:google'::text, ARRAY[%s]),"
        " p_external_ids => array_fill(%s::text, ARRAY[%s]),"
        " p_amounts_minor => array_fill(1::bigint, ARRAY[%s]),"
        " p_currencies => array_fill(%s::text, ARRAY[%s]),"
        " p_descriptions => array_fill('one use'::text, ARRAY[%s])"
        ") AS c WHERE c.outcome = 'created'",
        count,
        external_id,
        count,
        count,
        currency,
        count,
        count,
        user="t_dba",
    )
    assert made == count


def set_status(service: Service, external_id: str, status: str) -> None:
    """Suspends, closes or reactivates an account."""
    if status != "active":
        service.database.execute(
            "SELECT s.status FROM billing.set_account_status(p_oauth_provider => 'oauth:google',"
            " p_external_id => %s, p_status => %s, p_reason => 'a test') AS s",
            external_id,
            status,
            user="t_dba",
        )


def set_cap(
    service: Service,
    scope: str,
    limit: int,
    subject: str | None = None,
    *,
    period: str = "month",
    mode: str = "hard",
) -> str:
    """A new cap's id. An account is named by its external id."""
    if scope == "account":
        subject = f"oauth:google:{subject}"
    return str(
        service.database.value(
            "SELECT c.cap_id FROM billing.set_cap(p_scope => %s, p_subject => %s, p_period => %s,"
            " p_mode => %s, p_limit_minor => %s, p_reason => 'a test') AS c",
            scope,
            subject,
            period,
            mode,
            limit,
            user="t_dba",
        )
    )


def account_row(service: Service, external_id: str) -> dict[str, Any]:
    """Everything stored about an account."""
    return service.database.value(
        "SELECT to_jsonb(a) FROM billing_data.accounts AS a"
        " WHERE a.oauth_provider = 'oauth:google' AND a.external_id = %s",
        external_id,
    )


def row_counts(service: Service) -> dict[str, int]:
    """The number of rows of each table that a request may write."""
    return service.database.value(
        "SELECT jsonb_build_object("
        " 'accounts', (SELECT count(*) FROM billing_data.accounts),"
        " 'charges', (SELECT count(*) FROM billing_data.charges),"
        " 'credits', (SELECT count(*) FROM billing_data.credits),"
        " 'credit_checks', (SELECT count(*) FROM billing_data.credit_checks),"
        " 'account_requests', (SELECT count(*) FROM billing_data.account_requests),"
        " 'updates', (SELECT coalesce(max(a.updated_at)::text, '')"
        "   FROM billing_data.accounts AS a))"
    )


def raw_request(
    method: bytes = b"GET", target: bytes = b"/health", headers: bytes = b"", body: bytes = b""
) -> bytes:
    """The bytes of a request that no well-behaved client would send."""
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return (
        method
        + b" "
        + target
        + b" HTTP/1.1\r\nHost: billing.example.com\r\nConnection: close\r\n"
        + length
        + headers
        + b"\r\n"
        + body
    )


def exchange(
    service: Service, request: bytes, *, wait_before: bytes | None = None, patience: float = 10
) -> tuple[int, dict[str, str], bytes]:
    """Sends bytes and reads to the end: status, headers (lower case), body. With `wait_before` the
    request's last bytes are held back until the server says 100 Continue."""
    address = urlsplit(service.base_url)
    with socket.create_connection((address.hostname, address.port), timeout=patience) as connection:
        answer = b""
        if wait_before:
            connection.sendall(request.removesuffix(wait_before))
            while b"\r\n\r\n" not in answer:
                answer += connection.recv(65536) or b"\r\n\r\n"
            if answer.startswith(b"HTTP/1.1 100 "):
                answer = answer.partition(b"\r\n\r\n")[2]
                connection.sendall(wait_before)
        else:
            connection.sendall(request)
        while chunk := connection.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(status_line.split()[1]), {k.lower(): v for k, v in headers.items()}, body
