"""Items of one kind (checks, charges, holds, captures) that arrive together are sent to the
database together (design.md).

A Batcher has one batch in flight at a time: what arrives meanwhile leaves when it is answered, so a
lone request waits for nobody. Batchers whose requests follow each other take turns. When a batch is
late, the next one leaves all the same. A batch never waits for a lock: an item whose account
another transaction holds comes back as 'busy' and goes to the retry queue of that account, where it
holds up no item of another account.

A retry queue waits for the lock inside PostgreSQL, whose own queue for a lock is fair: where only
the batches of several processes compete for an account, each gets its turn. A few retry queues can
wait there at once; the others are tried again and again meanwhile, so that no account waits for
another one's lock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from time import perf_counter
from typing import Any

from server.gateway.call import Item, Row
from server.gateway.errors import Busy, ConnectionLost, QueueFull, Unavailable
from server.gateway.holders import HolderOf, HoldTimeout

_MAX_BATCH = 256
_BY_NUMBER = itemgetter("item")
_RETRY_PAUSE = 0.05  # seconds between retries for an account that cannot wait in PostgreSQL now
# A batch is late when it has been in flight for this many times the usual time of recent batches.
# Under full load 1 to 3 in 100 batches are late. 5 to 9 in 100 take twice as long as usual; if the
# next batch did not wait for those, the batches would be half as large for no gain.
_LATE_FACTOR = 3
_LATE_MIN, _LATE_MAX = 0.002, 0.05  # but never before the first time, and always after the second
# A batch is complete after so many turns of the event loop in a row that bring no item. A request
# takes some turns from its first byte to the queue. So with more turns those that follow the
# answers of the batch before leave together with those that waited for it, and batches are twice as
# large; with one turn they are prepared while the database is at work. The first is better where
# both share processors (measured: a fifth more charges at 16 connections, a tenth more at 64), the
# second where each has its own (up to a fifth more checks at 64).
_QUIET_TURNS, _QUIET_TURNS_WHERE_SHARED = 1, 8
_MAX_PASSED_OVER = 2  # times that a queue lets longer queues go first
_WEIGHT = 1 / 8  # of the newest batch in the average

# Performs one call for the items. The call waits for locks for this many seconds, or not at all.
Send = Callable[[Sequence[Any], float | None], Coroutine[Any, Any, list[Row]]]


class _Entry:
    """An item, the future of its row, and the time until which it waits for a held account."""

    __slots__ = ("deadline", "future", "item")

    def __init__(self, item: Item, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self.item = item
        self.deadline = loop.time() + timeout
        self.future: asyncio.Future[Row] = loop.create_future()


@dataclass(slots=True)
class _RetryQueue:
    """The items that wait for one account, and since when none of them succeeded."""

    held_since: float
    hold_timeout: HoldTimeout
    waiting: list[_Entry] = field(default_factory=list)


class _Permits:
    """A few permits to wait in PostgreSQL, given in the order of the requests for them. Unlike with
    asyncio.Semaphore, a permit can be requested and looked at without waiting for it."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._asked: deque[asyncio.Future[None]] = deque()

    def ask(self) -> asyncio.Future[None]:
        """Requests a permit: returns a future that is done when the permit is given. Always give it
        back."""
        permit: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(permit)
        self._assign()
        return permit

    def give_back(self, permit: asyncio.Future[None]) -> None:
        """Gives the permit to the next that requested one. A permit that was never given is no
        longer requested."""
        if permit.done():
            self._free += 1
            self._assign()
        else:
            self._asked.remove(permit)

    def _assign(self) -> None:
        while self._free and self._asked:
            self._free -= 1
            self._asked.popleft().set_result(None)


class Turns:
    """The batches in flight of batchers that send by turns, with the time at which each was sent.

    The queue that is the longest when a batch leaves is sent. Where the answer of one kind is
    followed by a request of the other, as a hold by its capture, the requests come together in this
    way until there are two groups at the most: one in flight and one that waits. With one queue
    after the other there would be three, and each batch would be smaller. No queue is passed over
    more than twice."""

    def __init__(self) -> None:
        self.in_flight: list[float] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self._batchers: list[Batcher] = []

    def join(self, batcher: Batcher) -> None:
        """Adds a batcher."""
        self._batchers.append(batcher)

    def longest(self) -> Batcher | None:
        """The batcher whose turn it would be now, if any has something to send."""
        waiting = [batcher for batcher in self._batchers if batcher.queue_length]
        return max(waiting, key=_urgency, default=None)

    def next(self) -> Batcher | None:
        """The batcher whose turn it is. The others that have something to send are passed over."""
        chosen = self.longest()
        for batcher in self._batchers:
            if batcher is chosen:
                batcher.passed_over = 0
            elif batcher.queue_length:
                batcher.passed_over += 1
        return chosen


