"""The audit log in the staff API: what every write leaves behind."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.http.admin_api.helpers import (
    AGENT,
    EVERY_WRITE,
    MATRIX,
    Z_TIME,
    Person,
    audit_rows,
    hire,
    new_account,
)
from tests.http.contract import (
    INT64_MAX,
)
from tests.support import (
    Service,
)

# The audit log


def test_the_audit_log_is_filtered_and_paged(service: Service, admin: Person) -> None:
    other = hire(service, "admin")
    account = new_account(service)
    for number, who in enumerate((admin, other, admin), 1):
        who.post(f"/users/{account}/credits", {"amount_minor": number, "reason": f"no. {number}"})
    admin.put(f"/users/{account}/status", {"status": "closed", "reason": "the end"})
    whole = admin.get("/audit-log", resource_id=account)
    assert [one["reason"] for one in whole["entries"]] == ["the end", "no. 3", "no. 2", "no. 1"]
    assert whole["has_more"] is False
    entry = whole["entries"][0]
    assert {name: entry[name] for name in entry if name not in ("id", "created_at")} == {
        "who": admin.email,
        "action": "account.set_status",
        "resource_type": "account",
        "resource_id": account,
        "reason": "the end",
        "changes": {"before": "active", "after": "closed"},
        "ip_address": "127.0.0.1",
        "user_agent": AGENT,
        "database_login": "t_web",
    }
    assert re.fullmatch(Z_TIME, entry["created_at"])

    def reasons(**query: Any) -> list[str]:
        found = admin.get("/audit-log", resource_id=account, **query)
        return [one["reason"] for one in found["entries"]]

    assert reasons(who=other.email.upper()) == ["no. 2"]
    assert reasons(who="T_web") == ["the end", "no. 3", "no. 2", "no. 1"]
    assert reasons(action="account.adjust_credits") == ["no. 3", "no. 2", "no. 1"]
    assert len(reasons(action="account")) == 4
    assert reasons(action="acc") == reasons(action="%") == reasons(who="' OR 1=1 --") == []
    today, yesterday = datetime.now(UTC).date(), datetime.now(UTC).date() - timedelta(days=1)
    assert len(reasons(**{"from": str(yesterday), "to": str(today)})) == 4
    assert reasons(to=str(yesterday)) == []
    assert reasons(**{"from": "9999-12-31", "to": "9999-12-31"}) == []
    assert reasons(page_size=3, page=2) == ["no. 1"]
    assert admin.get("/audit-log", resource_id=account, page_size=3)["has_more"] is True
    assert reasons(page=INT64_MAX // 500) == []


# What these change are two keys or two accounts; each of the two gets a row. A refund gets one when
# it is asked for and one when it is made.
CHANGES_TWO = ("/{api_key_id}/rotate", "/transfer", "/merge", "/undo-merge", "/refund")


@EVERY_WRITE
def test_every_write_leaves_a_row_that_says_who_where_from_and_what(
    service: Service, admin: Person, route: tuple[str, str]
) -> None:
    wanted = MATRIX[route](service)
    before = len(audit_rows(service))
    answer = admin.call(route[0], wanted.path, json=wanted.body)
    assert answer.is_success
    new = audit_rows(service)[: len(audit_rows(service)) - before]
    assert len(new) == (2 if route[1].endswith(CHANGES_TWO) else 1)
    for row in new:
        assert row[1] == admin.id
        assert row[4:6] == ("127.0.0.1", AGENT)
        assert row[7] is None
    if wanted.body and "reason" in wanted.body:
        assert {row[2] for row in new} == {wanted.body["reason"]}
