"""The routing table of the project's nginx configuration, with TLS before real servers."""

from __future__ import annotations

import re
import socket
import ssl
from pathlib import Path

import httpx2
import pytest

from tests.http.contract import account_path, assert_error
from tests.identity_provider import FOUNDER, good_provider, running_console
from tests.nginx import Nginx, running_nginx
from tests.ops.nginx.helpers import CHARGES, CHECK, exchange, parsed, raw
from tests.support import (
    Database,
    Service,
    free_port,
    identity,
    unique,
)

# The routing table


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/", 200, "text/html"),
        ("HEAD", "/", 200, "text/html"),
        ("GET", "/health", 200, "application/json"),
        ("HEAD", "/health", 200, "application/json"),
        ("GET", "/docs", 200, "text/html"),
        ("GET", "/docs/staff", 200, "text/html"),
        ("GET", "/llms.txt", 200, "text/plain"),
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
        # Paths that do not exist, or not for clients outside.
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
    # Whatever host the request names, the redirect leads to our own address.
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
        # The provider's colon, plain and percent-encoded.
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
        # Of actions of staff; `migrate`, which invited the founder, has no client address.
        addresses = (
            "SELECT DISTINCT host(l.ip_address) FROM billing_data.admin_audit_logs AS l"
            " WHERE l.admin_user_id IS NOT NULL"
        )
        assert database.execute(addresses) == [("127.8.8.8",)]
