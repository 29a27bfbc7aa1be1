"""Checks whether a port is free before anything is started."""

from __future__ import annotations

import errno
import shlex
import socket
import sys
import time

from server.cli.output import CommandFailed

_TRIED = 100
_POLL = 0.1


def require_free_port(host: str, port: int, patience: float = 0.0) -> None:
    """Raises CommandFailed, with the command that works, when another program listens there and
    still does after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not _is_free(host, port):
        if time.monotonic() >= deadline:
            raise CommandFailed(_advice(host, port))
        time.sleep(_POLL)


def _advice(host: str, port: int) -> str:
    other = next(
        (near for near in range(port + 1, port + _TRIED) if near < 65536 and _is_free(host, near)),
        None,
    )
    taken = f"port {port} of {host} is in use"
    if other is None:
        return f"{taken}: choose another with --port"
    return f"{taken}; this works: {_command(other)}"


def _command(port: int) -> str:
    """The command that was given, with another port."""
    kept: list[str] = []
    arguments = iter(sys.argv)
    for argument in arguments:
        if argument == "--port":
            next(arguments, None)
        elif not argument.startswith("--port="):
            kept.append(argument)
    return shlex.join([*kept, "--port", str(port)])


def _is_free(host: str, port: int) -> bool:
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except OSError as error:
        # The server itself reports other faults, such as a wrong address or no right to use the
        # port.
        return error.errno != errno.EADDRINUSE
    return True
