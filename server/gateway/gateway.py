"""The Gateway: it chooses the slots and connections of each kind of call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from server.config import ServeConfig
from server.gateway import functions
from server.gateway.background import BackgroundWork
from server.gateway.batcher import Batcher, Turns
from server.gateway.call import FunctionCall, Item, Row
from server.gateway.database import Database
from server.gateway.errors import Busy
from server.gateway.holders import holders_of
from server.gateway.items import (
    CAPTURE_ITEM,
    CHARGE_ITEM,
    CHARGE_KEY,
    CHECK_ITEM,
    HOLD_ITEM,
    HOLD_KEY,
    ItemType,
    lock_timeout,
)
from server.gateway.keyed_batches import KeyedBatches
from server.gateway.processor import Processor
from server.gateway.refusals import Refusals, Refused
from server.gateway.replica import PRIMARY_POSITION, Replica
from server.gateway.schema_check import KNOWN_FUNCTIONS, KNOWN_TYPES, compare_with_database
from server.gateway.slots import Slots
from server.observe import metrics, telemetry

# How many calls of each kind run at once. Each kind has its own connections, whatever the others
# wait for.
_SLOTS = {
    "reads": 3,
    "writes": 3,
    "batches": 2,
    "held_batches": 2,
    "payments": 2,
    "staff": 2,
    "health_checks": 1,
}
_MAX_IN_FLIGHT = 2  # batches of checks, and of charges, of holds and of captures
# Calls of a kind that wait for a lock, and one call more for all other held accounts.
_MAX_LOCK_WAITS = {CHECK_ITEM: 3, CHARGE_ITEM: 3, HOLD_ITEM: 1, CAPTURE_ITEM: 1}
_BATCHERS = sum(_MAX_IN_FLIGHT + waits + 1 for waits in _MAX_LOCK_WAITS.values())
_POOL_SIZE = _BATCHERS + sum(_SLOTS.values())
_REPLICA_READS = 4  # on the replica, where one more connection watches it
_WRITING_INTERVAL = 1.0

# Functions that a replica may answer a few seconds late: they write nothing. For staff they are
# lists and figures that every staff member may see; the guard has just asked the primary whether
# the caller is still staff.
_STALE_FOR_AGENTS = frozenset((functions.list_transactions,))
_STALE_FOR_STAFF = frozenset(
    (
        functions.get_overview,
        functions.list_daily_figures,
        functions.list_accounts,
        functions.list_purchases,
        functions.list_checks,
        functions.list_audit_log,
    )
)


class Gateway:
    """All database calls of one process. Its items have these `fields`, by the name of their type
    in the database. Create it where an event loop runs, and end it with `close`."""

    def __init__(
        self,
        config: ServeConfig,
        fields: Mapping[str, Sequence[str]],
        *,
        announce_rights: bool = False,
    ) -> None:
        self._fields = fields
        self._max_queue = config.max_queue
        self._timeout = config.lock_timeout
        self._database = Database(
            config, config.database_url, _POOL_SIZE, announce_rights=announce_rights
        )
        self._refusals = Refusals(self._database.query)
        self._slots = {kind: Slots(size, config.max_queue) for kind, size in _SLOTS.items()}
        self._replica_reads = Slots(_REPLICA_READS, config.max_queue)
        self._replica: Replica | None = None
        if config.read_url is not None:
            self._replica = Replica(
                Database(config, config.read_url, _REPLICA_READS + 1, read_only=True),
                self._position_of_primary,
                max_lag=config.read_max_lag,
            )
        self._processor = Processor()
        self._checks = self._batcher(CHECK_ITEM, _always)
        self._charges = self._batcher(CHARGE_ITEM, lambda item: item[CHARGE_KEY] is not None)
        turns = Turns()
        self._holds = self._batcher(HOLD_ITEM, lambda item: item[HOLD_KEY] is not None, turns)
        self._captures = self._batcher(CAPTURE_ITEM, _always, turns)
        self._keyed_batches = KeyedBatches(
            self._database,
            self._slots["batches"],
            self._slots["held_batches"],
            timeout=config.lock_timeout,
        )
        self._background = BackgroundWork(
            self._database,
            writes=self._slots["writes"],
            staff=self._slots["staff"],
            queues={
                "checks": self._checks,
                "charges": self._charges,
                "holds": self._holds,
                "captures": self._captures,
                **{kind: slots for kind, slots in self._slots.items() if kind != "health_checks"},
            },
            watch_interval=config.watch_interval,
        )
        self._could_write_at = -_WRITING_INTERVAL
        self._could_not_write_since: float | None = None

    # Opening and closing

    async def compare_with_database(self) -> None:
        """Raises SchemaMismatch when the database does not fit this release, Unavailable when it
        does not answer."""
        known_functions = await self._database.query(KNOWN_FUNCTIONS)
        known_types = await self._database.query(KNOWN_TYPES)
        compare_with_database(known_functions, known_types, self._fields)
        await self._refusals.read()

    def start_background_work(self) -> None:
        """Starts BackgroundWork and the watch of the replica."""
        metrics.DB_CONNECTIONS_MAX.set(_POOL_SIZE)
        metrics.DB_QUEUE_MAX.set(self._max_queue)
        self._background.start()
        if self._replica is not None:
            self._background.add(self._replica.watch())

    async def close(self) -> None:
        """Finishes what is in flight, records the last key uses, closes the connections."""
        await self._background.stop()
        for batcher in (self._checks, self._charges, self._holds, self._captures):
            await batcher.drain()
        await self._background.record_last_key_uses()
        await self._database.pool.close()
        if self._replica is not None:
            await self._replica.database.pool.close()

    # Checks and charges, collected into batches

    def check_credit(self, item: Item) -> Awaitable[Row]:
        """Asks whether this user may go on. Awaits a row of billing.check_items; its outcome is
        'checked' or the slug of a refusal."""
        return telemetry.collected_call(CHECK_ITEM, item, self._checks.submit)

    def create_charge(self, item: Item) -> Awaitable[Row]:
        """Charges this user for one use. Awaits a row of billing.charge_items with its outcome."""
        return telemetry.collected_call(CHARGE_ITEM, item, self._charges.submit)

    def create_charges(self, items: Sequence[Item]) -> Awaitable[list[Row]]:
        """Makes several charges of one request, decided in their order. Awaits a row for each."""
        return telemetry.collected_call(CHARGE_ITEM, items, self._charges.submit_together)

    async def create_charges_once(
        self,
        items: Sequence[Item],
        idempotency_key: str,
        request_fingerprint: bytes,
        batch_fingerprint: bytes,
    ) -> list[Row]:
        """Makes several charges of one request, which take effect as a whole, once per
        Idempotency-Key of the API key and the keys it was rotated from or to. Returns a row for
        each, with `replayed`. For the fingerprints see billing.charge_items_once. Raises Refused
        (idempotency_key_reused)."""
        return await self._keyed_batches.send(
            items, idempotency_key, request_fingerprint, batch_fingerprint
        )

    async def settle_once(
        self,
        items: Sequence[Item],
        captures: Sequence[Item],
        idempotency_key: str,
        fingerprint: bytes,
    ) -> tuple[list[Row], list[Row], bool]:
        """Captures holds and makes charges of one request, as create_charges_once does. Returns a
        row for each charge, a row for each capture, and whether it is the first answer again.
        Raises Refused (idempotency_key_reused)."""
        return await self._keyed_batches.settle(items, captures, idempotency_key, fingerprint)

    # Holds and captures, collected into batches too

    def create_hold(self, item: Item) -> Awaitable[Row]:
        """Holds credits for a use of at most so much. Awaits a row of billing.hold_items with its
        outcome."""
        return telemetry.collected_call(HOLD_ITEM, item, self._holds.submit)

    def capture_hold(self, item: Item) -> Awaitable[Row]:
        """Captures what was used of a hold. Awaits a row of billing.capture_items with its
        outcome."""
        return telemetry.collected_call(CAPTURE_ITEM, item, self._captures.submit)

    def capture_holds(self, items: Sequence[Item]) -> Awaitable[list[Row]]:
        """Makes several captures of one request, decided in their order. Awaits a row for each."""
        return telemetry.collected_call(CAPTURE_ITEM, items, self._captures.submit_together)

    # Other calls of agents and of the payment provider, one a request

    async def read(self, call: FunctionCall) -> list[Row]:
        """Returns the rows of a call that writes nothing. Raises Refused."""
        if call.function in _STALE_FOR_AGENTS and self._replica_is_usable():
            # The primary decides whether the key is valid, so that a revocation holds from the next
            # request on, however late the replica is. What the replica refuses is asked of the
            # primary too: the replica may not have received the entry yet that a cursor names.
            await self.require_api_key(call.arguments["api_key_id"], "billing:read")
            rows = await self._read_replica(call)
            if rows is not None:
                return rows
        async with self._slots["reads"].slot():
            return await self._database.call(call)

    async def write(self, call: FunctionCall) -> Row:
        """Returns the row of a call that writes to the account in its arguments. Calls for one
        account, or about one charge, run one after the other. Raises Refused."""
        async with self._slots["writes"].for_account(_account_of(call)):
            return (await self._database.call(call))[0]

    async def process_payment_event(self, call: FunctionCall) -> Row:
        """Returns the row of billing.process_payment_event. Events of one payment run one after the
        other."""
        payment = call.arguments.get("payment_id") or call.arguments["event_id"]
        async with self._slots["payments"].for_account((payment,)):
            return (await self._database.call(call))[0]

    async def work(self, call: FunctionCall) -> list[Row]:
        """Returns the rows of a call of background work, which is for no request."""
        async with self._slots["payments"].slot():
            return await self._database.call(call)

    async def find_api_key(self, key_prefix: str) -> Row | None:
        """Returns the key with this prefix, its Argon2id hash, and whether calls name it by its
        SHA-256; None when no key has this prefix."""
        rows = await self.read(functions.find_api_key(key_prefix=key_prefix))
        return rows[0] if rows else None

    async def require_api_key(self, api_key_id: UUID, permission: str) -> None:
        """Raises Refused unless the key is good for the permission right now."""
        await self.read(functions.require_api_key(api_key_id=api_key_id, permission=permission))

    async def retire_expired_api_key(self, api_key_id: UUID) -> None:
        """Marks a key that has expired as revoked."""
        async with self._slots["writes"].slot():
            await self._database.call(functions.retire_expired_api_key(api_key_id=api_key_id))

    def note_key_use(self, api_key_id: UUID, address: str | None) -> None:
        """Notes that a key was used now, from `address`. Uses are recorded every few seconds."""
        self._background.note_key_use(api_key_id, address)

    async def refused(self, slug: str, values: Mapping[str, Any] | None = None) -> Refused:
        """Returns the refusal `slug` of billing.errors. `values` fill the placeholders of its
        wording."""
        return await self._refusals.refused(slug, values or {})

    # Staff, in the browser and by their scripts

    async def staff(
        self, call: FunctionCall, session_hash: bytes, client: tuple[str, str]
    ) -> list[Row]:
        """Returns the rows of a call for the staff member whose session or bearer token has this
        hash, which the function looks up. `client`, the browser's address and name, goes to the
        audit log. Raises Refused."""
        call = call.given(session_hash=session_hash)
        # The figures of one account are shown beside the buttons that change it, so they must be up
        # to date.
        if call.function in _STALE_FOR_STAFF and call.arguments.get("account_id") is None:
            rows = await self._read_replica(call)
            if rows is not None:
                return rows
        async with self._slots["staff"].slot():
            return await self._database.call(call, client=client)

    async def sign_in(
        self, call: FunctionCall, *, client: tuple[str, str] | None = None
    ) -> Row | None:
        """Returns the row of a call that names no staff member, such as signing in or out. For
        `client` see staff."""
        async with self._slots["staff"].slot():
            rows = await self._database.call(call, client=client)
        return rows[0] if rows else None

    async def by_itself(self, call: FunctionCall) -> list[Row]:
        """Returns the rows of a call that the server makes in nobody's name, in the background."""
        async with self._slots["staff"].slot():
            return await self._database.call(call)

    # Health

    async def get_schema_version(self) -> str:
        """Returns the newest migration step of the database."""
        async with self._slots["health_checks"].slot():
            rows = await self._database.call(functions.get_schema_version())
        return str(rows[0]["get_schema_version"])

    async def try_writing(self) -> None:
        """Raises Unavailable when the database cannot take a charge. The database is asked once a
        second at most. A table that is locked for a moment, as by a migration, makes charges wait;
        that is no fault until charges would be refused."""
        now = asyncio.get_running_loop().time()
        if now < self._could_write_at + _WRITING_INTERVAL:
            return
        try:
            async with self._slots["health_checks"].slot():
                await self._database.call(functions.try_writing())
        except Busy:
            self._could_not_write_since = self._could_not_write_since or now
            if now > self._could_not_write_since + self._timeout:
                raise
        else:
            self._could_not_write_since = None
            self._could_write_at = now

    # Helpers

    def _batcher(
        self, item: ItemType, repeatable: Callable[[Item], bool], turns: Turns | None = None
    ) -> Batcher:
        run, user = self._database.run, item.label
        list_statement = item.call.statement()
        single_statement = item.single_statement(self._fields[item.name])

        async def send(items: Sequence[Item], wait: float | None) -> list[Row]:
            telemetry.note_sent(items)
            if single_statement is not None and wait is None and len(items) == 1:
                rows = await run(single_statement, items[0], kept_for=user)
                if rows:
                    return rows
            timeout = None if wait is None else lock_timeout(wait)
            return await run(list_statement, (items, timeout), kept_for=user)

        async def holder_of(account: tuple[Any, ...]) -> str | None:
            return await holders_of(self._database, [account])

        return Batcher(
            send,
            holder_of,
            repeatable=repeatable,
            shares_processor=self._processor.is_shared,
            naming=item.naming,
            max_in_flight=_MAX_IN_FLIGHT,
            max_lock_waits=_MAX_LOCK_WAITS[item],
            max_queue=self._max_queue,
            timeout=self._timeout,
            turns=turns,
        )

    def _replica_is_usable(self) -> bool:
        return self._replica is not None and self._replica.usable

    async def _read_replica(self, call: FunctionCall) -> list[Row] | None:
        """Returns rows of the replica; None when the replica cannot be asked now."""
        replica = self._replica
        if replica is None or not replica.usable:
            return None
        async with self._replica_reads.slot():
            # Calls before this one found the replica unusable while this one waited.
            if not replica.usable:
                return None
            return await replica.attempt(replica.database.call(call))

    async def _position_of_primary(self) -> Row:
        pool = self._database.pool
        async with self._slots["health_checks"].slot(), pool.connection() as connection:
            row: Row = (await pool.fetch(connection, PRIMARY_POSITION))[0]
            return row


def _always(item: Item) -> bool:
    """Every check may be repeated: it consumes nothing, and a second one only leaves a second audit
    row. So may every capture: a hold is captured once, and a repeat gets the first answer. A charge
    or a hold may be repeated if it has an idempotency key."""
    return True


def _account_of(call: FunctionCall) -> tuple[Any, ...]:
    given = call.arguments
    for name in ("account_id", "charge_id", "hold_id"):
        if name in given:
            return (given[name],)
    return given["oauth_provider"], given["external_id"]
