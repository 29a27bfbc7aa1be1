"""Reads that may be a little old, on a streaming replica (DATABASE_READ_URL) while it is there and
not too far behind; else the primary answers. No request waits for a replica that is away: the
replica is looked at once a second, and gets reads only while it was found good.

How far it is behind: once a second the primary is asked for its position in the write-ahead log,
and the replica for what it has replayed. The lag is the age of the newest position that the replica
is known to have reached. So clocks need not agree, an idle primary makes no lag, and a replica that
was cut off from its primary counts as behind, as one does that cannot be asked."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import asyncpg

from server.gateway.call import Row
from server.gateway.database import Database
from server.gateway.errors import DatabaseFault, Unavailable
from server.gateway.refusals import Refused
from server.observe import metrics

_LOG = logging.getLogger(__name__)
_INTERVAL = 1.0
_PATIENCE = 1.0
_POSITIONS = 120
_CLUSTER = "(SELECT c.system_identifier FROM pg_control_system() AS c) AS cluster"
PRIMARY_POSITION = (
    f"SELECT {_CLUSTER}, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS position"
)
_REPLICA_POSITION = (
    f"SELECT {_CLUSTER}, coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), 0)::bigint"
    " AS position, pg_is_in_recovery() AS is_replica"
)


class Replica:
    """The replica `database`. `ask_primary` returns the row of PRIMARY_POSITION. `max_lag` is in
    seconds."""

    def __init__(
        self, database: Database, ask_primary: Callable[[], Awaitable[Row]], *, max_lag: float
    ) -> None:
        self.database = database
        self._ask_primary = ask_primary
        self._max_lag = max_lag
        self._positions: deque[tuple[float, int]] = deque(maxlen=_POSITIONS)
        # When the primary was at the position that the replica is known to have reached.
        self._reached: float | None = None
        self._under_way: set[asyncio.Task[list[Row]]] = set()
        self._fault: str | None = "not looked at yet"

    @property
    def usable(self) -> bool:
        """Whether reads may use the replica now."""
        return self._fault is None

    async def attempt(self, call: Coroutine[Any, Any, list[Row]]) -> list[Row] | None:
        """Returns the rows of `call`, a call of this replica. None when the primary has to answer:
        the replica failed, or refused the call, perhaps because it has not received something yet.
        """
        task = asyncio.get_running_loop().create_task(call)
        self._under_way.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return None  # the watch gave the call up
        except Unavailable as error:
            self._give_up(str(error))
            return None
        except (Refused, DatabaseFault):
            return None
        finally:
            self._under_way.discard(task)

    async def watch(self) -> None:
        """Checks the replica for ever."""
        self._reached = asyncio.get_running_loop().time()
        while True:
            try:
                await self._look()
            except Exception:
                # Without this task nobody would notice that the replica falls behind.
                _LOG.exception("the replica cannot be looked at")
                self._give_up("it cannot be looked at")
            await asyncio.sleep(_INTERVAL)

    async def _look(self) -> None:
        try:
            primary = await self._position_of_primary()
            pool = self.database.pool
            async with asyncio.timeout(_PATIENCE), pool.connection() as connection:
                replica = (await pool.fetch(connection, _REPLICA_POSITION))[0]
        except (TimeoutError, Unavailable, asyncpg.PostgresError) as error:
            self._give_up(f"{type(error).__name__}: it does not answer")
        else:
            if not replica["is_replica"]:
                self._give_up("the server is no replica")
            elif primary is not None and primary["cluster"] != replica["cluster"]:
                self._give_up("the server is a replica of another database")
            else:
                self._note_position(replica["position"])
                lag = self._lag()
                if lag > self._max_lag:
                    self._give_up(f"it is more than {self._max_lag:g} s behind", interrupt=False)
                elif not self.usable:
                    _LOG.info("reads that may be stale go to the replica")
                    self._fault = None
        metrics.REPLICA_LAG.set(self._lag())

    async def _position_of_primary(self) -> Row | None:
        """Returns the primary's position. None when it cannot be asked: then the lag grows with
        each round."""
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(_PATIENCE):
                row = await self._ask_primary()
        except (TimeoutError, Unavailable, asyncpg.PostgresError):
            return None
        self._positions.append((now, row["position"]))
        return row

    def _note_position(self, replayed: int) -> None:
        while self._positions and self._positions[0][1] <= replayed:
            self._reached, _ = self._positions.popleft()

    def _lag(self) -> float:
        assert self._reached is not None
        return max(0.0, asyncio.get_running_loop().time() - self._reached)

    def _give_up(self, fault: str, *, interrupt: bool = True) -> None:
        if self._fault is None:
            _LOG.warning("the replica is not used, the primary serves its reads: %s", fault)
        self._fault = fault
        if interrupt:
            for task in self._under_way:
                task.cancel()
