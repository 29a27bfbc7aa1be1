"""Credits that staff move to another account, and accounts that they merge, by JSON."""

from __future__ import annotations

import httpx2

from tests.http.admin_api.helpers import NOBODYS_ID, Person, account_id, audit_rows
from tests.http.contract import BATCH, assert_error_shape, make_account
from tests.support import Service, charge_body, identity, unique


def _refused(response: httpx2.Response, status: int, code: str) -> None:
    assert_error_shape(response, status)
    assert response.json()["code"] == code


def _two(service: Service) -> tuple[str, str, str, str]:
    """Two new users with 20 and 5 credits: their external ids and their accounts."""
    one, other = (make_account(service, free=1, paid=paid) for paid in (20, 5))
    return one, other, account_id(service, one), account_id(service, other)


def test_staff_move_credits_once_after_they_tried_it(service: Service, admin: Person) -> None:
    _, _, one, other = _two(service)
    body = {"to_account_id": other, "amount_minor": 8, "reason": "The wrong sign-in"}
    tried = admin.post(f"/users/{one}/transfer", {**body, "dry_run": True})
    assert tried.status_code == 200
    assert (tried.json()["transfer_id"], tried.json()["from_balance_after"]) == (None, 12)
    assert admin.get(f"/users/{one}")["paid_credits"] == 20
    key = {"Idempotency-Key": unique()}
    first, again = (admin.post(f"/users/{one}/transfer", body, **key) for _ in range(2))
    assert (first.json(), first.headers.get("idempotent-replayed")) == (again.json(), None)
    assert again.headers["idempotent-replayed"] == "true"
    assert (first.json()["from_balance_after"], first.json()["to_balance_after"]) == (12, 13)
    assert [admin.get(f"/users/{account}")["paid_credits"] for account in (one, other)] == [12, 13]


def test_a_transfer_that_cannot_be_is_refused(
    service: Service, admin: Person, viewer: Person
) -> None:
    _, _, one, other = _two(service)
    body = {"to_account_id": other, "amount_minor": 21, "reason": "x"}
    path = f"/users/{one}/transfer"
    _refused(admin.post(path, body), 402, "insufficient_credits")
    _refused(admin.post(path, {**body, "to_account_id": one}), 409, "accounts_are_one")
    missing = admin.post(path, {**body, "to_account_id": NOBODYS_ID})
    _refused(missing, 404, "user_not_found")
    assert NOBODYS_ID in missing.text
    assert admin.post(path, {**body, "amount_minor": 0}).status_code == 422
    assert viewer.post(path, body).status_code == 403


def test_staff_merge_accounts_are_led_on_and_undo_it(
    service: Service, admin: Person, viewer: Person
) -> None:
    name, other_name, one, other = _two(service)
    body = {"into_account_id": other, "reason": "One person"}
    tried = admin.post(f"/users/{one}/merge", {**body, "dry_run": True}).json()
    assert (tried["merge_id"], tried["balance_after"], tried["free_uses_after"]) == (None, 25, 2)
    key = {"Idempotency-Key": unique()}
    merged, again = (admin.post(f"/users/{one}/merge", body, **key) for _ in range(2))
    assert merged.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert viewer.get(f"/users/{one}")["account_id"] == other
    listed = viewer.get("/users", search=name)["users"]
    assert [(user["account_id"], user["status"]) for user in listed] == [(one, "merged")]
    (merge,) = viewer.get(f"/users/{one}/merges")
    assert (merge["external_id"], merge["problem"], merge["who"]) == (name, None, admin.email)
    # Staff's corrections by the merged id reach the account that stays: none answers 404.
    gift = admin.post(f"/users/{one}/credits", {"amount_minor": 5, "reason": "x"})
    assert gift.json()["balance_after"] == 30
    assert admin.post(f"/users/{one}/free-uses", {"reason": "x"}).status_code == 200
    assert admin.put(f"/users/{one}/status", {"status": "active", "reason": "x"}).status_code == 200
    stands = admin.post(f"/users/{one}/undo-merge", {"reason": "x"})
    _refused(stands, 409, "merge_stands")
    assert "1 newer ledger rows" in stands.json()["detail"]
    _refused(admin.post(f"/users/{other}/undo-merge", {"reason": "x"}), 409,
                 "account_not_merged")  # fmt: skip
    assert viewer.post(f"/users/{one}/merge", body).status_code == 403
    assert other_name


def test_a_merge_is_undone_as_long_as_nothing_changed(service: Service, admin: Person) -> None:
    _, _, one, other = _two(service)
    admin.post(f"/users/{one}/merge", {"into_account_id": other, "reason": "One person"})
    tried = admin.post(f"/users/{one}/undo-merge", {"reason": "Two", "dry_run": True}).json()
    assert (tried["undo_id"], tried["credits_moved_back"]) == (None, 20)
    undone = admin.post(f"/users/{one}/undo-merge", {"reason": "Two"}).json()
    assert undone["undone_at"] is not None
    assert [admin.get(f"/users/{account}")["paid_credits"] for account in (one, other)] == [20, 5]
    newest = audit_rows(service, one)[0]
    assert newest[:3] == ("account.undo_merge", admin.id, "Two")


def test_agents_charge_the_account_that_stays_by_the_merged_identity(
    service: Service, admin: Person, client: httpx2.Client
) -> None:
    name, other_name, one, other = _two(service)
    before = charge_body(name, idempotency_key=unique())
    charged = client.post("/v1/billing/charges", json=before)
    assert charged.status_code == 201
    admin.post(f"/users/{one}/merge", {"into_account_id": other, "reason": "One person"})
    checked = client.post("/v1/billing/credits/check", json=identity(name)).json()
    assert checked["credits_remaining"] == 25
    again = client.post("/v1/billing/charges", json=before)
    assert again.status_code == 409
    assert again.headers["x-existing-charge-id"] == charged.json()["charge_id"]
    fresh = client.post("/v1/billing/charges", json=charge_body(name)).json()
    read = client.get(f"/v1/billing/accounts/oauth:google/{name}").json()
    assert fresh["account_id"] == read["account_id"] == other
    assert read["external_id"] == other_name
    batch = client.post(
        BATCH,
        json={"charges": [charge_body(user) for user in (name, other_name)]},
    ).json()
    assert {result["body"]["account_id"] for result in batch["results"]} == {other}
