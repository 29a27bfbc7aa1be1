"""A console for the tests of one module, and the people before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.http.admin_api.helpers import (
    Person,
    hire,
    staff_environment,
)
from tests.sql.helpers import set_staff_domain
from tests.support import (
    Database,
    Service,
    running_service,
)


@pytest.fixture(scope="module")
def service(module_database: Database) -> Iterator[Service]:
    """A server whose staff are of example.com."""
    set_staff_domain(module_database)
    with running_service(module_database, **staff_environment()) as service:
        yield service


@pytest.fixture(scope="module")
def admin(service: Service) -> Person:
    return hire(service, "admin")


@pytest.fixture(scope="module")
def viewer(service: Service) -> Person:
    return hire(service, "viewer")
