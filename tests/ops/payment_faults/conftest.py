"""Purchases and webhooks when things go wrong. Whatever happens, a payment is credited once and the
books agree."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.payments import (
    forget_faults,
    paying_service,
)
from tests.stripe_double import (
    StripeDouble,
    running_stripe,
)
from tests.support import (
    Database,
    Service,
)


@pytest.fixture(scope="module")
def double() -> Iterator[StripeDouble]:
    """A Stripe shared by the tests of this module."""
    with running_stripe() as double:
        yield double


@pytest.fixture(autouse=True)
def no_fault_is_left_behind(double: StripeDouble) -> Iterator[None]:
    """Removes faults that a test did not use, so that they do not affect the next test."""
    yield
    forget_faults(double)


@pytest.fixture(scope="module")
def shop(module_database: Database, double: StripeDouble) -> Iterator[Service]:
    """A server with two workers; it also goes on after another server of this database was
    killed."""
    with paying_service(module_database, double, workers=2) as service:
        yield service
