"""Limits how often signing in may be tried, per client and process. The proxy has such a limit too;
this one holds where there is no proxy. There is no limit over all clients, because strangers would
use it up for the staff."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from ipaddress import ip_address

from aiohttp import web

_WINDOW = 60.0
_ATTEMPTS = 20
_CLIENTS = 10_000


class Limiter:
    """Counts attempts in a sliding minute."""

    def __init__(self) -> None:
        self._by_client: OrderedDict[str, deque[float]] = OrderedDict()

    def retry_after(self, address: str) -> int | None:
        """Counts an attempt from `address`. Returns the seconds to wait when it is one too many."""
        now = time.monotonic()
        client = _client(address)
        attempts = self._by_client.setdefault(client, deque())
        self._by_client.move_to_end(client)
        if len(self._by_client) > _CLIENTS:
            self._by_client.popitem(last=False)
        while attempts and attempts[0] < now - _WINDOW:
            attempts.popleft()
        if len(attempts) >= _ATTEMPTS:
            return max(1, round(attempts[0] + _WINDOW - now))
        attempts.append(now)
        return None


LIMITER = web.AppKey("limiter", Limiter)


def _client(address: str) -> str:
    """The client an address belongs to: for IPv6 the first 64 bits, because one client has all the
    addresses that share them."""
    try:
        parsed = ip_address(address)
    except ValueError:  # a Unix socket has no address
        return address
    return address if parsed.version == 4 else parsed.exploded[:19]
