"""Delivers alerts in the background. Every process of every server takes part: the database gives
each alert to one of them for a minute. An endpoint that is slow or hangs delays no other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from itertools import groupby
from uuid import UUID

from server.gateway import DatabaseFault, Gateway, Refused, Row, Unavailable, functions
from server.observe import metrics
from server.outbox.sender import Attempt, Message, Sender

_LOG = logging.getLogger(__name__)
_INTERVAL = 1.0
_AT_ONCE = 10  # deliveries to one endpoint
_SECONDS_TO_FINISH = 3.0  # at the end of the process; a delivery not recorded by then is sent again


class Deliveries:
    """The deliveries of one process."""

    def __init__(self, gateway: Gateway, sender: Sender) -> None:
        self._gateway = gateway
        self._sender = sender
        self._busy: dict[UUID, asyncio.Task[None]] = {}
        self._more = asyncio.Event()

    async def run(self) -> None:
        """Delivers what is due, until it is cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL):
                    await self._more.wait()
            self._more.clear()
            try:
                await self._begin()
            except (Unavailable, Refused, DatabaseFault) as error:
                _LOG.warning("alerts cannot be read: %s", type(error).__name__)
                await asyncio.sleep(_INTERVAL)

    async def finish(self) -> None:
        """Lets the deliveries under way end, for a moment."""
        tasks = list(self._busy.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=_SECONDS_TO_FINISH)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _begin(self) -> None:
        rows = await self._gateway.by_itself(
            functions.claim_deliveries(most=_AT_ONCE, busy=list(self._busy))
        )
        ordered = sorted(rows, key=lambda row: str(row["endpoint_id"]))
        for _, group in groupby(ordered, key=lambda row: str(row["endpoint_id"])):
            batch = list(group)
            endpoint_id = batch[0]["endpoint_id"]
            self._busy[endpoint_id] = asyncio.create_task(self._deliver(endpoint_id, batch))

    async def _deliver(self, endpoint_id: UUID, batch: list[Row]) -> None:
        try:
            await asyncio.gather(*(self._deliver_one(row) for row in batch))
        finally:
            del self._busy[endpoint_id]
            if len(batch) == _AT_ONCE:
                self._more.set()

    async def _deliver_one(self, row: Row) -> None:
        attempt = await self._sender.send(
            Message(str(row["event_id"]), row["url"], row["secrets"], row["payload"])
        )
        try:
            noted = await self._gateway.by_itself(
                functions.note_delivery(
                    delivery_id=row["delivery_id"],
                    attempt=row["attempt"],
                    answer_status=attempt.status,
                    error=attempt.error,
                )
            )
        except (Unavailable, Refused, DatabaseFault) as error:
            # The claim ends by itself, and the alert is sent again.
            _LOG.warning("what came of a delivery is not noted: %s", type(error).__name__)
            return
        _report(row, attempt, noted[0]["note_delivery"])


def _report(row: Row, attempt: Attempt, state: str | None) -> None:
    """Counts and logs an attempt. `state` is the delivery's now: delivered, waiting or failed."""
    metrics.WEBHOOK_DELIVERIES.labels(
        {"waiting": "retried"}.get(state or "", state or "late")
    ).inc()
    if attempt.error is not None:
        _LOG.log(
            logging.ERROR if state == "failed" else logging.WARNING,
            "alert %s was not delivered to endpoint %s at attempt %d: %s",
            row["event_id"],
            row["endpoint_id"],
            row["attempt"],
            attempt.error,
        )
