"""Checks and charges that arrive together are sent to the database together (design.md 6).

A Lane keeps a few batches in flight; a batch leaves when a flight is free, so a lone request
waits for nobody. A batch never waits for a lock: what another transaction holds comes back as
'busy' and goes to a side track of its own account, where it waits without its neighbours.

There it waits in PostgreSQL, whose queue for a lock is a fair one: where the batches of several
processes are all that holds an account, each has its turn. A few accounts can wait so at once; the
others are tried again and again meanwhile, so that no account waits for another one's lock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.gateway.errors import Busy, ConnectionLost, QueueFull, Unavailable

Row = Mapping[str, Any]
# One check or charge: its members as the database's type has them; the first two are the account.
Item = tuple[Any, ...]
_MAX_BATCH = 256
_PAUSE = 0.05  # seconds between tries for an account that cannot wait in PostgreSQL now

# Who holds an account, as billing.get_account_holders says it.
HolderOf = Callable[[tuple[Any, ...]], Coroutine[Any, Any, str | None]]
OTHERS = "others"
# Performs one call for the items; it waits for locks for so many seconds, or not at all.
Send = Callable[[Sequence[Any], float | None], Coroutine[Any, Any, list[Row]]]


class _Entry:
    """An item, who waits for its row, and until when it may be told that its account is held."""

    __slots__ = ("deadline", "future", "item")

    def __init__(self, item: Item, deadline: float) -> None:
        self.item = item
        self.deadline = deadline
        self.future: asyncio.Future[Row] = asyncio.get_running_loop().create_future()


class Blame:
    """Whether who holds an account is a reason to refuse those who wait for it: others are. Our own
    calls, of this process or another one, take turns; one that holds it for `patience` seconds does
    not, such as a call that was given up and waits for a silent replica."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._holder: str | None = None
        self._since = 0.0

    def falls_on(self, holder: str | None) -> bool:
        """`holder`: who holds it now. Ask again and again while it is held."""
        now = asyncio.get_running_loop().time()
        if holder != self._holder:
            self._holder, self._since = holder, now
        return holder == OTHERS or (holder is not None and now > self._since + self._patience)


@dataclass(slots=True)
class _SideTrack:
    """Those who wait for one account, and since when it has let nobody through."""

    held_since: float
    blame: Blame
    waiting: list[_Entry] = field(default_factory=list)


class _Places:
    """A few places, given in the order in which they were asked for."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._asked: deque[asyncio.Future[None]] = deque()

    def ask(self) -> asyncio.Future[None]:
        """Done when the place is there; it is to be given back, also if it never came."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(place)
        self._assign()
        return place

    def give_back(self, place: asyncio.Future[None]) -> None:
        """Gives it to who asked next."""
        if place.done():
            self._free += 1
            self._assign()
        else:
            self._asked.remove(place)

    def _assign(self) -> None:
        while self._free and self._asked:
            self._free -= 1
            self._asked.popleft().set_result(None)


