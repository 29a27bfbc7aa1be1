"""A server that sells, for the examples of the description."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.http.openapi.helpers import (
    STRIPE,
)
from tests.payments import (
    paying_service,
)
from tests.stripe_double import StripeDouble
from tests.support import (
    Database,
    Service,
)


@pytest.fixture(scope="module")
def double() -> Iterator[StripeDouble]:
    """The Stripe of the examples' purchases."""
    with STRIPE:
        yield STRIPE


@pytest.fixture(scope="module")
def service(module_database: Database, double: StripeDouble) -> Iterator[Service]:
    """A server whose payments go through it."""
    with paying_service(module_database, double) as service:
        yield service
