"""Where the staff of the tests come from."""

from __future__ import annotations

import pytest

from tests.sql.helpers import (
    set_staff_domain,
)
from tests.support import Database


@pytest.fixture(scope="module", autouse=True)
def example_domain(module_database: Database) -> None:
    set_staff_domain(module_database)
