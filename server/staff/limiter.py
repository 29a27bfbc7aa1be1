"""How often signing in may be tried: per address, and in all, per process. The proxy limits too;
this holds where there is none, and bounds what a stranger can make the database do."""

from __future__ import annotations

import time
from collections import OrderedDict, deque

_WINDOW = 60.0
_PER_ADDRESS = 20
_IN_ALL = 200
_ADDRESSES = 10_000


class Limiter:
    """Counts attempts in a sliding minute."""

    def __init__(self) -> None:
        self._by_address: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque()

    def retry_after(self, address: str) -> int | None:
        """Counts an attempt from `address`; the seconds to wait when it is one too many."""
        now = time.monotonic()
        mine = self._by_address.setdefault(address, deque())
        self._by_address.move_to_end(address)
        if len(self._by_address) > _ADDRESSES:
            self._by_address.popitem(last=False)
        for attempts, limit in ((self._all, _IN_ALL), (mine, _PER_ADDRESS)):
            while attempts and attempts[0] < now - _WINDOW:
                attempts.popleft()
            if len(attempts) >= limit:
                return max(1, round(attempts[0] + _WINDOW - now))
        mine.append(now)
        self._all.append(now)
        return None
