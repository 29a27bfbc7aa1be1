"""Connections through a pooler in transaction mode (PgBouncer). Each transaction may meet another
server connection, so nothing lasts beyond it: the role and the settings are given in its first
message, and no statement stays prepared."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from server.gateway.errors import ConnectionLost, RightsMissing, Unavailable
from server.gateway.pool import BROKEN, SET_CLIENT, WEB_ROLE, Connection, Pool

_NO_SUCH_ROLE = ("42501", "22023")
_BEGIN_PATIENCE = 2.0  # after that many seconds the pooler has no server connection for us


class TransactionPool(Pool):
    """A Pool whose every call is a transaction: four round trips where a connection of one's own
    needs one."""

    connect_options = {"statement_cache_size": 0}
    _begin = ""

    def session_settings(self, settings: dict[str, str]) -> dict[str, str]:
        """A pooler refuses settings it does not know when one connects; they go with each
        transaction."""
        given = dict(settings)
        name = given.pop("application_name")
        isolation = given.pop("default_transaction_isolation")
        self._begin = "; ".join(
            [
                f"BEGIN ISOLATION LEVEL {isolation.upper()}",
                f"SET LOCAL ROLE {WEB_ROLE}",
                *(f"SET LOCAL {setting} = '{value}'" for setting, value in given.items()),
            ]
        )
        return {"application_name": name}

    async def fetch(self, connection: Connection, sql: str, *arguments: Any) -> list[Any]:
        """As Pool.fetch, in a transaction of its own."""
        return await self._transact(connection, None, sql, *arguments)

    async def fetch_for(
        self, connection: Connection, client: tuple[str, str], sql: str, *arguments: Any
    ) -> list[Any]:
        """As Pool.fetch_for."""
        return await self._transact(connection, client, sql, *arguments)

    async def give_rights_away(self, connection: Connection) -> None:
        """Every transaction does; this finds out at connect whether it can."""
        rows = await self.fetch(
            connection, "SELECT pg_has_role(session_user, 'billing_dba', 'MEMBER') AS stronger"
        )
        self.announce(rows[0]["stronger"])

    async def _transact(
        self, connection: Connection, client: tuple[str, str] | None, sql: str, *arguments: Any
    ) -> list[Any]:
        await self._open_transaction(connection)
        try:
            if client is not None:
                await connection.execute(SET_CLIENT, *client, timeout=self.patience)
            rows = await super().fetch(connection, sql, *arguments)
            await connection.execute("COMMIT", timeout=self.patience)
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "").startswith("08"):  # the pooler lost its server connection
                connection.terminate()
                raise ConnectionLost(f"the connection broke (SQLSTATE {error.sqlstate})") from error
            await self._undo(connection)
            raise
        except BROKEN as error:
            connection.terminate()
            raise ConnectionLost(f"the connection broke: {type(error).__name__}") from error
        except BaseException:
            connection.terminate()  # cancelled, or lost already: the pooler undoes what was begun
            raise
        return rows

    async def _open_transaction(self, connection: Connection) -> None:
        """Nothing was asked yet: when this fails, nothing took effect."""
        try:
            await connection.execute(self._begin, timeout=_BEGIN_PATIENCE)
        except asyncpg.PostgresError as error:
            connection.terminate()
            if error.sqlstate in _NO_SUCH_ROLE:
                raise RightsMissing(
                    f"the login cannot become {WEB_ROLE} (SQLSTATE {error.sqlstate})",
                    retry_after=5,
                ) from error
            raise Unavailable(f"no transaction begins (SQLSTATE {error.sqlstate})") from error
        except BROKEN as error:
            connection.terminate()
            raise Unavailable(f"no transaction begins: {type(error).__name__}") from error
        except asyncio.CancelledError:
            connection.terminate()
            raise

    async def _undo(self, connection: Connection) -> None:
        try:
            await connection.execute("ROLLBACK", timeout=self.patience)
        except (*BROKEN, asyncpg.PostgresError):
            connection.terminate()  # which undoes it as well
        except asyncio.CancelledError:
            connection.terminate()
            raise