def _urgency(batcher: Batcher) -> tuple[bool, int]:
    return batcher.passed_over >= _MAX_PASSED_OVER, batcher.queue_length


class Batcher:
    """Collects items of one kind into batches. `send(items, wait)` performs one call and returns a
    row per item, each with `item` (1-based) and `outcome`. `repeatable` says whether an item may be
    sent again when it is unknown whether it took effect. `shares_processor` says whether this
    process has to share its processors. The first `naming` fields of an item name its account.

    At most `max_in_flight` batches are in flight at once, counting those of all batchers with the
    same `turns`. Beside them, `max_lock_waits` retry queues have one call each that waits for a
    lock, and one more call retries all others. With more than `max_queue` items waiting, submit
    raises Unavailable. An item that has waited for `timeout` seconds raises Busy if no item of its
    account succeeded during the last half of that time, and if HoldTimeout has expired for the
    account's holder, whom `holder_of` names."""

    def __init__(
        self,
        send: Send,
        holder_of: HolderOf,
        *,
        repeatable: Callable[[Item], bool],
        shares_processor: Callable[[], bool],
        naming: int = 2,
        max_in_flight: int,
        max_lock_waits: int,
        max_queue: int,
        timeout: float,
        turns: Turns | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._holder_of = holder_of
        self._repeatable = repeatable
        self._shares_processor = shares_processor
        self._naming = naming
        self._queue: deque[_Entry] = deque()
        self._max_in_flight = max_in_flight
        self._turns = turns or Turns()
        self._turns.join(self)
        self._in_flight = self._turns.in_flight
        self._usual = _LATE_MAX / _LATE_FACTOR  # the usual seconds of recent batches
        self._late_timer: asyncio.TimerHandle | None = None
        self._max_queue = max_queue
        self._timeout = timeout
        self._lock_wait = timeout / 2  # how long one call waits in PostgreSQL
        self._retry_queues: dict[tuple[Any, ...], _RetryQueue] = {}
        self._permits = _Permits(max_lock_waits)
        self._retrying = asyncio.Lock()
        self._retry_count = 0
        self._tasks = self._turns.tasks
        self.passed_over = 0  # how often another batcher was sent while items waited here

    @property
    def waiting(self) -> int:
        """The number of items that wait to be sent."""
        return len(self._queue) + self._retry_count

    @property
    def queue_length(self) -> int:
        """The number of items that wait for the next batch."""
        return len(self._queue)

    def submit(self, item: Item) -> asyncio.Future[Row]:
        """Sends one item. The future gets its row, or Unavailable, Busy, ConnectionLost or the
        PostgreSQL error that this item alone causes."""
        if len(self._queue) + self._retry_count >= self._max_queue:
            raise QueueFull()
        entry = _Entry(item, self._loop, self._timeout)
        if self._retry_queues and item[: self._naming] in self._retry_queues:
            self._retry_later(entry)
        else:
            self._queue.append(entry)
            if not self._in_flight:
                self._start_batch(len(self._queue))
            elif self._late_timer is None:
                self._set_late_timer()
        return entry.future

    async def submit_together(self, items: Sequence[Item]) -> list[Row]:
        """Sends several items of one request as one call, past the queue, in their order. Items
        whose account is held go to its retry queue like all others. Returns rows in item order; the
        outcome of an item whose account stayed held is 'busy'."""
        try:
            rows = await self._call(items)
        except Busy:
            rows = [{"item": number, "outcome": "busy"} for number in range(1, len(items) + 1)]
        waiting: dict[int, asyncio.Future[Row]] = {}
        for index, row in enumerate(rows):
            if row["outcome"] == "busy":
                entry = _Entry(items[index], self._loop, self._timeout)
                waiting[index] = entry.future
                self._retry_later(entry)
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
        """Waits until everything submitted has been answered, also to batchers with the same
        turns."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _start_batch(self, seen: int) -> None:
        """Sends the next batch of the batchers that take turns, once this queue is complete, in
        which `seen` items waited when it was looked at last."""
        left = perf_counter()
        self._in_flight.append(left)
        self._start(self._send_batch(left, seen))

    async def _send_batch(self, left: float, seen: int) -> None:
        try:
            await self._complete(seen)
            # What followed the answers of the batch before may have made another queue the longest.
            sender = self._turns.next() or self
            batch = sender._take()
            for held in await sender._deliver(batch) if batch else ():
                sender._retry_later(held)
        finally:
            self._in_flight.remove(left)
        sender._start_next(perf_counter() - left)

    def _take(self) -> list[_Entry]:
        return [self._queue.popleft() for _ in range(min(len(self._queue), _MAX_BATCH))]

    def _start_next(self, seconds: float) -> None:
        """Starts the next batch when one of this batcher was answered after so many seconds."""
        self._usual += (min(seconds, _LATE_MAX) - self._usual) * _WEIGHT
        if self._seconds_until_late() <= 0:
            following = self._turns.longest()
            if following is not None:
                following._start_batch(0)
        elif self._queue:
            self._set_late_timer()

    async def _complete(self, seen: int) -> None:
        """Waits for requests that are still being read: a batch is complete when some turns of the
        event loop bring no new item. A lone request, which was `seen` when it was queued, waits for
        none."""
        complete = _QUIET_TURNS_WHERE_SHARED if self._shares_processor() else _QUIET_TURNS
        quiet = 0 if len(self._queue) > seen else complete
        while quiet < complete and len(self._queue) < _MAX_BATCH:
            before = len(self._queue)
            await asyncio.sleep(0)
            quiet = 0 if len(self._queue) > before else quiet + 1

    def _seconds_until_late(self) -> float:
        """The seconds until all batches in flight are late, so that the next one may be sent."""
        if not self._in_flight:
            return 0.0
        late = min(max(_LATE_FACTOR * self._usual, _LATE_MIN), _LATE_MAX)
        return self._in_flight[-1] + late - perf_counter()

    def _set_late_timer(self) -> None:
        """Sends the next batch when those in flight are late."""
        if self._late_timer is None:
            seconds = max(self._seconds_until_late(), _LATE_MIN)
            self._late_timer = self._loop.call_later(seconds, self._on_late_timer)

    def _on_late_timer(self) -> None:
        self._late_timer = None
        if self._queue:
            if len(self._in_flight) < self._max_in_flight and self._seconds_until_late() <= 0:
                self._start_batch(len(self._queue))
            self._set_late_timer()

    async def _deliver(
        self, batch: list[_Entry], *, again: bool = False, wait: float | None = None
    ) -> list[_Entry]:
        """Answers the items it can. Returns the entries whose account is held."""
        try:
            rows = await self._call([entry.item for entry in batch], wait)
        except Busy:
            return batch  # one of the accounts is held, and it is unknown which
        except ConnectionLost as error:
            # It is unknown whether the call took effect. Items that may be repeated are sent once
            # more. The others raise ConnectionLost: their effect stays unknown.
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
            # One item makes the whole call fail, and the database kept nothing of it. Each item is
            # sent alone, in order.
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

    def _retry_later(self, entry: _Entry) -> None:
        account = self._account_of(entry)
        self._retry_count += 1
        queue = self._retry_queues.get(account)
        if queue is None:
            now = self._loop.time()
            queue = self._retry_queues[account] = _RetryQueue(now, HoldTimeout(self._timeout))
            self._start(self._serve_retry_queue(account, queue))
        queue.waiting.append(entry)

    async def _serve_retry_queue(self, account: tuple[Any, ...], queue: _RetryQueue) -> None:
        """Retries the items of one account, many in one call, until all are answered."""
        while queue.waiting:
            permit = self._permits.ask()
            try:
                while queue.waiting and not permit.done():
                    await asyncio.wait((permit,), timeout=_RETRY_PAUSE)
                    if not permit.done():
                        async with self._retrying:
                            await self._retry(queue, wait=None)
                if queue.waiting:
                    await self._retry(queue, wait=self._lock_wait)
            finally:
                self._permits.give_back(permit)
        del self._retry_queues[account]

    async def _retry(self, queue: _RetryQueue, *, wait: float | None) -> None:
        """Makes one call for the items that have waited longest, and refuses those that waited too
        long."""
        batch = queue.waiting[:_MAX_BATCH]
        held = await self._deliver(batch, wait=wait)
        now = self._loop.time()
        if len(held) < len(batch):
            queue.held_since = now
        elif now > queue.held_since + self._lock_wait:
            late = [entry for entry in held if entry.deadline < now]
            if late and queue.hold_timeout.expired(
                await self._holder_of(self._account_of(late[0]))
            ):
                _fail(late, Busy("the account is held by another transaction"))
        before = len(queue.waiting)
        queue.waiting[:] = [entry for entry in queue.waiting if not entry.future.done()]
        self._retry_count -= before - len(queue.waiting)

    def _account_of(self, entry: _Entry) -> tuple[Any, ...]:
        return entry.item[: self._naming]

    async def _call(self, items: Sequence[Any], wait: float | None = None) -> list[Row]:
        return sorted(await self._send(items, wait), key=_BY_NUMBER)


def _fail(batch: list[_Entry], error: BaseException) -> None:
    for entry in batch:
        if not entry.future.done():
            if isinstance(error, asyncio.CancelledError):
                entry.future.set_exception(Unavailable("the server is shutting down"))
            else:
                entry.future.set_exception(error)
