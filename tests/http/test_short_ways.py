"""The shortcuts for plain requests and answers are not visible from outside: bytes, metrics, logs
and records of key use are the same as with aiohttp's and pydantic's own code."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from server.agent import endpoint
from server.app import build_app
from server.config import ServeConfig
from server.http import aiohttp_server, request_shape
from server.http.aiohttp_server import Runner
from server.http.app_keys import GATEWAY, STOPPING
from server.http.json_answer import JsonAnswer
from server.observe import metrics
from tests.http.contract import CHARGES, CHECK, TIME, UUID
from tests.support import Database, charge_body, identity

USER = "way-?"  # as long as the names that replace it
ACCOUNT = "POST /v1/billing/accounts"


def request(
    line: str, *fields: str, body: bytes = b"", version: str = "1.1", length: int | None = None
) -> bytes:
    """The bytes of one request; KEY and the user are filled in when it is sent."""
    head = [f"{line} HTTP/{version}", "Host: billing.example", *fields]
    if not any(field.lower().startswith("transfer-encoding") for field in fields):
        head.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*head, "", ""]).encode() + body


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (5, body[:5], len(body) - 5, body[5:])


def body(**fields: Any) -> bytes:
    return orjson.dumps({**identity(USER), **fields})


def charge(number: int, **fields: Any) -> bytes:
    return orjson.dumps({**charge_body(USER), "idempotency_key": f"key-{number}", **fields})


_JSON = "Content-Type: application/json"
_AUTH = "X-API-Key: KEY"
_PLAIN = (_AUTH, _JSON)
_LINES = (f"POST {CHECK}", f"POST {CHARGES}")
_ID = "019a9c2f-10d2-7b3e-8e57-52f0c6a1b9d4"
_CAPTURE = f"/v1/billing/holds/{_ID}/capture"
_PATHS_OF_IDS = (
    _CAPTURE, _CAPTURE.upper(), _CAPTURE.replace("a9", "A9"), _CAPTURE.replace("-7b", "-%37b"),
    _CAPTURE.replace(_ID, "x"), _CAPTURE.replace(_ID, f"{_ID}0"), _CAPTURE.replace(_ID, f"0{_ID}"),
    _CAPTURE.replace(_ID, ""), _CAPTURE.replace(_ID, f"{_ID}/{_ID}"), f"{_CAPTURE}/",
    f"{_CAPTURE}?a=b", f"{_CAPTURE}#part", f"/{_ID}{_CAPTURE}", f"/v1/billing/holds/{_ID}",
    f"/v1/billing/charges/{_ID}/reverse", f"/v1/billing/accounts/{_ID}/{_ID}", f"/{_ID}",
    f"/v1/billing/accounts/oauth:google/{_ID}/holds", f"/admin/accounts/{_ID}", f"/admin/{_ID}",
    f"/admin/api/accounts/{_ID}", "/v1/billing/holds/{}/capture",
)  # fmt: skip
# Requests that share one connection, in this order. Charges come in pairs, so that the second is a
# replay. The account has three free uses, so later ones are refused.
FIELDS: list[tuple[str, ...]] = [
    _PLAIN,
    (_AUTH,),
    (_JSON,),
    ("X-API-Key: cbk_test_nobody", _JSON),
    ("X-API-Key: \u00e9", _JSON),
    ("x-api-key: KEY", "content-type: application/json"),
    *((_AUTH, f"Content-Type: {kind}") for kind in ("text/plain", "application/x+json", "", "x/")),
    (_AUTH, "Content-Type: application/json; charset=utf-8"),
    (*_PLAIN, "X-Request-ID: chosen-1"),
    (*_PLAIN, "X-Request-ID: not ok"),
    (*_PLAIN, "X-Request-ID: "),
    (*_PLAIN, "Origin: https://page.example"),
    (*_PLAIN, "Idempotency-Key: once"),
    (*_PLAIN, "Idempotency-Key: once"),
    (*_PLAIN, "Idempotency-Key: "),
    (*_PLAIN, f"Idempotency-Key: {'x' * 256}"),
    (*_PLAIN, "Content-Encoding: gzip"),
    (*_PLAIN, "Content-Encoding: identity"),
    (*_PLAIN, "Connection: close"),
    (*_PLAIN, "Connection: keep-alive"),
    (*_PLAIN, "X-Forwarded-For: 192.0.2.7, 192.0.2.8"),
    (*_PLAIN, "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    (*_PLAIN, "Accept-Encoding: gzip, br"),
    (*_PLAIN, "Expect: 100-continue"),
    (*_PLAIN, "Expect: something"),
    (*_PLAIN, _AUTH),
]
BODIES = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"{",
    b"\xff",
    b"\xef\xbb\xbf{}",
    body(),
    body(unknown=1),
    body(unknown="\ufffd"),
    body().replace(b"way-?", b"way-\\u0000"),
    body(customer_email="ada@example.com", user_role="user", marketing_opt_in=True),
    body(context={"agent_id": "scout", "unknown": 1}),
    body(marketing_opt_in="yes"),
    charge(100),
    charge(100),
    charge(101, currency="usd"),
    charge(102, amount_minor="1"),
    charge(103, amount_minor=1.0),
    charge(104, amount_minor=0),
    charge(105, metadata={"message_id": "m", "agent_id": None}),
    charge(106, idempotency_key=""),
    b" " * 2000 + charge(107),
    b" " * 5000 + charge(108),
]


def connections() -> list[list[bytes]]:
    """The requests, a list for each connection; its parts are sent one after the other."""
    found: list[list[bytes]] = []
    for number, fields in enumerate(FIELDS):
        for line in _LINES:
            found += [[request(line, *fields, body=charge(number))]] * 2
    for one in BODIES:
        found += [[request(line, *_PLAIN, body=one)] for line in _LINES]
    for line in _LINES:
        plain = request(line, *_PLAIN, body=charge(200))
        found += [
            [plain + plain],
            [plain, plain, plain],
            [plain[:30], plain[30:]],
            [plain[:-20], plain[-20:]],
            [plain[:-20], plain[-20:] + plain],
            [request(line, *_PLAIN, "Transfer-Encoding: chunked", body=chunked(charge(201)))],
            [request(line, *_PLAIN, "Transfer-Encoding: chunked", body=b"zz\r\n")],
            [request(line, *_PLAIN, body=charge(202), version="1.0")],
            [request(line, *_PLAIN, "Connection: keep-alive", body=charge(203), version="1.0")],
            [request(f"{line}?a=b", *_PLAIN, body=charge(204))],
            [request(f"{line}/", *_PLAIN, body=charge(205))],
            [request(f"{line}#part", *_PLAIN, body=charge(206))],
            [request(line.replace("billing", "%62illing"), *_PLAIN, body=charge(207))],
            [request(line.replace(" ", " http://billing.example"), *_PLAIN, body=charge(208))],
            [request(line.replace("/v1", "//v1"), *_PLAIN, body=charge(209))],
        ]
        for method in ("GET", "HEAD", "PUT", "OPTIONS", "BREW", "post"):
            found.append([request(line.replace("POST", method), *_PLAIN, body=charge(210))])
    for path in _PATHS_OF_IDS:
        for method in ("POST", "GET"):
            found.append([request(f"{method} {path}", *_PLAIN, body=b"{}")])
    for method in ("HEAD", "PUT", "OPTIONS", "BREW"):
        found.append([request(f"{method} {_CAPTURE}", *_PLAIN, body=b"{}")])
    found.append([request(f"POST {_CAPTURE}", *_PLAIN, "Expect: 100-continue", body=b"{}")])
    for method in ("GET", "HEAD"):
        for path in ("/", "/health", "/health?x", "/nothing", "/openapi.json", "/admin"):
            found.append([request(f"{method} {path}")])
            found.append([request(f"{method} {path}", version="1.0")])
    return found


_VARIES = (
    (re.compile(rb"Date: [^\r]*"), b"Date: now"),
    (re.compile(TIME.encode()), b"<time>"),
    (re.compile(rb'"timestamp":"[^"]*"'), b"<timestamp>"),
    (re.compile(UUID.encode()), b"<uuid>"),
    (re.compile(rb"\b[0-9a-f]{32}\b"), b"<request id>"),
    (re.compile(rb"way-[ab]"), b"way-?"),
)


async def exchange(port: int | None, parts: list[bytes]) -> bytes:
    """Everything that the server sends on one connection, until it closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    with contextlib.suppress(ConnectionError):  # the server closed it before it got all parts
        for part in parts:
            writer.write(part)
            await writer.drain()
            with contextlib.suppress(TimeoutError):  # the server waits for more
                said += await asyncio.wait_for(reader.read(1 << 20), 0.05)
        writer.write(request("GET /nothing", "Connection: close"))
        said += await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return said


