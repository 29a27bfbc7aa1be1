"""The guard of the agent API: keys that are revoked, rotated or expire, and floods of wrong
keys."""

from __future__ import annotations

import http.client
import json
import secrets
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import psutil
import pytest

from server.api_key_secret import new_secret
from tests.http.contract import CHARGES, CHECK
from tests.support import (
    Database,
    Key,
    Service,
    charge_body,
    identity,
    running_service,
    unique,
    worker_pids,
)

WORKERS = 3
INVALID = "Authentication failed: Invalid API key"
EXPIRED = "Authentication failed: API key expired"

# Sends wrong keys for argv[3] seconds: half with the prefix of an existing key, half with unknown
# prefixes. Prints how many answers of each status there were.
FLOOD = """
import asyncio, collections, json, secrets, sys, time
import aiohttp
url, prefix, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
async def main():
    statuses = collections.Counter()
    end = time.monotonic() + seconds
    async def client(session, number):
        body = {"oauth_provider": "oauth:google", "external_id": "flood"}
        while time.monotonic() < end:
            start = prefix if number % 2 else "cbk_live_" + secrets.token_urlsafe(32)[:11]
            headers = {"X-API-Key": start + secrets.token_urlsafe(24)[:32]}
            async with session.post(url, json=body, headers=headers) as answer:
                await answer.read()
                statuses[answer.status] += 1
            await asyncio.sleep(0.02)  # leaves the two cores to the server that is measured
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(client(session, number) for number in range(24)))
    print(json.dumps(statuses))
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def service(module_database: Database) -> Iterator[Service]:
    """Several worker processes."""
    with running_service(module_database, workers=WORKERS) as service:
        yield service


class Connections:
    """Connections that are kept open, until every worker process has several of them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._port = int(service.base_url.rpartition(":")[2])
        self.open: list[http.client.HTTPConnection] = []

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.open:
            connection.close()

    def check(self, connection: http.client.HTTPConnection, secret: str) -> tuple[int, str]:
        """Status and detail of a check on this connection."""
        headers = {"X-API-Key": secret, "Content-Type": "application/json"}
        connection.request("POST", CHECK, json.dumps(identity("ada")), headers)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        if answer.status == 401:
            assert answer.headers["WWW-Authenticate"] == "ApiKey"
        return answer.status, str(body.get("detail", ""))

    def fresh(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        self.open.append(connection)
        return connection

    def reach_every_worker(self, secret: str, least: int = 2) -> None:
        """Presents the key on new connections until each worker has accepted it `least` times."""
        pids = worker_pids(self._service.process)
        assert len(pids) == WORKERS
        for _ in range(400):
            assert self.check(self.fresh(), secret) == (200, "")
            if len(self.open) >= least * WORKERS and all(
                self._held_by(pid) >= least for pid in pids
            ):
                return
        raise AssertionError("a worker never got a connection")

    def _held_by(self, pid: int) -> int:
        return sum(
            connection.status == psutil.CONN_ESTABLISHED
            and bool(connection.laddr)
            and connection.laddr.port == self._port
            for connection in psutil.Process(pid).net_connections("tcp")
        )


def check(service: Service, secret: str) -> tuple[int, str]:
    """Status and detail of a check on a connection of its own."""
    with Connections(service) as connections:
        return connections.check(connections.fresh(), secret)


def move_expiry(database: Database, key: Key, by: timedelta) -> None:
    """Makes a key expire earlier by this much, as if time had passed."""
    database.execute(
        "UPDATE billing_data.api_keys SET created_at = created_at - %s,"
        " expires_at = coalesce(expires_at, now()) - %s WHERE id = %s",
        *(by, by, key.id),
    )


# Keys that end


def test_a_revoked_key_is_refused_on_the_very_next_request_of_every_worker(
    service: Service,
) -> None:
    key = service.database.create_key()
    with Connections(service) as connections:
        connections.reach_every_worker(key.secret)
        kept = list(connections.open)
        for connection in kept:  # every worker knows the key by now
            assert connections.check(connection, key.secret)[0] == 200
        service.database.value(
            "SELECT status FROM billing.revoke_api_key(p_api_key_id => %s)", key.id, user="t_dba"
        )
        for connection in kept:
            assert connections.check(connection, key.secret) == (401, INVALID)
        for _ in range(50):
            assert connections.check(connections.fresh(), key.secret) == (401, INVALID)
    with service.client(key) as client:
        for method, path, body in (
            ("POST", CHARGES, charge_body("ada")),
            ("POST", "/v1/billing/charges:batch", {"charges": [charge_body("ada")]}),
            ("POST", "/v1/billing/credits", {**charge_body("ada"), "transaction_type": "grant"}),
            ("POST", "/v1/billing/accounts", identity()),
            ("GET", "/v1/billing/accounts/oauth:google/ada", None),
            ("GET", "/v1/billing/transactions?oauth_provider=oauth:google&external_id=ada", None),
            ("POST", CHECK, {}),  # the fault of the key comes before that of the body
        ):
            answer = client.request(method, path, json=body)
            assert (answer.status_code, answer.json()["detail"]) == (401, INVALID), path


def test_revoking_one_key_leaves_the_others_alone(service: Service) -> None:
    one, other = service.database.create_key(), service.database.create_key()
    for key in (one, other):
        assert check(service, key.secret)[0] == 200
    service.database.execute(
        "SELECT billing.revoke_api_key(p_api_key_id => %s)", one.id, user="t_dba"
    )
    assert check(service, one.secret) == (401, INVALID)
    assert check(service, other.secret)[0] == 200


def test_a_permission_is_wanted_and_can_be_withdrawn(service: Service) -> None:
    reader = service.database.create_key(["billing:read"])
    user = unique()
    with service.client(reader) as client:
        assert client.post(CHECK, json=identity(user)).status_code == 200
        for body in (charge_body(user), {}):
            refused = client.post(CHARGES, json=body)
            assert refused.status_code == 403
            assert refused.json()["detail"] == "Missing required permission: billing:write"
            assert "WWW-Authenticate" not in refused.headers
        assert client.post(CHECK, json=identity(user)).json()["free_uses_remaining"] == 3
        service.database.execute(
            "UPDATE billing_data.api_keys SET permissions = '{}' WHERE id = %s", reader.id
        )
        refused = client.post(CHECK, json=identity(user))
        assert refused.status_code == 403
        assert refused.json()["detail"] == "Missing required permission: billing:read"


# Keys that change


def test_a_rotated_keys_old_secret_works_for_a_day_and_then_not(service: Service) -> None:
    database = service.database
    old = database.create_key()
    with Connections(service) as connections:
        connections.reach_every_worker(old.secret)
        kept = list(connections.open)
        new = database.rotate_key(old.id)
        for connection in kept:
            assert connections.check(connection, old.secret)[0] == 200
            assert connections.check(connection, new.secret)[0] == 200

        move_expiry(database, old, timedelta(hours=23, minutes=59))
        assert connections.check(kept[0], old.secret)[0] == 200
        move_expiry(database, old, timedelta(minutes=2))
        answers = [connections.check(connection, old.secret) for connection in kept]
        assert answers == [(401, EXPIRED)] + [(401, INVALID)] * (len(kept) - 1)
        for connection in kept:
            assert connections.check(connection, new.secret)[0] == 200


def test_a_rotated_key_can_be_revoked_at_once(service: Service) -> None:
    old = service.database.create_key()
    new = service.database.rotate_key(old.id)
    assert check(service, old.secret)[0] == 200
    service.database.execute(
        "SELECT billing.revoke_api_key(p_api_key_id => %s)", old.id, user="t_dba"
    )
    assert check(service, old.secret) == (401, INVALID)
    assert check(service, new.secret)[0] == 200


@pytest.mark.parametrize("known", [True, False], ids=["used before", "never used"])
def test_an_expired_key_is_called_so_once(service: Service, known: bool) -> None:
    key = service.database.create_key()
    if known:
        assert check(service, key.secret)[0] == 200
    move_expiry(service.database, key, timedelta(seconds=1))
    assert check(service, key.secret) == (401, EXPIRED)
    status = "SELECT status FROM billing_data.api_keys WHERE id = %s"
    assert service.database.value(status, key.id) == "revoked"
    for _ in range(2 * WORKERS):
        assert check(service, key.secret) == (401, INVALID)


def test_when_and_from_where_a_key_was_used_is_recorded(database: Database) -> None:
    with running_service(database) as service:
        assert check(service, service.key.secret)[0] == 200
        assert service.process.stop() == 0  # this is the latest moment
    row = database.execute(
        "SELECT last_used_at > now() - interval '1 minute', host(last_used_ip)"
        " FROM billing_data.api_keys"
    )
    assert row == [(True, "127.0.0.1")]


# Wrong keys


def test_a_wrong_key_stays_wrong_and_spoils_no_right_one(service: Service) -> None:
    key = service.database.create_key()
    wrong = key.secret[:-1] + ("A" if key.secret[-1] != "A" else "B")
    unknown = f"cbk_test_{secrets.token_urlsafe(32)}"
    for _ in range(2 * WORKERS):
        for presented in (wrong, unknown, key.prefix, f"{key.secret}x", f"{key.secret[:-1]}é"):
            assert check(service, presented.encode().decode("latin-1")) == (401, INVALID)
        for presented in ("", "cbk", "Bearer x", key.secret.upper()):
            detail = "Authentication failed: Invalid API key format"
            assert check(service, presented) == (401, detail)
    assert check(service, key.secret)[0] == 200
    assert check(service, wrong) == (401, INVALID)


def test_a_key_that_was_unknown_works_as_soon_as_it_is_made(service: Service) -> None:
    secret = new_secret("test")
    with Connections(service) as connections:
        for _ in range(4 * WORKERS):
            answer = connections.check(connections.fresh(), secret.plaintext)
            assert answer == (401, INVALID)
        service.database.execute(
            "SELECT * FROM billing.create_api_key(p_name => 'late', p_key_prefix => %s,"
            " p_key_hash => %s, p_environment => 'test')",
            *(secret.prefix, secret.hash),
            user="t_dba",
        )
        for connection in connections.open:
            assert connections.check(connection, secret.plaintext) == (200, "")


def contents(database: Database) -> dict[str, tuple[int, int]]:
    """For every table of the schema: how many rows it has, and how many were ever written."""
    tables = database.execute(
        "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relkind = 'r'"
        " AND c.relnamespace = 'billing_data'::regnamespace ORDER BY 1"
    )
    assert len(tables) > 8
    return {
        table: (
            database.value(f"SELECT count(*) FROM {table}"),
            database.value(f"SELECT coalesce(max(xmin::text::bigint), 0) FROM {table}"),
        )
        for (table,) in tables
    }


def test_wrong_keys_cost_no_row(database: Database) -> None:
    with running_service(database) as service:
        before = contents(database)
        with service.client() as client:
            for number in range(60):
                start = (
                    service.key.prefix if number % 2 else "cbk_live_" + secrets.token_hex(6)[:11]
                )
                headers = {"X-API-Key": start + secrets.token_urlsafe(24)[:32]}
                answer = client.post(CHECK, json=identity(), headers=headers)
                assert (answer.status_code, answer.json()["detail"]) == (401, INVALID)
        assert service.process.stop() == 0  # everything that it would write later is written now
        assert contents(database) == before


def latencies(service: Service, seconds: float) -> list[float]:
    """The seconds of checks with a valid key, one after the other, over several kept
    connections."""
    user = unique()
    taken: list[float] = []
    headers = {"X-API-Key": service.key.secret, "Content-Type": "application/json"}
    body = json.dumps(identity(user))
    with Connections(service) as connections:
        connections.reach_every_worker(service.key.secret)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection = connections.open[len(taken) % len(connections.open)]
            began = time.monotonic()
            connection.request("POST", CHECK, body, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            taken.append(time.monotonic() - began)
    return taken


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def test_a_flood_of_wrong_keys_leaves_a_valid_keys_latency_alone(service: Service) -> None:
    workers = [psutil.Process(pid) for pid in worker_pids(service.process)]
    quiet = p95(latencies(service, 1.5))
    threads_before = max(worker.num_threads() for worker in workers)
    command = [sys.executable, "-c", FLOOD, f"{service.base_url}{CHECK}", service.key.prefix, "4"]
    most_threads = 0
    over = threading.Event()

    def watch_threads() -> None:
        nonlocal most_threads
        while not over.wait(0.02):
            most_threads = max(most_threads, *(worker.num_threads() for worker in workers))

    watcher = threading.Thread(target=watch_threads)
    watcher.start()
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as flood:
            flooded = latencies(service, 4)
            output, _ = flood.communicate(timeout=30)
    finally:
        over.set()
        watcher.join()
    statuses = {int(status): count for status, count in json.loads(output).items()}
    print(
        f"p95 of a valid key's check: {quiet * 1000:.1f} ms, in a flood"
        f" {p95(flooded) * 1000:.1f} ms ({statuses});"
        f" threads {threads_before}, then at most {most_threads}"
    )
    assert set(statuses) <= {401, 503}
    assert sum(statuses.values()) > 300
    # If they were verified on the event loop, the keys of 24 clients would cost each request
    # hundreds of ms.
    assert p95(flooded) < max(10 * quiet, 0.3)
    assert most_threads <= threads_before + 2
    assert check(service, service.key.secret)[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 422),
        ({"Authorization": "Bearer {key}"}, 422),
        ({"X-API-Key": "Bearer {key}"}, 401),
        ({"X-API-Key": ""}, 401),
    ],
    ids=["none", "as a bearer token", "with Bearer before it", "an empty one"],
)
def test_who_sends_no_key_or_sends_it_elsewhere_is_told_where_it_goes(
    service: Service, headers: dict[str, str], status: int
) -> None:
    key = service.key.secret
    with service.client() as client:
        del client.headers["X-API-Key"]
        sent = {name: value.format(key=key) for name, value in headers.items()}
        answer = client.post(CHECK, json=identity(), headers=sent)
        assert answer.status_code == status
        assert "X-API-Key" in answer.json()["hint"]
        wrong = client.post(CHECK, json=identity(), headers={"X-API-Key": f"{key}x"})
        assert "hint" not in wrong.json()
        assert key not in answer.text
