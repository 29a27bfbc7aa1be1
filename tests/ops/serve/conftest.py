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
    """One worker, so that all requests meet, that waits three seconds for an account."""
    with running_service(module_database, LOCK_TIMEOUT="3") as service:
        yield service
