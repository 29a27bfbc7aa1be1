"""A shop after an outage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ops.reconcile.helpers import Shop
from tests.stripe_double import (
    StripeDouble,
    running_stripe,
)
from tests.support import (
    Database,
)


@pytest.fixture(scope="module")
def double() -> Iterator[StripeDouble]:
    """A Stripe shared by the tests of one module."""
    with running_stripe() as double:
        yield double


@pytest.fixture
def shop(database: Database, double: StripeDouble) -> Iterator[Shop]:
    """A shop with an empty Stripe; its books must agree at the end."""
    double.forget()
    shop = Shop(database, double)
    yield shop
    assert shop.verify() == []
