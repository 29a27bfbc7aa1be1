"""A console for the tests of one module, and the people before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.http.admin_api.helpers import (
    DOUBLE,
    Person,
    hire,
    staff_environment,
)
from tests.sql.helpers import set_staff_domain
from tests.stripe_double import StripeDouble
from tests.support import (
    Database,
    Service,
    running_service,
)


@pytest.fixture(scope="session")
def double() -> Iterator[StripeDouble]:
    """The Stripe of the payments that staff refund."""
    with DOUBLE:
        yield DOUBLE


@pytest.fixture(scope="module")
def service(module_database: Database, double: StripeDouble) -> Iterator[Service]:
    """A server whose staff are of example.com."""
    set_staff_domain(module_database)
    environment = {**staff_environment(), "STRIPE_API_BASE": double.base_url}
    with running_service(module_database, **environment) as service:
        yield service


@pytest.fixture(scope="module")
def admin(service: Service) -> Person:
    return hire(service, "admin")


@pytest.fixture(scope="module")
def viewer(service: Service) -> Person:
    return hire(service, "viewer")
