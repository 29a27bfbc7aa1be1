"""Accounts in the staff API: found, read, and put right."""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from typing import Any

import pytest

from tests.http.admin_api.helpers import (
    AGENT,
    NOBODYS_ID,
    Z_TIME,
    Person,
    account_id,
    audit_rows,
    new_account,
)
from tests.http.contract import (
    INT64_MAX,
    UUID,
    assert_error,
    faults_of,
    make_account,
    make_charges,
    set_status,
)
from tests.support import (
    Service,
    charge_body,
    identity,
    unique,
)

NASTY = "<script>alert(1)</script>'\"; DROP TABLE accounts; -- %_\\ {{7*7}} \u202e"


USER = (
    *("account_id", "oauth_provider", "external_id", "wa_id", "tenant_id", "customer_email"),
    *("balance_minor", "currency", "plan_name", "status", "created_at", "last_charge_at"),
    *("last_credit_at", "total_charged", "total_credited", "charge_count", "credit_count"),
    *("paid_credits", "free_uses_remaining", "total_uses"),
)


# Accounts


def test_a_user_is_as_the_contract_has_it(service: Service, viewer: Person) -> None:
    user = make_account(service, free=1, paid=20)
    make_charges(service.database, user, 3)
    service.database.execute(
        "UPDATE billing_data.accounts SET customer_email = 'Ada@Example.com'"
        " WHERE external_id = %s",
        user,
    )
    account = account_id(service, user)
    found = viewer.get(f"/users/{account}")
    assert tuple(found)[: len(USER)] == USER
    assert {name: found[name] for name in USER if not name.endswith("_at")} == {
        "account_id": account,
        "oauth_provider": "oauth:google",
        "external_id": user,
        "wa_id": None,
        "tenant_id": None,
        "customer_email": "Ada@Example.com",
        "balance_minor": 0,
        "currency": "USD",
        "plan_name": "free",
        "status": "active",
        "total_charged": 2,
        "total_credited": 20,
        "charge_count": 5,
        "credit_count": 1,
        "paid_credits": 18,
        "free_uses_remaining": 0,
        "total_uses": 5,
    }
    for name in ("created_at", "last_charge_at", "last_credit_at", "updated_at"):
        assert re.fullmatch(Z_TIME, found[name]), found[name]
    stored = service.database.value(
        "SELECT created_at FROM billing_data.accounts WHERE id = %s", account
    )
    assert datetime.fromisoformat(found["created_at"]) == stored
    (listed,) = viewer.get("/users", search=user)["users"]
    assert tuple(listed) == USER
    assert listed == {name: found[name] for name in USER}


def test_an_account_without_history_has_no_last_times(service: Service, viewer: Person) -> None:
    found = viewer.get(f"/users/{new_account(service)}")
    assert (found["last_charge_at"], found["last_credit_at"]) == (None, None)
    assert (found["total_charged"], found["total_credited"], found["charge_count"]) == (0, 0, 0)


def test_an_unknown_user_is_told_by_id(viewer: Person, admin: Person) -> None:
    detail = f"User {NOBODYS_ID} not found"
    for what in ("", "/transactions", "/checks"):
        assert_error(viewer.call("GET", f"/admin/api/users/{NOBODYS_ID}{what}"), 404, detail)
    reason = {"reason": "x"}
    assert_error(
        admin.post(f"/users/{NOBODYS_ID}/credits", {"amount_minor": 1, **reason}), 404, detail
    )
    assert_error(admin.post(f"/users/{NOBODYS_ID}/free-uses", reason), 404, detail)
    assert_error(
        admin.put(f"/users/{NOBODYS_ID}/status", {"status": "closed", **reason}), 404, detail
    )


