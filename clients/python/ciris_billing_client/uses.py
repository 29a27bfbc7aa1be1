"""A use: credits are held while the work is done, and its cost is taken at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Self

import anyio

from ciris_billing_client import operations
from ciris_billing_client.errors import BillingError, HoldSettled
from ciris_billing_client.exchange import Operation
from ciris_billing_client.models import Hold, Overage

_LOG = logging.getLogger("ciris_billing_client")


class _Use:
    """What happens at the beginning and at the end of a use."""

    def __init__(self, beginning: Operation[Hold]) -> None:
        self._beginning = beginning
        self._settled: tuple[int | None, Overage] | None = None
        self._hold: Hold | None = None

    @property
    def hold(self) -> Hold:
        """The hold; after the block, what became of it."""
        if self._hold is None:
            raise RuntimeError("the block of this use has not begun")
        return self._hold

    def settle(self, amount: int | None = None, *, overage: Overage = "refuse") -> None:
        """Says what the work cost, by default all that is held. It is taken when the block ends,
        also if an error ends it: what was settled was used. The last call counts. More than is held
        is refused, or with `overage="available"` taken as far as the user has it."""
        # Refused here, because the block's end is too late: the work is done by then.
        if amount is not None and (type(amount) is not int or amount < 0):
            raise ValueError(f"what the work cost must be a whole number, 0 or more: {amount!r}")
        self._settled = amount, overage

    def _first(self) -> Operation[Hold]:
        if self._hold is not None:
            raise RuntimeError("a use is entered once; make another one by use()")
        return self._beginning

    def _begun(self, hold: Hold) -> None:
        """Refuses a hold that an earlier block with the same key gave back: nothing can be taken
        from it any more, and the work would be done for nothing."""
        if hold.status == "released":
            text = f"Hold {hold.hold_id} was released before: this use needs another key"
            raise HoldSettled(409, {"code": "hold_settled", "detail": text})
        self._hold = hold

    def _ending(self) -> Operation[Hold]:
        if self._settled is None:
            return operations.release(self.hold.hold_id)
        amount, overage = self._settled
        return operations.capture(self.hold.hold_id, amount, overage=overage)

    def _not_ended(self, failure: BillingError, error: BaseException | None) -> None:
        """Raises the failure to settle, unless an error of the block is on its way. A failed
        release costs nobody anything, because the hold expires."""
        what = "settled" if self._settled else "released"
        text = f"hold {self.hold.hold_id} was not {what}: {failure}"
        _LOG.warning("%s", text)
        if self._settled and error is None:
            raise failure
        if error is not None:
            error.add_note(text)


class AsyncUse(_Use):
    """`async with billing.use(user, up_to=5) as use:`"""

    def __init__(
        self, run: Callable[[Operation[Hold]], Coroutine[Any, Any, Hold]], first: Operation[Hold]
    ) -> None:
        super().__init__(first)
        self._run = run

    async def extend(self, expires_in_seconds: int) -> None:
        """Lets the hold expire that many seconds from now."""
        self._hold = await self._run(operations.extend(self.hold.hold_id, expires_in_seconds))

    async def __aenter__(self) -> Self:
        self._begun(await self._run(self._first()))
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with anyio.CancelScope(shield=True):  # a cancelled task settles or releases all the same
            await _in_spite_of_cancel(self._end(error))

    async def _end(self, error: BaseException | None) -> None:
        try:
            self._hold = await self._run(self._ending())
        except BillingError as failure:
            self._not_ended(failure, error)


async def _in_spite_of_cancel(work: Coroutine[Any, Any, None]) -> None:
    """Does the work although the task is cancelled meanwhile, and lets the cancellation go on
    afterwards. No scope keeps asyncio's own Task.cancel() out, so there a task of its own works."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # trio
        await work
        return
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return await task
    task.exception()  # it is in the log; the cancellation comes first
    raise cancelled


class Use(_Use):
    """`with billing.use(user, up_to=5) as use:`"""

    def __init__(self, run: Callable[[Operation[Hold]], Hold], first: Operation[Hold]) -> None:
        super().__init__(first)
        self._run = run

    def extend(self, expires_in_seconds: int) -> None:
        """Lets the hold expire that many seconds from now."""
        self._hold = self._run(operations.extend(self.hold.hold_id, expires_in_seconds))

    def __enter__(self) -> Self:
        self._begun(self._run(self._first()))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._hold = self._run(self._ending())
        except BillingError as failure:
            self._not_ended(failure, error)
