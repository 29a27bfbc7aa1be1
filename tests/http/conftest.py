"""One client per module for its server; modules about payments have a Stripe double, too."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.identity_provider import FOUNDER, Browser, good_provider, running_console
from tests.payments import ENCRYPTION_KEY, forget_faults, paying_service
from tests.stripe_double import StripeDouble, running_stripe
from tests.support import Database, Service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx2.Client]:
    """A client with the service's own key."""
    with service.client() as client:
        yield client


@pytest.fixture(scope="module")
def stranger(service: Service) -> Iterator[httpx2.Client]:
    """A client without a key."""
    with httpx2.Client(base_url=service.base_url, timeout=30, verify=False) as client:
        yield client


@pytest.fixture(scope="module")
def double() -> Iterator[StripeDouble]:
    """A Stripe shared by the tests of one module."""
    with running_stripe() as double:
        yield double


@pytest.fixture(scope="module")
def shop(module_database: Database, double: StripeDouble) -> Iterator[Service]:
    """A server whose payments go through the double."""
    with paying_service(module_database, double) as service:
        yield service


@pytest.fixture(scope="module")
def customer(shop: Service) -> Iterator[httpx2.Client]:
    """A client with the shop's own key."""
    with shop.client() as client:
        yield client


@pytest.fixture(autouse=True)
def no_fault_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Removes faults that a test did not use, so that they do not affect the next test."""
    yield
    if "double" in request.fixturenames:
        forget_faults(request.getfixturevalue("double"))


@pytest.fixture(scope="module")
def browsers(module_database: Database) -> Iterator[dict[str, Browser]]:
    """Browsers in which a viewer and an administrator are signed in."""
    with (
        good_provider() as provider,
        running_console(
            module_database, provider.discovery_url, ENCRYPTION_KEY=ENCRYPTION_KEY
        ) as running,
    ):
        signed_in = {name: running.browser() for name in ("viewer", "admin")}
        provider.sign_in(signed_in["viewer"], "grace@ciris.ai")
        provider.sign_in(signed_in["admin"], FOUNDER)
        yield signed_in
