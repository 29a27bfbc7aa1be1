"""The project's nginx configuration, run by the real nginx with TLS before real servers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import psutil
import pytest

from tests.http.wire import account_path, assert_error, assert_error_shape
from tests.identity_provider import FOUNDER, good_provider, running_console
from tests.nginx import UNLIMITED, Nginx, defaults, render, running_nginx, want_nginx
from tests.ops.load import Load, account_with_credits
from tests.support import (
    Database,
    Service,
    charge_body,
    credit_body,
    free_port,
    has_two_workers_beside,
    identity,
    running_service,
    unique,
    wait_for,
    worker_pids,
)

CHECK, CHARGES = "/v1/billing/credits/check", "/v1/billing/charges"
STAFF = {"ADMIN_JWT_SECRET": "a secret of the tests only 8bY2qLxWm4 and long enough for any HMAC"}


@pytest.fixture(scope="module", autouse=True)
def _wanted() -> None:
    want_nginx()


@pytest.fixture(scope="module")
def server(module_database: Database) -> Iterator[Service]:
    """A server that trusts the nginx on this machine and logs every request."""
    environment: dict[str, Any] = {
        "TRUSTED_PROXIES": "127.0.0.1",
        "ACCESS_LOG_SAMPLE": "1",
        **STAFF,
    }
    with running_service(module_database, **environment) as service:
        yield service


@pytest.fixture(scope="module")
def proxy(server: Service) -> Iterator[Nginx]:
    """nginx with its own settings, but for less patience, and limits that only their tests meet."""
    with running_nginx([server.base_url], PROXY_CLIENT_TIMEOUT="1500ms", **UNLIMITED) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def client(proxy: Nginx, server: Service) -> Iterator[httpx2.Client]:
    """An agent's: it presents a key."""
    with proxy.client(headers={"X-API-Key": server.key.secret}) as client:
        yield client


def exchange(proxy: Nginx, data: bytes, *, tls: bool = True) -> bytes:
    """Sends bytes as they are, reads to the end."""
    with contextlib.ExitStack() as stack:
        connection: socket.socket = stack.enter_context(
            socket.create_connection(proxy.address, timeout=10)
        )
        if tls:
            connection = stack.enter_context(
                proxy.tls.wrap_socket(connection, server_hostname="localhost")
            )
        connection.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError, ssl.SSLError):
            while chunk := connection.recv(65536):
                answer += chunk
    return answer


def raw(proxy: Nginx, target: str, headers: bytes = b"", body: bytes = b"") -> httpx2.Response:
    """The answer to a request for exactly this target, POST when there is a body."""
    method = b"POST " if body else b"GET "
    answer = exchange(
        proxy,
        method + target.encode() + b" HTTP/1.1\r\nHost: billing.example.com\r\n"
        b"Connection: close\r\n" + headers + b"\r\n" + body,
    )
    return parsed(answer)


