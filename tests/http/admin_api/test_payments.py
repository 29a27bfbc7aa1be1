"""Payments in the staff API: listed, and dealt with by a person."""

from __future__ import annotations

import operator
import re
from typing import Any

import httpx2
import pytest

from tests.http.admin_api.helpers import (
    AGENT,
    NOBODYS_ID,
    STRIPE,
    Z_TIME,
    Person,
    account_id,
    audit_rows,
    new_account,
    new_event,
    new_payment,
    new_shortfall,
    new_warning,
)
from tests.http.contract import (
    INT64_MAX,
    assert_error,
    make_account,
)
from tests.stripe_double import Status, StatusAfter, StripeDouble
from tests.support import (
    Service,
    unique,
)

# Payments


def sell(service: Service, user: str, payment_id: str) -> None:
    """A purchase of a pack for 500 cents, paid."""
    database = service.database
    key = database.create_key()
    offer = database.execute(
        "SELECT b.account_id, b.purchase_id, b.price_minor, b.currency FROM"
        " billing.begin_purchase(p_oauth_provider => 'oauth:google', p_external_id => %s,"
        " p_customer_email => 'ada@example.com', p_api_key_id => %s) AS b",
        user,
        key.id,
        user="t_web",
    )[0]
    database.execute(
        "SELECT * FROM billing.attach_payment(p_account_id => %s, p_purchase_id => %s,"
        " p_payment_id => %s, p_payment_status => 'requires_payment_method', p_api_key_id => %s)",
        offer[0],
        offer[1],
        payment_id,
        key.id,
        user="t_web",
    )
    database.execute(
        "SELECT * FROM billing.process_payment_event(p_event_id => %s,"
        " p_event_type => 'payment_intent.succeeded', p_payload => '{}', p_action => 'settle',"
        " p_payment_id => %s, p_amount_minor => %s, p_currency => %s, p_account_id => %s,"
        " p_purchase_id => %s, p_livemode => false)",
        unique("evt"),
        payment_id,
        offer[2],
        offer[3],
        offer[0],
        offer[1],
        user="t_web",
    )


@pytest.fixture
def selling(service: Service, admin: Person) -> None:
    """Stripe is set up for test payments."""
    body = {"is_enabled": True, "config_data": STRIPE}
    assert admin.put("/config/providers/stripe", body).status_code == 200


