"""What the tests of payment events share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sql.helpers import (
    Caller,
    ledger_problems,
    session,
)
from tests.sql.payments import (
    configure_provider,
)
from tests.support import Database


@pytest.fixture(autouse=True)
def the_ledger_is_right_afterwards(module_database: Database) -> Iterator[None]:
    """Stripe is set up for tests; every account's books agree at the end."""
    configure_provider(module_database)
    yield
    assert ledger_problems(module_database) == []


@pytest.fixture
def own(database: Database) -> Iterator[tuple[Database, Caller]]:
    """A database of the test's own, whose settings it may change."""
    configure_provider(database)
    with session(database, "t_dba") as dba:
        yield database, dba
    assert ledger_problems(database) == []