def parsed(answer: bytes) -> httpx2.Response:
    """Bytes as a response."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    fields = [tuple(line.split(": ", 1)) for line in lines]
    return httpx2.Response(int(status.split()[1]), headers=fields, content=body)  # type: ignore[arg-type]


# The routing table


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/", 200, "text/html"),
        ("HEAD", "/", 200, "text/html"),
        ("GET", "/health", 200, "application/json"),
        ("HEAD", "/health", 200, "application/json"),
        ("GET", "/docs", 200, "text/html"),
        ("GET", "/openapi.json", 200, "application/json"),
        ("GET", "/static/base.css", 200, "text/css"),
        ("GET", "/static/admin.js", 200, "text/javascript"),
        ("GET", "/static/", 404, "application/json"),
        ("GET", "/static/nothing.css", 404, "application/json"),
        ("POST", "/static/base.css", 405, "application/json"),
        ("GET", "/admin", 303, None),
        ("GET", "/admin/accounts", 303, None),
        ("GET", "/admin/nothing", 404, "text/html"),
        ("GET", "/admin/sign-in", 200, "text/html"),
        ("GET", "/admin/oauth/user", 401, "application/json"),
        ("GET", "/admin/oauth/login", 503, "application/json"),  # not set up here
        ("GET", "/admin/oauth/callback", 503, "application/json"),
        ("POST", "/admin/oauth/logout", 200, "application/json"),
        ("GET", "/admin/api/users", 401, "application/json"),
        ("GET", "/admin/api/nothing", 404, "application/json"),
        ("GET", CHECK, 405, "application/json"),
        ("POST", CHECK, 422, "application/json"),
        ("POST", CHARGES, 422, "application/json"),
        ("POST", f"{CHARGES}:batch", 422, "application/json"),
        ("GET", "/v1/billing/transactions", 422, "application/json"),
        ("POST", "/v1/billing/webhooks/stripe", 503, "application/json"),
        ("OPTIONS", CHARGES, 200, None),
        ("GET", f"{CHARGES}/", 307, None),
        ("GET", "/v1/billing/nothing", 404, "application/json"),
        # Nobody's, or nobody's outside.
        ("GET", "/metrics", 404, "application/json"),
        ("GET", "/v1", 404, "application/json"),
        ("GET", "/v1/status", 404, "application/json"),
        ("GET", "/administrator", 404, "application/json"),
        ("GET", "/healthy", 404, "application/json"),
        ("GET", "/.git/config", 404, "application/json"),
        ("GET", "/-/malformed", 404, "application/json"),
    ],
)
def test_every_address_leads_where_it_should(
    client: httpx2.Client, method: str, path: str, status: int, kind: str | None
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status, answer.text
    if kind is not None:
        assert answer.headers["content-type"].partition(";")[0] == kind
    assert answer.headers["server"] == "nginx"
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert len(answer.headers.get_list("x-request-id")) == 1
    if kind == "application/json" and status >= 400 and method != "HEAD":
        assert answer.json()["code"]
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_the_front_page_is_the_sign_in_page(client: httpx2.Client) -> None:
    assert client.get("/").text == client.get("/admin/sign-in").text
    assert "Sign in" in client.get("/").text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/login.html", "/admin/sign-in"),
        ("/admin/login.html", "/admin/sign-in"),
        ("/dashboard.html", "/admin"),
        ("/admin/dashboard.html", "/admin"),
        ("/admin/index.html", "/admin"),
        ("/index.html", "/"),
        ("/redoc", "/docs"),
    ],
)
def test_old_addresses_lead_to_their_pages(client: httpx2.Client, old: str, new: str) -> None:
    answer = client.get(old)
    assert answer.status_code == 301
    assert answer.headers["location"] == new
    assert client.get(old, follow_redirects=True).status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        "/metrics",
        "/metrics/",
        "//metrics",
        "/%6detrics",
        "/Metrics",
        "/metrics?x",
        "/metrics%20",
        "/metrics/../metrics",
        "/health/../metrics",
        "/static/../metrics",
        "/static/..%2fmetrics",
        "/static../server/app.py",
        "/static/%2e%2e/setup.cfg",
        "/v1/billing/../../metrics",
        "/v1/billing/..%2f..%2fmetrics",
        "/v1/billing/%2e%2e/%2e%2e/metrics",
        "/v1/billing/..%252f..%252fmetrics",
        "/metrics/../v1/billing/charges",
        "/admin/..;/metrics",
        "http://billing.example.com/metrics",
    ],
)
def test_metrics_and_files_are_not_reached_by_any_spelling(proxy: Nginx, target: str) -> None:
    answer = raw(proxy, target)
    assert answer.status_code == 404, answer.text
    assert "billing_" not in answer.text


def test_plain_http_is_sent_to_https(proxy: Nginx) -> None:
    answer = httpx2.get(f"{proxy.http_url}/v1/billing/transactions?limit=5", verify=False)
    assert answer.status_code == 301
    assert answer.headers["location"] == f"{proxy.url}/v1/billing/transactions?limit=5"
    # Whatever host it was asked for: the way leads to our own address.
    answer = httpx2.post(f"{proxy.http_url}/admin", headers={"Host": "evil.example"}, verify=False)
    assert answer.headers["location"] == f"{proxy.url}/admin"


def test_a_certificate_authority_is_answered_on_plain_http(proxy: Nginx) -> None:
    folder = proxy.folder / "acme" / ".well-known" / "acme-challenge"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "token").write_text("proof")
    answer = httpx2.get(f"{proxy.http_url}/.well-known/acme-challenge/token", verify=False)
    assert (answer.status_code, answer.text) == (200, "proof")
    missing = httpx2.get(f"{proxy.http_url}/.well-known/acme-challenge/other", verify=False)
    assert missing.status_code == 404


def test_plain_http_on_the_tls_port_is_refused_in_json(proxy: Nginx) -> None:
    answer = parsed(exchange(proxy, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", tls=False))
    assert_error(answer, 400, "This port speaks HTTPS")


def test_only_ciphers_with_authenticated_encryption_are_spoken(proxy: Nginx) -> None:
    def spoken(ciphers: str, version: ssl.TLSVersion) -> str | None:
        context = proxy.tls
        context.minimum_version = context.maximum_version = version
        context.set_ciphers(ciphers)
        with (
            socket.create_connection(proxy.address, timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            return connection.version()

    assert spoken("DEFAULT", ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    assert spoken("ECDHE-ECDSA-AES128-GCM-SHA256", ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.raises(ssl.SSLError):
        spoken("ECDHE-ECDSA-AES256-SHA", ssl.TLSVersion.TLSv1_2)


def test_static_files_may_be_kept_for_minutes_and_asked_for_again_cheaply(
    client: httpx2.Client, tree: Path
) -> None:
    answer = client.get("/static/base.css")
    assert answer.content == (tree / "static" / "base.css").read_bytes()
    assert answer.headers["cache-control"] == "public, max-age=600"
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = client.get("/static/base.css", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


def test_answers_that_may_hold_secrets_are_not_compressed(client: httpx2.Client) -> None:
    assert client.get("/openapi.json").headers["content-encoding"] == "gzip"
    assert "content-encoding" not in client.get("/admin/sign-in").headers


def test_identities_reach_the_server_as_they_were_encoded(
    client: httpx2.Client, proxy: Nginx, server: Service
) -> None:
    for external_id in ("a b", "a%2Fb", "ünï", "a+b@example.com", "a?b=c#d", ";,:$&=~"):
        user = f"{unique()}{external_id}"
        made = client.post("/v1/billing/accounts", json=identity(user))
        assert made.status_code == 201, made.text
        # The provider's colon written out and percent-encoded.
        for provider in ("oauth:google", "oauth%3Agoogle"):
            path = account_path(user).replace("oauth:google", provider)
            answer = raw(proxy, path, f"X-API-Key: {server.key.secret}\r\n".encode())
            assert answer.status_code == 200, answer.text
            assert answer.json()["external_id"] == user
    direct = httpx2.get(
        f"{server.base_url}/v1/billing/accounts/oauth%3Agoogle/a%2Fb",
        headers={"X-API-Key": server.key.secret},
        verify=False,
    )
    encoded = client.get("/v1/billing/accounts/oauth%3Agoogle/a%2Fb")
    assert (encoded.status_code, encoded.json()["code"]) == (
        direct.status_code,
        direct.json()["code"],
    )


def test_staff_sign_in_through_tls_and_work_from_their_own_address(database: Database) -> None:
    with (
        good_provider() as provider,
        running_nginx([f"http://127.0.0.1:{free_port()}"]) as proxy,
        running_console(
            database,
            provider.discovery_url,
            PUBLIC_BASE_URL=proxy.url,
            TRUSTED_PROXIES="127.0.0.1",
        ) as console,
        proxy.client("127.8.8.8") as browser,
    ):
        proxy.reload([console.base_url])
        provider.knows(FOUNDER, name="Ada Founder")
        assert "/admin/oauth/login?" in browser.get("/").text
        asked = browser.get("/admin/oauth/login").headers["location"]
        back = httpx2.post(asked, data={"sub": FOUNDER}, verify=False).headers["location"]
        assert back.startswith(f"{proxy.url}/admin/oauth/callback?")
        assert browser.get(back).headers["location"] == "/admin"
        page = browser.get("/admin")
        assert page.status_code == 200
        assert browser.get("/").headers["location"] == "/admin"
        assert browser.get("/admin/oauth/user").json()["email"] == FOUNDER
        assert browser.get("/admin/api/analytics/overview").status_code == 200
        token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
        assert token is not None
        form = {
            "csrf_token": token[1],
            "name": "console",
            "environment": "live",
            "description": "a test",
        }
        form["permissions"] = "billing:read"
        made = browser.post("/admin/keys", data=form)
        assert "Copy the new key now" in made.text
        addresses = (  # of what staff did: migrate, which invited the founder, has no client
            "SELECT DISTINCT host(l.ip_address) FROM billing_data.admin_audit_logs AS l"
            " WHERE l.admin_user_id IS NOT NULL"
        )
        assert database.execute(addresses) == [("127.8.8.8",)]


# What clients send


def test_the_callers_request_id_goes_all_the_way_and_comes_back_once(
    client: httpx2.Client, server: Service, proxy: Nginx
) -> None:
    name = unique("trace")
    answer = client.post(CHECK, json=identity(), headers={"X-Request-ID": name})
    assert answer.headers.get_list("x-request-id") == [name]
    wait_for(lambda: name in server.process.output, "the server's log")
    wait_for(lambda: name in [line["request_id"] for line in proxy.log()], "nginx's log")
    refused = client.get("/metrics", headers={"X-Request-ID": name})
    assert refused.headers.get_list("x-request-id") == [name]
    assert_error(refused, 404, "Not Found")


@pytest.mark.parametrize("sent", ["", "two words", "a" * 129, 'quote"', "{}", "é"])
def test_a_request_id_that_is_not_sane_is_replaced(
    client: httpx2.Client, server: Service, sent: str
) -> None:
    for path in ("/health", "/metrics"):
        answer = client.get(path, headers={b"X-Request-ID": sent.encode()})
        made = answer.headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", made)
    answer = client.get("/health", headers={b"X-Request-ID": sent.encode()})
    wait_for(lambda: answer.headers["x-request-id"] in server.process.output, "the server's log")


def _logged(proxy: Nginx, answer: httpx2.Response) -> dict[str, Any]:
    """The line of nginx's log for an answer."""
    name = answer.headers["x-request-id"]

    def lines() -> list[dict[str, Any]]:
        return [line for line in proxy.log() if line["request_id"] == name]

    line: dict[str, Any] = wait_for(lines, "nginx's log")[0]
    return line


