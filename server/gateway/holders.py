"""Who holds an account's lock, and when that is a reason to refuse the calls that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from server.gateway import functions
from server.gateway.database import Database
from server.gateway.errors import Busy, DatabaseFault, Unavailable

# Who holds an account, as billing.get_account_holders returns it. The account is named by its
# identity or by a hold.
HolderOf = Callable[[tuple[Any, ...]], Coroutine[Any, Any, str | None]]
OTHERS = "others"


class HoldTimeout:
    """How long an account may be held before the calls that wait for it are refused. When a session
    that is not the service's holds it, they are refused at once. Calls of the service, of this
    process or another one, take turns. A call that holds the account for `timeout` seconds does not
    take turns: for example, its client gave up, and it waits for a silent replica."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._holder: str | None = None
        self._since = 0.0

    def expired(self, holder: str | None) -> bool:
        """Whether the time is over for `holder`, who holds the account now. Call it repeatedly
        while the account is held."""
        now = asyncio.get_running_loop().time()
        if holder != self._holder:
            self._holder, self._since = holder, now
        return holder == OTHERS or (holder is not None and now > self._since + self._timeout)


async def holders_of(database: Database, accounts: Sequence[tuple[Any, ...]]) -> str | None:
    """Returns who holds one of these accounts, each named by its identity or by a hold; None for
    nobody."""
    identities = [each for each in accounts if len(each) > 1]
    call = functions.get_account_holders(
        oauth_providers=[provider for provider, _ in identities],
        external_ids=[external_id for _, external_id in identities],
        hold_ids=[each[0] for each in accounts if len(each) == 1],
    )
    try:
        rows = await database.call(call)
    except Busy:  # an account changes hands right now
        return None
    except (Unavailable, DatabaseFault):
        return OTHERS
    holders: str | None = rows[0]["get_account_holders"]
    return holders
