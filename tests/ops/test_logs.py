"""The server's log after requests of all kinds: JSON lines, every request's id, and no secret."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx2
import pytest

from tests.support import (
    Database,
    Key,
    Service,
    TestCluster,
    charge_body,
    credit_body,
    held_account,
    identity,
    running_service,
)

PERSON = "person-4711"
EMAIL = "ada.lovelace@example.com"
WRONG_KEY = "cbk_live_ThisIsNobodysKeyButLooksLikeOne0123456789abcd"


@dataclass
class Session:
    """The answers that were given, and the lines that were logged."""

    service: Service
    reader: Key
    answers: list[tuple[str, int, str]] = field(default_factory=list)  # method, status, request id
    lines: list[str] = field(default_factory=list)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def of(self, request_id: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record.get("request_id") == request_id]


@pytest.fixture(scope="module")
def session(cluster: TestCluster) -> Iterator[Session]:
    """A server at DEBUG with every access logged. It has ended, so everything has been written."""
    with cluster.database() as database:
        _plant_poison(database)
        with running_service(
            database, LOG_LEVEL="DEBUG", ACCESS_LOG_SAMPLE="1", LOCK_TIMEOUT="0.2"
        ) as service:
            session = Session(service, database.create_key(["billing:read"]))
            _all_sorts(session, database)
            _raw_nonsense(service)
            assert service.process.stop() == 0
            session.lines = service.process.output.splitlines()
        yield session


def _plant_poison(database: Database) -> None:
    """Adds rows that the database refuses, so that unexpected errors happen."""
    for table, condition in (
        ("charges", "description <> 'poison'"),
        ("credit_checks", "context_request_id IS DISTINCT FROM 'poison'"),
        ("accounts", "user_role IS DISTINCT FROM 'poison'"),
        ("credits", "description <> 'poison'"),
    ):
        database.execute(
            f"ALTER TABLE billing_data.{table} ADD CONSTRAINT {table}_poison CHECK ({condition})"
        )


def _all_sorts(session: Session, database: Database) -> None:
    who = {**identity(PERSON), "customer_email": EMAIL}
    charge = {**charge_body(PERSON), "customer_email": EMAIL}
    key = {"Idempotency-Key": "first"}
    nobody, check = identity("person-4712"), "/v1/billing/credits/check"
    context = {"context": {"request_id": "poison"}}
    requests: list[tuple[int, str, str, dict[str, Any]]] = [
        (200, "POST", check, {"json": who}),
        *[(201, "POST", "/v1/billing/charges", {"json": charge})] * 3,
        (402, "POST", "/v1/billing/charges", {"json": charge}),
        (201, "POST", "/v1/billing/credits", {"json": credit_body(PERSON, 5)}),
        (201, "POST", "/v1/billing/charges", {"json": charge, "headers": key}),
        (201, "POST", "/v1/billing/charges", {"json": charge, "headers": key}),
        (422, "POST", "/v1/billing/charges", {"json": charge_body(PERSON, 2), "headers": key}),
        (
            409,
            "POST",
            "/v1/billing/charges",
            {"json": charge_body(PERSON, idempotency_key="first")},
        ),
        (400, "POST", "/v1/billing/charges", {"json": {**charge, "currency": "EUR"}}),
        (404, "POST", "/v1/billing/charges", {"json": charge_body("person-4713")}),
        (200, "POST", "/v1/billing/charges:batch", {"json": {"charges": [charge, charge, {}]}}),
        (201, "POST", "/v1/billing/accounts", {"json": who}),
        (200, "GET", f"/v1/billing/accounts/oauth:google/{PERSON}", {}),
        (404, "GET", "/v1/billing/accounts/oauth:google/person-4713", {}),
        (200, "GET", "/v1/billing/transactions", {"params": identity(PERSON)}),
        (422, "GET", "/v1/billing/transactions", {"params": {"external_id": PERSON}}),
        (404, "GET", f"/{EMAIL}", {}),
        (405, "DELETE", "/v1/billing/charges", {}),
        (422, "POST", check, {"json": {**who, "external_id": 7, "wa_id": PERSON}}),
        (422, "POST", check, {"content": f'{{"customer_email": "{EMAIL}", '}),
        (422, "POST", check, {"content": f'"{EMAIL}"', "headers": {"Content-Type": "text/plain"}}),
        (413, "POST", check, {"content": f'"{EMAIL * 60_000}"'}),
        (401, "POST", check, {"json": who, "headers": {"X-API-Key": WRONG_KEY}}),
        (401, "POST", check, {"json": who, "headers": {"X-API-Key": "not a key"}}),
        (403, "POST", "/v1/billing/charges", {"json": charge, "headers": _key(session.reader)}),
        # An unexpected error.
        (500, "POST", "/v1/billing/charges", {"json": {**charge, "description": "poison"}}),
        (500, "POST", check, {"json": {**who, **context}}),
        (500, "POST", check, {"json": {**who, "user_role": "poison"}}),
        (500, "POST", "/v1/billing/accounts", {"json": {**nobody, "user_role": "poison"}}),
        (500, "POST", "/v1/billing/credits", {"json": credit_body(PERSON, description="poison")}),
    ]
    with session.service.client() as client:

        def send(expected: int, method: str, path: str, options: dict[str, Any]) -> None:
            answer = client.request(method, path, **options)
            assert answer.status_code == expected, (method, path, answer.text)
            session.answers.append((method, answer.status_code, answer.headers["X-Request-ID"]))

        for request in requests:
            send(*request)
        with held_account(database, PERSON):
            send(503, "POST", "/v1/billing/charges", {"json": charge})
        own = {"X-Request-ID": "chosen-by-the-caller.1"}
        send(200, "POST", check, {"json": who, "headers": own})


def _key(key: Key) -> dict[str, str]:
    return {"X-API-Key": key.secret}


def _raw_nonsense(service: Service) -> None:
    """Requests that are not HTTP, with a key in them."""
    host, _, port = service.base_url.removeprefix("http://").partition(":")
    head = f"POST /v1/billing/credits/check HTTP/1.1\r\nHost: {host}\r\n"
    secret = service.key.secret
    for text in (
        f"{head}X-API-Key: {secret}\x00\r\n\r\n",
        f"{head}X-API-Key: {secret}\r\nContent-Length: -1\r\n\r\n",
        f"{head}X-API-Key {secret}\r\n\r\n",
        f"GET /{EMAIL} HTTP/9.9\r\nX-API-Key: {secret}\r\n\r\n",
        f"{secret}\r\n\r\n",
        f"{head}X-API-Key: {secret * 400}\r\n\r\n",
        f"{head}X-API-Key: {secret}\r\nContent-Length: 100\r\n\r\n{EMAIL}",
    ):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(text.encode("latin-1"))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    assert httpx2.get(f"{service.base_url}/health", verify=False).status_code == 200


def test_every_line_is_a_json_object(session: Session) -> None:
    assert len(session.lines) > len(session.answers)
    for record in session.records:
        assert {"time", "level", "logger", "message"} <= set(record)
        assert datetime.fromisoformat(record["time"]).utcoffset() is not None
        assert record["level"] in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def test_every_request_is_found_by_its_id(session: Session) -> None:
    for method, status, request_id in session.answers:
        access = [r for r in session.of(request_id) if r["logger"] == "server.access"]
        assert [(r["method"], r["status"]) for r in access] == [(method, status)]
        assert access[0]["milliseconds"] >= 0
        assert access[0]["endpoint"].startswith("/") or access[0]["endpoint"] == "unmatched"
    assert "chosen-by-the-caller.1" in {request_id for _, _, request_id in session.answers}


def test_an_error_nobody_foresaw_is_logged_with_its_traceback(session: Session) -> None:
    for _, status, request_id in session.answers:
        tracebacks = [r for r in session.of(request_id) if "exception" in r]
        assert len(tracebacks) == (1 if status == 500 else 0)
        for record in tracebacks:
            assert record["level"] == "ERROR"
            assert "DatabaseFault: 23514" in record["exception"]


def test_a_request_that_found_the_database_busy_or_gone_is_logged(session: Session) -> None:
    for _, status, request_id in session.answers:
        if status == 503:
            assert "WARNING" in {record["level"] for record in session.of(request_id)}


@pytest.mark.parametrize("what", ["keys", "e-mail addresses", "external ids"])
def test_nothing_private_is_in_any_line(session: Session, what: str) -> None:
    service, reader = session.service, session.reader
    private = {
        "keys": [key.secret[20:30] for key in (service.key, reader)]
        + [WRONG_KEY[20:], "$argon2id$", "not a key"],
        "e-mail addresses": [EMAIL, "ada.lovelace", "@example.com"],
        "external ids": ["person-47"],
    }[what]
    leaks = [
        f"{secret!r} in: {line[:120]} ... {line[-250:]}"
        for line in session.lines
        for secret in private
        if secret in line
    ]
    assert not leaks, "\n".join(leaks)


def test_the_access_log_is_a_sample_unless_asked_for_all(database: Database) -> None:
    with running_service(database, ACCESS_LOG_SAMPLE="0") as service:
        with service.client() as client:
            for _ in range(20):
                assert client.get("/").status_code == 200
        assert service.process.stop() == 0
        assert "server.access" not in service.process.output


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_lines_are_for_people_on_a_terminal_and_json_elsewhere(kind: str) -> None:
    ours, its = pty.openpty() if kind == "terminal" else os.pipe()
    script = """
import logging
from server.observe import logs
logs.configure("INFO")
try:
    raise ValueError("a fault")
except ValueError:
    logging.getLogger("server.access").exception("request", extra={"status": 500})
"""
    subprocess.run([sys.executable, "-c", script], check=True, stderr=its)
    text = os.read(ours, 100_000).decode().replace("\r\n", "\n")
    os.close(ours)
    os.close(its)
    if kind == "pipe":
        [line] = text.splitlines()
        assert json.loads(line)["status"] == 500
    else:
        assert re.match(r"\d\d:\d\d:\d\d ERROR   request status=500\nTraceback", text)
        assert text.rstrip().endswith("ValueError: a fault")
