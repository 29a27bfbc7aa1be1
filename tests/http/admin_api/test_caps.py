"""Caps in the staff API and on the console's page."""

from __future__ import annotations

from tests.http.admin_api.helpers import Person, audit_rows, new_account
from tests.http.contract import assert_error, faults_of, make_account
from tests.support import Service, unique

_WHY = {"reason": "a budget"}


def test_a_cap_is_set_changed_listed_and_deleted(service: Service, admin: Person) -> None:
    user = make_account(service)
    body = {"scope": "account", "subject": f"oauth:google:{user}", "period": "day", "limit": 20}
    made = admin.put("/caps", {**body, **_WHY})
    assert made.status_code == 200
    cap = made.json()
    assert (cap["subject_name"], cap["mode"]) == (f"oauth:google:{user}", "hard")
    assert (cap["limit"], cap["used"], cap["left"], cap["reached_at"]) == (20, 0, 20, None)
    changed = admin.put("/caps", {**body, "limit": 30, **_WHY}).json()
    assert (changed["cap_id"], changed["limit"]) == (cap["cap_id"], 30)
    listed = admin.get("/caps", account_id=cap["subject"])
    assert (listed["caps"], listed["has_more"]) == ([changed], False)
    assert admin.get("/caps", scope="api_key")["caps"] == []
    gone = admin.delete(f"/caps/{cap['cap_id']}?reason=done")
    assert (gone.status_code, gone.content) == (204, b"")
    assert admin.get("/caps", account_id=cap["subject"])["caps"] == []
    assert len(audit_rows(service, cap["cap_id"])) == 3
    again = admin.delete(f"/caps/{cap['cap_id']}?reason=done")
    assert_error(again, 404, f"Cap not found: {cap['cap_id']}")


def test_a_cap_that_makes_no_sense_is_refused(service: Service, admin: Person) -> None:
    good = {"scope": "all", "period": "day", "limit": 20, **_WHY}
    for field, value in {
        "scope": "key", "period": "hour", "limit": -1, "mode": "soft", "reason": "",
    }.items():  # fmt: skip
        (fault,) = faults_of(admin.put("/caps", {**good, field: value}))
        assert fault["loc"] == ["body", field]
    (fault,) = faults_of(admin.delete(f"/caps/{new_account(service)}"))
    assert fault["loc"] == ["query", "reason"]
    problem = "it must say whose cap it is, and be left out for all"
    for more in ({"scope": "agent"}, {"subject": "x"}):
        assert_error(admin.put("/caps", {**good, **more}), 422, f"Invalid subject: {problem}")
    nobody = unique("oauth:google:")
    answer = admin.put("/caps", {**good, "scope": "account", "subject": nobody})
    assert_error(answer, 404, f"User {nobody} not found")
    answer = admin.put("/caps", {**good, "scope": "api_key", "subject": "cbk_live_none"})
    assert_error(answer, 404, "API key not found: cbk_live_none")
    assert admin.get("/caps")["caps"] == []