def _last_used_from(server: Service) -> str | None:
    return server.database.value(
        "SELECT host(last_used_ip) FROM billing_data.api_keys WHERE id = %s", server.key.id
    )


def test_the_server_is_told_who_asks_by_nginx_alone() -> None:
    with _Upstream("hang up") as upstream, running_nginx([upstream.url]) as proxy:
        forged = {
            "X-Forwarded-For": "203.0.113.9",
            "X-Forwarded-Proto": "http",
            "X-Forwarded-Host": "evil.example",
            "Forwarded": "for=203.0.113.9",
            "X-Real-IP": "203.0.113.9",
            "Proxy": "http://evil.example",
            "Upgrade": "websocket",
            "Connection": "upgrade",
        }
        with proxy.client("127.7.7.8", headers={"Host": "billing.example.com"}) as client:
            client.post(f"{CHARGES}?a=%2f", headers=forged, content=b"{}")
    [seen] = upstream.requests
    head, _, body = seen.decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    assert (first, body) == (f"POST {CHARGES}?a=%2f HTTP/1.1", "{}")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert len(headers) == len(lines)
    assert re.fullmatch("[0-9a-f]{32}", headers.pop("x-request-id"))
    told = {name for name in headers if name.startswith("x-") or name in map(str.lower, forged)}
    assert {name: headers[name] for name in told} == {
        "x-forwarded-for": "127.7.7.8",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "billing.example.com",
    }
    assert headers["host"] == "billing.example.com"


