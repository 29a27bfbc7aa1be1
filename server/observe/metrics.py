"""Prometheus metrics (names: contract.md 6). Labels are route templates and closed sets, never an
identity. With PROMETHEUS_MULTIPROC_DIR set before this module is imported, every worker process
answers /metrics with the sum of all workers.

Counts are added up in memory first (see flush). The library looks up a place in a file, under a
lock, for every single increment, and that took a fifth of a request's time."""

from __future__ import annotations

import asyncio
import logging
import os
from bisect import bisect_left
from collections import Counter as Count
from functools import cache
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, generate_latest, multiprocess, values

from server import __version__

_LOG = logging.getLogger(__name__)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_CREDITS = (1, 2, 5, 10, 20, 50, 100, 500, 1000, 10_000)

FLUSH_SECONDS = 0.1  # after this time at most, the other processes know what a process counted

REGISTRY = CollectorRegistry()
_changed: list[Counter | Histogram | SummedGauge] = []


class Counter(prometheus_client.Counter):
    """The library's counter; flush() passes increments on to the library."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._added = 0.0

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Adds `amount`, which is not negative."""
        if not self._added:
            _changed.append(self)
        self._added += amount

    def flush(self) -> None:
        """Passes the increments on to the library."""
        added, self._added = self._added, 0.0
        super().inc(added)


class Histogram(prometheus_client.Histogram):
    """The library's histogram; flush() passes observations on to the library."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._observed: list[float] = []

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Records an observation of `amount`."""
        if not self._observed:
            _changed.append(self)
        self._observed.append(amount)

    def flush(self) -> None:
        """Passes the observations on. The library has no public way to add several to one bucket at
        once."""
        observed, self._observed = self._observed, []
        bounds = self._upper_bounds
        for bucket, count in Count(bisect_left(bounds, amount) for amount in observed).items():
            self._buckets[bucket].inc(count)
        self._sum.inc(sum(observed))


class SummedGauge(Gauge):
    """The library's gauge for a value that changes with every request; flush() passes it on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._now = 0.0
        self._told = True

    def set(self, value: float) -> None:
        """Sets the gauge to `value`."""
        self.inc(value - self._now)

    def inc(self, amount: float = 1) -> None:
        """Adds `amount`."""
        if self._told:
            self._told = False
            _changed.append(self)
        self._now += amount

    def dec(self, amount: float = 1) -> None:
        """Subtracts `amount`."""
        self.inc(-amount)

    def flush(self) -> None:
        """Passes the value on to the library."""
        self._told = True
        super().set(self._now)


def flush() -> None:
    """Passes all new counts on to the library. Call it in the event loop's thread."""
    while _changed:
        _changed.pop().flush()


async def keep_flushing() -> None:
    """Flushes at regular intervals, and a last time when it is cancelled."""
    try:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                flush()
            # the disk has no room for the file of a new series
            except (OSError, ValueError) as error:
                _LOG.error("metrics are lost: %s", error)
    finally:
        flush()


class _Process:
    """This process's id, looked up once. The library asks for it with every increment, and a system
    call each time was a fifth of the cost of a request."""

    id = os.getpid()

    @classmethod
    def forked(cls) -> None:
        """Looks the id up again, in a new worker."""
        cls.id = os.getpid()


if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    os.register_at_fork(before=flush, after_in_child=_Process.forked)
    values.ValueClass = values.MultiProcessValue(lambda: _Process.id)  # type: ignore[no-untyped-call]

