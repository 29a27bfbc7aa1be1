"""What is left of an account's credits, which paid for charges, and regular grants, by JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.http.admin_api.helpers import NOBODYS_ID, Person, account_id
from tests.http.contract import CHARGES, assert_error_shape, make_account
from tests.support import Service, charge_body, unique


def test_staff_give_credits_that_end_and_read_what_is_left_and_what_paid(
    service: Service, admin: Person, viewer: Person
) -> None:
    name = make_account(service, free=0, paid=5)
    user = account_id(service, name)
    ends = (datetime.now(UTC) + timedelta(days=1)).isoformat().replace("+00:00", "Z")
    given = admin.post(
        f"/users/{user}/credits",
        {"amount_minor": 3, "reason": "sorry", "expires_at": ends, "source": "promotion"},
    )
    assert (given.status_code, given.json()["balance_after"]) == (201, 8)
    with service.client() as agent:
        charged = agent.post(CHARGES, json=charge_body(name, 4)).json()
    (left,) = viewer.get(f"/users/{user}/lots")["lots"]
    assert (left["in_pool"], left["left_minor"]) == (True, 4)
    promotion, _ = viewer.get(f"/users/{user}/lots?all=true")["lots"]
    assert (promotion["lot_id"], promotion["left_minor"], promotion["expires_at"]) == (
        given.json()["credit_id"], 0, ends,
    )  # fmt: skip
    assert [
        lot["in_pool"] for lot in viewer.get(f"/users/{user}/lots?pool=false&all=1")["lots"]
    ] == [False]
    paid = viewer.get(f"/users/{user}/allocations")["allocations"]
    assert [(row["charge_id"], row["amount_minor"], row["source"]) for row in paid] == [
        (charged["charge_id"], 3, "promotion"), (charged["charge_id"], 1, paid[1]["source"]),
    ]  # fmt: skip
    for kind, query, has_more in (
        ("lots", "all=true&limit=1", True), ("lots", "all=true&limit=2", False),
        ("allocations", "limit=1", False),
    ):  # fmt: skip
        assert viewer.get(f"/users/{user}/{kind}?{query}")["has_more"] is has_more
    with service.client() as agent:
        assert agent.post(CHARGES, json=charge_body(name, 1)).status_code == 201
    newest = viewer.get(f"/users/{user}/allocations?limit=1")
    assert ([row["amount_minor"] for row in newest["allocations"]], newest["has_more"]) == (
        [1], True,
    )  # fmt: skip


def test_staff_set_pause_and_end_a_regular_grant(
    service: Service, admin: Person, viewer: Person
) -> None:
    user = account_id(service, make_account(service))
    path, key = f"/users/{user}/grant-schedules", {"Idempotency-Key": unique()}
    body = {"amount": 20, "day": 31, "reason": "a plan"}
    assert viewer.post(path, body).status_code == 403
    assert admin.post(path, {**body, "description": ""}).status_code == 422
    first, again = (admin.post(path, body, **key) for _ in range(2))
    assert (first.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    schedule = first.json()["schedule_id"]
    changed = admin.post(path, {**body, "amount": 30, "schedule_id": schedule})
    assert changed.json() == first.json()
    (read,) = viewer.get(path)["schedules"]
    assert (read["amount_minor"], read["state"], read["rollover"]) == (30, "active", False)
    why = {"reason": "asked for"}
    more = {"amount": 40, "rollover": True, "reason": "a greater plan"}
    assert viewer.post(f"/grant-schedules/{schedule}/change", more).status_code == 403
    assert admin.post(f"/grant-schedules/{schedule}/change", more).json() == changed.json()
    (read,) = viewer.get(path)["schedules"]
    assert (read["amount_minor"], read["rollover"], read["day"]) == (40, True, 31)
    for wrong in (
        {"amount": 0},
        {"description": ""},
        {"rollover": "x"},
        {"amount": 1, "reason": ""},
    ):
        refused = admin.post(f"/grant-schedules/{schedule}/change", {**more, **wrong})
        assert refused.status_code in (400, 422), wrong
    for call, state in (("pause", "paused"), ("resume", "active")):
        assert admin.post(f"/grant-schedules/{schedule}/{call}", why).status_code == 200
        assert viewer.get(path)["schedules"][0]["state"] == state
    assert admin.post(f"/grant-schedules/{schedule}/end", why).json()["next_at"] is None
    assert viewer.get(path)["schedules"] == []
    assert viewer.get(f"{path}?all=true")["schedules"][0]["state"] == "ended"
    over = admin.post(f"/grant-schedules/{schedule}/end", why)
    assert_error_shape(over, 409)
    assert over.json()["code"] == "grant_schedule_over"
    nobodys = admin.post(f"/grant-schedules/{NOBODYS_ID}/pause", why)
    assert (nobodys.status_code, nobodys.json()["code"]) == (404, "grant_schedule_not_found")
