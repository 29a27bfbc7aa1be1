"""Batches of charges and captures under an Idempotency-Key: each takes effect as a whole, once per
key, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from server.gateway.call import Item, Row, Statement
from server.gateway.database import Database
from server.gateway.errors import Busy
from server.gateway.holders import HoldTimeout, holders_of
from server.gateway.items import CHARGE_ITEMS_ONCE, SETTLE_ITEMS_ONCE, lock_timeout
from server.gateway.slots import Slots

_CHARGE = CHARGE_ITEMS_ONCE.statement()
_SETTLE = SETTLE_ITEMS_ONCE.statement()
_PAUSE, _LONGEST_PAUSE = 0.002, 0.05  # seconds between attempts at a batch with a held account


class KeyedBatches:
    """Sends the batches. A first attempt takes one of the slots `first`, later ones one of `held`,
    so that a batch that waits for an account delays only others that wait too. A batch that has
    waited for `timeout` seconds raises Busy if HoldTimeout has expired for the accounts' holder."""

    def __init__(self, database: Database, first: Slots, held: Slots, *, timeout: float) -> None:
        self._database = database
        self._first = first
        self._held = held
        self._timeout = timeout

    async def send(
        self,
        items: Sequence[Item],
        idempotency_key: str,
        request_fingerprint: bytes,
        batch_fingerprint: bytes,
    ) -> list[Row]:
        """Returns a row per item, in their order. For the fingerprints see
        billing.charge_items_once."""
        batch = (idempotency_key, request_fingerprint, items, batch_fingerprint)
        rows = await self._send(_CHARGE, batch, [item[:2] for item in items])
        return _in_order(rows)

    async def settle(
        self,
        items: Sequence[Item],
        captures: Sequence[Item],
        idempotency_key: str,
        fingerprint: bytes,
    ) -> tuple[list[Row], list[Row], bool]:
        """Returns a row per charge and a row per capture, in their order, and whether it is the
        first answer again."""
        batch = (idempotency_key, fingerprint, items, captures, fingerprint)
        accounts = [*(item[:2] for item in items), *(item[:1] for item in captures)]
        rows = await self._send(_SETTLE, batch, accounts)
        charges = [row["charge"] for row in rows if row["charge"] is not None]
        made = [row["capture"] for row in rows if row["capture"] is not None]
        return _in_order(charges), _in_order(made), rows[0]["replayed"]

    async def _send(
        self, statement: Statement, batch: tuple[object, ...], accounts: list[tuple[Any, ...]]
    ) -> list[Row]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        hold_timeout = HoldTimeout(self._timeout)
        slots, pause, wait = self._first, _PAUSE, None
        while True:
            async with slots.slot():
                rows = await self._attempt(statement, (*batch, wait))
            if rows is not None:
                return rows
            # The attempt did nothing. The batch waits here, where it holds neither an account nor a
            # slot.
            if loop.time() > deadline:
                async with slots.slot():
                    holder = await holders_of(self._database, accounts)
                if hold_timeout.expired(holder):
                    raise Busy("an account of the batch is held by another transaction")
                # Calls of the service hold the account, so this call queues for its turn.
                wait = lock_timeout(self._timeout / 2)
            slots = self._held
            await slots.pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _attempt(self, statement: Statement, values: tuple[object, ...]) -> list[Row] | None:
        """Makes one attempt. Returns None when an account is held."""
        try:
            rows = await self._database.run(statement, values)
        except Busy:
            return None
        return None if not rows or rows[0].get("outcome") == "busy" else rows


def _in_order(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row["item"])
