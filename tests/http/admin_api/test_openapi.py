"""The description of the staff API against the running server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from server.http.route import PAGE
from server.routes import ROUTES
from tests.http.admin_api.helpers import (
    BAD,
    MATRIX,
    STRIPE,
    Person,
    account_with_top_up,
    lost_delivery,
    merged_account,
    new_account,
    new_charge,
    new_credit,
    new_endpoint,
    new_event,
    new_hold,
    new_payment,
    new_schedule,
    new_shortfall,
    new_warning,
    resolved_payment,
    session_cookie,
    stranger,
)
from tests.http.contract import (
    assert_error,
    faults_of,
    set_cap,
)
from tests.http.descriptions import CODES, EVERY_OPERATION
from tests.support import (
    Service,
)

# The description


STAFFS = [
    name
    for name, operation in EVERY_OPERATION.items()
    if {"StaffToken": []} in operation["security"]
]


def test_every_staff_operation_is_described_with_both_ways_in() -> None:
    assert len(STAFFS) == len(MATRIX)
    for name in STAFFS:
        operation = EVERY_OPERATION[name]
        assert operation["security"] == [{"StaffToken": []}, {"StaffSession": []}]
        assert operation["tags"][0].startswith("Staff: ")
    assert not [path for path in EVERY_OPERATION.values() if path["path"] == "/admin"]
    assert [route for route in ROUTES if route.guard == PAGE]


# What the examples name in paths, queries and bodies, and how it is made anew for each of them.
MADE: dict[str, Callable[[Service], str]] = {
    "account_id": lambda service: new_account(service, paid=20),
    "to_account_id": new_account,
    "into_account_id": new_account,
    "api_key_id": lambda service: service.database.create_key().id,
    "charge_id": new_charge,
    "credit_id": new_credit,
    "event_id": new_event,
    "hold_id": new_hold,
    "endpoint_id": new_endpoint,
    "delivery_id": lost_delivery,
    "schedule_id": new_schedule,
    "return_id": new_shortfall,
    "warning_id": new_warning,
}

# What only these examples need made.
MADE_FOR: dict[str, dict[str, Callable[[Service], str]]] = {
    "refundPayment": {"payment_id": new_payment},
    "reopenPayment": {"payment_id": resolved_payment},
    "undoUserMerge": {"account_id": merged_account},
    "getUserTopUp": {"account_id": account_with_top_up},
    "endUserTopUp": {"account_id": account_with_top_up},
    "createWebhook": {"url": lambda service: "https://93.184.215.14/"},
    "deleteWebhook": {"endpoint_id": lambda service: new_endpoint(service, "off")},
    "tryWebhook": {"endpoint_id": lambda service: new_endpoint(service, "off")},
    "setCap": {"subject": lambda service: service.database.create_key().id},
    "deleteCap": {"cap_id": lambda service: set_cap(service, "agent", 9, "scout")},
}


@pytest.mark.parametrize("name", STAFFS)
def test_the_example_request_is_answered_as_described(
    service: Service, admin: Person, name: str
) -> None:
    operation = EVERY_OPERATION[name]
    path = operation["path"]
    query: dict[str, Any] = {}
    headers: dict[str, str] = {}
    made = {**MADE, **MADE_FOR.get(name, {})}
    for parameter in operation.get("parameters", ()):
        if "example" not in parameter:
            continue
        value = parameter["example"]
        if parameter["name"] in made:
            value = made[parameter["name"]](service)
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", value)
        else:
            place = query if parameter["in"] == "query" else headers
            place[parameter["name"]] = value
    if name == "changeStaff":
        admin.post("/staff", {"email": "grace@example.com"})
    if name == "setProvider":
        admin.put("/config/providers/stripe", {"config_data": STRIPE})
    body = None
    if "requestBody" in operation:
        example = operation["requestBody"]["content"]["application/json"]["example"]
        body = {key: made[key](service) if key in made else example[key] for key in example}
    answer = admin.call(operation["method"], path, params=query or None, headers=headers, json=body)
    assert str(answer.status_code) == next(iter(operation["responses"])), answer.text


def test_signing_in_and_out_is_described(service: Service, viewer: Person) -> None:
    nobody = Person(service)
    unavailable = nobody.call("GET", "/admin/oauth/login")
    assert_error(unavailable, 500, "Failed to initiate OAuth login")
    elsewhere = nobody.call("GET", "/admin/oauth/login?redirect_uri=https://evil.example.com")
    assert_error(elsewhere, 400, CODES["invalid_redirect"]["detail"])
    forged = nobody.call("GET", "/admin/oauth/callback?code=x&state=y")
    assert_error(forged, 400, "OAuth authentication failed: Invalid OAuth state")
    assert len(faults_of(nobody.call("GET", "/admin/oauth/callback"))) == 2
    out = nobody.call("POST", "/admin/oauth/logout")
    assert out.json() == {"message": "Logged out successfully"}
    unknown = Person(service, token=stranger(viewer))
    assert_error(unknown.call("GET", "/admin/oauth/user"), 401, BAD)


def test_a_session_is_over_after_signing_out(service: Service, viewer: Person) -> None:
    cookie = {"Cookie": session_cookie(viewer)}
    nobody = Person(service)
    assert nobody.call("GET", "/admin/oauth/user", headers=cookie).json()["email"] == viewer.email
    nobody.call("POST", "/admin/oauth/logout", headers=cookie)
    assert_error(nobody.call("GET", "/admin/oauth/user", headers=cookie), 401, BAD)
    assert_error(nobody.call("GET", "/admin/api/users", headers=cookie), 401, BAD)


def test_a_ledger_goes_on_by_cursor_while_entries_are_added(
    service: Service, admin: Person
) -> None:
    account = new_account(service)
    for amount in range(1, 6):
        assert admin.post(
            f"/users/{account}/credits", {"amount_minor": amount, "reason": "x"}
        ).is_success
    path, seen = f"/users/{account}/transactions", []
    page = admin.get(path, page_size=2)
    while True:
        seen += [entry["amount_minor"] for entry in page["transactions"]]
        admin.post(f"/users/{account}/credits", {"amount_minor": 99, "reason": "new"})
        if page["next_cursor"] is None:
            break
        page = admin.get(path, page_size=2, cursor=page["next_cursor"])
    assert seen == [5, 4, 3, 2, 1]
    other = new_account(service)
    cursor = admin.get(path, page_size=1)["next_cursor"]
    for bad in ({"cursor": "x"}, {"cursor": cursor, "page": 2}):
        assert admin.call("GET", f"/admin/api{path}", params=bad).status_code == 422
    strange = admin.call("GET", f"/admin/api/users/{other}/transactions", params={"cursor": cursor})
    assert strange.status_code == 422
