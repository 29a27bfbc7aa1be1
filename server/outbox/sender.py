"""Sends one alert, once, as Standard Webhooks say: signed by every secret of the endpoint that is
valid. Whatever the receiver does, an attempt ends within seconds, and nothing of its answer but the
status is read or kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from standardwebhooks import Webhook

from server import __version__
from server.config import ServeConfig
from server.encryption import Cipher, DecryptionFailed
from server.outbox.addresses import Addresses, AddressRefused, problem_of
from server.outbox.secrets import opened

_CONNECT_SECONDS = 3
_MOST_HEADER = 8190


@dataclass(frozen=True, slots=True)
class Message:
    """An alert for one endpoint. `secrets` are as stored: encrypted, a JSON list."""

    event_id: str
    url: str
    secrets: str
    payload: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of sending: the answer's status, if there was an answer, and what went wrong, if
    anything did, in our own words."""

    status: int | None
    error: str | None


class Sender:
    """The client of one process. Create it where an event loop runs."""

    def __init__(self, config: ServeConfig) -> None:
        self._cipher = Cipher(config.encryption_keys) if config.encryption_keys else None
        self._allowed = config.webhook_networks
        self._timeout = config.webhook_timeout
        self._sessions = {
            "https": _session(Addresses(self._allowed, public_too=True), config.webhook_timeout),
            "http": _session(Addresses(self._allowed, public_too=False), config.webhook_timeout),
        }

    @property
    def cipher(self) -> Cipher | None:
        """What encrypts the secrets; None where the operator gave no key."""
        return self._cipher

    async def close(self) -> None:
        """Closes the connections."""
        for session in self._sessions.values():
            await session.close()

    async def problem_of(self, url: str) -> str | None:
        """What is wrong with an endpoint's address, as a sentence; None when nothing is."""
        return await problem_of(url, self._allowed)

    async def send(self, message: Message) -> Attempt:
        """Sends an alert. It is accepted when the answer's status is 2xx."""
        try:
            headers = self._headers(message)
        except DecryptionFailed:
            return Attempt(None, "its secret cannot be decrypted: see ENCRYPTION_KEY")
        session = self._sessions.get(urlsplit(message.url).scheme)
        if session is None:
            return Attempt(None, "its address is not https")
        try:
            async with session.post(
                message.url,
                data=message.payload.encode(),
                headers=headers,
                allow_redirects=False,
            ) as answer:
                return _judged(answer.status)
        except TimeoutError:
            return Attempt(None, f"it did not answer within {self._timeout:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Attempt(None, _words(error))

    def _headers(self, message: Message) -> dict[str, str]:
        if self._cipher is None:
            raise DecryptionFailed
        now = datetime.now(UTC)
        signatures = (
            Webhook(secret).sign(message.event_id, now, message.payload)
            for secret in opened(message.secrets, self._cipher)
        )
        return {
            "Content-Type": "application/json",
            "User-Agent": f"ciris-billing/{__version__}",
            "webhook-id": message.event_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }


def _session(addresses: Addresses, timeout: float) -> aiohttp.ClientSession:
    """A client that connects to these addresses only. A connection serves one request, so that each
    is to an address which was just looked up."""
    connector = aiohttp.TCPConnector(
        socket_factory=addresses.open_socket, use_dns_cache=False, force_close=True, limit=0
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=_CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        max_line_size=_MOST_HEADER,
        max_field_size=_MOST_HEADER,
    )


def _judged(status: int) -> Attempt:
    if 200 <= status < 300:
        return Attempt(status, None)
    if 300 <= status < 400:
        return Attempt(status, f"it answered {status}: redirects are not followed")
    if status == HTTPStatus.GONE:
        return Attempt(status, f"it answered {status} Gone: its owner wants no alerts any more")
    return Attempt(status, f"it answered {status}")


# The first line that fits counts. An error's own text may quote what was sent or received.
_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (AddressRefused, "its address is private or special"),
    (aiohttp.InvalidURL, "its address cannot be used"),
    (aiohttp.ClientSSLError, "its TLS certificate is not accepted, or TLS failed"),
    (aiohttp.ClientConnectorDNSError, "its name is not known"),
    (aiohttp.ClientConnectorError, "it cannot be connected to"),
    (aiohttp.ServerDisconnectedError, "the connection broke before it answered"),
    (OSError, "the connection broke before it answered"),
)


def _words(error: Exception) -> str:
    """Why there was no answer."""
    refused = getattr(error, "os_error", None)
    for kind, words in _WORDS:
        if isinstance(error, kind) or isinstance(refused, AddressRefused):
            return words
    return "its answer cannot be read"


SENDER = web.AppKey("sender", Sender)
