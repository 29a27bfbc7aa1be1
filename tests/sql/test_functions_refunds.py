"""Refunds that staff ask for: what may be asked, once, and how the provider's answer and report
end it."""

from __future__ import annotations

from functools import partial
from typing import Any

import psycopg
import pytest

from tests.sql.helpers import Caller, at_once, new_user, staff
from tests.sql.payments import PRICE, USES, attach, begin, bought, configure_provider, give_back
from tests.support import Database, unique


@pytest.fixture(scope="module", autouse=True)
def provider(module_database: Database) -> None:
    configure_provider(module_database)


def _left(caller: Caller, payment_id: str) -> int:
    left: int = caller.row("list_purchases", payment_id=payment_id)["left_minor"]
    return left


def _audit(caller: Caller, payment_id: str) -> list[dict[str, Any]]:
    rows = caller.rows("list_audit_log", resource_id=payment_id)
    return [row for row in rows if row["action"].startswith("payment.refund")]


def test_a_refund_is_written_down_once_and_its_credits_go_when_it_is_reported(
    module_database: Database, dba: Caller
) -> None:
    _, payment_id = bought(module_database)
    ask = partial(dba.row, "begin_refund", payment_id=payment_id, reason="by mistake",
                  idempotency_key="form-1")  # fmt: skip
    tried = ask(dry_run=True)
    assert (tried["refund_id"], tried["amount_minor"], tried["left_minor"]) == (None, PRICE, PRICE)
    assert (tried["credits_due"], tried["credits_there"]) == (USES, USES)
    assert _left(dba, payment_id) == PRICE
    begun, again = ask(), ask()
    assert (begun["replayed"], again["replayed"]) == (False, True)
    assert begun["refund_id"] == again["refund_id"] is not None
    assert _left(dba, payment_id) == 0
    done = dba.row("finish_refund", refund_id=begun["refund_id"], return_id="re_1")
    assert done["return_id"] == ask()["return_id"] == "re_1"
    assert dba.row("list_refunds", payment_id=payment_id)["state"] == "sent"
    give_back(dba, payment_id, ("re_1", PRICE))
    (refund,) = dba.rows("list_refunds", payment_id=payment_id)
    assert (refund["state"], refund["refund_id"]) == ("open", begun["refund_id"])
    assert (refund["credits_taken"], refund["who"], refund["reason"]) == (
        USES, "t_dba", "by mistake",
    )  # fmt: skip
    assert _left(dba, payment_id) == 0
    made, entry = _audit(dba, payment_id)
    assert (entry["action"], entry["reason"]) == ("payment.refund", "by mistake")
    assert (made["action"], made["changes"]["return_id"]) == ("payment.refund_made", "re_1")
    assert entry["changes"]["amount_minor"] == PRICE
    assert str(entry["account_id"]) == entry["changes"]["account_id"]


def test_refunds_together_never_exceed_what_is_left_and_a_refused_one_counts_no_more(
    module_database: Database, dba: Caller
) -> None:
    _, payment_id = bought(module_database)
    ask = partial(dba.row, "begin_refund", payment_id=payment_id, reason="a part")
    first = ask(amount_minor=300)
    error = dba.refusal("begin_refund", payment_id=payment_id, reason="a part", amount_minor=201)
    assert (error.slug, error.detail["left"]) == ("refund_too_great", "$2.00")
    dba.row("finish_refund", refund_id=first["refund_id"], failure="it is disputed")
    assert [entry["action"] for entry in _audit(dba, payment_id)] == [
        "payment.refund_refused", "payment.refund",
    ]  # fmt: skip
    # The first answer stays.
    late = dba.row("finish_refund", refund_id=first["refund_id"], return_id="re_late")
    assert (late["return_id"], late["failure"]) == (None, "it is disputed")
    assert _left(dba, payment_id) == PRICE
    give_back(dba, payment_id, (unique("re"), 100))
    assert ask()["amount_minor"] == PRICE - 100
    assert dba.refusal("begin_refund", payment_id=payment_id, reason="x").slug == "payment_refunded"


def test_a_refund_that_the_bank_sends_back_can_be_asked_for_anew(
    module_database: Database, dba: Caller
) -> None:
    _, payment_id = bought(module_database)
    begun = dba.row("begin_refund", payment_id=payment_id, reason="x")
    return_id = unique("re")
    dba.row("finish_refund", refund_id=begun["refund_id"], return_id=return_id)
    give_back(dba, payment_id, (return_id, PRICE))
    give_back(dba, payment_id, (return_id, PRICE), withdrawn=False)
    assert _left(dba, payment_id) == PRICE


def test_two_administrators_at_once_refund_a_payment_once(module_database: Database) -> None:
    _, payment_id = bought(module_database)

    def refund(caller: Caller) -> str | None:
        try:
            caller.row("begin_refund", payment_id=payment_id, reason="x")
        except psycopg.Error as error:
            return error.diag.constraint_name
        return "begun"

    answers = at_once(module_database, [refund] * 2, connections=2)
    assert sorted(map(str, answers)) == ["begun", "payment_refunded"]


def test_what_is_not_paid_unknown_or_asked_by_a_viewer_is_refused(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    offer = begin(dba, new_user(module_database))
    payment_id = unique("pi")
    attach(dba, offer, payment_id)
    for of, slug in ((payment_id, "payment_not_settled"), (unique("pi"), "payment_not_found")):
        assert dba.refusal("begin_refund", payment_id=of, reason="x").slug == slug
    _, paid = bought(module_database)
    for arguments in ({"reason": " "}, {"amount_minor": 0}, {"amount_minor": -1}):
        error = dba.refusal("begin_refund", **{"payment_id": paid, "reason": "x", **arguments})
        assert error.slug == "invalid_argument"
    dba.row("begin_refund", payment_id=paid, reason="x", amount_minor=10, idempotency_key="k")
    error = dba.refusal("begin_refund", payment_id=paid, reason="y", idempotency_key="k")
    assert error.slug == "idempotency_key_reused"
    viewer = staff(module_database, "viewer").session_hash
    error = web.refusal("begin_refund", payment_id=paid, reason="x", session_hash=viewer)
    assert error.slug == "admin_role_required"
    assert web.rows("list_refunds", payment_id=paid, session_hash=viewer)