class Lane:
    """Batches of one kind of call. `send(items, wait)` performs one call and gives a row per
    item, each with `item` (1-based) and `outcome`. `repeatable` says whether an item may be sent
    again when it is unknown whether it took effect.

    `flights` batches run at once, and beside them a call each for `waiters` accounts that wait, and
    one for those that find no place there. With more than `max_queue` items waiting, submit raises
    Unavailable. An item that has waited for `patience` seconds, while its account let nobody
    through for half of that or longer, raises Busy if Blame falls on `holder_of(account)`."""

    def __init__(
        self,
        send: Send,
        holder_of: HolderOf,
        *,
        repeatable: Callable[[Item], bool],
        flights: int,
        waiters: int,
        max_queue: int,
        patience: float,
    ) -> None:
        self._send = send
        self._holder_of = holder_of
        self._repeatable = repeatable
        self._line: deque[_Entry] = deque()
        self._free_flights = flights
        self._max_queue = max_queue
        self._patience = patience
        self._turn = patience / 2  # one wait in PostgreSQL
        self._side: dict[tuple[Any, ...], _SideTrack] = {}
        self._places = _Places(waiters)
        self._trying = asyncio.Lock()
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
        entry = self._entry(item)
        if self._side and item[:2] in self._side:
            self._wait_aside(entry)
        else:
            self._line.append(entry)
            if self._free_flights:
                self._free_flights -= 1
                self._start(self._fly())
        return await entry.future

    async def submit_together(self, items: Sequence[Item]) -> list[Row]:
        """Sends several items of one request as one call, outside the line, in their order;
        those whose account is held wait aside like all others. Rows in item order; the outcome
        of an item whose account stayed held is 'busy'."""
        try:
            rows = await self._attempt(items)
        except Busy:
            rows = [{"item": number, "outcome": "busy"} for number in range(1, len(items) + 1)]
        waiting: dict[int, asyncio.Future[Row]] = {}
        for index, row in enumerate(rows):
            if row["outcome"] == "busy":
                entry = self._entry(items[index])
                waiting[index] = entry.future
                self._wait_aside(entry)
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

    async def _deliver(
        self, batch: list[_Entry], *, again: bool = False, wait: float | None = None
    ) -> list[_Entry]:
        """Answers what it can; gives the entries whose account is held."""
        try:
            rows = await self._attempt([entry.item for entry in batch], wait)
        except Busy:
            return batch  # one of the accounts, and nobody knows which
        except ConnectionLost as error:
            # Unknown whether it took effect: what may be repeated is sent once more, the rest
            # is answered so, never guessed.
            repeatable = [] if again else [e for e in batch if self._repeatable(e.item)]
            _fail([e for e in batch if again or not self._repeatable(e.item)], error)
            return await self._deliver(repeatable, again=True, wait=wait) if repeatable else []
        except (Unavailable, asyncio.CancelledError) as error:
            _fail(batch, error)
            return []
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
                return []
            # One item poisons the call: nothing of it was kept, so each goes alone, in order.
            return [
                held
                for entry in batch
                for held in await self._deliver([entry], again=again, wait=wait)
            ]
        held = []
        for entry, row in zip(batch, rows, strict=True):
            if row["outcome"] == "busy":
                held.append(entry)
            elif not entry.future.done():
                entry.future.set_result(row)
        return held

    def _entry(self, item: Item) -> _Entry:
        return _Entry(item, asyncio.get_running_loop().time() + self._patience)

    def _wait_aside(self, entry: _Entry) -> None:
        account = entry.item[:2]
        self._side_count += 1
        track = self._side.get(account)
        if track is None:
            now = asyncio.get_running_loop().time()
            track = self._side[account] = _SideTrack(now, Blame(self._patience))
            self._start(self._serve_aside(account, track))
        track.waiting.append(entry)

    async def _serve_aside(self, account: tuple[Any, ...], track: _SideTrack) -> None:
        """Tries the items of one account, many at once, until they are through."""
        while track.waiting:
            place = self._places.ask()
            try:
                while track.waiting and not place.done():
                    await asyncio.wait((place,), timeout=_PAUSE)
                    if not place.done():
                        async with self._trying:
                            await self._try_aside(track, wait=None)
                if track.waiting:
                    await self._try_aside(track, wait=self._turn)
            finally:
                self._places.give_back(place)
        del self._side[account]

    async def _try_aside(self, track: _SideTrack, *, wait: float | None) -> None:
        """One call for those who wait longest; refuses who waited too long."""
        batch = track.waiting[:_MAX_BATCH]
        held = await self._deliver(batch, wait=wait)
        now = asyncio.get_running_loop().time()
        if len(held) < len(batch):
            track.held_since = now
        elif now > track.held_since + self._turn:
            late = [entry for entry in held if entry.deadline < now]
            if late and track.blame.falls_on(await self._holder_of(late[0].item[:2])):
                _fail(late, Busy("the account is held by another transaction"))
        before = len(track.waiting)
        track.waiting[:] = [entry for entry in track.waiting if not entry.future.done()]
        self._side_count -= before - len(track.waiting)

    async def _attempt(self, items: Sequence[Any], wait: float | None = None) -> list[Row]:
        return sorted(await self._send(items, wait), key=lambda row: row["item"])


def _fail(batch: list[_Entry], error: BaseException) -> None:
    for entry in batch:
        if not entry.future.done():
            if isinstance(error, asyncio.CancelledError):
                entry.future.set_exception(Unavailable("the server is shutting down"))
            else:
                entry.future.set_exception(error)
