"""What clients send to nginx, and how many of them it serves at a time."""

from __future__ import annotations

import contextlib
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.http.contract import assert_error, assert_error_shape
from tests.nginx import UNLIMITED, Nginx, defaults, running_nginx
from tests.ops.load import account_with_credits
from tests.ops.nginx.helpers import CHARGES, CHECK, Upstream, exchange, parsed
from tests.support import (
    Service,
    charge_body,
    identity,
    unique,
    wait_for,
)

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
    with Upstream("hang up") as upstream, running_nginx([upstream.url]) as proxy:
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
    """Each of several IPv6 clients has one limit for its network."""
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
    """A browser sends cookies of other services, and nginx need not refuse long addresses."""
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
    """Three seconds' worth of checks and charges at once, and then that rate for as long as one
    likes."""
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
        Upstream() as silent,
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
        assert _in_progress(server) == arrived  # no server works on them yet

        def cut_off(connection: socket.socket, drop: bytes) -> bool:
            """Sends one byte after the other until the connection is closed."""
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
