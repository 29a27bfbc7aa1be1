"""The address of the client that sent a request, as our trusted proxies report it.

Without trusted proxies it is the address of the peer. What a client itself writes into
X-Forwarded-For is never trusted: the list is read from its end, where our own proxies write, and
only as far as their entries go."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiohttp import web

from server.http.app_keys import CONFIG


def client_address(request: web.Request) -> str | None:
    """The client's address as text; None where the peer has none (a Unix socket)."""
    peer = request.remote or None
    trusted = request.app[CONFIG].trusted_proxies
    if not trusted or peer is None or not _is_trusted(peer, trusted):
        return peer
    return _last_untrusted_hop(peer, request.headers.getall("X-Forwarded-For", ()), trusted)


def _last_untrusted_hop(peer: str, headers: Sequence[str], trusted: tuple[str, ...]) -> str:
    """Return the rightmost X-Forwarded-For address that is not a trusted proxy, or the first one if
    all are. An entry that is not an address ends the search: then the hop after it is returned."""
    client = peer
    for header in reversed(headers):
        for hop in reversed(header.split(",")):
            address = parse_hop(hop)
            if address is None:
                return client
            client = address
            if not _is_trusted(client, trusted):
                return client
    return client


@lru_cache(4096)
def parse_hop(text: str) -> str | None:
    """One entry of X-Forwarded-For as a plain address, without a port; None for anything else."""
    text = text.strip()
    if text.startswith("["):  # [2001:db8::1]:443
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            return None
    elif text.count(":") == 1:  # 203.0.113.7:443
        text, _, port = text.partition(":")
        if not _is_port(f":{port}"):
            return None
    address = _parse(text)
    return None if address is None else str(address)


def _is_port(text: str) -> bool:
    return text[0] == ":" and text[1:].isascii() and text[1:].isdigit() and len(text) <= 6


@lru_cache(4096)
def _is_trusted(address: str, trusted: tuple[str, ...]) -> bool:
    parsed = _parse(address)
    return parsed is not None and any(parsed in ip_network(network) for network in trusted)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    if "%" in text:  # a zone has a meaning on one machine only
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # An IPv4 client on a socket that accepts both IPv4 and IPv6.
    return getattr(address, "ipv4_mapped", None) or address
