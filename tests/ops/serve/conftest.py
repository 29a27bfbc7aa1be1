"""Servers and a cluster for the tests of `serve`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import (
    Database,
    Service,
    running_service,
)


@pytest.fixture(scope="module")
def impatient(module_database: Database) -> Iterator[Service]:
    """A server with one worker, so that all requests meet there, which waits three seconds for an
    account."""
    with running_service(module_database, LOCK_TIMEOUT="3") as service:
        yield service
