"""What each process does beside its requests: it records the uses of API keys, makes coming
partitions, books holds that are over, and checks what alarms are about."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from server.gateway import functions
from server.gateway.database import Database
from server.gateway.errors import DatabaseFault, Unavailable
from server.gateway.refusals import Refused
from server.gateway.slots import Slots
from server.observe import metrics

_LOG = logging.getLogger(__name__)
_KEY_USE_INTERVAL = 5.0
_PARTITION_INTERVAL = 6 * 3600.0
_COMING_MONTHS = 2
_MOST_ROWS_MOVED = 100_000  # as many as a statement's time allows; the next deploy moves the rest
_FIGURES_INTERVAL = 60.0
_HOLDS_INTERVAL = 60.0
_TIDIED_ACCOUNTS = 500  # in one call, which is then as short as other calls
_SEAL_INTERVAL = 1.0  # while something is left to seal; the database keeps the pace
_SEALED_INTERVAL = 60.0
_SEAL_PERCENT = 2  # of the time of one core, for all servers together
_SEALED_ENTRIES = 1000  # in one call, which is then as short as other calls
_QUEUES_INTERVAL = 1.0
_ANNOUNCE_INTERVAL = 60.0
_MOST_KNOWN = 1000  # accounts with wrong books that are checked in every round


class _Queue(Protocol):
    @property
    def waiting(self) -> int: ...


class BackgroundWork:
    """The background work, in the slots `writes` and `staff`, which it shares with requests.
    `queues` are the queues of requests, by the kind that the metric names."""

    def __init__(
        self,
        database: Database,
        *,
        writes: Slots,
        staff: Slots,
        queues: Mapping[str, _Queue],
        watch_interval: float,
    ) -> None:
        self._database = database
        self._writes = writes
        self._staff = staff
        self._queues = queues
        self._watch_interval = watch_interval
        self._mismatched: list[UUID] = []
        self._key_uses: dict[UUID, tuple[datetime, str | None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts all background work."""
        for kind in self._queues:
            metrics.DB_REQUESTS_WAITING.labels(kind).set(0)
        for work, interval in (
            (self._record_key_uses, _KEY_USE_INTERVAL),
            (self._create_partitions, _PARTITION_INTERVAL),
            (self._refresh_figures, _FIGURES_INTERVAL),
            (self._watch_queues, _QUEUES_INTERVAL),
            (self._watch_books, self._watch_interval),
            (self._seal_entries, _SEALED_INTERVAL),
            (self._watch_proof, self._watch_interval),
            (self._watch_outbox, self._watch_interval),
            (self._announce_expiring, _ANNOUNCE_INTERVAL),
            (self._tidy_holds, _HOLDS_INTERVAL),
            (self._watch_holds, self._watch_interval),
        ):
            self.add(_repeat(work, interval))

    def add(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts another task, which ends with the rest."""
        self._tasks.append(asyncio.create_task(work))

    async def stop(self) -> None:
        """Ends all background work."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def note_key_use(self, api_key_id: UUID, address: str | None) -> None:
        """Notes that a key was used now, from `address`. Uses are recorded every few seconds."""
        self._key_uses[api_key_id] = (datetime.now(UTC), address)

    async def record_last_key_uses(self) -> None:
        """Records the uses that are not recorded yet, if the database can take them."""
        with contextlib.suppress(Unavailable, Refused, DatabaseFault):
            await self._record_key_uses()

    async def _record_key_uses(self) -> None:
        if not self._key_uses:
            return
        uses, self._key_uses = self._key_uses, {}
        call = functions.record_api_key_use(
            api_key_ids=list(uses),
            used_at=[at for at, _ in uses.values()],
            used_from=[address for _, address in uses.values()],
        )
        async with self._writes.slot():
            await self._database.call(call)

    async def _create_partitions(self) -> None:
        call = functions.create_check_partitions(months=_COMING_MONTHS, most_rows=_MOST_ROWS_MOVED)
        async with self._writes.slot():
            await self._database.call(call)

    async def _refresh_figures(self) -> None:
        async with self._staff.slot():
            await self._database.call(functions.refresh_figures())

    async def _seal_entries(self) -> None:
        """Seals what can be sealed, in short calls. Every process of every server tries; the
        database lets one of them seal at a time, and pauses between them."""
        call = functions.seal_entries(entries=_SEALED_ENTRIES, percent=_SEAL_PERCENT)
        while True:
            async with self._staff.slot():
                rows = await self._database.call(call)
            if not rows:
                return
            await asyncio.sleep(_SEAL_INTERVAL)

    async def _watch_proof(self) -> None:
        async with self._staff.slot():
            [row] = await self._database.call(functions.get_proof())
        metrics.LEDGER_SEALED.set(row["closed_at"].timestamp() if row["closed_at"] else 0)
        metrics.LEDGER_SEALS_BEHIND.set(row["is_behind"])
        metrics.LEDGER_VERIFIED.set(row["verified_at"].timestamp() if row["verified_at"] else 0)
        metrics.LEDGER_PROBLEMS.set(row["problems"] or 0)

    async def _watch_outbox(self) -> None:
        async with self._staff.slot():
            [row] = await self._database.call(functions.watch_outbox())
        metrics.OUTBOX_WAITING.set(row["waiting"])
        metrics.OUTBOX_OVERDUE.set(_seconds_since(row["due_since"]))
        metrics.OUTBOX_FAILED.set(row["failed"])

    async def _announce_expiring(self) -> None:
        async with self._staff.slot():
            await self._database.call(functions.announce_expiring_credits())

    async def _tidy_holds(self) -> None:
        """Books holds and credits that are over. No decision depends on it. Accounts in use are
        left out: the call that uses an account books for it."""
        accounts = _TIDIED_ACCOUNTS
        while accounts == _TIDIED_ACCOUNTS:
            async with self._writes.slot():
                [row] = await self._database.call(functions.tidy_holds(accounts=accounts))
            accounts = row["tidy_holds"]

    async def _watch_holds(self) -> None:
        async with self._staff.slot():
            [row] = await self._database.call(functions.watch_holds())
        metrics.HOLDS_OPEN.set(row["open_holds"])
        metrics.CREDITS_HELD.set(row["credits_held"])
        metrics.HOLDS_OVERDUE.set(_seconds_since(row["over_since"]))
        metrics.HOLDS_EXPIRED.set(row["newly_expired"])

    async def _watch_queues(self) -> None:
        for kind, queue in self._queues.items():
            metrics.DB_REQUESTS_WAITING.labels(kind).set(queue.waiting)

    async def _watch_books(self) -> None:
        """Checks the books for alarms. Every process of every server does so: it costs
        milliseconds, and no process depends on another for it."""
        async with self._staff.slot():
            [row] = await self._database.call(functions.watch_books(known=self._mismatched))
        new = len(row["mismatched"]) > len(self._mismatched)
        self._mismatched = row["mismatched"][:_MOST_KNOWN]
        if new:
            _LOG.error("the books of %d accounts do not agree: run verify", len(row["mismatched"]))
        if row["guard_faults"]:
            _LOG.error("%d guards of the books are not in force: run verify", row["guard_faults"])
        metrics.LEDGER_MISMATCHES.set(len(row["mismatched"]) + row["guard_faults"])
        metrics.PAYMENT_PROBLEMS.set(row["payment_problems"])
        metrics.LEDGER_CHECKED.set_to_current_time()


async def _repeat(work: Callable[[], Awaitable[None]], interval: float) -> None:
    """Does the work every `interval` seconds for ever. A failure is logged, and the next round
    tries again."""
    while True:
        await asyncio.sleep(interval)
        try:
            await work()
        except (Unavailable, Refused, DatabaseFault) as error:
            name = getattr(work, "__name__", "of a kind")
            _LOG.warning("background work %s failed: %s", name, type(error).__name__)


def _seconds_since(moment: datetime | None) -> float:
    """Returns the seconds since a moment, 0 for none and for one to come."""
    return max((datetime.now(UTC) - moment).total_seconds(), 0.0) if moment else 0.0