def test_pages_of_users_are_whole_disjoint_and_newest_first(
    service: Service, viewer: Person
) -> None:
    mark = unique("paging")
    with service.client() as client:
        for number in range(7):
            client.post("/v1/billing/credits/check", json=identity(f"{mark}-{number}"))
    seen = []
    for page, size in ((1, 3), (2, 3), (3, 1), (4, 0)):
        found = viewer.get("/users", search=mark, page=page, page_size=3)
        assert (found["total"], found["total_pages"]) == (7, 3)
        assert (found["page"], found["page_size"]) == (page, 3)
        assert len(found["users"]) == size
        seen += [user["external_id"] for user in found["users"]]
    assert seen == [f"{mark}-{number}" for number in reversed(range(7))]
    far = viewer.get("/users", search=mark, page=INT64_MAX // 500)
    assert (far["users"], far["total"]) == ([], 7)
    nothing = viewer.get("/users", search=unique("nobody"))
    assert (nothing["users"], nothing["total"], nothing["total_pages"]) == ([], 0, 0)
    assert viewer.get("/users")["page_size"] == 50
    everything = service.database.value("SELECT count(*) FROM billing_data.accounts")
    assert viewer.get("/users", page_size=1)["total"] == everything
    assert viewer.get("/users", page=10**6)["total"] == everything
    oldest = viewer.get("/users", search=mark, sort="oldest", page_size=1)["users"][0]
    assert oldest["external_id"] == f"{mark}-0"


@pytest.mark.parametrize(
    "external_id",
    [
        "100%sure",
        "under_score",
        "back\\slash",
        "o'brien",
        'quo"te',
        "UPPER lower",
        "dollar$1",
        "' OR 1=1 --",
        "%",
        "_",
        "<b>bold</b>",
        "Ünïcode",
    ],
)
def test_a_search_takes_every_letter_as_itself(
    service: Service, viewer: Person, external_id: str
) -> None:
    mark = unique()
    with service.client() as client:
        for text in (f"{mark}{external_id}x", f"{mark}zzzzzzzz"):
            client.post("/v1/billing/credits/check", json=identity(text))
    for wanted in (external_id, external_id.upper(), external_id.lower()):
        for match in ("substring", "prefix"):
            found = viewer.get("/users", search=f"{mark}{wanted}", match=match)
            assert [user["external_id"] for user in found["users"]] == [f"{mark}{external_id}x"]
            assert found["total"] == 1
    inside = viewer.get("/users", search=f"{mark[3:]}{external_id}")
    assert inside["total"] == 1
    assert viewer.get("/users", search=f"{mark[3:]}{external_id}", match="prefix")["total"] == 0


def test_a_search_finds_by_address_and_by_id_and_filters_by_state(
    service: Service, viewer: Person
) -> None:
    user = make_account(service)
    email = f"{unique('Ada.Love')}@Example.com"
    service.database.execute(
        "UPDATE billing_data.accounts SET customer_email = %s WHERE external_id = %s", email, user
    )
    for search in (email.lower(), email.upper()[4:], account_id(service, user)):
        assert [one["external_id"] for one in viewer.get("/users", search=search)["users"]] == [
            user
        ]
    set_status(service, user, "suspended")
    for status, count in (("suspended", 1), ("active", 0), ("closed", 0), ("odd", 0), ("", 1)):
        found = viewer.get("/users", search=user, status_filter=status)
        assert (found["total"], len(found["users"])) == (count, count)


def test_an_external_id_that_looks_like_an_account_id_is_found(
    service: Service, viewer: Person
) -> None:
    external_id = str(uuid.uuid4())
    with service.client() as client:
        client.post("/v1/billing/credits/check", json=identity(external_id))
    assert viewer.get("/users", search=external_id)["total"] == 1


def test_what_users_are_called_comes_back_as_it_is(service: Service, admin: Person) -> None:
    with service.client() as client:
        body = {**identity(NASTY), "wa_id": NASTY, "context": {"agent_id": NASTY}}
        client.post("/v1/billing/credits/check", json=body)
        charge = charge_body(NASTY, description=NASTY, metadata={"channel_id": NASTY})
        assert client.post("/v1/billing/charges", json=charge).status_code == 201
    answer = admin.call("GET", "/admin/api/users", params={"search": NASTY})
    assert answer.headers["content-type"] == "application/json"
    (user,) = answer.json()["users"]
    assert (user["external_id"], user["wa_id"]) == (NASTY, NASTY)
    account = user["account_id"]
    (entry,) = admin.get(f"/users/{account}/transactions")["transactions"]
    assert (entry["description"], entry["metadata"]["channel_id"]) == (NASTY, NASTY)
    (check,) = admin.get(f"/users/{account}/checks")["checks"]
    assert check["agent_id"] == NASTY
    granted = admin.post(f"/users/{account}/credits", {"amount_minor": 1, "reason": NASTY})
    assert granted.status_code == 201
    (row,) = admin.get("/audit-log", resource_id=account)["entries"]
    assert row["reason"] == NASTY.strip()
    key = admin.post(
        "/api-keys", {"name": NASTY, "permissions": ["billing:read"], "description": NASTY}
    ).json()
    (listed,) = [one for one in admin.get("/api-keys") if one["id"] == key["id"]]
    assert (listed["name"], listed["description"]) == (NASTY, NASTY)
    assert service.database.value("SELECT count(*) FROM billing_data.accounts") > 0


def test_the_ledger_has_a_running_balance(service: Service, viewer: Person) -> None:
    user = make_account(service, free=1, paid=10)
    make_charges(service.database, user, 3)
    account = account_id(service, user)
    page = viewer.get(f"/users/{account}/transactions", page_size=4)
    assert (page["total"], page["total_pages"], page["page"]) == (6, 2, 1)
    assert [entry["amount_minor"] for entry in page["transactions"]] == [-1, -1, -1, 10]
    assert [entry["balance_after"] for entry in page["transactions"]] == [8, 9, 10, 10]
    assert [entry["paid_with"] for entry in page["transactions"]] == ["paid", "paid", "free", None]
    assert all(re.fullmatch(Z_TIME, entry["created_at"]) for entry in page["transactions"])
    rest = viewer.get(f"/users/{account}/transactions", page_size=4, page=2)
    assert [entry["type"] for entry in rest["transactions"]] == ["charge", "charge"]
    past = viewer.get(f"/users/{account}/transactions", page=INT64_MAX // 500)
    assert (past["transactions"], past["total"]) == ([], 6)


def test_checks_tell_why_they_were_denied(service: Service, viewer: Person) -> None:
    user = make_account(service, free=0)
    context = {"agent_id": "scout", "channel_id": "c", "request_id": "r"}
    with service.client() as client:
        client.post("/v1/billing/credits/check", json={**identity(user), "context": context})
        set_status(service, user, "suspended")
        client.post("/v1/billing/credits/check", json=identity(user))
    account = account_id(service, user)
    page = viewer.get(f"/users/{account}/checks", page_size=1)
    assert page["has_more"] is True
    assert page["checks"][0]["reason"] == "Account suspended"
    last = viewer.get(f"/users/{account}/checks", page_size=1, page=2)
    assert last["has_more"] is False
    (check,) = last["checks"]
    assert check["has_credit"] is False
    assert check["reason"] == "No free uses or credits remaining"
    assert {name: check[name] for name in context} == context
    assert viewer.get(f"/users/{account}/checks", page=3)["checks"] == []


def test_credits_are_granted_and_taken_never_below_zero(service: Service, admin: Person) -> None:
    account = new_account(service)
    granted = admin.post(f"/users/{account}/credits", {"amount_minor": 7, "reason": " goodwill "})
    assert granted.status_code == 201
    assert granted.json() == {
        "credit_id": granted.json()["credit_id"],
        "account_id": account,
        "amount_minor": 7,
        "balance_before": 0,
        "balance_after": 7,
        "created_at": granted.json()["created_at"],
    }
    assert re.fullmatch(UUID, granted.json()["credit_id"])
    assert re.fullmatch(Z_TIME, granted.json()["created_at"])
    taken = admin.post(f"/users/{account}/credits", {"amount_minor": -7, "reason": "a mistake"})
    assert (taken.json()["amount_minor"], taken.json()["balance_after"]) == (-7, 0)
    short = admin.post(f"/users/{account}/credits", {"amount_minor": -3, "reason": "again"})
    assert_error(short, 402, "Insufficient credits. Balance: 0, Required: 3")
    assert {name: short.json()[name] for name in ("balance", "required", "shortfall")} == {
        "balance": 0,
        "required": 3,
        "shortfall": 3,
    }
    full = admin.post(f"/users/{account}/credits", {"amount_minor": INT64_MAX, "reason": "max"})
    assert full.status_code == 201
    over = admin.post(f"/users/{account}/credits", {"amount_minor": 1, "reason": "too many"})
    assert over.status_code == 422
    assert over.json()["code"] == "balance_overflow"
    user = admin.get(f"/users/{account}")
    assert (user["paid_credits"], user["total_credited"]) == (INT64_MAX, INT64_MAX + 7)
    admin.post(f"/users/{account}/credits", {"amount_minor": -INT64_MAX, "reason": "back"})
    actions = [
        (row[0], row[1], row[2], row[3]["before"], row[3]["after"], *row[4:6])
        for row in audit_rows(service, account)
    ]
    assert actions == [
        ("account.adjust_credits", admin.id, reason, before, after, "127.0.0.1", AGENT)
        for reason, before, after in (
            ("back", INT64_MAX, 0),
            ("max", 0, INT64_MAX),
            ("a mistake", 7, 0),
            ("goodwill", 0, 7),
        )
    ]


def test_an_idempotency_key_makes_a_repeat_safe(service: Service, admin: Person) -> None:
    account = new_account(service)
    body = {"amount_minor": 5, "reason": "ticket 311"}
    header = {"Idempotency-Key": unique("ticket")}
    first = admin.post(f"/users/{account}/credits", body, **header)
    again = admin.post(f"/users/{account}/credits", body, **header)
    assert (again.status_code, again.json()) == (201, first.json())
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    other = admin.post(f"/users/{account}/credits", {**body, "amount_minor": 6}, **header)
    assert_error(other, 422, "Idempotency key was used with a different request")
    assert admin.get(f"/users/{account}")["paid_credits"] == 5
    assert len(audit_rows(service, account)) == 1
    long = admin.post(f"/users/{account}/credits", body, **{"Idempotency-Key": "x" * 256})
    assert faults_of(long)[0]["loc"] == ["header", "idempotency-key"]
    elsewhere = admin.post(f"/users/{new_account(service)}/credits", body, **header)
    assert "idempotent-replayed" not in elsewhere.headers


def test_free_uses_are_reset(service: Service, admin: Person) -> None:
    account = new_account(service, free=1)
    reset = admin.post(f"/users/{account}/free-uses", {"reason": "a new start"})
    new = admin.get("/config/pricing")["free_uses"]
    assert reset.json() == {
        "account_id": account,
        "free_uses_before": 1,
        "free_uses_remaining": new,
    }
    more = admin.post(f"/users/{account}/free-uses", {"free_uses": 9, "reason": "more"})
    assert more.json()["free_uses_remaining"] == 9
    assert admin.get(f"/users/{account}")["free_uses_remaining"] == 9
    newest = audit_rows(service, account)[0]
    assert newest[:6] == (
        "account.reset_free_uses",
        admin.id,
        "more",
        {"before": new, "after": 9, "ledger_version": 2},
        "127.0.0.1",
        AGENT,
    )


def test_an_account_is_suspended_reactivated_and_closed(service: Service, admin: Person) -> None:
    user = make_account(service)
    account = account_id(service, user)
    previous = "active"
    with service.client() as client:
        for status, charged in (("suspended", 403), ("active", 201), ("closed", 403)):
            answer = admin.put(f"/users/{account}/status", {"status": status, "reason": "why"})
            assert answer.json() == {
                "account_id": account,
                "status": status,
                "previous_status": previous,
            }
            charge = client.post("/v1/billing/charges", json=charge_body(user))
            assert charge.status_code == charged
            newest = audit_rows(service, account)[0]
            assert newest[:6] == (
                "account.set_status",
                admin.id,
                "why",
                {"before": previous, "after": status},
                "127.0.0.1",
                AGENT,
            )
            previous = status


# Why


def test_staff_are_told_why_a_charge_over_http_was_refused(
    service: Service, viewer: Person
) -> None:
    user = make_account(service, free=0, paid=1)
    account = account_id(service, user)
    assert viewer.get(f"/users/{account}/denial")["kind"] is None
    with service.client() as agent:
        refused = agent.post("/v1/billing/charges", json=charge_body(user, 3))
    assert refused.status_code == 402
    told = viewer.get(f"/users/{account}/denial")
    assert (told["kind"], told["reason"], told["amount_minor"]) == (
        "charge",
        "insufficient_credits",
        3,
    )
    assert told["api_key_prefix"] == service.key.prefix
    assert told["sentence"].endswith("One free use or 2 paid credits more would have been enough.")
    assert told["what_helps"].startswith("Grant at least 2 credits")
    assert re.fullmatch(Z_TIME, told["denied_at"])
    assert viewer.get(f"/users/{account}/denial?at=2020-01-01T00:00:00")["kind"] is None


def test_staff_read_an_accounts_timeline_page_by_page_and_why_it_is_as_it_is(
    service: Service, admin: Person, viewer: Person
) -> None:
    user = make_account(service, free=0, paid=2)
    account = account_id(service, user)
    with service.client() as agent:
        answers = [agent.post("/v1/billing/charges", json=charge_body(user, 1)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 402]
    suspended = {"status": "suspended", "reason": "a look at it"}
    assert admin.put(f"/users/{account}/status", suspended).status_code == 200
    path = f"/users/{account}/timeline"
    whole = viewer.get(path)
    assert (whole["has_more"], whole["next_cursor"]) == (False, None)
    kinds = [row["kind"] for row in whole["rows"]]
    assert kinds[:4] == ["staff", "denial", "charge", "charge"]
    act, denial, charge = whole["rows"][:3]
    assert act["words"] == "Status changed: from active to suspended"
    assert (act["reason"], act["writer"]) == ("a look at it", admin.email)
    assert act["changes"] == {"before": "active", "after": "suspended"}
    assert (denial["words"], denial["reason"]) == ("Charge of 1 refused", "insufficient_credits")
    assert (charge["credits_change"], charge["balance_after"]) == (-1, 0)
    paged: list[Any] = []
    cursor: dict[str, Any] = {}
    for _ in whole["rows"]:
        page = viewer.get(path, limit=1, **cursor)
        paged += page["rows"]
        assert page["has_more"] is (len(paged) < len(whole["rows"]))
        cursor = {"cursor": page["next_cursor"]}
    assert paged == whole["rows"]
    charges = viewer.get(path, kind="charge")["rows"]
    assert charges == [row for row in whole["rows"] if row["kind"] == "charge"]
    assert viewer.get(path, row_id=charges[1]["id"], limit=1)["rows"] == charges[1:2]
    assert viewer.get(f"{path}?to=2020-01-01")["rows"] == []
    for wrong in ("kind=x", "cursor=x", "limit=501", f"cursor={'A' * 64}", f"row_id={account}"):
        assert viewer.call("GET", f"/admin/api{path}?{wrong}").status_code == 422, wrong
    states = viewer.get(f"/users/{account}/explanation")["reasons"]
    assert [state["kind"] for state in states] == ["suspended", "denied"]
    assert states[0]["sentence"].startswith("The account is suspended since")
    assert (states[1]["credits_needed"], states[1]["is_over"]) == (1, False)
    before = viewer.get(f"/users/{account}/explanation?at=2020-01-01T00:00:00")["reasons"]
    assert [state["kind"] for state in before] == ["suspended"]