def test_a_forged_forwarding_header_is_not_believed(proxy: Nginx, server: Service) -> None:
    forged = {
        "X-Forwarded-For": "203.0.113.9",
        "Forwarded": "for=203.0.113.9",
        "X-Real-IP": "203.0.113.9",
    }
    headers = {"X-API-Key": server.key.secret, **forged}
    with proxy.client("127.7.7.7", headers=headers) as client:
        assert client.post(CHECK, json=identity()).status_code == 200
    wait_for(lambda: _last_used_from(server) == "127.7.7.7", "the key's use to be recorded")


def test_behind_a_load_balancer_the_address_that_it_saw_counts(server: Service) -> None:
    """Of several clients of IPv6, each has a limit for its network."""
    believed = "set_real_ip_from 127.1.1.1; real_ip_header X-Forwarded-For; real_ip_recursive on;"
    with running_nginx(
        [server.base_url],
        PROXY_REAL_ADDRESS=believed,
        PROXY_RATE_PUBLIC="1r/m",
        PROXY_BURST_PUBLIC="1",
    ) as proxy:
        with proxy.client("127.1.1.1") as balancer:

            def statuses(address: str) -> list[int]:
                headers = {"X-Forwarded-For": f"192.0.2.77, {address}"}
                return [balancer.get("/health", headers=headers).status_code for _ in range(2)]

            assert statuses("2001:db8:0:a::1") == [200, 200]
            assert statuses("2001:db8:0:a:ffff::2") == [429, 429]
            assert statuses("2001:db8:0:b::1") == [200, 200]
            assert statuses("203.0.113.1") == [200, 200]
            assert statuses("203.0.113.1") == [429, 429]
            assert statuses("203.0.113.2") == [200, 200]
        with proxy.client("127.2.2.2") as stranger:
            forged = {"X-Forwarded-For": "203.0.113.200"}
            assert stranger.get("/health", headers=forged).status_code == 200

        def seen() -> set[str]:
            return {line["client"] for line in proxy.log()}

        expected = {"2001:db8:0:a::1", "203.0.113.2", "127.2.2.2"}
        wait_for(lambda: expected <= seen(), "the log")
        assert not {"192.0.2.77", "203.0.113.200"} & seen()


