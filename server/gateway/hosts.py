"""Opens connections of the database: to one of several hosts, within a time limit, and with a
socket that notices when the other side is gone."""

from __future__ import annotations

import contextlib
import socket
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

# The exceptions of a broken connection, beside errors that PostgreSQL sends.
BROKEN = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # When a connection breaks in the middle of a message, asyncpg may raise this.
    asyncpg.InternalClientError,
)
# What the kernel watches, in seconds or milliseconds. On an idle connection it probes the other
# side after a while; on a busy one it gives up when the other side confirms nothing. Linux has all
# of these options, other systems some.
_SOCKET_OPTIONS = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 3,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 4000,
}


class Hosts:
    """The hosts of a database URL; the one that served last comes first."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._order = _hosts_of(url)

    def in_order(self) -> list[dict[str, Any]]:
        """The hosts in the order in which to try them."""
        return list(self._order)

    def prefer(self, host: dict[str, Any]) -> None:
        """Makes this host the first to try from now on."""
        self._order.remove(host)
        self._order.insert(0, host)

    async def connect(self, host: dict[str, Any], **options: Any) -> Any:
        """Connects to one of the hosts; options are those of asyncpg.connect. Each host has the
        time-out for itself, so a silent host does not use up the time of the next one."""
        connection = await asyncpg.connect(self._url, **host, **options)
        _keep_alive(connection)
        return connection


def _hosts_of(url: str) -> list[dict[str, Any]]:
    """asyncpg's arguments for each host of a URL that names several. No arguments for a single
    host, which asyncpg reads from the URL itself."""
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    in_front = unquote(parts.netloc.rpartition("@")[2])
    names = (in_front or query.get("host", "")).split(",")
    if len(names) == 1:
        return [{}]
    ports = [] if in_front else query.get("port", "").split(",")
    hosts: list[dict[str, Any]] = []
    for index, entry in enumerate(names):
        name, colon, port = entry.rpartition(":") if _has_port(entry) else (entry, "", "")
        if not colon and any(ports):
            port = ports[min(index, len(ports) - 1)]
        hosts.append({"host": name.strip("[]"), "port": int(port or 5432)})
    return hosts


def _has_port(name: str) -> bool:
    return not name.startswith("/") and ":" in name.rpartition("]")[2]


def _keep_alive(connection: Any) -> None:
    """Makes the kernel watch the connection's socket."""
    transport = connection._transport  # asyncpg offers no other access to it
    ours = transport.get_extra_info("socket")
    if ours is None or ours.family == socket.AF_UNIX:
        return
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _SOCKET_OPTIONS.items():
        with contextlib.suppress(AttributeError, OSError):
            ours.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
