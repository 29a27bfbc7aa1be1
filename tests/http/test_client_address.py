"""Which address is recorded and counted when proxies stand in front of the server
(TRUSTED_PROXIES)."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from server.config import ConfigError, ServeConfig, load_serve_config
from server.http.app_keys import CONFIG
from server.http.client_address import client_address, parse_hop
from tests.support import Database, Service, identity, running_service, wait_for

TRUSTED = "127.0.0.1, 10.0.0.0/8 2001:db8::/32"
URL = "postgresql://web@db.example.com/billing"


def _address(peer: str | None, *headers: str, trusted: str = TRUSTED) -> str | None:
    """The address that the server takes for the client's."""
    app = web.Application()
    app[CONFIG] = load_serve_config({"DATABASE_URL": URL, "TRUSTED_PROXIES": trusted})
    request = make_mocked_request("GET", "/", app=app).clone(
        remote=peer or "", headers=[("X-Forwarded-For", header) for header in headers]
    )
    return client_address(request)


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("127.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        # What the client itself wrote comes before what our proxy wrote.
        ("127.0.0.1", ["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", ["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", ["198.51.100.1, 203.0.113.7, 10.1.2.3"], "203.0.113.7"),
        ("127.0.0.1", ["10.9.9.9, 10.1.2.3"], "10.9.9.9"),
        ("127.0.0.1", [], "127.0.0.1"),
        # The peer is not our proxy, so the client wrote the header.
        ("192.0.2.1", ["203.0.113.7"], "192.0.2.1"),
        # An entry that is not an address: the hops before it are unknown.
        ("127.0.0.1", ["203.0.113.7, unknown"], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.7, , 10.1.2.3"], "10.1.2.3"),
        ("127.0.0.1", ["' OR 1=1 --"], "127.0.0.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
        # IPv6, ports, and an IPv4 address on a socket for both.
        ("2001:db8::1", ["2A00:1450:0::1"], "2a00:1450::1"),
        ("::ffff:10.0.0.1", ["[2a00::1]:443"], "2a00::1"),
        ("127.0.0.1", ["203.0.113.7:50123"], "203.0.113.7"),
        ("127.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", ["fe80::1%eth0"], "127.0.0.1"),
        ("fe80::1%eth0", ["203.0.113.7"], "fe80::1%eth0"),
        # A Unix socket's peer has no address.
        (None, ["203.0.113.7"], None),
        ("garbage", ["203.0.113.7"], "garbage"),
    ],
)
def test_the_client_is_the_last_hop_that_is_none_of_ours(
    peer: str | None, headers: list[str], client: str | None
) -> None:
    assert _address(peer, *headers) == client


def test_without_trusted_proxies_the_peer_is_the_client_whatever_it_says() -> None:
    assert ServeConfig(database_url=URL).trusted_proxies == ()
    assert _address("127.0.0.1", "203.0.113.7", trusted="") == "127.0.0.1"


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "[2a00::1]443", "1.2.3.4:", "1.2.3.4:x", "1.2.3", "1.2.3.4:5:6", "::g"]
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse_hop(text) is None


@pytest.mark.parametrize("text", ["nginx", "10.0.0.1/8", "10.0.0.0/33", "127.0.0.1;10.0.0.1"])
def test_trusted_proxies_that_are_no_networks_stop_the_start(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_serve_config({"DATABASE_URL": URL, "TRUSTED_PROXIES": text})
    assert refused.value.faults == [
        "TRUSTED_PROXIES must be addresses or networks like 10.0.0.0/24"
    ]


@pytest.fixture(scope="module")
def behind_a_proxy(module_database: Database) -> Iterator[Service]:
    """A server that trusts 127.0.0.1, and no other address of this machine."""
    with running_service(module_database, TRUSTED_PROXIES="127.0.0.1") as service:
        yield service


def _use_key(service: Service, forwarded: str, local_address: str = "127.0.0.1") -> None:
    transport = httpx2.HTTPTransport(local_address=local_address, verify=False)
    with service.client(transport=transport) as client:
        answer = client.post(
            "/v1/billing/credits/check", json=identity(), headers={"X-Forwarded-For": forwarded}
        )
        assert answer.status_code == 200, answer.text


def _seen_from(service: Service) -> str | None:
    return service.database.value(
        "SELECT host(last_used_ip) FROM billing_data.api_keys WHERE id = %s", service.key.id
    )


def test_a_keys_last_use_is_kept_with_the_clients_address(behind_a_proxy: Service) -> None:
    _use_key(behind_a_proxy, "198.51.100.1, 2001:db8::7")
    wait_for(lambda: _seen_from(behind_a_proxy) == "2001:db8::7", "the key's use to be recorded")
    # This is not the proxy's address.
    _use_key(behind_a_proxy, "203.0.113.9", local_address="127.0.0.5")
    wait_for(lambda: _seen_from(behind_a_proxy) == "127.0.0.5", "the key's use to be recorded")


@pytest.mark.parametrize("forwarded", ["127.0.0.1", "10.0.0.1", "", "203.0.113.7"])
def test_metrics_are_refused_through_a_trusted_proxy_too(
    behind_a_proxy: Service, forwarded: str
) -> None:
    headers = {"X-Forwarded-For": forwarded}
    assert (
        httpx2.get(f"{behind_a_proxy.base_url}/metrics", headers=headers, verify=False).status_code
        == 404
    )
    assert httpx2.get(f"{behind_a_proxy.base_url}/metrics", verify=False).status_code == 200
