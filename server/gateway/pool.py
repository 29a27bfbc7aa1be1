"""A pool of prepared connections. asyncpg's own pool resets the session on each release, which
costs a round trip per call; here a connection is set up once and used until it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, ClassVar

import asyncpg

from server.gateway.errors import ConnectionLost, RightsMissing, Unavailable

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # not subscriptable when it runs

_LOG = logging.getLogger(__name__)
WEB_ROLE = "billing_server"
_CANNOT_BECOME = frozenset({"42501", "22023", "42704"})
_BEGIN_PATIENCE = 2.0  # BEGIN waits for no lock: after that many seconds nobody is there to do it
# How a connection that breaks shows, beside errors that PostgreSQL sends.
BROKEN = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # how asyncpg may take a connection cut in the middle
)
SET_CLIENT = (
    "SELECT set_config('billing.client_address', $1, true),"
    " set_config('billing.client_agent', $2, true)"
)


class Pool:
    """At most `size` connections, made when needed. Every one has given its rights away to the
    web tier's role; with `announce_rights` the log says so once where that took rights away.
    Times in seconds."""

    connect_options: ClassVar[dict[str, Any]] = {}
    begin = "BEGIN"

    def __init__(
        self,
        dsn: str,
        size: int,
        *,
        connect_timeout: float,
        statement_timeout: float,
        lock_timeout: float,
        announce_rights: bool = False,
    ) -> None:
        self._dsn = dsn
        self._size = size
        self._connect_timeout = connect_timeout
        # Beyond the server's own limit: only a server that went silent reaches this.
        self.patience = statement_timeout + 1.0
        settings = {
            "application_name": "ciris-billing",
            "statement_timeout": str(int(statement_timeout * 1000)),
            "lock_timeout": str(int(lock_timeout * 1000)),
            "idle_in_transaction_session_timeout": "10000",
            "default_transaction_isolation": "read committed",
            "timezone": "UTC",
            "jit": "off",
        }
        self._settings = self.session_settings(settings)
        self._free: list[Connection] = []
        self._slots = asyncio.Semaphore(size)
        self._open: set[Connection] = set()
        self._announce_rights = announce_rights

    @property
    def in_use(self) -> int:
        """How many connections are at work right now."""
        return len(self._open) - len(self._free)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for one call. Raises Unavailable when none can be made."""
        async with self._slots:
            connection = self._take() or await self._connect()
            try:
                yield connection
            finally:
                if connection.is_closed():
                    self._open.discard(connection)
                else:
                    self._free.append(connection)

    async def fetch(self, connection: Connection, sql: str, *arguments: Any) -> list[Any]:
        """Runs one prepared statement. A broken connection is closed and raises ConnectionLost."""
        try:
            return await connection.fetch(sql, *arguments, timeout=self.patience)
        except BROKEN as error:
            connection.terminate()
            raise ConnectionLost(f"the connection broke: {type(error).__name__}") from error
        except asyncio.CancelledError:
            connection.terminate()
            raise

    async def fetch_for(
        self, connection: Connection, client: tuple[str, str] | None, sql: str, *arguments: Any
    ) -> list[Any]:
        """As fetch, in a transaction of its own, which knows the client's address and agent, if
        there is one, for the audit. Raises Unavailable when none begins: nothing took effect."""
        await self._begin_transaction(connection)
        try:
            if client is not None:
                await connection.execute(SET_CLIENT, *client, timeout=self.patience)
            rows: list[Any] = await connection.fetch(sql, *arguments, timeout=self.patience)
            await connection.execute("COMMIT", timeout=self.patience)
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "").startswith("08"):  # a pooler lost its server connection
                connection.terminate()
                raise ConnectionLost(f"the connection broke (SQLSTATE {error.sqlstate})") from error
            await self._undo(connection)
            raise
        except BROKEN as error:
            connection.terminate()
            raise ConnectionLost(f"the connection broke: {type(error).__name__}") from error
        except BaseException:
            connection.terminate()  # cancelled: the server undoes what was begun
            raise
        return rows

    def session_settings(self, settings: dict[str, str]) -> dict[str, str]:
        """Which settings a connection is opened with."""
        return settings

    async def close(self) -> None:
        """Closes every connection; call it when no call is under way."""
        for connection in list(self._open):
            with contextlib.suppress(*BROKEN, asyncpg.PostgresError):
                await connection.close(timeout=2)
        self._open.clear()
        self._free.clear()

    def _take(self) -> Connection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
            self._open.discard(connection)
        return None

    async def _connect(self) -> Connection:
        try:
            connection: Connection = await asyncpg.connect(
                self._dsn,
                timeout=self._connect_timeout,
                server_settings=self._settings,
                **self.connect_options,
            )
        except (*BROKEN, asyncpg.PostgresError) as error:  # or none of the hosts is the primary
            raise Unavailable(f"no connection to the database: {type(error).__name__}") from error
        try:
            await self.give_rights_away(connection)
        except (*BROKEN, asyncpg.PostgresError, ConnectionLost) as error:
            connection.terminate()
            raise _not_begun(error) from error
        except BaseException:
            connection.terminate()
            raise
        self._open.add(connection)
        return connection

    async def give_rights_away(self, connection: Connection) -> None:
        """Becomes the web tier's role, whatever the login may do besides."""
        stronger = await connection.fetchval(
            "SELECT pg_has_role(session_user, 'billing_dba', 'MEMBER')",
            timeout=self._connect_timeout,
        )
        await connection.execute(f"SET ROLE {WEB_ROLE}", timeout=self._connect_timeout)
        self.announce(stronger)

    def announce(self, stronger: bool) -> None:
        """Says once in the log that the login may do more than the server needs."""
        if stronger and self._announce_rights:
            self._announce_rights = False
            _LOG.warning(
                "the database login has more rights than the server needs;"
                " each connection gives them away (SET ROLE %s)",
                WEB_ROLE,
            )

    async def _begin_transaction(self, connection: Connection) -> None:
        try:
            await connection.execute(self.begin, timeout=_BEGIN_PATIENCE)
        except (*BROKEN, asyncpg.PostgresError) as error:
            connection.terminate()
            raise _not_begun(error) from error
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


def _not_begun(error: Exception) -> Unavailable:
    """What a fault of the first statements is to the caller, who has asked nothing yet."""
    state = getattr(error, "sqlstate", None)
    if state in _CANNOT_BECOME:
        return RightsMissing(
            f"the login cannot become {WEB_ROLE} (SQLSTATE {state})", retry_after=5
        )
    reason = f"SQLSTATE {state}" if state else type(error).__name__
    return Unavailable(f"the database lets nothing begin ({reason})")
