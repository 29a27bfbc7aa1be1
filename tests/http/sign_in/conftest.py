"""Providers and consoles for the tests of signing in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.http.sign_in.helpers import (
    signed_in,
)
from tests.identity_provider import (
    FOUNDER,
    Browser,
    Console,
    GoodProvider,
    HostileProvider,
    good_provider,
    hostile_provider,
    running_console,
)
from tests.support import Database


@pytest.fixture(scope="module")
def good() -> Iterator[GoodProvider]:
    """oidc-provider-mock."""
    with good_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def console(module_database: Database, good: GoodProvider) -> Iterator[Console]:
    """Our server with the good provider."""
    with running_console(module_database, good.discovery_url) as console:
        yield console


@pytest.fixture(scope="module")
def lying_provider() -> Iterator[HostileProvider]:
    with hostile_provider() as provider:
        yield provider


@pytest.fixture
def hostile(lying_provider: HostileProvider) -> HostileProvider:
    """A provider that lies when a test says so; it begins honest."""
    lying_provider.honest()
    return lying_provider


@pytest.fixture(scope="module")
def founder(console: Console, good: GoodProvider) -> Browser:
    """A browser in which an administrator has signed in."""
    return signed_in(console, good, FOUNDER)
