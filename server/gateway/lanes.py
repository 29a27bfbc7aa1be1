"""Checks and charges that arrive together are sent to the database together (design.md 6).

A Lane keeps a few batches in flight; a batch leaves when a flight is free, so a lone request
waits for nobody. A batch never waits for a lock: what another transaction holds comes back as
'busy' and goes to a side track of its own account, where it waits without its neighbours."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from server.gateway.errors import Busy, ConnectionLost, QueueFull, Unavailable

Row = Mapping[str, Any]
_MAX_BATCH = 256


class Item(Protocol):
    """One check or charge: a tuple whose first two members identify the account."""

    def __getitem__(self, index: slice, /) -> tuple[Any, ...]: ...

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again when it is unknown whether it took effect."""
        ...


_PAUSE_SECONDS = (0.001, 0.02)  # between tries for a held account: at first, at most

Send = Callable[[Sequence[Any]], Awaitable[list[Row]]]
_Entry = tuple[Any, asyncio.Future[Row]]


class Lane:
    """Batches of one kind of call. `send(items)` performs one call and gives a row per
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

    @property
    def waiting(self) -> int:
        """How many items wait to be sent."""
        return len(self._line) + self._side_count

    async def submit(self, item: Item) -> Row:
        """Sends one item and gives its row. Raises Unavailable, Busy, ConnectionLost or the
        PostgreSQL error that the item alone causes."""
        if len(self._line) + self._side_count >= self._max_queue:
            raise QueueFull()
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
            rows = await self._attempt(items)
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
                batch = [self._line.popleft() for _ in range(count)]
                for held in await self._deliver(batch):
                    self._wait_aside(held)
        finally:
            self._free_flights += 1

    async def _deliver(self, batch: list[_Entry], *, again: bool = False) -> list[_Entry]:
        """Answers what it can; gives the entries whose account is held."""
        try:
            rows = await self._attempt([item for item, _ in batch])
        except Busy:
            return batch  # one of the accounts, and nobody knows which
        except ConnectionLost as error:
            # Unknown whether it took effect: what may be repeated is sent once more, the rest
            # is answered so, never guessed.
            repeatable = [] if again else [entry for entry in batch if entry[0].repeatable]
            _fail([entry for entry in batch if again or not entry[0].repeatable], error)
            return await self._deliver(repeatable, again=True) if repeatable else []
        except (Unavailable, asyncio.CancelledError) as error:
            _fail(batch, error)
            return []
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
                return []
            # One item poisons the call: nothing of it was kept, so each goes alone, in order.
            return [held for entry in batch for held in await self._deliver([entry], again=again)]
        held = []
        for entry, row in zip(batch, rows, strict=True):
            if row["outcome"] == "busy":
                held.append(entry)
            elif not entry[1].done():
                entry[1].set_result(row)
        return held

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
                busy = await self._deliver(batch)
            now = asyncio.get_running_loop().time()
            held = {id(entry) for entry in busy}
            late = [entry for entry, deadline in waiting if deadline < now and id(entry) in held]
            _fail(late, Busy("the account is held by another transaction"))
            before = len(waiting)
            waiting[:] = [pair for pair in waiting if not pair[0][1].done()]
            self._side_count -= before - len(waiting)
            pause = min(2 * pause, longest) if busy else _PAUSE_SECONDS[0]
        del self._side[account]

    async def _attempt(self, items: Sequence[Any]) -> list[Row]:
        return sorted(await self._send(items), key=lambda row: row["item"])


def _fail(batch: list[_Entry], error: BaseException) -> None:
    for _, future in batch:
        if not future.done():
            if isinstance(error, asyncio.CancelledError):
                future.set_exception(Unavailable("the server is shutting down"))
            else:
                future.set_exception(error)
