"""What the tests of nginx share."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

import httpx2

from tests.nginx import Nginx

CHECK, CHARGES = "/v1/billing/credits/check", "/v1/billing/charges"


STAFF = {"ADMIN_JWT_SECRET": "a secret of the tests only 8bY2qLxWm4 and long enough for any HMAC"}


def exchange(proxy: Nginx, data: bytes, *, tls: bool = True) -> bytes:
    """Sends bytes unchanged and reads to the end."""
    with contextlib.ExitStack() as stack:
        connection: socket.socket = stack.enter_context(
            socket.create_connection(proxy.address, timeout=10)
        )
        if tls:
            connection = stack.enter_context(
                proxy.tls.wrap_socket(connection, server_hostname="localhost")
            )
        connection.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError, ssl.SSLError):
            while chunk := connection.recv(65536):
                answer += chunk
    return answer


def raw(proxy: Nginx, target: str, headers: bytes = b"", body: bytes = b"") -> httpx2.Response:
    """The answer to a request for exactly this target. It is a POST when there is a body."""
    method = b"POST " if body else b"GET "
    answer = exchange(
        proxy,
        method + target.encode() + b" HTTP/1.1\r\nHost: billing.example.com\r\n"
        b"Connection: close\r\n" + headers + b"\r\n" + body,
    )
    return parsed(answer)


def parsed(answer: bytes) -> httpx2.Response:
    """Parses bytes as a response."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    fields = [tuple(line.split(": ", 1)) for line in lines]
    return httpx2.Response(int(status.split()[1]), headers=fields, content=body)  # type: ignore[arg-type]


# Servers that fail


class Upstream:
    """A server that reads requests and answers none. `behaviour` is "silent" or "hang up"."""

    def __init__(self, behaviour: str = "silent") -> None:
        self._behaviour = behaviour
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.requests: list[bytes] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Upstream:
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self.requests.append(connection.recv(65536))
            if self._behaviour == "hang up":
                connection.close()
