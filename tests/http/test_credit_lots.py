"""Credits that end, come later or are spent before others, as agents give and see them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from tests.http.contract import CHECK, CREDITS, account_row, make_account, part
from tests.support import Service, credit_body, identity


def _in(**more: int) -> str:
    return (datetime.now(UTC) + timedelta(**more)).isoformat()


def test_a_check_tells_when_credits_end_next_and_says_nothing_where_none_end(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=0, paid=5)
    assert "next_expiry" not in client.post(CHECK, json=identity(user)).json()
    soon, later = _in(hours=1), _in(hours=2)
    for amount, at in ((3, soon), (2, soon), (4, later)):
        kind = {"expires_at": at, "source": "promotion", "priority": 10}
        made = client.post(CREDITS, json=credit_body(user, amount, **kind))
        assert made.status_code == 201
        assert part(made.json(), ("expires_at", "source", "priority")) == kind
        assert "effective_at" not in made.json()
    check = client.post(CHECK, json=identity(user)).json()
    assert check["credits_remaining"] == 14
    assert check["next_expiry"] == {"at": soon, "amount_minor": 5}


def test_a_credit_that_comes_later_is_answered_with_the_balance_of_now_and_replayed(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service, free=0, paid=5)
    body = credit_body(user, 20, effective_at=_in(days=1), expires_at=_in(days=2))
    headers = {"Idempotency-Key": f"later-{user}"}
    first = client.post(CREDITS, json=body, headers=headers)
    assert (first.status_code, first.json()["balance_after"]) == (201, 5)
    again = client.post(CREDITS, json=body, headers=headers)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()
    other = client.post(CREDITS, json={**body, "amount_minor": 21}, headers=headers)
    assert other.status_code == 422
    existing = client.post(CREDITS, json={**body, "idempotency_key": f"later-{user}"})
    assert existing.status_code == 409
    assert existing.headers["x-existing-credit-id"] == first.json()["credit_id"]
    assert account_row(service, user)["paid_credits"] == 5


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"priority": 101}, "priority"),
        ({"priority": -1}, "priority"),
        ({"source": "gift"}, "source"),
        ({"expires_at": "tomorrow"}, "expires_at"),
    ],
)
def test_a_kind_of_credits_that_there_is_not_is_refused_by_its_field(
    service: Service, client: httpx2.Client, more: dict[str, object], field: str
) -> None:
    user = make_account(service)
    refused = client.post(CREDITS, json=credit_body(user, 1, **more))
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", field])


def test_what_would_be_over_or_does_not_go_together_is_refused(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service)
    for more in (
        {"expires_at": "2026-01-01T00:00:00Z"},
        {"expires_at": _in(hours=1), "effective_at": _in(hours=2)},
        {"effective_at": _in(hours=1), "external_transaction_id": "pi_later"},
        {"source": "promotion", "transaction_type": "purchase"},
    ):
        refused = client.post(CREDITS, json=credit_body(user, 1, **more))
        assert refused.status_code == 422, more
    assert account_row(service, user)["paid_credits"] == 0
