"""Checks and charges that arrive together are sent to the database together (design.md 6).

A Lane keeps a few batches in flight; a batch leaves when a flight is free, so a lone request
waits for nobody. A batch never waits for a lock: what another transaction holds comes back as
'busy' and goes to a side track of its own account, where it waits without its neighbours."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import asyncpg

from server.gateway.errors import Busy, ConnectionLost, Unavailable, is_retryable, translate

Row = Mapping[str, Any]
_MAX_BATCH = 256
_ATTEMPTS = 4


class Item(Protocol):
    """One check or charge: a tuple whose first two members identify the account."""

    def __getitem__(self, index: slice, /) -> tuple[Any, ...]: ...

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again when it is unknown whether it took effect."""
        ...


_PAUSE_SECONDS = (0.001, 0.02)  # between tries for a held account: at first, at most

Send = Callable[[Sequence[Any], bool], Awaitable[list[Row]]]
_Entry = tuple[Any, asyncio.Future[Row]]


class Lane:
    """Batches of one kind of call. `send(items, wait)` performs one call and gives a row per
    item, each with `item` (1-based) and `outcome`.

    `flights` batches and `side_flights` calls for held accounts run at once; with more than
    `max_queue` items waiting, submit raises Unavailable; an item whose account is held for more
    than `patience` seconds raises Busy."""

    def __init__(
        self, send: Send, *, flights: int, side_flights: int, max_queue: int, patience: float
    ) -> None:
        self._send = send
        self._line: deque[_Entry] = deque()
        self._free_flights = flights
        self._max_queue = max_queue
        self._patience = patience
        self._side: dict[tuple[Any, ...], list[tuple[_Entry, float]]] = {}
        self._side_slots = asyncio.Semaphore(side_flights)
        self._side_count = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Row:
        """Sends one item and gives its row. Raises Unavailable, Busy, ConnectionLost or the
        PostgreSQL error that the item alone causes."""
        if len(self._line) + self._side_count >= self._max_queue:
            raise Unavailable("too many requests are waiting for the database")
        future: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        if self._side and item[:2] in self._side:
            self._wait_aside((item, future))
        else:
            self._line.append((item, future))
            if self._free_flights:
                self._free_flights -= 1
                self._start(self._fly())
        return await future

    async def submit_together(self, items: Sequence[Item]) -> list[Row]:
        """Sends several items of one request as one call, outside the line, in their order;
        those whose account is held wait aside like all others. Rows in item order; the outcome
        of an item whose account stayed held is 'busy'."""
        try:
            rows = await self._attempt(items, wait=False)
        except Busy:
            rows = [{"item": number, "outcome": "busy"} for number in range(1, len(items) + 1)]
        loop = asyncio.get_running_loop()
        waiting: dict[int, asyncio.Future[Row]] = {}
        for index, row in enumerate(rows):
            if row["outcome"] == "busy":
                waiting[index] = loop.create_future()
                self._wait_aside((items[index], waiting[index]))
        for index, answer in zip(
            waiting, await asyncio.gather(*waiting.values(), return_exceptions=True), strict=True
        ):
            if isinstance(answer, BaseException):
                if not isinstance(answer, Busy):
                    raise answer
            else:
                rows[index] = answer
        return rows

    async def drain(self) -> None:
        """Waits until everything submitted has been answered."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fly(self) -> None:
        try:
            while self._line:
                count = min(len(self._line), _MAX_BATCH)
                await self._deliver([self._line.popleft() for _ in range(count)])
        finally:
            self._free_flights += 1

    async def _deliver(self, batch: list[_Entry], *, again: bool = False) -> None:
        try:
            rows = await self._attempt([item for item, _ in batch], wait=False)
        except ConnectionLost as error:
            # Unknown whether it took effect: what may be repeated is sent once more, the rest
            # is answered so, never guessed.
            repeatable = [] if again else [entry for entry in batch if entry[0].repeatable]
            _fail([entry for entry in batch if again or not entry[0].repeatable], error)
            if repeatable:
                await self._deliver(repeatable, again=True)
        except Busy:
            # One of the accounts, and nobody knows which: each waits on its own track.
            for entry in batch:
                self._wait_aside(entry)
        except (Unavailable, asyncio.CancelledError) as error:
            _fail(batch, error)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            # One item poisons the call: nothing of it was kept, so each goes alone.
            for entry in batch:
                await self._deliver([entry], again=again)
        else:
            for entry, row in zip(batch, rows, strict=True):
                if row["outcome"] == "busy":
                    self._wait_aside(entry)
                elif not entry[1].done():
                    entry[1].set_result(row)

    def _wait_aside(self, entry: _Entry) -> None:
        account = entry[0][:2]
        deadline = asyncio.get_running_loop().time() + self._patience
        self._side_count += 1
        waiting = self._side.get(account)
        if waiting is not None:
            waiting.append((entry, deadline))
        else:
            self._side[account] = [(entry, deadline)]
            self._start(self._serve_aside(account))

    async def _serve_aside(self, account: tuple[Any, ...]) -> None:
        """Tries the items of one account until they are through. It waits here and not in the
        database, where it would hold a connection that another account needs."""
        waiting = self._side[account]
        pause, longest = _PAUSE_SECONDS
        while waiting:
            await asyncio.sleep(pause)
            async with self._side_slots:
                batch = [entry for entry, _ in waiting[:_MAX_BATCH]]
                busy = await self._try_aside(batch)
            now = asyncio.get_running_loop().time()
            held = {id(entry) for entry in busy}
            late = [entry for entry, deadline in waiting if deadline < now and id(entry) in held]
            _fail(late, Busy("the account is held by another transaction"))
            before = len(waiting)
            waiting[:] = [pair for pair in waiting if not pair[0][1].done()]
            self._side_count -= before - len(waiting)
            pause = min(2 * pause, longest) if busy else _PAUSE_SECONDS[0]
        del self._side[account]

    async def _try_aside(self, batch: list[_Entry]) -> list[_Entry]:
        """Delivers what it can; gives the entries whose account is still held."""
        try:
            rows = await self._attempt([item for item, _ in batch], wait=False)
        except Busy:
            return batch
        except (Unavailable, asyncio.CancelledError) as error:
            _fail(batch, error)
            return []
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
                return []
            # As in _deliver: each goes alone, in their order.
            return [held for entry in batch for held in await self._try_aside([entry])]
        busy = []
        for entry, row in zip(batch, rows, strict=True):
            if row["outcome"] == "busy":
                busy.append(entry)
            elif not entry[1].done():
                entry[1].set_result(row)
        return busy

    async def _attempt(self, items: Sequence[Any], *, wait: bool) -> list[Row]:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                rows = await self._send(items, wait)
                return sorted(rows, key=lambda row: row["item"])
            except asyncpg.PostgresError as error:
                if is_retryable(error) and attempt < _ATTEMPTS:
                    continue
                raise translate(error) from None
        raise AssertionError("unreachable: the last attempt returns or raises")


def _fail(batch: list[_Entry], error: BaseException) -> None:
    for _, future in batch:
        if not future.done():
            if isinstance(error, asyncio.CancelledError):
                future.set_exception(Unavailable("the server is shutting down"))
            else:
                future.set_exception(error)
