"""A database that was taken over, and a server on it, for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sql.adoption.helpers import (
    KEY,
    Adopted,
    old_database,
)
from tests.support import (
    Service,
    TestCluster,
    running_service,
)


@pytest.fixture(scope="module")
def adopted(cluster: TestCluster) -> Iterator[Adopted]:
    """An old database at the first revision, taken over."""
    with old_database(cluster) as (database, keys):
        yield Adopted(database, keys)


@pytest.fixture(scope="module")
def adopted_service(adopted: Adopted) -> Iterator[Service]:
    """A server on this database."""
    with running_service(adopted.database, ENCRYPTION_KEY=KEY) as service:
        yield service