def test_a_body_that_is_too_large_is_refused_in_json(client: httpx2.Client, proxy: Nginx) -> None:
    limit = 1024 * 1024
    known = client.post(CHARGES, content=b"x" * (limit + 1))
    chunked = client.post(CHARGES, content=(b"x" * 65536 for _ in range(17)))
    for answer in (known, chunked):
        assert_error(answer, 413, f"Request body too large: at most {limit} bytes are accepted")
        assert answer.json()["code"] == "body_too_large"
        line = _logged(proxy, answer)
        assert line["upstream"] == ""  # no server was bothered
    just_right = client.post(CHARGES, content=b" " * limit)
    assert just_right.status_code == 422


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        (400, b"GARBAGE\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (400, b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET /v1/billing/accounts/oauth:google/a%00b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, b"GET /health HTTP/1.1\r\nHost: a\r\nX-Large: " + b"a" * 66_000 + b"\r\n\r\n"),
        (400, b"CONNECT evil.example:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (405, b"TRACE /health HTTP/1.1\r\nHost: a\r\n\r\n"),
        (414, b"GET /" + b"a" * 66_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_malformed_requests_are_refused_in_json(
    proxy: Nginx, status: int, request_bytes: bytes
) -> None:
    assert_error_shape(parsed(exchange(proxy, request_bytes)), status)


def test_headers_and_addresses_of_many_kilobytes_get_the_servers_answer(
    client: httpx2.Client, proxy: Nginx
) -> None:
    """A browser's cookies of other services, and an address that nginx need not refuse."""
    assert client.get("/health", headers={"Cookie": f"other={'a' * 60_000}"}).status_code == 200
    long = client.get("/v1/billing/transactions", params={"external_id": "a" * 9_000})
    assert_error_shape(long, 400)
    assert _logged(proxy, long)["upstream"]


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nContent-Length: 40\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 0x10\r\n",
    ],
)
def test_a_request_within_a_request_is_never_seen_by_the_server(
    proxy: Nginx, server: Service, framing: bytes
) -> None:
    name = unique("smuggled").encode()
    inner = b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\nX-Request-ID: " + name + b"\r\n\r\n"
    answer = exchange(
        proxy, b"POST /v1/billing/charges HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n" + inner
    )
    assert_error_shape(parsed(answer), 400)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert name.decode() not in server.process.output


# Limits


ZONES = [
    ("BILLING", "/v1/billing/transactions", "1"),
    ("CONSOLE", "/admin/accounts", "1"),
    ("CONSOLE", "/admin/api/users", "1"),
    ("CONSOLE", "/admin/oauth/user", "1"),
    ("SIGN_IN", "/admin/oauth/login", "10"),
    ("SIGN_IN", "/admin/sign-in", "10"),
    ("PUBLIC", "/health", "1"),
    ("PUBLIC", "/docs", "1"),
    ("PUBLIC", "/", "1"),
]


def test_each_zone_is_limited_by_itself_and_by_client(server: Service) -> None:
    tight: dict[str, Any] = {
        name: "1r/m" if "RATE" in name else "2"
        for name in UNLIMITED
        if name.startswith(("PROXY_RATE", "PROXY_BURST"))
    }
    with running_nginx([server.base_url], **tight) as proxy:
        for number, (zone, path, wait) in enumerate(ZONES):
            others = [other for name, other, _ in ZONES if name != zone]
            with proxy.client(f"127.4.0.{number + 1}") as client:
                origin = {"Origin": "https://app.example.com"}
                answers = [client.get(path, headers=origin) for _ in range(5)]
                assert [answer.status_code == 429 for answer in answers] == [
                    *[False] * 3,
                    *[True] * 2,
                ], path
                for answer in answers[3:]:
                    assert_error(answer, 429, "Too many requests, please retry")
                    assert answer.json()["code"] == "rate_limited"
                    assert answer.headers["retry-after"] == wait
                    assert answer.headers["access-control-allow-origin"] == "*"
                assert 429 not in {client.get(other).status_code for other in others}
            with proxy.client(f"127.4.1.{number + 1}") as somebody_else:
                assert somebody_else.get(path).status_code != 429


def test_the_default_limits_leave_room_for_a_proxy_that_charges_a_hundred_times_a_second(
    server: Service,
) -> None:
    """Three seconds' worth of checks and charges at once, and a rate that takes them for ever."""
    assert int(defaults()["PROXY_RATE_BILLING"].removesuffix("r/s")) >= 2 * 100
    user = account_with_credits(server)
    with (
        running_nginx([server.base_url]) as proxy,
        proxy.client(headers={"X-API-Key": server.key.secret}) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        calls = [(CHECK, identity(user), 200), (CHARGES, charge_body(user), 201)] * 300
        answers = threads.map(lambda call: client.post(call[0], json=call[1]), calls)
        assert [answer.status_code for answer in answers] == [call[2] for call in calls]


def test_one_client_has_so_many_requests_under_way_and_no_more(server: Service) -> None:
    with (
        _Upstream() as silent,
        running_nginx([silent.url], **{**UNLIMITED, "PROXY_CONNECTIONS": "2"}) as proxy,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(2):
            plain = stack.enter_context(socket.create_connection(proxy.address))
            waiting = stack.enter_context(proxy.tls.wrap_socket(plain, server_hostname="localhost"))
            waiting.sendall(b"GET /v1/billing/transactions HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: len(silent.requests) == 2, "both requests")
        with proxy.client() as client:
            assert client.get("/health").status_code == 429


def test_slow_clients_are_cut_off_and_hold_up_nobody(
    proxy: Nginx, client: httpx2.Client, server: Service
) -> None:
    beginnings = {
        b"GET /health HTTP/1.1\r\nHost: a\r\nX-Slow: ": b"a",  # headers that never end
        b"POST /v1/billing/charges HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{": b"",
    }
    arrived = _in_progress(server)
    with contextlib.ExitStack() as stack:
        slow: list[tuple[socket.socket, bytes]] = []
        for beginning, drop in beginnings.items():
            for _ in range(20):
                plain = stack.enter_context(socket.create_connection(proxy.address, timeout=10))
                connection = stack.enter_context(
                    proxy.tls.wrap_socket(plain, server_hostname="localhost")
                )
                connection.sendall(beginning)
                slow.append((connection, drop))
        for _ in range(5):
            assert client.post(CHECK, json=identity()).status_code == 200
        assert _in_progress(server) == arrived  # none of them is the server's business yet

        def cut_off(connection: socket.socket, drop: bytes) -> bool:
            """Drips on until the connection is gone."""
            connection.settimeout(0.1)
            for _ in range(100):
                try:
                    if drop:
                        connection.sendall(drop)
                    if connection.recv(1) == b"":
                        return True
                except TimeoutError:
                    continue
                except OSError:  # reset
                    return True
            return False

        with ThreadPoolExecutor(len(slow)) as threads:
            assert all(threads.map(cut_off, *zip(*slow, strict=True)))
    assert client.post(CHECK, json=identity()).status_code == 200


def _in_progress(server: Service) -> float:
    text = httpx2.get(f"{server.base_url}/metrics", verify=False).text
    found = re.search(r"^billing_http_requests_in_progress (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


# Servers that fail


class _Upstream:
    """A server that reads requests and answers none: `behaviour` is "silent", or "hang up"."""

    def __init__(self, behaviour: str = "silent") -> None:
        self._behaviour = behaviour
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.requests: list[bytes] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> _Upstream:
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self.requests.append(connection.recv(65536))
            if self._behaviour == "hang up":
                connection.close()


def test_when_a_server_is_down_the_others_serve(server: Service) -> None:
    down = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    user = account_with_credits(server)
    with (
        running_nginx([down[0], server.base_url, down[1]], **UNLIMITED) as proxy,
        proxy.client(headers={"X-API-Key": server.key.secret}) as client,
    ):
        for _ in range(20):
            assert client.get("/health").status_code == 200
            answer = client.post(CHARGES, json=charge_body(user))
            assert answer.status_code == 201, answer.text
            assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]


def test_when_all_servers_are_down_it_is_a_503_to_try_again(server: Service) -> None:
    down = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    with running_nginx(down, **UNLIMITED) as proxy, proxy.client() as client:
        for method, path in (("GET", "/health"), ("POST", CHARGES), ("GET", "/admin")):
            answer = client.request(method, path)
            assert_error(answer, 503, "Service temporarily unavailable, please retry")
            assert answer.json()["code"] == "unavailable"
            assert answer.headers["retry-after"] == "1"
        assert client.get("/static/base.css").status_code == 200
        proxy.reload([server.base_url])
        assert client.get("/health").status_code == 200


def test_a_post_that_was_sent_is_never_sent_again(server: Service) -> None:
    """The server that hung up may have charged."""
    user = account_with_credits(server)
    with (
        _Upstream("hang up") as broken,
        running_nginx([broken.url, server.base_url], **UNLIMITED) as proxy,
        proxy.client(headers={"X-API-Key": server.key.secret}) as client,
    ):
        statuses = []
        while len(broken.requests) < 1:
            answer = client.post(CHARGES, json=charge_body(user))
            statuses.append(answer.status_code)
        assert set(statuses) <= {201, 503}
        assert statuses.count(503) == len(broken.requests) == 1
        charged = server.database.value(
            "SELECT count(*) FROM billing_data.charges AS c"
            " JOIN billing_data.accounts AS a ON a.id = c.account_id"
            " WHERE a.external_id = %s AND c.paid_with = 'paid'",
            user,
        )
        assert charged == statuses.count(201)
    with (
        _Upstream("hang up") as broken,
        running_nginx([broken.url, server.base_url], **UNLIMITED) as proxy,
        proxy.client() as client,
    ):
        # A GET may be.
        while not broken.requests:
            assert client.get("/health").status_code == 200


async def test_killed_workers_mid_load_cost_no_charge_twice_and_lose_none(
    database: Database,
) -> None:
    with (
        running_service(database, workers=2) as one,
        running_service(database, workers=2) as two,
        running_nginx([one.base_url, two.base_url], **UNLIMITED) as proxy,
    ):
        outside = dataclasses.replace(one, base_url=proxy.url)
        users = [await asyncio.to_thread(account_with_credits, one) for _ in range(4)]
        load = Load(outside, users, clients=12, insist=True, tls=proxy.tls)
        careless = _Careless(outside, users[0], proxy.tls)
        async with load.running(), careless.running():
            for server in (one, two):
                await load.more_answers(150)
                before = worker_pids(server.process)
                victim = min(before)
                psutil.Process(victim).kill()
                await asyncio.to_thread(
                    wait_for,
                    partial(has_two_workers_beside, server.process, victim),
                    "a new worker",
                )
            await load.more_answers(150)
        killed = [line for line in proxy.log() if line["status"] == 503]
    print(f"answered: {dict(load.statuses)}; without a key: {dict(careless.statuses)}")
    assert 0 < len(killed) <= 2 * (12 + 8)  # what was under way with each, and nothing else
    assert load.unanswered == set()
    load.check_against(database)
    # Without a key and never sent again: what was answered 201 is there, and nothing twice.
    assert set(careless.statuses) <= {201, 503}
    rows = database.execute(
        "SELECT description, id::text FROM billing_data.charges WHERE description LIKE 'careless-%'"
    )
    assert len(dict(rows)) == len(rows)
    assert careless.charged.items() <= dict(rows).items()
    assert len(rows) <= careless.sent
    assert database.execute("SELECT * FROM billing.verify_ledger()") == []


class _Careless:
    """Clients that charge without an idempotency key, each charge under a description of its own,
    and take what comes."""

    def __init__(self, service: Service, user: str, tls: ssl.SSLContext) -> None:
        self._service = service
        self._user = user
        self._tls = tls
        self._stopping = False
        self.sent = 0
        self.charged: dict[str, str] = {}
        self.statuses: dict[int, int] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> Any:
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls)
        async with aiohttp.ClientSession(connector=connector) as session:
            tasks = [asyncio.create_task(self._client(session)) for _ in range(8)]
            try:
                yield self
            finally:
                self._stopping = True
                await asyncio.wait_for(asyncio.gather(*tasks), 60)

    async def _client(self, session: aiohttp.ClientSession) -> None:
        url = f"{self._service.base_url}{CHARGES}"
        headers = {"X-API-Key": self._service.key.secret}
        while not self._stopping:
            name = unique("careless")
            self.sent += 1
            body = charge_body(self._user, description=name)
            async with session.post(url, json=body, headers=headers) as answer:
                content = await answer.json()
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
            if answer.status == 201:
                self.charged[name] = content["charge_id"]
            else:
                assert answer.headers["Retry-After"] == "1"


async def test_servers_are_replaced_one_after_the_other_and_no_request_fails(
    database: Database,
) -> None:
    """As docs/deploy.md says: each is stopped, and started again in its place, while the other
    serves."""
    with running_service(database) as one, contextlib.ExitStack() as stack:
        two = stack.enter_context(running_service(database))
        users = [await asyncio.to_thread(account_with_credits, one) for _ in range(4)]
        places = [service.base_url.removeprefix("http://") for service in (one, two)]
        proxy = stack.enter_context(running_nginx([one.base_url, two.base_url], **UNLIMITED))
        outside = dataclasses.replace(one, base_url=proxy.url)
        load = Load(outside, users, insist=True, tls=proxy.tls, pause=0.05)
        log = Path(proxy.variables["PROXY_ACCESS_LOG"])
        async with load.running():
            for old, place in zip((one, two), places, strict=True):
                await load.more_answers(100)
                assert await asyncio.to_thread(old.process.stop) == 0
                await load.more_answers(100)
                port = int(place.rpartition(":")[2])
                stack.enter_context(running_service(database, port=port))
                begun = log.stat().st_size

                def is_used(place: str = place, begun: int = begun) -> bool:
                    return f'"{place}"' in log.read_text()[begun:]

                await asyncio.to_thread(wait_for, is_used, "the new server to be used")
    print(f"answered: {dict(load.statuses)}")
    assert set(load.statuses) == {201}
    assert load.unanswered == set()
    load.check_against(database)


# The template, and logs


def test_the_template_is_filled_in_as_the_official_image_does_it(tree: Path) -> None:
    """By envsubst, told names that begin with PROXY_; the helper of these tests does as much."""
    template = (tree / "nginx" / "templates" / "billing.conf.template").read_text()
    names = " ".join(f"${{{name}}}" for name in defaults())
    filled = subprocess.run(
        ["envsubst", names],
        check=True,
        input=template,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **defaults(), "host": "not to be filled in"},
    ).stdout
    assert render(template, defaults()) == filled
    assert "PROXY_" not in filled
    assert "$host" in (tree / "nginx" / "snippets" / "to_server.conf").read_text()


def test_no_log_tells_who_was_asked_about_or_by_whom(
    proxy: Nginx, client: httpx2.Client, server: Service
) -> None:
    user, email = unique("whoever"), f"{unique('mail')}@example.com"
    identity_in_query = {**identity(user), "customer_email": email}
    client.post(CHARGES, json=charge_body(user, customer_email=email))
    client.get(account_path(user))
    client.get("/v1/billing/transactions", params=identity_in_query)
    client.get(f"/{user}", params=identity_in_query)
    client.get(f"/admin/accounts?q={user}", headers={"Referer": f"https://x.example/{user}"})
    method = "".join(letter for letter in unique("WHO").upper() if letter.isalpha()) * 3
    client.request(method, "/health")
    client.post(f"/v1/billing/credits?{user}", json=credit_body(user), content=None)
    client.post(f"/v1/billing/credits?{user}", content=b"x" * 2_000_000)
    raw(proxy, f"/{user}%zz")
    with running_nginx(
        [f"http://127.0.0.1:{free_port()}"], PROXY_RATE_BILLING="1r/m", PROXY_BURST_BILLING="1"
    ) as broken:
        with broken.client(headers={"X-API-Key": server.key.secret}) as other:
            statuses = {other.get(account_path(user)).status_code for _ in range(5)}
            assert statuses == {503, 429}
        wait_for(lambda: sum(line["status"] in statuses for line in broken.log()) == 5, "the log")
        written = broken.everything_written()
    wait_for(
        lambda: [line for line in proxy.log() if line["method"] == "other"], "what is logged last"
    )
    written += proxy.everything_written()
    for secret in (user, method, email, server.key.secret[:20]):
        assert secret not in written
    line = next(
        line
        for line in proxy.log()
        if line["route"] == "/v1/billing/accounts/{oauth_provider}/{external_id}"
    )
    assert line["upstream"] == server.base_url.removeprefix("http://")
    assert line["tls"] == "TLSv1.3"


def test_it_serves_ipv6_too(server: Service) -> None:
    with running_nginx([server.base_url], ipv6=True) as proxy:
        answer = httpx2.get(f"{proxy.url}/health", verify=proxy.tls)
        assert answer.status_code == 200
        wait_for(
            lambda: [line for line in proxy.log() if line["route"] == "/health"], "nginx's log"
        )
        assert {line["client"] for line in proxy.log()} == {"::1"}
