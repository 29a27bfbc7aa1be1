"""Which addresses alerts may be sent to: public ones, and those in networks that the operator
allows. Otherwise whoever sets up an endpoint could make the server send requests to hosts that only
the server reaches. A name is looked up and its addresses are checked when the endpoint is
configured. Every address is checked again at the moment of connecting to it, so a name that leads
elsewhere by then, or an address that is written in an odd way, does not get past the check."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_LOOK_UP_SECONDS = 5.0
_PORTS = {"http": 80, "https": 443}
# Public addresses of IPv6 are given out of this part only.
_PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
# Special addresses that the library takes for public ones: of the network's own gateways, of the
# relays of 6to4, and for examples.
_SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))


class AddressRefused(OSError):
    """An address that alerts may not be sent to."""


class Addresses:
    """The addresses that connections may go to: those in the `allowed` networks, and with
    `public_too` all public ones."""

    def __init__(self, allowed: Iterable[str], *, public_too: bool) -> None:
        self._allowed = tuple(ipaddress.ip_network(network) for network in allowed)
        self._public_too = public_too

    def has(self, text: str) -> bool:
        """Whether a connection may go to this IP address."""
        address = _plain(ipaddress.ip_address(text))
        if any(address in network for network in self._allowed):
            return True
        return self._public_too and _is_public(address)

    def open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The socket for a connection to an address that was looked up; the client calls this for
        every connection. Raises AddressRefused."""
        family, kind, protocol, _, address = info
        if not self.has(address[0]):
            raise AddressRefused(f"{address[0]} is not allowed")
        return socket.socket(family, kind, protocol)


def _plain(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _is_public(address: _Address) -> bool:
    if address.version == 6 and address not in _PUBLIC_IPV6:
        return False
    if any(address in network for network in _SPECIAL):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


async def problem_of(url: str, allowed: Iterable[str]) -> str | None:
    """What is wrong with an endpoint's address, as a sentence; None when alerts can be sent there.
    Plain http is for the allowed networks only."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return "This is not an address."
    host = parts.hostname
    if port is None or not host or parts.username is not None or parts.password is not None:
        return "Give an address like https://example.com/billing, without user and password."
    try:
        async with asyncio.timeout(_LOOK_UP_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )
    except (OSError, TimeoutError, UnicodeError):
        return f"The name {host} is not known."
    networks = tuple(allowed)
    known = Addresses(networks, public_too=True)
    plain = Addresses(networks, public_too=False)
    addresses = [str(info[4][0]) for info in found]
    if not all(known.has(address) for address in addresses):
        return "It leads to a private or special address, and alerts are sent to public ones only."
    if parts.scheme == "http" and not all(plain.has(address) for address in addresses):
        return "It must begin with https."
    return None
