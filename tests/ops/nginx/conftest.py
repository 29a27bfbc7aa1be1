"""The project's nginx configuration, run by the real nginx with TLS in front of real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.nginx import UNLIMITED, Nginx, running_nginx, want_nginx
from tests.ops.nginx.helpers import STAFF
from tests.support import (
    Database,
    Service,
    running_service,
)


@pytest.fixture(scope="module", autouse=True)
def _wanted() -> None:
    want_nginx()


@pytest.fixture(scope="module")
def server(module_database: Database) -> Iterator[Service]:
    """A server that trusts the nginx on this machine and logs every request."""
    environment: dict[str, Any] = {
        "TRUSTED_PROXIES": "127.0.0.1",
        "ACCESS_LOG_SAMPLE": "1",
        **STAFF,
    }
    with running_service(module_database, **environment) as service:
        yield service


@pytest.fixture(scope="module")
def proxy(server: Service) -> Iterator[Nginx]:
    """nginx with its own settings, but with shorter time-outs, and with limits that only their own
    tests reach."""
    with running_nginx([server.base_url], PROXY_CLIENT_TIMEOUT="1500ms", **UNLIMITED) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def client(proxy: Nginx, server: Service) -> Iterator[httpx2.Client]:
    """A client with an agent's key."""
    with proxy.client(headers={"X-API-Key": server.key.secret}) as client:
        yield client
