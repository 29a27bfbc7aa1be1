"""The only door from Python to the database: typed calls of the functions in schema billing.

No rule is decided here. A call that a function refuses raises Refused; a database that cannot
answer raises Unavailable; both are turned into HTTP answers in server/http/errors.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from server.config import ServeConfig
from server.gateway import calls
from server.gateway.calls import FunctionCall, ItemType, SchemaMismatch
from server.gateway.errors import (
    Busy,
    ConnectionLost,
    DatabaseFault,
    ReadOnly,
    Refused,
    RightsMissing,
    Unavailable,
    is_retryable,
    met_a_deploy,
    translate,
)
from server.gateway.lanes import OTHERS, Blame, Item, Lane, Row
from server.gateway.pool import Connection, Pool
from server.gateway.pooler import TransactionPool
from server.gateway.replica import PRIMARY_POSITION, Replica
from server.gateway.tracks import Track
from server.observe import metrics, telemetry

__all__ = [
    "CHARGE_KEY",
    "Busy",
    "ConnectionLost",
    "DatabaseFault",
    "ErrorWording",
    "Gateway",
    "Item",
    "ReadOnly",
    "Refused",
    "RightsMissing",
    "Row",
    "SchemaMismatch",
    "Unavailable",
]

_LOG = logging.getLogger(__name__)
_LANE_FLIGHTS = 2
_WAITERS = 3  # and one call more for accounts that find no place among these
_READS = 3
_WRITES = 3
_BATCHES = 2
_HELD_BATCHES = 2
_PAYMENTS = 2
_STAFF = 2
_HEALTH_CHECKS = 1
_REPLICA_READS = 4  # on the replica, and one more connection there that watches it
_BATCH_PAUSE, _LONGEST_BATCH_PAUSE = 0.002, 0.05  # between tries of a batch with a held account
_ATTEMPTS = 4  # at a call that a deadlock, a serialization failure or a deploy undid
_DEPLOY_PAUSE = 0.02
# Whatever all others are waiting for, each kind of call finds its connection.
_LANES = 2 * (_LANE_FLIGHTS + _WAITERS + 1)
_POOL_SIZE = sum(
    (_LANES, _READS, _WRITES, _BATCHES, _HELD_BATCHES, _PAYMENTS, _STAFF, _HEALTH_CHECKS)
)
_LEDGER_WRITES = (
    calls.CHARGE_ITEMS,
    calls.CHARGE_ITEMS_ONCE,
    calls.RECORD_CREDIT,
    calls.PROCESS_PAYMENT_EVENT,
)
CHARGE_KEY = 5  # the place of its idempotency key in a charge
_KEY_USE_INTERVAL = 5.0
_PARTITION_INTERVAL = 6 * 3600.0
_MOST_ROWS_MOVED = 100_000  # within a statement's time; more are left to the next deploy
_FIGURES_INTERVAL = 60.0
_QUEUES_INTERVAL = 1.0
_WRITING_INTERVAL = 1.0
_MOST_KNOWN = 1000  # accounts with wrong books that are looked at again and again


class ErrorWording(NamedTuple):
    """A row of billing.errors: the HTTP status and wording of a refusal."""

    status: int
    message: str


class Gateway:
    """All database calls of one process, whose items have these `fields`, by the name of their type
    in the database. End it with `close`."""

    def __init__(
        self,
        config: ServeConfig,
        fields: Mapping[str, Sequence[str]],
        *,
        announce_rights: bool = False,
    ) -> None:
        self._fields = fields
        self._pool = _pool(config, config.database_url, _POOL_SIZE, announce_rights=announce_rights)
        self._replica: Replica | None = None
        if config.read_url is not None:
            self._replica = Replica(
                _pool(config, config.read_url, _REPLICA_READS + 1, read_only=True),
                self._position_of_primary,
                max_lag=config.read_max_lag,
            )
        self._replica_reads = Track(_REPLICA_READS, config.max_queue)
        self._max_queue = config.max_queue
        self._watch_interval = config.watch_interval
        self._patience = config.lock_timeout
        self._reads = Track(_READS, config.max_queue)
        self._writes = Track(_WRITES, config.max_queue)
        self._batches = Track(_BATCHES, config.max_queue)
        self._held_batches = Track(_HELD_BATCHES, config.max_queue)
        self._payments = Track(_PAYMENTS, config.max_queue)
        self._staff = Track(_STAFF, config.max_queue)
        self._health_checks = Track(_HEALTH_CHECKS, config.max_queue)
        self._checks = self._lane(calls.CHECK_ITEM, _always)
        self._charges = self._lane(calls.CHARGE_ITEM, _has_key)
        self._lines: dict[str, Lane | Track] = {
            "checks": self._checks,
            "charges": self._charges,
            "reads": self._reads,
            "writes": self._writes,
            "batches": self._batches,
            "held_batches": self._held_batches,
            "payments": self._payments,
            "staff": self._staff,
        }
        self._could_write_at = -_WRITING_INTERVAL
        self._could_not_write_since: float | None = None
        self._mismatched: list[UUID] = []
        self._key_uses: dict[UUID, tuple[datetime, str | None]] = {}
        self._background: list[asyncio.Task[None]] = []
        self._wordings: dict[str, ErrorWording] = {}

    # Opening and closing

    async def compare_with_database(self) -> None:
        """Raises SchemaMismatch when the database does not fit this release, Unavailable when it
        cannot be asked."""
        functions = await self._query(calls.KNOWN_FUNCTIONS)
        types = await self._query(calls.KNOWN_TYPES)
        calls.compare_with_database(functions, types, self._fields)
        await self._read_wordings()

    def start_background_work(self) -> None:
        """Starts recording key uses, making coming audit partitions, and what the alarms need."""
        metrics.DB_CONNECTIONS_MAX.set(_POOL_SIZE)
        metrics.DB_QUEUE_MAX.set(self._max_queue)
        for kind in self._lines:
            metrics.DB_REQUESTS_WAITING.labels(kind).set(0)
        for work, interval in (
            (self._record_key_uses, _KEY_USE_INTERVAL),
            (self._create_partitions, _PARTITION_INTERVAL),
            (self._refresh_figures, _FIGURES_INTERVAL),
            (self._watch_queues, _QUEUES_INTERVAL),
            (self._watch_books, self._watch_interval),
        ):
            self._background.append(asyncio.create_task(_repeat(work, interval)))
        if self._replica is not None:
            self._background.append(asyncio.create_task(self._replica.watch()))

    async def close(self) -> None:
        """Finishes what is in flight, records the last key uses, closes the connections."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._checks.drain()
        await self._charges.drain()
        with contextlib.suppress(Unavailable, Refused, DatabaseFault):
            await self._record_key_uses()
        await self._pool.close()
        if self._replica is not None:
            await self._replica.pool.close()

    # Checks and charges, collected into batches

    def check_credit(self, item: Item) -> Awaitable[Row]:
        """May this user go on? A row of billing.check_items; its outcome is 'checked' or the
        slug of a refusal."""
        return telemetry.collected_call(calls.CHECK_ITEMS, item, self._checks.submit)

    def create_charge(self, item: Item) -> Awaitable[Row]:
        """This user used one. A row of billing.charge_items with its outcome."""
        return telemetry.collected_call(calls.CHARGE_ITEMS, item, self._charges.submit)

    def create_charges(self, items: Sequence[Item]) -> Awaitable[list[Row]]:
        """Several charges of one request, decided in their order; a row each."""
        return telemetry.collected_call(calls.CHARGE_ITEMS, items, self._charges.submit_together)

    async def create_charges_once(
        self,
        items: Sequence[Item],
        idempotency_key: str,
        request_fingerprint: bytes,
        batch_fingerprint: bytes,
    ) -> list[Row]:
        """Several charges of one request, as a whole once per key for the API key and those it was
        rotated from or to; a row each, with `replayed`. For the fingerprints see
        billing.charge_items_once. Raises Refused (idempotency_key_reused)."""
        whole = (idempotency_key, request_fingerprint, items, batch_fingerprint)
        deadline = asyncio.get_running_loop().time() + self._patience
        blame = Blame(self._patience)
        track, pause, wait = self._batches, _BATCH_PAUSE, None
        while True:
            async with track.slot():
                rows = await self._try_batch(*whole, wait)
            if rows is not None:
                return sorted(rows, key=lambda row: row["item"])
            # Nothing was done. It waits here, where it holds neither an account nor a slot, and
            # tries again where it is in nobody's way but of others that wait like it.
            if asyncio.get_running_loop().time() > deadline:
                async with track.slot():
                    holders = await self._holders(*zip(*(item[:2] for item in items), strict=True))
                if blame.falls_on(holders):
                    raise Busy("an account of the batch is held by another transaction")
                wait = _lock_timeout(self._patience / 2)  # our own calls let it have its turn
            track = self._held_batches
            await track.pause(pause)
            pause = min(2 * pause, _LONGEST_BATCH_PAUSE)

    async def _try_batch(self, *arguments: Any) -> list[Row] | None:
        """None when an account is held."""
        try:
            rows = await self._call(calls.CHARGE_ITEMS_ONCE, *arguments)
        except Busy:
            return None
        return None if rows and rows[0]["outcome"] == "busy" else rows

    # Everything else, one call a request

    async def record_credit(self, *arguments: Any) -> Row:
        """Adds paid credits; arguments as in calls.RECORD_CREDIT. A row with its outcome."""
        async with self._writes.for_account(arguments[:2]):
            return (await self._call(calls.RECORD_CREDIT, *arguments))[0]

    async def create_account(self, *arguments: Any) -> Row:
        """Finds or creates an account; arguments as in calls.CREATE_ACCOUNT."""
        async with self._writes.for_account(arguments[:2]):
            return (await self._call(calls.CREATE_ACCOUNT, *arguments))[0]

    async def get_account(self, oauth_provider: str, external_id: str, api_key_id: UUID) -> Row:
        """Reads an account. Raises Refused (account_not_found)."""
        return (await self._read(calls.GET_ACCOUNT, oauth_provider, external_id, api_key_id))[0]

    async def list_transactions(self, *arguments: Any) -> list[Row]:
        """One page of an account's history; arguments as in calls.LIST_TRANSACTIONS. Raises Refused
        (invalid_argument) for a cursor of another account."""
        if self._replica is not None and self._replica.usable:
            # The primary says whether the key is good: a revocation holds from the next request on,
            # however far the replica is behind. So does it whether a cursor is: the replica may not
            # have heard of the entry yet.
            await self.require_api_key(arguments[-1], "billing:read")
            rows = await self._read_behind(calls.LIST_TRANSACTIONS, *arguments)
            if rows is not None:
                return rows
        return await self._read(calls.LIST_TRANSACTIONS, *arguments)

    async def begin_purchase(self, *arguments: Any) -> Row:
        """Offers a pack; arguments as in calls.BEGIN_PURCHASE. Raises Refused
        (payment_provider_not_configured, idempotency_key_reused)."""
        async with self._writes.for_account(arguments[:2]):
            return _opened((await self._call(calls.BEGIN_PURCHASE, *arguments))[0])

    async def attach_payment(
        self,
        account_id: UUID,
        purchase_id: UUID,
        payment_id: str,
        payment_status: str,
        api_key_id: UUID,
    ) -> Row:
        """Records the payment of a purchase; gives the one that was recorded first."""
        async with self._writes.for_account((account_id,)):
            rows = await self._call(
                calls.ATTACH_PAYMENT,
                account_id,
                purchase_id,
                payment_id,
                payment_status,
                api_key_id,
            )
        return rows[0]

    async def find_purchase(self, payment_id: str, api_key_id: UUID) -> Row:
        """What is known of a payment: purchase_id is None when nothing is."""
        return _opened((await self._read(calls.FIND_PURCHASE, payment_id, api_key_id))[0])

    async def get_provider_config(self, provider_type: str) -> Row | None:
        """A payment provider's stored configuration, None when there is none."""
        rows = await self._read(calls.GET_PROVIDER_CONFIG, provider_type)
        return _opened(rows[0]) if rows else None

    async def process_payment_event(self, *arguments: Any) -> Row:
        """Stores an event with its effect; arguments as in calls.PROCESS_PAYMENT_EVENT. Events of
        one payment come one after the other."""
        payment = arguments[5] or arguments[0]
        async with self._payments.for_account((payment,)):
            return (await self._call(calls.PROCESS_PAYMENT_EVENT, *arguments))[0]

    # Staff, in the browser and by their scripts

    async def staff(
        self,
        call: FunctionCall,
        session_hash: bytes,
        client: tuple[str, str],
        **arguments: Any,
    ) -> list[Row]:
        """Calls a function for the staff member whose session or bearer token has this hash, which
        the function looks up; `arguments` by the names in calls.py, without p_.
        The audit log learns `client`, the browser's address and name. Raises Refused."""
        named = {**arguments, "session_hash": session_hash}
        values = [named.pop(name.removeprefix("p_")) for name in call.arguments]
        if named:
            raise TypeError(f"billing.{call.name} takes no {', '.join(named)}")
        # What is shown of one account stands beside the buttons that change it: no old news there.
        # The guard has just asked the primary whether the staff member still is one.
        if call in calls.MAY_BE_STALE and arguments.get("account_id") is None:
            rows = await self._read_behind(call, *values)
            if rows is not None:
                return rows
        async with self._staff.slot():
            return await self._call(call, *values, client=client)

    async def sign_in(
        self, call: FunctionCall, *arguments: Any, client: tuple[str, str] | None = None
    ) -> Row | None:
        """A call that signing in or out makes, before there is anybody to name; `client` is the
        browser's address and name, for the audit log."""
        async with self._staff.slot():
            rows = await self._call(call, *arguments, client=client)
        return rows[0] if rows else None

    async def find_api_key(self, key_prefix: str) -> Row | None:
        """The key with this prefix, its Argon2id hash, and whether calls name it by its SHA-256;
        None when there is none."""
        rows = await self._read(calls.FIND_API_KEY, key_prefix)
        return rows[0] if rows else None

    async def require_api_key(self, api_key_id: UUID, permission: str) -> None:
        """Raises Refused unless the key is good for the permission right now."""
        await self._read(calls.REQUIRE_API_KEY, api_key_id, permission)

    async def retire_expired_api_key(self, api_key_id: UUID) -> None:
        """Marks a key that has expired revoked."""
        async with self._writes.slot():
            await self._call(calls.RETIRE_EXPIRED_API_KEY, api_key_id)

    async def get_schema_version(self) -> str:
        """The newest migration step of the database."""
        async with self._health_checks.slot():
            rows = await self._call(calls.GET_SCHEMA_VERSION)
        return str(rows[0]["get_schema_version"])

    async def try_writing(self) -> None:
        """Raises Unavailable when the database cannot take a charge. It is asked once a second at
        most. Whoever holds a table for a moment, as a migration does, makes charges wait, and so
        makes nothing unhealthy before they would be refused."""
        now = asyncio.get_running_loop().time()
        if now < self._could_write_at + _WRITING_INTERVAL:
            return
        try:
            async with self._health_checks.slot():
                await self._call(calls.TRY_WRITING)
        except Busy:
            self._could_not_write_since = self._could_not_write_since or now
            if now > self._could_not_write_since + self._patience:
                raise
        else:
            self._could_not_write_since = None
            self._could_write_at = now

    def note_key_use(self, api_key_id: UUID, address: str | None) -> None:
        """Remembers that a key was used now, from `address`; recorded every few seconds."""
        self._key_uses[api_key_id] = (datetime.now(UTC), address)

    async def wording(self, slug: str) -> ErrorWording:
        """The status and message template of a refusal, from billing.errors."""
        if slug not in self._wordings:
            await self._read_wordings()
        return self._wordings[slug]

    # Inside

    def _lane(self, item: ItemType, repeatable: Callable[[Item], bool]) -> Lane:
        call, single_call = item.call, item.single_call(self._fields[item.name])

        async def send(items: Sequence[Item], wait: float | None) -> list[Row]:
            telemetry.note_sent(items)
            if wait is None and len(items) == 1:
                rows = await self._call(single_call, *items[0], kept_for=call.label)
                if rows:
                    return rows
            patience = None if wait is None else _lock_timeout(wait)
            return await self._call(call, items, patience, kept_for=call.label)

        async def holder_of(account: tuple[Any, ...]) -> str | None:
            return await self._holders(account[:1], account[1:])

        return Lane(
            send,
            holder_of,
            repeatable=repeatable,
            flights=_LANE_FLIGHTS,
            waiters=_WAITERS,
            max_queue=self._max_queue,
            patience=self._patience,
        )

    async def _holders(self, *identities: Sequence[str]) -> str | None:
        """See billing.get_account_holders."""
        try:
            rows = await self._call(calls.GET_ACCOUNT_HOLDERS, *identities)
        except Busy:  # one changes hands right now
            return None
        except (Unavailable, DatabaseFault):
            return OTHERS
        holders: str | None = rows[0]["get_account_holders"]
        return holders

    async def _read(self, call: FunctionCall, *arguments: Any) -> list[Row]:
        async with self._reads.slot():
            return await self._call(call, *arguments)

    async def _read_behind(self, call: FunctionCall, *arguments: Any) -> list[Row] | None:
        """Rows of the replica; None when there is none that can be asked now."""
        replica = self._replica
        if replica is None or not replica.usable:
            return None
        async with self._replica_reads.slot():
            if not replica.usable:  # any more: those before us found out
                return None
            return await replica.attempt(self._call(call, *arguments, pool=replica.pool))

    async def _position_of_primary(self) -> Row:
        async with self._health_checks.slot(), self._pool.connection() as connection:
            row: Row = (await self._pool.fetch(connection, PRIMARY_POSITION))[0]
            return row

    @telemetry.database_call
    async def _call(
        self,
        call: FunctionCall,
        *arguments: Any,
        client: tuple[str, str] | None = None,
        pool: Pool | None = None,
        kept_for: str | None = None,
    ) -> list[Row]:
        pool = pool or self._pool
        connection = await pool.take(kept_for)
        try:
            for _ in range(_ATTEMPTS - 1):
                try:
                    return await self._run(pool, connection, call, *arguments, client=client)
                except asyncpg.PostgresError as error:
                    if not is_retryable(error):
                        raise
                    if met_a_deploy(error):
                        await asyncio.sleep(_DEPLOY_PAUSE)
            return await self._run(pool, connection, call, *arguments, client=client)
        except asyncpg.PostgresError as error:
            raise translate(error) from None
        finally:
            pool.put_back(connection)

    async def _run(
        self,
        pool: Pool,
        connection: Connection,
        call: FunctionCall,
        *arguments: Any,
        client: tuple[str, str] | None = None,
    ) -> list[Row]:
        metrics.DB_CONNECTIONS_ACTIVE.set(self._pool.in_use)
        try:
            if client is None:
                rows = await pool.fetch(connection, call.sql, *arguments)
            else:
                rows = await pool.fetch_for(connection, client, call.sql, *arguments)
        except asyncpg.PostgresError as error:
            refused = (error.sqlstate or "").startswith("PB")
            metrics.count_query(call.label, "refused" if refused else "error")
            raise
        except ConnectionLost:
            metrics.count_query(call.label, "error")
            if call in _LEDGER_WRITES:
                metrics.write_verified("unknown").inc()
            raise
        finally:
            metrics.DB_CONNECTIONS_ACTIVE.set(self._pool.in_use - 1)
        metrics.count_query(call.label, "success")
        return rows

    async def _query(self, sql: str) -> list[Row]:
        """The rows of a statement that calls no billing function."""
        try:
            async with self._pool.connection() as connection:
                return await self._pool.fetch(connection, sql)
        except asyncpg.PostgresError as error:
            raise translate(error) from None

    async def _read_wordings(self) -> None:
        rows = await self._query("SELECT e.slug, e.http_status, e.message FROM billing.errors AS e")
        self._wordings = {
            row["slug"]: ErrorWording(row["http_status"], row["message"]) for row in rows
        }

    async def _record_key_uses(self) -> None:
        if not self._key_uses:
            return
        uses, self._key_uses = self._key_uses, {}
        used_at = [at for at, _ in uses.values()]
        used_from = [address for _, address in uses.values()]
        async with self._writes.slot():
            await self._call(calls.RECORD_API_KEY_USE, list(uses), used_at, used_from)

    async def _refresh_figures(self) -> None:
        async with self._staff.slot():
            await self._call(calls.REFRESH_FIGURES)

    async def _watch_queues(self) -> None:
        for kind, line in self._lines.items():
            metrics.DB_REQUESTS_WAITING.labels(kind).set(line.waiting)

    async def _watch_books(self) -> None:
        """Every process of every server does so: it costs milliseconds, and none of them has to be
        there for the others."""
        async with self._staff.slot():
            row = (await self._call(calls.WATCH_BOOKS, self._mismatched))[0]
        new = len(row["mismatched"]) > len(self._mismatched)
        self._mismatched = row["mismatched"][:_MOST_KNOWN]
        if new:
            _LOG.error("the books of %d accounts do not agree: run verify", len(row["mismatched"]))
        if row["guard_faults"]:
            _LOG.error("%d guards of the books are not in force: run verify", row["guard_faults"])
        metrics.LEDGER_MISMATCHES.set(len(row["mismatched"]) + row["guard_faults"])
        metrics.PAYMENT_PROBLEMS.set(row["payment_problems"])
        metrics.LEDGER_CHECKED.set_to_current_time()

    async def _create_partitions(self) -> None:
        async with self._writes.slot():
            await self._call(calls.CREATE_CHECK_PARTITIONS, 2, _MOST_ROWS_MOVED)


def _pool(config: ServeConfig, dsn: str, size: int, **options: bool) -> Pool:
    kind = TransactionPool if config.pooler == "transaction" else Pool
    return kind(
        dsn,
        size,
        connect_timeout=config.connect_timeout,
        statement_timeout=config.statement_timeout,
        lock_timeout=config.lock_timeout,
        **options,
    )


def _always(item: Item) -> bool:
    """A check consumes nothing: a second one only leaves a second audit row."""
    return True


def _has_key(item: Item) -> bool:
    """With an idempotency key a charge that took effect is recognised, not made again."""
    return item[CHARGE_KEY] is not None


def _lock_timeout(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms"


def _opened(row: Row) -> dict[str, Any]:
    """The row with its configuration, which arrives as JSON text, taken apart."""
    return {**dict(row), "config_data": orjson.loads(row["config_data"])}


async def _repeat(work: Any, interval: float) -> None:
    """Runs `work` every `interval` seconds for ever; a failure is logged, the next round tries."""
    while True:
        await asyncio.sleep(interval)
        try:
            await work()
        except (Unavailable, Refused, DatabaseFault) as error:
            _LOG.warning("background work %s failed: %s", work.__name__, type(error).__name__)
