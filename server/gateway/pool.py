"""A pool of prepared connections. asyncpg's own pool resets the session on each release, which
costs a round trip per call; here a connection is set up once and used until it breaks or is old.

No connection is trusted for ever: the network may have lost it without a word, or its server may
have become a standby. A connection that was idle for some seconds is probed before it is used. When
one fails, all that were opened before it are closed too: the cause has probably hit them as well.

A user that calls again and again, as a batcher does, keeps connections of its own: its statement
stays prepared there, and the function that it calls compiled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import monotonic
from typing import Any, ClassVar

import asyncpg

from server.gateway.errors import Unavailable, condemns, lost, not_begun
from server.gateway.hosts import BROKEN
from server.gateway.opener import PROBE, WEB_ROLE, Connection, Opener
from server.gateway.silence import SilenceWatch

_LOG = logging.getLogger(__name__)
MAX_AGE = 600.0  # the age in seconds at which a connection is closed
_YOUNGEST = 0.8  # connections close from this share of it on, so that not all close at once
_IDLE_LIMIT = 60.0
# A connection that gave its last answer more than these seconds ago is checked before it is used.
_TRUSTED_FOR = 3.0
_PROBE_PATIENCE = 1.0
_BEGIN_PATIENCE = 2.0  # BEGIN waits for no lock: after that many seconds the server is not there
SET_CLIENT = (
    "SELECT set_config('billing.client_address', $1, true),"
    " set_config('billing.client_agent', $2, true)"
)


@dataclass(slots=True)
class _Member:
    """What the pool knows about a connection. Times are those of the monotonic clock."""

    opened_at: float
    expires_at: float
    used_at: float
    pid: int | None  # the server process, where it does not change between calls
    kept_for: str | None


class Pool:
    """At most `size` connections, made when needed. Each works as the web tier's role, whatever its
    login may do; with `announce_rights` the log says so once where that took rights away. Without
    `read_only`, connections are kept only to a server that can write. Times in seconds."""

    # A statement stays prepared for as long as its connection lives.
    connect_options: ClassVar[dict[str, Any]] = {"max_cached_statement_lifetime": 0}
    begin = "BEGIN"
    keeps_its_server: ClassVar[bool] = True

    def __init__(
        self,
        dsn: str,
        size: int,
        *,
        connect_timeout: float,
        statement_timeout: float,
        lock_timeout: float,
        announce_rights: bool = False,
        read_only: bool = False,
        max_age: float = MAX_AGE,
    ) -> None:
        self._read_only = read_only
        self._max_age = max_age
        # Longer than the server's own limit, so only a server that went silent reaches it.
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
        self._opener = Opener(
            dsn,
            timeout=connect_timeout,
            settings=self.session_settings(settings),
            options=self.connect_options,
            introduce=self.introduce,
            announce_rights=announce_rights,
            read_only=read_only,
        )
        self._free: defaultdict[str | None, list[Connection]] = defaultdict(list)
        self._size = size
        self._slots = asyncio.Semaphore(size)
        self._open: dict[Connection, _Member] = {}
        self._condemned_at = 0.0  # when a connection last failed
        self._silence = SilenceWatch(self._opener.open_to_ask, self.condemn)
        self.in_use = 0  # connections that run a call right now, or are being opened

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Takes a connection, and puts it back at the end of the block."""
        connection = await self.take()
        try:
            yield connection
        finally:
            self.put_back(connection)

    async def take(self, kept_for: str | None = None) -> Connection:
        """Returns a connection for one call; give it back with put_back. `kept_for` names the user
        that has connections of its own. Raises Unavailable when no connection can be made."""
        await self._slots.acquire()
        self.in_use += 1
        try:
            return await self._rested(kept_for) or await self._connect(kept_for)
        except BaseException:
            self._release()
            raise

    def put_back(self, connection: Connection) -> None:
        """Takes the connection back when its call has ended, successfully or not."""
        self._release()
        member = self._open.get(connection)
        now = monotonic()
        if (
            member is None  # the pool was closed meanwhile
            or connection.is_closed()
            or member.expires_at < now
            or self._is_condemned(member)
        ):
            self._drop(connection)
        else:
            member.used_at = now
            self._free[member.kept_for].append(connection)

    async def fetch(self, connection: Connection, sql: str, *arguments: Any) -> list[Any]:
        """Runs one prepared statement. A broken connection is closed and raises ConnectionLost."""
        expected = self._expect(connection)
        try:
            return await connection.fetch(sql, *arguments, timeout=self.patience)
        except asyncpg.PostgresError as error:
            if condemns(error):
                self.condemn(connection)
            raise
        except BROKEN as error:
            self.condemn(connection)
            raise lost(error) from error
        except asyncio.CancelledError:
            connection.terminate()
            raise
        finally:
            self._silence.answered(connection, expected)

    async def fetch_for(
        self, connection: Connection, client: tuple[str, str] | None, sql: str, *arguments: Any
    ) -> list[Any]:
        """As fetch, in a transaction of its own that knows the client's address and agent, if there
        is a client, for the audit log. Raises Unavailable when no transaction begins: then nothing
        took effect."""
        await self._begin_transaction(connection)
        expected = self._expect(connection)
        try:
            if client is not None:
                await connection.execute(SET_CLIENT, *client, timeout=self.patience)
            rows: list[Any] = await connection.fetch(sql, *arguments, timeout=self.patience)
            await connection.execute("COMMIT", timeout=self.patience)
        except asyncpg.PostgresError as error:
            if condemns(error):
                self.condemn(connection)
            else:
                await self._undo(connection)
            raise
        except BROKEN as error:
            self.condemn(connection)
            raise lost(error) from error
        except BaseException:
            connection.terminate()  # cancelled: the server undoes what was begun
            raise
        finally:
            self._silence.answered(connection, expected)
        return rows

    def condemn(self, connection: Connection) -> None:
        """Closes a connection whose call failed, and all that were opened before the call: idle
        ones at once, busy ones when they are put back."""
        connection.terminate()
        member = self._open.get(connection)
        if member is None or member.used_at <= self._condemned_at:
            return
        self._condemned_at = member.used_at
        resting = [idle for free in self._free.values() for idle in free]
        doomed = [idle for idle in resting if self._is_condemned(self._open[idle])]
        for idle in doomed:
            self._close_resting(idle)
        if doomed:
            _LOG.warning("a connection failed: %d idle ones of its age are closed", len(doomed))

    def session_settings(self, settings: dict[str, str]) -> dict[str, str]:
        """The settings with which a connection is opened."""
        return settings

    async def close(self) -> None:
        """Closes every connection. Call it when no call is under way."""
        await self._silence.close()
        for connection in list(self._open):
            with contextlib.suppress(*BROKEN, asyncpg.PostgresError):
                await connection.close(timeout=2)
        self._open.clear()
        self._free.clear()

    async def _rested(self, kept_for: str | None) -> Connection | None:
        """Returns an idle connection that can be trusted, the one used last; None when there is
        none."""
        self._close_idle()
        free = self._free[kept_for]
        while free:
            connection = free.pop()
            member = self._open[connection]
            now = monotonic()
            if connection.is_closed() or member.expires_at < now:
                self._drop(connection)
            elif member.used_at > now - _TRUSTED_FOR or await self._proves_itself(connection):
                member.used_at = now
                return connection
        return None

    def _close_idle(self) -> None:
        unused_since = monotonic() - _IDLE_LIMIT
        for free in self._free.values():
            while free and self._open[free[0]].used_at < unused_since:
                self._drop(free.pop(0))

    def _make_room(self) -> None:
        """Closes the kept connection of another user that has been idle for longest, when one more
        connection would be too many."""
        while resting := [free[0] for free in self._free.values() if free]:
            if self.in_use + sum(map(len, self._free.values())) <= self._size:
                break
            self._close_resting(min(resting, key=lambda idle: self._open[idle].used_at))

    def _close_resting(self, connection: Connection) -> None:
        self._free[self._open[connection].kept_for].remove(connection)
        self._drop(connection)

    async def _proves_itself(self, connection: Connection) -> bool:
        """Whether a connection answers soon and its server may write. Otherwise the connection is
        closed."""
        self._open[connection].used_at = monotonic()
        try:
            async with asyncio.timeout(_PROBE_PATIENCE):
                rows = await self.fetch(connection, PROBE)
            if self._read_only or not rows[0]["read_only"]:
                return True
        except (TimeoutError, Unavailable, asyncpg.PostgresError):
            pass
        except BaseException:
            self._drop(connection)
            raise
        self.condemn(connection)
        self._drop(connection)
        return False

    def _release(self) -> None:
        self.in_use -= 1
        self._slots.release()

    def _is_condemned(self, member: _Member) -> bool:
        return member.opened_at <= self._condemned_at

    def _drop(self, connection: Connection) -> None:
        self._open.pop(connection, None)
        connection.terminate()

    def _expect(self, connection: Connection) -> asyncio.TimerHandle | None:
        member = self._open.get(connection)
        return None if member is None else self._silence.expect(connection, member.pid)

    async def _connect(self, kept_for: str | None) -> Connection:
        self._make_room()
        opened = await self._opener.open()
        age = self._max_age * random.uniform(_YOUNGEST, 1)  # noqa: S311
        pid = opened.pid if self.keeps_its_server else None
        self._open[opened.connection] = _Member(
            opened.began_at, opened.began_at + age, opened.began_at, pid, kept_for
        )
        return opened.connection

    async def introduce(self, connection: Connection) -> Any:
        """Gives a new connection the web tier's role. Returns what the server says of itself."""
        return await self._opener.become_web_tier(connection)

    async def _begin_transaction(self, connection: Connection) -> None:
        try:
            await connection.execute(self.begin, timeout=_BEGIN_PATIENCE)
        except (*BROKEN, asyncpg.PostgresError) as error:
            self.condemn(connection)
            raise not_begun(error, WEB_ROLE) from error
        except asyncio.CancelledError:
            connection.terminate()
            raise

    async def _undo(self, connection: Connection) -> None:
        try:
            await connection.execute("ROLLBACK", timeout=self.patience)
        except (*BROKEN, asyncpg.PostgresError):
            connection.terminate()  # this undoes the connection's transaction as well
        except asyncio.CancelledError:
            connection.terminate()
            raise
