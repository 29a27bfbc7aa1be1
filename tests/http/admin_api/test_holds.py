"""What is held of an account, and giving it back, by JSON."""

from __future__ import annotations

from tests.http.admin_api.helpers import (
    NOBODYS_ID,
    Person,
    account_id,
    audit_rows,
    merged_account,
    new_account,
)
from tests.http.contract import assert_error_shape, make_account
from tests.support import Service, identity


def test_staff_list_the_holds_of_an_account_by_state_and_release_one_with_a_reason(
    service: Service, admin: Person, viewer: Person
) -> None:
    name = make_account(service, free=0, paid=20)
    user = account_id(service, name)
    with service.client() as agent:
        made = [
            agent.post(
                "/v1/billing/holds",
                json={**identity(name), "amount_minor": n, "metadata": {"agent_id": "scout"}},
            ).json()["hold_id"]
            for n in (3, 4, 5)
        ]
        agent.post(f"/v1/billing/holds/{made[0]}/capture", json={"amount_minor": 2})
    path = f"/users/{user}/holds"
    listed = viewer.get(path)
    assert ([hold["hold_id"] for hold in listed["holds"]], listed["has_more"]) == (
        made[::-1], False,
    )  # fmt: skip
    first = listed["holds"][0]
    assert (first["metadata"]["agent_id"], first["amount_minor"], first["paid_with"]) == (
        "scout", 5, "paid",
    )  # fmt: skip
    assert (first["balance"], first["held"], first["available"]) == (18, 9, 9)
    assert first["created_at"].endswith("Z")
    page = viewer.get(path, status="open", limit=1)
    assert ([hold["hold_id"] for hold in page["holds"]], page["has_more"]) == ([made[2]], True)
    page = viewer.get(path, status="open", limit=1, after=made[2])
    assert ([hold["hold_id"] for hold in page["holds"]], page["has_more"]) == ([made[1]], False)
    (captured,) = viewer.get(path, status="captured")["holds"]
    assert (captured["hold_id"], captured["captured_minor"]) == (made[0], 2)

    why = {"reason": "the agent is gone"}
    assert viewer.post(f"/holds/{made[1]}/release", why).status_code == 403
    assert admin.post(f"/holds/{made[1]}/release", {"reason": " "}).status_code == 422
    first, again = (admin.post(f"/holds/{made[1]}/release", why) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert (first.json()["status"], first.json()["available"]) == ("released", 13)
    action, who, reason, *_ = audit_rows(service, user)[0]
    assert (action, who, reason) == ("account.release_hold", admin.id, why["reason"])


def test_holds_that_cannot_be_listed_or_released_are_refused(
    service: Service, admin: Person
) -> None:
    user = new_account(service)
    assert admin.get(f"/users/{user}/holds") == {"holds": [], "has_more": False}
    merged = merged_account(service)
    assert admin.get(f"/users/{merged}/holds") == {"holds": [], "has_more": False}
    for query in ({"status": "gone"}, {"limit": 0}, {"limit": 501}, {"after": "x"}):
        answer = admin.call("GET", f"/admin/api/users/{user}/holds", params=query)
        assert answer.status_code == 422, query
    assert len(admin.get(f"/users/{user}/holds", limit=500)["holds"]) == 0
    nobodys = admin.call("GET", f"/admin/api/users/{NOBODYS_ID}/holds")
    assert (nobodys.status_code, nobodys.json()["code"]) == (404, "user_not_found")
    why = {"reason": "a test"}
    unknown = admin.post(f"/holds/{NOBODYS_ID}/release", why)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "hold_not_found")
    name = make_account(service, free=0, paid=5)
    with service.client() as agent:
        hold_id = agent.post(
            "/v1/billing/holds", json={**identity(name), "amount_minor": 5}
        ).json()["hold_id"]
        agent.post(f"/v1/billing/holds/{hold_id}/capture", json={})
    settled = admin.post(f"/holds/{hold_id}/release", why)
    assert_error_shape(settled, 409)
    assert settled.json()["code"] == "hold_settled"
