"""Clients that close the connection, or send something other than HTTP, at every point of a
request. None of it is counted or logged as our fault, and every complete request is carried out."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.http.contract import CHARGES, CHECK
from tests.http.metrics import Metrics, read
from tests.ops.load import account_with_credits
from tests.support import Database, Service, charge_body, held_account, running_service, wait_for

WEBHOOK = "/v1/billing/webhooks/stripe"
REQUESTS = "billing_http_requests_total"
CUT = {
    "before the body": ["Content-Length: 100"],
    "in the body": ["Content-Length: 100", "", '{"a":'],
    "before the first chunk": ["Transfer-Encoding: chunked"],
    "between two chunks": ["Transfer-Encoding: chunked", "", "5", '{"a":', ""],
    "in a chunk": ["Transfer-Encoding: chunked", "", "50", '{"a":'],
    "after a promise to go on": ["Expect: 100-continue", "Content-Length: 100"],
}


@pytest.fixture(scope="module")
def watched(module_database: Database) -> Iterator[Service]:
    """A server that logs every request."""
    with running_service(module_database, ACCESS_LOG_SAMPLE="1", LOCK_TIMEOUT="20") as service:
        yield service


@contextlib.contextmanager
def connection(service: Service) -> Iterator[socket.socket]:
    host, _, port = service.base_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        yield client


def request_head(service: Service, path: str, lines: list[str], *, key: bool = True) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: test"]
    if key:
        head.append(f"X-API-Key: {service.key.secret}")
    lines = [*head, *lines] if "" in lines else [*head, *lines, "", ""]
    return "\r\n".join(lines).encode()


def faults(metrics: Metrics) -> dict[str, float]:
    """The number of answers of 500 and more, by status."""
    by_status = metrics.by(REQUESTS, "status")
    return {status: count for status, count in by_status.items() if status >= "500"}


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def arrived(service: Service) -> bool:
    """Whether another request than this one is being worked on."""
    return read(service).sum("billing_http_requests_in_progress") > 1


def assert_no_fault_is_logged(service: Service) -> None:
    lines = [json.loads(line) for line in service.process.output.splitlines()]
    assert [line for line in lines if line["level"] in ("ERROR", "WARNING")] == []
    assert "Traceback" not in service.process.output


@pytest.mark.parametrize("end", ["close", "reset", "half close"])
@pytest.mark.parametrize("where", CUT)
@pytest.mark.parametrize("path", [CHARGES, CHECK, WEBHOOK])
def test_a_request_that_is_cut_short_is_counted_as_the_clients_doing(
    watched: Service, path: str, where: str, end: str
) -> None:
    before = read(watched)
    with connection(watched) as client:
        client.sendall(request_head(watched, path, CUT[where], key=where != "in the body"))
        wait_for(lambda: arrived(watched), "the request to arrive")
        if end == "reset":
            reset(client)
        elif end == "half close":
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass
    gone = {"endpoint": path, "status": "499"}
    after = wait_for(
        lambda: now if (now := read(watched)).sum(REQUESTS, **gone) > before.sum(REQUESTS, **gone)
        else None,
        "the request to be counted",
    )  # fmt: skip
    assert after.sum(REQUESTS, **gone) == before.sum(REQUESTS, **gone) + 1
    code = {"code": "client_gone"}
    assert (
        after.sum("billing_errors_total", **code) == before.sum("billing_errors_total", **code) + 1
    )
    assert faults(after) == {}
    assert_no_fault_is_logged(watched)


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: many"],
        ["X-Long: " + "x" * 70_000],
        ["Transfer-Encoding: chunked", "", "no number", "x", ""],
        ["Transfer-Encoding: chunked", "Content-Length: 5", "", "0", "", ""],
        ["No header"],
    ],
    ids=["length", "long header", "chunk", "two lengths", "header"],
)
def test_what_is_no_http_is_answered_and_counted_as_malformed(
    watched: Service, lines: list[str]
) -> None:
    before = read(watched)
    with connection(watched) as client:
        client.sendall(request_head(watched, CHARGES, lines))
        answer = client.recv(65536)
    assert re.match(rb"HTTP/1.[01] 400 ", answer)
    assert b'"code":"malformed_request"' in answer
    after = read(watched)
    assert after.sum(REQUESTS, status="400") == before.sum(REQUESTS, status="400") + 1
    assert faults(after) == {}
    assert_no_fault_is_logged(watched)


def test_a_body_that_turns_malformed_is_answered_at_once(watched: Service) -> None:
    """The answer does not wait until the client gives up."""
    with connection(watched) as client:
        client.sendall(request_head(watched, CHARGES, CUT["between two chunks"]))
        wait_for(lambda: arrived(watched), "the request to arrive")
        client.sendall(b"no number\r\nx\r\n")
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"code":"malformed_request"' in answer
        assert client.recv(65536) == b""
    assert read(watched).sum(REQUESTS, endpoint=CHARGES, status="400") == 1
    assert faults(read(watched)) == {}
    assert_no_fault_is_logged(watched)


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_charge_whose_client_hangs_up_while_it_waits_is_made_all_the_same(
    watched: Service, module_database: Database, end: str
) -> None:
    user = account_with_credits(watched)
    body = json.dumps(charge_body(user, description=f"left by {end}"))
    before = read(watched)
    with held_account(module_database, user) as holder:
        with connection(watched) as client:
            head = [f"Content-Length: {len(body)}", "Content-Type: application/json", "", body]
            client.sendall(request_head(watched, CHARGES, head))
            wait_for(lambda: arrived(watched), "the request to arrive")
            if end == "reset":
                reset(client)
        holder.rollback()
    charged = "SELECT count(*) FROM billing_data.charges WHERE description = %s"
    wait_for(lambda: module_database.value(charged, f"left by {end}") == 1, "the charge")
    made = {"endpoint": CHARGES, "status": "201"}
    wait_for(
        lambda: read(watched).sum(REQUESTS, **made) == before.sum(REQUESTS, **made) + 1,
        "the charge to be counted",
    )
    assert faults(read(watched)) == {}
    assert_no_fault_is_logged(watched)
