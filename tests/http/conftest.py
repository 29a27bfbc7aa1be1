"""One client per module beside its server."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support import Service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    """Presents the service's own key."""
    with service.client(verify=False) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(service: Service) -> Iterator[httpx.Client]:
    """Presents no key."""
    with httpx.Client(base_url=service.base_url, timeout=30, verify=False) as client:
        yield client
