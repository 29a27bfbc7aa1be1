"""Opens a pool's connections: to the first host that accepts one and can do what the pool is for,
with the web tier's role in place of the login's own rights."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import asyncpg

from server.gateway.errors import (
    ConnectionLost,
    ReadOnly,
    RightsMissing,
    Unavailable,
    not_begun,
)
from server.gateway.hosts import BROKEN, Hosts

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # asyncpg.Connection cannot be subscripted at run time

_LOG = logging.getLogger(__name__)
WEB_ROLE = "billing_server"
PROBE = "SELECT current_setting('transaction_read_only')::boolean AS read_only"
INTRODUCTION = (
    f"{PROBE}, pg_has_role(session_user, 'billing_dba', 'MEMBER') AS stronger,"
    " pg_backend_pid() AS pid"
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A new connection, the monotonic time before it was opened, and its server process."""

    connection: Connection
    began_at: float
    pid: int


class Opener:
    """Opens connections with these `settings` of the session and `options` of asyncpg. `introduce`
    gives a new connection its role, and returns the row of INTRODUCTION. For `announce_rights` and
    `read_only` see Pool. `timeout` is in seconds."""

    def __init__(
        self,
        dsn: str,
        *,
        timeout: float,
        settings: dict[str, str],
        options: dict[str, Any],
        introduce: Callable[[Connection], Awaitable[Any]],
        announce_rights: bool,
        read_only: bool,
    ) -> None:
        self._hosts = Hosts(dsn)
        self._timeout = timeout
        self._settings = settings
        self._options = options
        self._introduce = introduce
        self._announce_rights = announce_rights
        self._read_only = read_only

    async def open(self) -> Opened:
        """Opens a connection to the first host that accepts it and can do what the pool is for.
        Raises Unavailable when no host does."""
        faults: list[Unavailable] = []
        for host in self._hosts.in_order():
            try:
                opened = await self._open_to(host)
            except Unavailable as fault:
                faults.append(fault)
            else:
                self._hosts.prefer(host)
                return opened
        raise next((fault for fault in faults if isinstance(fault, RightsMissing)), faults[0])

    async def open_to_ask(self) -> Connection:
        """Opens a connection beside the pool, with the login's own rights: only with those can it
        see what the login's other sessions do."""
        return await self._connect(self._hosts.in_order()[0])

    async def become_web_tier(self, connection: Connection) -> Any:
        """Changes to the web tier's role, whatever else the login may do. Returns what the server
        says of itself."""
        server = await connection.fetchrow(INTRODUCTION, timeout=self._timeout)
        await connection.execute(f"SET ROLE {WEB_ROLE}", timeout=self._timeout)
        return server

    async def _open_to(self, host: dict[str, Any]) -> Opened:
        began_at = monotonic()
        try:
            connection = await self._connect(host)
        except (*BROKEN, asyncpg.PostgresError) as error:  # or the host is not the primary
            raise Unavailable(f"no connection to the database: {type(error).__name__}") from error
        try:
            server = await self._introduce(connection)
        except (*BROKEN, asyncpg.PostgresError, ConnectionLost) as error:
            connection.terminate()
            raise not_begun(error, WEB_ROLE) from error
        except BaseException:
            connection.terminate()
            raise
        if server["read_only"] and not self._read_only:
            connection.terminate()
            raise ReadOnly()
        self._announce(server["stronger"])
        return Opened(connection, began_at, server["pid"])

    async def _connect(self, host: dict[str, Any]) -> Connection:
        connection: Connection = await self._hosts.connect(
            host, timeout=self._timeout, server_settings=self._settings, **self._options
        )
        return connection

    def _announce(self, stronger: bool) -> None:
        """Says once in the log that the login may do more than the server needs."""
        if stronger and self._announce_rights:
            self._announce_rights = False
            _LOG.warning(
                "the database login has more rights than the server needs;"
                " each connection gives them away (SET ROLE %s)",
                WEB_ROLE,
            )
