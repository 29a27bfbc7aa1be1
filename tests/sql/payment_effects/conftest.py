"""The ledger is looked at after every test of a payment's effects."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sql.helpers import (
    ledger_problems,
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