@contextlib.asynccontextmanager
async def serving(config: ServeConfig) -> AsyncIterator[tuple[web.Application, int]]:
    app = build_app(config)
    runner = Runner(app, access_log=None, auto_decompress=False, shutdown_timeout=5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield app, runner.addresses[0][1]
    finally:
        await runner.cleanup()


def counted() -> Counter[tuple[str, str]]:
    """All counters, and the number of observations of each histogram."""
    metrics.flush()
    return Counter(
        {
            (sample.name, str(sorted(sample.labels.items()))): int(sample.value)
            for family in metrics.REGISTRY.collect()
            for sample in family.samples
            if sample.name.endswith(("_total", "_count", "in_progress"))
            # The number of batches is not fixed.
            and not sample.name.startswith("billing_db_queries")
        }
    )


def logged(records: list[logging.LogRecord]) -> list[Any]:
    return [
        (record.name, record.levelname, record.getMessage())
        if record.name != "server.access"
        else [vars(record).get(name) for name in ("method", "endpoint", "status")]
        for record in records
        if record.name.startswith("server")
    ]


@dataclasses.dataclass
class Seen:
    """What is visible of the same requests."""

    answers: list[bytes]
    counts: Counter[tuple[str, str]]
    logs: list[Any]
    key_uses: list[list[Any]]


async def seen(config: ServeConfig, key: str, user: str, caplog: pytest.LogCaptureFixture) -> Seen:
    caplog.clear()
    before = counted()
    answers, key_uses = [], []
    async with serving(config) as (app, port):
        background: Any = app[GATEWAY]._background

        async def send(parts: list[bytes]) -> None:
            background._key_uses.clear()
            filled = [
                p.replace(b"KEY", key.encode()).replace(USER.encode(), user.encode()) for p in parts
            ]
            answer = await exchange(port, filled)
            for pattern, word in _VARIES:
                answer = pattern.sub(word, answer)
            answers.append(answer)
            key_uses.append([address for _, address in background._key_uses.values()])

        # Before the first request, the key is known and the account exists.
        await send([request(ACCOUNT, *_PLAIN, body=body())])
        for parts in connections():
            await send(parts)
        app[STOPPING].set()
        for line in _LINES:
            await send([request(line, *_PLAIN, body=charge(300))])
    return Seen(answers, counted() - before, logged(caplog.records), key_uses)


@pytest.mark.parametrize(
    "options",
    [{}, {"access_log_sample": 1.0, "trusted_proxies": ("127.0.0.0/8",)}, {"max_body_bytes": 1024}],
)
async def test_nobody_sees_which_way_a_request_went(
    database: Database,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    defaults: dict[str, Any] = {"access_log_sample": 0.0, "max_body_bytes": 4096}
    config = ServeConfig(database.dsn("t_web"), **{**defaults, **options})
    key = database.create_key().secret
    short = await seen(config, key, "way-a", caplog)

    taken: Counter[str] = Counter()

    async def general(self: Any, request: Any) -> web.StreamResponse:
        taken["router"] += 1
        answer: web.StreamResponse = await self._general(request)
        return answer

    async def read(request: web.Request) -> bytes:
        taken["read"] += 1
        return await request.read()

    async def prepare(self: Any, request: Any) -> Any:
        taken["prepare"] += 1
        return await web.Response.prepare(self, request)

    monkeypatch.setattr(aiohttp_server._KnownPaths, "__call__", general)
    monkeypatch.setattr(request_shape, "_body", read)
    monkeypatch.setattr(JsonAnswer, "prepare", prepare)
    monkeypatch.setattr(endpoint, "quick_decoder", lambda model: None)
    long = await seen(config, key, "way-b", caplog)

    assert min(taken[way] for way in ("router", "read", "prepare")) > 100
    sent = [[], *connections(), [], []]
    for parts, one, other in zip(sent, short.answers, long.answers, strict=True):
        assert one == other, parts
    assert short.counts == long.counts
    assert short.logs == long.logs
    assert short.key_uses == long.key_uses
    statuses = Counter(re.findall(rb"HTTP/1.[01] (\d+)", b"".join(short.answers)))
    assert {b"200", b"201", b"400", b"401", b"402", b"404", b"405", b"409", b"415", b"422"} <= set(
        statuses
    )


@pytest.mark.parametrize(
    "headers", [None, {"X-Odd": "a\rb"}, {"X-Odd": "a\r\nX-More: b"}, {"X-Odd": "\x7f"}, {"A": ""}]
)
@pytest.mark.parametrize("cookies", [{}, {"one": "1", "two": "2"}])
@pytest.mark.parametrize("closes", [False, True])
async def test_an_answer_is_written_as_aiohttp_would_write_it(
    aiohttp_server: AiohttpServer,
    headers: dict[str, str] | None,
    cookies: dict[str, str],
    closes: bool,
) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/ours":
            made: web.Response = JsonAnswer(409, b"{}", headers)
        else:
            made = web.Response(
                status=409, body=b"{}", content_type="application/json", headers=headers
            )
        for name, value in cookies.items():
            made.set_cookie(name, value)
        if closes:
            made.force_close()
        return made

    app = web.Application()
    app.router.add_get("/{whose}", answer)
    port = (await aiohttp_server(app)).port
    ours = await exchange(port, [request("GET /ours"), request("GET /ours", version="1.0")])
    theirs = await exchange(port, [request("GET /theirs"), request("GET /theirs", version="1.0")])
    date, word = _VARIES[0]
    assert date.sub(word, ours) == date.sub(word, theirs)
