"""Checks and charges that arrive together are sent to the database together (design.md 6).

A Lane sends one batch at a time: what arrives meanwhile leaves when it is back, so a lone request
waits for nobody. When a batch is late, the next one leaves all the same. A batch never waits for a
lock: what another transaction holds comes back as 'busy' and goes to a side track of its own
account, where it waits without its neighbours.

There it waits in PostgreSQL, whose queue for a lock is a fair one: where the batches of several
processes are all that holds an account, each has its turn. A few accounts can wait so at once; the
others are tried again and again meanwhile, so that no account waits for another one's lock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from time import perf_counter
from typing import Any

from server.gateway.errors import Busy, ConnectionLost, QueueFull, Unavailable

Row = Mapping[str, Any]
# One check or charge: its members as the database's type has them; the first two are the account.
Item = tuple[Any, ...]
_MAX_BATCH = 256
_BY_NUMBER = itemgetter("item")
_PAUSE = 0.05  # seconds between tries for an account that cannot wait in PostgreSQL now
# A batch is late when it has been under way for so many times as long as batches take of late.
# Under full load 1 to 3 in 100 are late. 5 to 9 in 100 take twice as long as usual: not to wait for
# those would halve the batches behind them for nothing.
_LATE = 3
_SOON, _LATEST = 0.002, 0.05  # but not before, and at any rate after so many seconds
_WEIGHT = 1 / 8  # of the newest batch in what batches take of late

# Who holds an account, as billing.get_account_holders says it.
HolderOf = Callable[[tuple[Any, ...]], Coroutine[Any, Any, str | None]]
OTHERS = "others"
# Performs one call for the items; it waits for locks for so many seconds, or not at all.
Send = Callable[[Sequence[Any], float | None], Coroutine[Any, Any, list[Row]]]


class _Entry:
    """An item, who waits for its row, and until when it may be told that its account is held."""

    __slots__ = ("deadline", "future", "item")

    def __init__(self, item: Item, patience: float) -> None:
        loop = asyncio.get_running_loop()
        self.item = item
        self.deadline = loop.time() + patience
        self.future: asyncio.Future[Row] = loop.create_future()


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

    At most `flights` batches are under way at once, and beside them a call each for `waiters`
    accounts that wait, and one for those that find no place there. With more than `max_queue` items
    waiting, submit raises Unavailable. An item that has waited for `patience` seconds, while its
    account let nobody through for half of that or longer, raises Busy if Blame falls on
    `holder_of(account)`."""

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
        self._flights = flights
        self._under_way: list[float] = []  # when each batch left
        self._usual = _LATEST / _LATE  # seconds that a batch takes of late
        self._lookout: asyncio.TimerHandle | None = None
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

    def submit(self, item: Item) -> asyncio.Future[Row]:
        """Sends one item; the future gets its row, or Unavailable, Busy, ConnectionLost or the
        PostgreSQL error that the item alone causes."""
        if len(self._line) + self._side_count >= self._max_queue:
            raise QueueFull()
        entry = _Entry(item, self._patience)
        if self._side and item[:2] in self._side:
            self._wait_aside(entry)
        else:
            self._line.append(entry)
            if not self._under_way:
                self._leave()
            elif self._lookout is None:
                self._look_out()
        return entry.future

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
                entry = _Entry(items[index], self._patience)
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

    def _leave(self) -> None:
        self._under_way.append(perf_counter())
        self._start(self._fly(self._under_way[-1], len(self._line)))

    async def _fly(self, left: float, seen: int) -> None:
        """Sends the line's first batch, and those behind it whose turn it is when the one before is
        back. It is under way since `left`, when `seen` items waited."""
        while True:
            try:
                batch = await self._gather(seen)
                for held in await self._deliver(batch) if batch else ():
                    self._wait_aside(held)
            finally:
                self._under_way.remove(left)
            back = perf_counter()
            self._usual += (min(back - left, _LATEST) - self._usual) * _WEIGHT
            if not self._line:
                return
            if self._overdue() > 0:
                self._look_out()
                return
            left, seen = back, 0
            self._under_way.append(left)

    async def _gather(self, seen: int) -> list[_Entry]:
        """The next batch. Requests that are being read already come with it: it is complete when a
        turn of the event loop brings nobody, which for a lone request is the first."""
        while seen < len(self._line) < _MAX_BATCH:
            seen = len(self._line)
            await asyncio.sleep(0)
        return [self._line.popleft() for _ in range(min(len(self._line), _MAX_BATCH))]

    def _overdue(self) -> float:
        """In how many seconds nobody waits any more for those under way: all will be late then."""
        if not self._under_way:
            return 0.0
        late = min(max(_LATE * self._usual, _SOON), _LATEST)
        return self._under_way[-1] + late - perf_counter()

    def _look_out(self) -> None:
        """Has the next batch leave when those under way are late."""
        if self._lookout is None:
            seconds = max(self._overdue(), _SOON)
            self._lookout = asyncio.get_running_loop().call_later(seconds, self._stop_waiting)

    def _stop_waiting(self) -> None:
        self._lookout = None
        if self._line:
            if len(self._under_way) < self._flights and self._overdue() <= 0:
                self._leave()
            self._look_out()

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
        return sorted(await self._send(items, wait), key=_BY_NUMBER)


def _fail(batch: list[_Entry], error: BaseException) -> None:
    for entry in batch:
        if not entry.future.done():
            if isinstance(error, asyncio.CancelledError):
                entry.future.set_exception(Unavailable("the server is shutting down"))
            else:
                entry.future.set_exception(error)
