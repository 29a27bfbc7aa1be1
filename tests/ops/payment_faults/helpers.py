"""What the tests of faults around payments share."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import httpx2
import psutil

from tests.payments import (
    PURCHASES,
    Json,
    purchase_body,
)
from tests.stripe_double import (
    StripeDouble,
)
from tests.support import (
    Database,
    Service,
)

CHECK = "/v1/billing/credits/check"


INTENTS = "/v1/payment_intents$"


class InBackground:
    """A call in a thread; `ended` is its result."""

    def __init__(self, work: Callable[[], httpx2.Response]) -> None:
        self.ended: httpx2.Response | httpx2.TransportError | None = None

        def run() -> None:
            try:
                self.ended = work()
            except httpx2.TransportError as error:
                self.ended = error

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def wait(self) -> httpx2.Response | httpx2.TransportError | None:
        self._thread.join(40)
        assert not self._thread.is_alive()
        return self.ended


def purchase(service: Service, user: str, key: str) -> httpx2.Response:
    headers = {"Idempotency-Key": key}
    with service.client() as client:
        return client.post(PURCHASES, json=purchase_body(user), headers=headers)


def waiting_for_a_lock(database: Database) -> int:
    """How many of the server's calls wait for a row lock."""
    count: int = database.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'ciris-billing' AND wait_event_type = 'Lock'"
    )
    return count


def intents_of(double: StripeDouble, user: str) -> list[Json]:
    """The payments that Stripe has for a user."""
    answer = httpx2.get(
        f"{double.direct_url}/v1/payment_intents",
        params={"limit": 1_000_000},
        headers={"Authorization": f"Bearer {double.api_key}"},
        verify=False,
    )
    assert answer.status_code == 200, answer.text
    rows: list[Json] = answer.json()["data"]
    return [row for row in rows if row["metadata"].get("external_id") == user]


def kill(service: Service) -> None:
    """Kills the server; to it, this looks like a loss of power."""
    master = psutil.Process(service.process.process.pid)
    processes = [master, *master.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    service.process.process.wait(10)
    psutil.wait_procs(processes[1:], timeout=10)


def settled(database: Database) -> bool:
    """Whether nothing that a killed server began is still under way."""
    under_way: int = database.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'ciris-billing' AND state = 'active'"
    )
    return under_way == 0
