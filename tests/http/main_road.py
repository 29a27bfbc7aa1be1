"""The usual way of a user: check, charge until the free uses are used up, grant, charge on,
history."""

from tests.support import Service, charge_body, credit_body, identity, unique


def go_the_main_road(service: Service) -> None:
    """Does everything that every user does, on a running server."""
    user = unique()
    with service.client() as client:
        check = client.post("/v1/billing/credits/check", json=identity(user))
        assert check.status_code == 200
        assert check.json()["free_uses_remaining"] == 3
        for left in (2, 1, 0):
            charge = client.post("/v1/billing/charges", json=charge_body(user))
            assert charge.status_code == 201
            assert charge.json()["paid_with"] == "free"
            assert charge.json()["free_uses_remaining"] == left
        refused = client.post("/v1/billing/charges", json=charge_body(user))
        assert refused.status_code == 402
        assert refused.json()["detail"] == "Insufficient credits. Balance: 0, Required: 1"
        granted = client.post("/v1/billing/credits", json=credit_body(user, 5))
        assert granted.json()["balance_after"] == 5
        paid = client.post("/v1/billing/charges", json=charge_body(user, 2))
        assert paid.json()["balance_after"] == 3
        history = client.get("/v1/billing/transactions", params=identity(user)).json()
    assert history["total_count"] == 5
    assert [entry["amount_minor"] for entry in history["transactions"]] == [-2, 5, -1, -1, -1]