SERVICE_INFO = Gauge(
    "billing_service_info",
    "1 for each version that runs",
    ["version"],
    registry=REGISTRY,
    multiprocess_mode="max",
)
HTTP_REQUESTS = Counter(
    "billing_http_requests_total",
    "HTTP requests by route template and status",
    ["method", "endpoint", "status"],
    registry=REGISTRY,
)
HTTP_DURATION = Histogram(
    "billing_http_request_duration_seconds",
    "Time from the request's headers to its answer",
    ["method", "endpoint"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
HTTP_IN_PROGRESS = SummedGauge(
    "billing_http_requests_in_progress",
    "HTTP requests being worked on",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
CREDIT_CHECKS = Counter(
    "billing_credit_checks_total",
    "Credit checks by decision",
    ["result"],  # allowed, denied
    registry=REGISTRY,
)
CREDIT_CHECK_DURATION = Histogram(
    "billing_credit_check_duration_seconds",
    "Time a credit check takes, waiting for its batch included",
    buckets=_SECONDS,
    registry=REGISTRY,
)
CHARGES = Counter(
    "billing_charges_total",
    "Charges by outcome",
    ["outcome"],  # created, replayed, conflict, or the slug of a refusal
    registry=REGISTRY,
)
CAP_REFUSALS = Counter(
    "billing_cap_refusals_total",
    "Charges that a cap refused, by what is capped and its period",
    ["scope", "period"],
    registry=REGISTRY,
)
CHARGE_AMOUNT = Histogram(
    "billing_charge_amount_minor",
    "Amounts of created charges, in credits",
    buckets=_CREDITS,
    registry=REGISTRY,
)
CHARGE_DURATION = Histogram(
    "billing_charge_duration_seconds",
    "Time a charge takes, waiting for its batch included",
    buckets=_SECONDS,
    registry=REGISTRY,
)
HOLDS = Counter(
    "billing_holds_total",
    "Calls about holds by outcome",
    # create, capture, release, extend; created, replayed, conflict, or the slug of a refusal
    ["operation", "outcome"],
    registry=REGISTRY,
)
HOLD_DURATION = Histogram(
    "billing_hold_duration_seconds",
    "Time a hold takes to be made, waiting for its batch included",
    buckets=_SECONDS,
    registry=REGISTRY,
)
CREDITS_ADDED = Counter(
    "billing_credits_added_total",
    "Credit entries by transaction type",
    ["transaction_type"],
    registry=REGISTRY,
)
CREDIT_AMOUNT = Histogram(
    "billing_credit_amount_minor",
    "Amounts of added credits",
    buckets=_CREDITS,
    registry=REGISTRY,
)
ACCOUNTS_CREATED = Counter(
    "billing_accounts_created_total",
    "Accounts created, by a check or by POST /accounts",
    registry=REGISTRY,
)
ACCOUNT_BALANCE = Histogram(
    "billing_account_balance_minor",
    "Paid credits an account had after a charge or credit",
    buckets=(0, *_CREDITS),
    registry=REGISTRY,
)
PURCHASES = Counter(
    "billing_purchases_total",
    "Purchases asked for, by result",
    ["result"],  # created, replayed, error
    registry=REGISTRY,
)
TOP_UPS = Counter(
    "billing_top_ups_total",
    "Attempts to have a saved card charged, by outcome; switched_off counts consents that ended",
    ["outcome"],  # succeeded, failed, canceled, unknown (asked again later), switched_off
    registry=REGISTRY,
)
# Events that are not stored: refused for their signature, its age or their shape, or not processed
# because of an error.
NOT_STORED = ("error", "invalid_signature", "malformed", "stale_signature")
PAYMENT_EVENTS = Counter(
    "billing_payment_events_total",
    "Webhook events of the payment provider by outcome",
    ["outcome"],  # a value of payment_events.outcome, or one of NOT_STORED
    registry=REGISTRY,
)
PROVIDER_REQUESTS = Counter(
    "billing_payment_provider_requests_total",
    "Calls of the payment provider's API",
    ["operation", "result"],  # success, error
    registry=REGISTRY,
)
PROVIDER_DURATION = Histogram(
    "billing_payment_provider_duration_seconds",
    "Time a call of the payment provider's API takes, a retry included",
    buckets=(*_SECONDS, 10.0),
    registry=REGISTRY,
)
DB_CONNECTIONS_ACTIVE = SummedGauge(
    "billing_db_connections_active",
    "Database connections at work",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
DB_CONNECTIONS_MAX = Gauge(
    "billing_db_connections_max",
    "Database connections that may be opened",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
DB_REQUESTS_WAITING = Gauge(
    "billing_db_requests_waiting",
    "Requests that wait for the database, by kind; looked at once a second",
    [
        "kind"
    ],  # checks, charges, holds, captures, reads, writes, batches, held_batches, payments, staff
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
DB_QUEUE_MAX = Gauge(
    "billing_db_queue_max",
    "Requests of one kind that may wait for the database; more are answered 503",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
DB_QUEUE_FULL = Counter(
    "billing_db_queue_full_total",
    "Requests refused because too many were waiting for the database",
    registry=REGISTRY,
)
REPLICA_LAG = Gauge(
    "billing_replica_lag_seconds",
    "How old the replica's data may be, to a second; grows while it cannot be asked",
    registry=REGISTRY,
    multiprocess_mode="livemax",
)
LEDGER_MISMATCHES = Gauge(
    "billing_ledger_mismatches",
    "Accounts of those changed last whose balance is not what their newest entries say, and guards"
    " of the books that are not in force",
    registry=REGISTRY,
    multiprocess_mode="livemax",
)
LEDGER_CHECKED = Gauge(
    "billing_ledger_checked_timestamp_seconds",
    "When the accounts changed last were compared with their entries",
    registry=REGISTRY,
    multiprocess_mode="max",
)
LEDGER_SEALED = Gauge(
    "billing_ledger_sealed_timestamp_seconds",
    "When the newest day of the ledger was sealed; 0 where none is",
    registry=REGISTRY,
    multiprocess_mode="max",
)
LEDGER_SEALS_BEHIND = Gauge(
    "billing_ledger_seals_behind",
    "Whether a day that ended more than a day ago is not sealed yet, though an earlier one is",
    registry=REGISTRY,
    multiprocess_mode="livemax",
)
LEDGER_VERIFIED = Gauge(
    "billing_ledger_verified_timestamp_seconds",
    "When the newest proof of the books ended; 0 where none did",
    registry=REGISTRY,
    multiprocess_mode="max",
)
LEDGER_PROBLEMS = Gauge(
    "billing_ledger_problems",
    "What the newest proof of the books found",
    registry=REGISTRY,
    multiprocess_mode="livemax",
)
PAYMENT_PROBLEMS = Gauge(
    "billing_payment_problems",
    "Payments and returns of money that a person must look at",
    registry=REGISTRY,
    multiprocess_mode="livemostrecent",
)
HOLDS_OPEN = Gauge(
    "billing_holds_open",
    "Holds that are neither settled nor booked as over",
    registry=REGISTRY,
    multiprocess_mode="livemostrecent",
)
CREDITS_HELD = Gauge(
    "billing_credits_held",
    "Paid credits that these holds keep",
    registry=REGISTRY,
    multiprocess_mode="livemostrecent",
)
HOLDS_OVERDUE = Gauge(
    "billing_holds_overdue_seconds",
    "How long the first hold has been over that is not booked yet; 0 when none is",
    registry=REGISTRY,
    multiprocess_mode="livemostrecent",
)
HOLDS_EXPIRED = Gauge(
    "billing_holds_expired",
    "Holds that ended without having been settled, as booked in the last five minutes",
    registry=REGISTRY,
    multiprocess_mode="livemostrecent",
)
OUTBOX_WAITING = Gauge(
    "billing_outbox_waiting",
    "Alerts that wait to be delivered to endpoints which are switched on",
    registry=REGISTRY,
    multiprocess_mode="livemostrecent",
)
OUTBOX_OVERDUE = Gauge(
    "billing_outbox_overdue_seconds",
    "How long the first alert that is due has been due; 0 when none is",
    registry=REGISTRY,
    multiprocess_mode="livemostrecent",
)
OUTBOX_FAILED = Gauge(
    "billing_outbox_failed",
    "Alerts for endpoints that are switched on whose delivery was given up",
    registry=REGISTRY,
    multiprocess_mode="livemostrecent",
)
WEBHOOK_DELIVERIES = Counter(
    "billing_webhook_deliveries_total",
    "Attempts to deliver alerts, by what came of them",
    ["result"],  # delivered, retried, failed, late (it was claimed again or settled meanwhile)
    registry=REGISTRY,
)
TLS_CERTIFICATE_EXPIRY = Gauge(
    "billing_tls_certificate_expiry_timestamp_seconds",
    "When the certificate in TLS_CERTIFICATE_FILE expires; 0 when it cannot be read",
    ["certificate"],  # "public"; there is no series without the setting
    registry=REGISTRY,
    multiprocess_mode="livemostrecent",
)
DB_QUERIES = Counter(
    "billing_db_queries_total",
    "Calls of billing functions (a batch is one call)",
    ["function", "result"],  # success, refused, error
    registry=REGISTRY,
)
DB_WRITE_VERIFICATIONS = Counter(
    "billing_db_write_verifications_total",
    "Ledger writes by what the database confirmed in the same call",
    ["result"],  # confirmed, unknown
    registry=REGISTRY,
)
ERRORS = Counter(
    "billing_errors_total",
    "Errors answered, by code",
    ["code"],
    registry=REGISTRY,
)

count_http = cache(HTTP_REQUESTS.labels)
time_http = cache(HTTP_DURATION.labels)
count_check = cache(CREDIT_CHECKS.labels)
count_charge = cache(CHARGES.labels)
count_cap_refusal = cache(CAP_REFUSALS.labels)
count_hold = cache(HOLDS.labels)
count_error = cache(ERRORS.labels)
_query = cache(DB_QUERIES.labels)
write_verified = cache(DB_WRITE_VERIFICATIONS.labels)


def count_query(function: str, result: str) -> None:
    """Counts one call of a billing function."""
    _query(function, result).inc()


def count_provider_request(operation: str, result: str) -> None:
    """Counts one call of the payment provider's API."""
    PROVIDER_REQUESTS.labels(operation, result).inc()


def start() -> None:
    """Counts this process as running; call it once per process, after forking. The series that
    alarms watch are created here: a series that appears with its first value shows no increase."""
    SERVICE_INFO.labels(__version__).set(1)
    for outcome in NOT_STORED:
        PAYMENT_EVENTS.labels(outcome)
    WEBHOOK_DELIVERIES.labels("failed")
    for outcome in ("succeeded", "failed", "switched_off"):
        TOP_UPS.labels(outcome)
    write_verified("unknown")


def render() -> bytes:
    """The metrics of all processes as Prometheus text."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def process_ended(pid: int) -> None:
    """Removes the gauges of a process that has ended from the sums; its counts stay."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
