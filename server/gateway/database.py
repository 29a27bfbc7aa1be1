"""Makes calls on the connections of one database: retries a call that the database undid, counts
calls, and translates errors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from server.config import ServeConfig
from server.gateway.call import FunctionCall, Row, Statement
from server.gateway.errors import ConnectionLost, Meaning, meaning_of, translate
from server.gateway.opener import Connection
from server.gateway.pool import Pool
from server.gateway.pooler import TransactionPool
from server.gateway.refusals import is_refusal
from server.observe import metrics, telemetry

_ATTEMPTS = 4  # for a call that a deadlock, a serialization failure or a deploy undid
_DEPLOY_PAUSE = 0.02
# Labels of the calls that write to the ledger.
_LEDGER_WRITES = frozenset(
    {
        "capture_holds",
        "create_charges",
        "create_charges_once",
        "process_payment_event",
        "record_credit",
        "settle_once",
    }
)


class Database:
    """The database at `url`, on at most `size` connections. For `announce_rights` and `read_only`
    see Pool."""

    def __init__(
        self,
        config: ServeConfig,
        url: str,
        size: int,
        *,
        announce_rights: bool = False,
        read_only: bool = False,
    ) -> None:
        kind = TransactionPool if config.pooler == "transaction" else Pool
        self.pool = kind(
            url,
            size,
            connect_timeout=config.connect_timeout,
            statement_timeout=config.statement_timeout,
            lock_timeout=config.lock_timeout,
            announce_rights=announce_rights,
            read_only=read_only,
        )
        self._is_replica = read_only

    async def call(self, call: FunctionCall, *, client: tuple[str, str] | None = None) -> list[Row]:
        """Returns the rows of a call. `client`, the browser's address and name, goes to the audit
        log."""
        return await self.run(call.statement, tuple(call.arguments.values()), client=client)

    @telemetry.database_call
    async def run(
        self,
        statement: Statement,
        values: Sequence[Any],
        *,
        client: tuple[str, str] | None = None,
        kept_for: str | None = None,
    ) -> list[Row]:
        """Returns the rows of a statement. `kept_for` names the user on whose own connections it
        runs; see Pool. Raises Refused, Unavailable or DatabaseFault."""
        connection = await self.pool.take(kept_for)
        try:
            for _ in range(_ATTEMPTS - 1):
                try:
                    return await self._attempt(connection, statement, values, client)
                except asyncpg.PostgresError as error:
                    meaning = meaning_of(error)
                    if meaning is Meaning.REPLACED:
                        await asyncio.sleep(_DEPLOY_PAUSE)
                    elif meaning is not Meaning.AGAIN:
                        raise
            return await self._attempt(connection, statement, values, client)
        except asyncpg.PostgresError as error:
            raise translate(error) from None
        finally:
            self.pool.put_back(connection)

    async def query(self, sql: str) -> list[Row]:
        """Returns the rows of a statement that calls no billing function."""
        try:
            async with self.pool.connection() as connection:
                return await self.pool.fetch(connection, sql)
        except asyncpg.PostgresError as error:
            raise translate(error) from None

    async def _attempt(
        self,
        connection: Connection,
        statement: Statement,
        values: Sequence[Any],
        client: tuple[str, str] | None,
    ) -> list[Row]:
        self._count_connections(self.pool.in_use)
        try:
            if client is None:
                rows = await self.pool.fetch(connection, statement.sql, *values)
            else:
                rows = await self.pool.fetch_for(connection, client, statement.sql, *values)
        except asyncpg.PostgresError as error:
            metrics.count_query(statement.label, "refused" if is_refusal(error) else "error")
            raise
        except ConnectionLost:
            metrics.count_query(statement.label, "error")
            if statement.label in _LEDGER_WRITES:
                metrics.write_verified("unknown").inc()
            raise
        finally:
            self._count_connections(self.pool.in_use - 1)
        metrics.count_query(statement.label, "success")
        return rows

    def _count_connections(self, in_use: int) -> None:
        if not self._is_replica:
            metrics.DB_CONNECTIONS_ACTIVE.set(in_use)