@pytest.mark.usefixtures("selling")
def test_purchases_and_events_are_listed(service: Service, viewer: Person) -> None:
    user = make_account(service)
    account = account_id(service, user)
    payments = [unique("pi") for _ in range(3)]
    for payment in payments:
        sell(service, user, payment)
    page = viewer.get("/purchases", account_id=account, page_size=2)
    assert [one["payment_id"] for one in page["purchases"]] == payments[:0:-1]
    assert page["has_more"] is True
    # The totals are those of all pages.
    total = {"currency": "USD", "purchases": 3, "paid": 3, "gross_minor": 1500}
    assert page["totals"] == [{**total, "returned_minor": 0, "net_minor": 1500}]
    last = viewer.get("/purchases", account_id=account, page_size=2, page=2)
    assert ([one["payment_id"] for one in last["purchases"]], last["has_more"]) == (
        payments[:1],
        False,
    )
    purchase = last["purchases"][0]
    assert (purchase["status"], purchase["account_id"]) == ("settled", account)
    assert purchase["customer_email"] == "ada@example.com"
    assert re.fullmatch(Z_TIME, purchase["settled_at"])
    assert viewer.get("/purchases", account_id=account, status_filter="pending")["purchases"] == []
    assert viewer.get("/purchases", account_id=account, status_filter="pending")["totals"] == []
    settled = viewer.get("/purchases", account_id=account, status_filter="settled")
    assert len(settled["purchases"]) == 3
    assert viewer.get("/purchases", account_id=NOBODYS_ID)["purchases"] == []
    events = viewer.get("/payment-events", page_size=1)
    counted = service.database.value("SELECT count(*) FROM billing_data.payment_events")
    assert (events["total"], events["total_is_minimum"]) == (counted, False)
    (event,) = events["events"]
    assert (event["payment_id"], event["account_id"]) == (payments[-1], account)
    assert (event["needs_attention"], event["livemode"]) == (False, False)
    assert viewer.get("/payment-events", page=INT64_MAX // 500)["events"] == []


def test_a_shortfall_is_listed_until_a_person_wrote_it_off(service: Service, admin: Person) -> None:
    return_id = new_shortfall(service)
    (mine,) = [
        one for one in admin.get("/payment-problems")["problems"] if one["reference"] == return_id
    ]
    assert mine["problem"] == "shortfall"
    path = f"/payment-returns/{return_id}/resolve"
    resolved = admin.post(path, {"reason": "written off"})
    assert resolved.json() == {"return_id": return_id, "resolution": "written off"}
    listed = admin.get("/payment-problems")["problems"]
    assert return_id not in [one["reference"] for one in listed]
    again = admin.post(path, {"reason": "again"})
    assert_error(again, 404, f"No open shortfall of {return_id}")


def test_a_payment_is_resolved_with_the_credit_that_was_given_for_it_and_opened_again(
    service: Service, admin: Person
) -> None:
    account, payment_id = new_account(service), unique("pi")
    pack = admin.get("/config/pricing")
    amounts = {"amount_minor": pack["pack_uses"], "reason": "by hand"}
    given = admin.post(f"/users/{account}/credits", amounts)
    credit_id = given.json()["credit_id"]
    path = f"/payments/{payment_id}"
    paid = {"amount_minor": pack["pack_price_minor"], "currency": pack["pack_currency"].lower()}
    body = {"how": "credited", "reason": "granted by hand", **paid}
    missing = admin.post(f"{path}/resolve", body)
    assert_error(
        missing,
        422,
        "Invalid credit_id: it is needed when the payment was credited by hand, and only then",
    )
    resolved = admin.post(f"{path}/resolve", {**body, "credit_id": credit_id})
    assert resolved.json() == {"payment_id": payment_id, "resolution": "granted by hand"}
    (purchase,) = admin.get("/purchases", account_id=account)["purchases"]
    assert (purchase["payment_id"], purchase["status"]) == (payment_id, "settled")
    (row,) = audit_rows(service, payment_id)
    assert row[:4] == (
        "payment.resolve",
        admin.id,
        "granted by hand",
        {"how": "credited", "credit_id": credit_id},
    )
    other = admin.post(f"/payments/{unique('pi')}/resolve", {**body, "credit_id": credit_id})
    assert (other.status_code, other.json()["code"]) == (409, "credit_not_usable")
    again = admin.post(f"{path}/resolve", {"how": "refunded", "reason": "x"})
    assert_error(again, 409, f"Payment {payment_id} was credited or dealt with before")
    opened = admin.post(f"{path}/reopen", {"reason": "another payment"})
    assert opened.json() == {"payment_id": payment_id, "reason": "another payment"}
    assert admin.get("/purchases", account_id=account)["purchases"] == []
    assert_error(
        admin.post(f"{path}/reopen", {"reason": "again"}),
        409,
        f"Payment {payment_id} cannot be opened again: no person has resolved it",
    )


@pytest.mark.parametrize(
    "body",
    [
        {"how": "paid", "reason": "x"},
        {"reason": "x"},
        {"how": "refunded"},
        {"how": "credited", "reason": "x", "credit_id": "7"},
        {"how": "other", "reason": "x", "amount_minor": 0},
    ],
)
def test_a_senseless_resolution_of_a_payment_is_422(admin: Person, body: dict[str, Any]) -> None:
    assert admin.post(f"/payments/{unique('pi')}/resolve", body).status_code == 422


def test_an_event_is_resolved_by_how_its_payment_was_dealt_with(
    service: Service, admin: Person
) -> None:
    event = new_event(service)
    body = {"reason": "in the dashboard", "how": "refunded"}
    assert admin.post(f"/payment-events/{event}/resolve", body).status_code == 200
    effect = service.database.value(
        "SELECT x.effect FROM billing_data.payment_effects AS x INNER JOIN"
        " billing_data.payment_events AS e USING (payment_id) WHERE e.event_id = %s",
        event,
    )
    assert effect == "refunded"


def test_a_report_of_fraud_is_listed_until_a_person_dealt_with_it(
    service: Service, admin: Person
) -> None:
    warning_id = new_warning(service)
    (mine,) = [
        one for one in admin.get("/payment-problems")["problems"] if one["reference"] == warning_id
    ]
    assert mine["problem"] == "fraud_warning"
    path = f"/payment-warnings/{warning_id}/resolve"
    resolved = admin.post(path, {"reason": "refunded"})
    assert resolved.json() == {"warning_id": warning_id, "resolution": "refunded"}
    listed = admin.get("/payment-problems")["problems"]
    assert warning_id not in [one["reference"] for one in listed]
    assert_error(admin.post(path, {"reason": "again"}), 404, f"No open warning {warning_id}")


def test_a_problem_is_listed_until_a_person_resolved_it(service: Service, admin: Person) -> None:
    event = new_event(service)
    problems = admin.get("/payment-problems")["problems"]
    (mine,) = [one for one in problems if one["reference"] == event]
    assert mine["problem"] == "metadata_missing"
    assert mine["what_is_wrong"] == "the payment does not say whom it is for"
    resolved = admin.post(f"/payment-events/{event}/resolve", {"reason": "granted by hand"})
    assert resolved.json() == {"event_id": event, "resolution": "granted by hand"}
    assert event not in [one["reference"] for one in admin.get("/payment-problems")["problems"]]
    (listed,) = [one for one in admin.get("/payment-events")["events"] if one["event_id"] == event]
    assert (listed["resolution"], listed["needs_attention"]) == ("granted by hand", False)
    (row,) = audit_rows(service, event)
    assert row[:6] == (
        "payment_event.resolve",
        admin.id,
        "granted by hand",
        {"outcome": "metadata_missing"},
        "127.0.0.1",
        AGENT,
    )
    for unknown in (event, "evt_unknown"):
        again = admin.post(f"/payment-events/{unknown}/resolve", {"reason": "again"})
        assert_error(again, 404, f"Payment event not found: {unknown}")


def test_problems_come_in_pages(service: Service, viewer: Person) -> None:
    events = [new_event(service) for _ in range(3)]
    first = viewer.get("/payment-problems", page_size=2)
    assert [one["reference"] for one in first["problems"]] == events[:0:-1]
    assert first["has_more"] is True
    second = viewer.get("/payment-problems", page_size=2, page=2)
    assert second["problems"][0]["reference"] == events[0]
    assert viewer.get("/payment-problems", page_size=100, page=1000)["problems"] == []


# Refunds


def refunds_at_stripe(double: StripeDouble, payment_id: str) -> list[int]:
    """What Stripe gave back of a payment, oldest first."""
    answer = httpx2.get(
        f"{double.direct_url}/v1/refunds",
        params={"payment_intent": payment_id},
        headers={"Authorization": f"Bearer {double.api_key}"},
        verify=False,
    )
    # The double lists the newest second first, and within a second the oldest refund first.
    refunds = sorted(answer.json()["data"], key=operator.itemgetter("created"))
    return [refund["amount"] for refund in refunds]


def acts_on(service: Service, payment_id: str) -> list[tuple[str, str]]:
    """What staff did to refund a payment, and why, oldest first."""
    rows = reversed(audit_rows(service, payment_id))
    return [(row[0], row[2]) for row in rows if row[0].startswith("payment.refund")]


def test_a_refund_is_tried_then_made_and_its_repeat_gives_nothing_more(
    service: Service, admin: Person, double: StripeDouble
) -> None:
    payment_id = new_payment(service)
    path, order = f"/payments/{payment_id}/refund", {"reason": "bought by mistake"}
    tried = admin.post(path, {**order, "dry_run": True}, **{"Idempotency-Key": "ticket-1"})
    assert (tried.status_code, tried.json()["refund_id"], tried.json()["return_id"]) == (
        200, None, None,
    )  # fmt: skip
    assert (refunds_at_stripe(double, payment_id), acts_on(service, payment_id)) == ([], [])
    made = admin.post(path, order, **{"Idempotency-Key": "ticket-1"})
    told = made.json()
    assert made.status_code == 200, made.text
    assert "idempotent-replayed" not in made.headers
    assert told.items() >= {**tried.json(), "reason": order["reason"]}.items() - {
        (name, None) for name in ("refund_id", "return_id", "created_at")
    }
    assert (told["amount_minor"], told["currency"], told["credits_due"]) == (500, "USD", 20)
    assert refunds_at_stripe(double, payment_id) == [500]
    again = admin.post(path, order, **{"Idempotency-Key": "ticket-1"})
    assert again.headers.get("idempotent-replayed") == "true", again.text
    assert {**again.json(), "credits_due": 20} == told
    other = admin.post(path, {**order, "amount_minor": 1}, **{"Idempotency-Key": "ticket-1"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    more = admin.post(path, order, **{"Idempotency-Key": "ticket-2"})
    assert (more.status_code, more.json()["code"]) == (409, "payment_refunded")
    assert refunds_at_stripe(double, payment_id) == [500]
    assert acts_on(service, payment_id) == [
        ("payment.refund", order["reason"]), ("payment.refund_made", order["reason"]),
    ]  # fmt: skip


def test_a_part_is_refunded_then_the_rest_and_never_more_than_is_left(
    service: Service, admin: Person, double: StripeDouble
) -> None:
    payment_id = new_payment(service)
    path, why = f"/payments/{payment_id}/refund", {"reason": "half used"}
    part = admin.post(path, {**why, "amount_minor": 125})
    assert (part.json()["amount_minor"], part.json()["credits_due"]) == (125, 5)
    too_much = admin.post(path, {**why, "amount_minor": 376})
    assert_error(
        too_much,
        422,
        f"Of payment {payment_id}, $3.75 can be refunded at most, and $3.76 was asked for",
    )
    rest = admin.post(path, {**why, "amount_minor": 375})
    assert rest.status_code == 200, rest.text
    assert refunds_at_stripe(double, payment_id) == [125, 375]


def test_only_administrators_refund_and_only_payments_that_are_known(
    service: Service, admin: Person, viewer: Person, double: StripeDouble
) -> None:
    payment_id = new_payment(service)
    refused = viewer.post(f"/payments/{payment_id}/refund", {"reason": "x"})
    assert_error(refused, 403, "Admin role required. Your role: viewer (read-only)")
    assert (refunds_at_stripe(double, payment_id), acts_on(service, payment_id)) == ([], [])
    unknown = admin.post("/payments/pi_unknown/refund", {"reason": "x"})
    assert_error(unknown, 404, "Payment not found: pi_unknown")


def test_a_refund_that_stripe_refuses_is_over_and_one_it_does_not_answer_goes_on(
    service: Service, admin: Person, double: StripeDouble
) -> None:
    payment_id = new_payment(service)
    path, order = f"/payments/{payment_id}/refund", {"reason": "bought by mistake"}
    double.on(
        "POST", "/v1/refunds$",
        Status(400, {"error": {"type": "invalid_request_error", "code": "charge_disputed"}}),
    )  # fmt: skip
    for _ in range(2):  # the second time, Stripe is not asked
        refused = admin.post(path, order, **{"Idempotency-Key": "first"})
        assert (refused.status_code, refused.json()["code"]) == (409, "refund_refused"), (
            refused.text
        )
        assert "charge_disputed" in refused.json()["detail"]
    double.on("POST", "/v1/refunds$", StatusAfter(500), times=2)  # the SDK tries twice
    lost = admin.post(path, order, **{"Idempotency-Key": "second"})
    assert (lost.status_code, lost.json()["code"]) == (503, "payment_provider_unavailable")
    assert int(lost.headers["retry-after"]) > 0
    made = admin.post(path, order, **{"Idempotency-Key": "second"})
    assert (made.status_code, made.headers["idempotent-replayed"]) == (200, "true")
    assert refunds_at_stripe(double, payment_id) == [500]
    assert [act for act, _ in acts_on(service, payment_id)] == [
        "payment.refund", "payment.refund_refused", "payment.refund", "payment.refund_made",
    ]  # fmt: skip
