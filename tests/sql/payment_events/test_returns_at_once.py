"""Returns that wait, race, or come beside payments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from tests.sql.helpers import (
    BIGGEST,
    Caller,
    at_once,
    charge_all,
    new_user,
    staff,
)
from tests.sql.payment_events.helpers import paid_credits_of, returns_taken, spend
from tests.sql.payments import (
    PRICE,
    USES,
    attach,
    begin,
    bought,
    deliver,
    give_back,
    legacy,
    problems_of,
)
from tests.support import Database, unique


def test_a_return_that_comes_back_into_a_full_account_is_flagged_and_waits(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    part = (unique("re"), PRICE)
    give_back(dba, payment_id, part)
    dba.row("create_credit", **who, amount_minor=BIGGEST)
    event_id = unique("evt")
    answer = give_back(dba, payment_id, part, withdrawn=False, event_id=event_id)
    assert (answer["outcome"], answer["needs_attention"]) == ("balance_overflow", True)
    assert returns_taken(module_database, payment_id) == {part[0]: (20, 20, "taken")}
    dba.row("create_charge", **who, amount_minor=100)
    answer = give_back(dba, payment_id, part, withdrawn=False, event_id=event_id)
    assert answer["outcome"] == "restored"


def test_a_return_belongs_to_one_payment(module_database: Database, dba: Caller) -> None:
    who, first = bought(module_database)
    _, second = bought(module_database, who)
    part = (unique("re"), PRICE)
    give_back(dba, first, part)
    answer = give_back(dba, second, part)
    assert (answer["outcome"], answer["needs_attention"]) == ("payment_mismatch", True)
    assert paid_credits_of(module_database, who) == USES


def test_keys_of_clients_do_not_stand_in_the_way_of_payments_or_refunds(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id, refund = new_user(module_database, free=False), unique("pi"), unique("re")
    for key in (f"stripe-{payment_id}", f"stripe-{refund}", f"stripe-{refund}-restored"):
        dba.row("create_credit", **who, amount_minor=1, idempotency_key=key)
    attach(dba, begin(dba, who), payment_id)
    assert deliver(dba, unique("evt"), payment_id)["outcome"] == "credited"
    assert give_back(dba, payment_id, (refund, PRICE))["outcome"] == "taken_back"
    assert give_back(dba, payment_id, (refund, PRICE), withdrawn=False)["outcome"] == "restored"
    assert paid_credits_of(module_database, who) == 3 + USES
    assert dba.rows("verify_ledger") == []


def test_a_payment_that_was_credited_by_hand_is_not_credited_again_and_can_be_refunded(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = new_user(module_database, free=False), unique("pi")
    attach(dba, begin(dba, who), payment_id)
    dba.row(
        "create_credit",
        **who,
        amount_minor=USES,
        transaction_type="purchase",
        external_transaction_id=payment_id,
        idempotency_key=f"stripe-{payment_id}",
    )
    answer = deliver(dba, unique("evt"), payment_id)
    assert (answer["outcome"], answer["credits_added"]) == ("already_credited", 0)
    assert paid_credits_of(module_database, who) == USES
    assert give_back(dba, payment_id, (unique("re"), PRICE))["outcome"] == "taken_back"
    assert paid_credits_of(module_database, who) == 0


def test_a_refund_of_an_old_payment_that_was_not_reported_yet_is_sent_again(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = new_user(module_database, free=False), unique("pi")
    part, event_id = (unique("re"), PRICE), unique("evt")
    named = legacy(module_database, who)
    answer = give_back(dba, payment_id, part, event_id=event_id, **named)
    assert (answer["outcome"], answer["needs_attention"]) == ("payment_unknown", True)
    assert deliver(dba, unique("evt"), payment_id, **named)["outcome"] == "credited"
    answer = give_back(dba, payment_id, part, event_id=event_id, **named)
    assert (answer["outcome"], answer["needs_attention"]) == ("taken_back", False)
    assert paid_credits_of(module_database, who) == 0


def test_a_shortfall_is_written_off_with_a_reason(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    spend(module_database, who, 5)
    part = (unique("re"), PRICE)
    give_back(dba, payment_id, part)
    assert len(problems_of(dba, payment_id)) == 1
    ada, viewer = staff(module_database, "admin"), staff(module_database, "viewer")
    call = {"return_id": part[0], "reason": "written off"}
    assert (
        web.refusal("resolve_shortfall", **call, session_hash=viewer.session_hash).sqlstate
        == "PB403"
    )
    web.row("resolve_shortfall", **call, session_hash=ada.session_hash)
    assert problems_of(dba, payment_id) == []
    refusal = web.refusal("resolve_shortfall", **call, session_hash=ada.session_hash)
    assert (refusal.slug, refusal.sqlstate) == ("payment_return_not_found", "PB404")
    assert dba.refusal("resolve_shortfall", return_id=part[0], reason="").slug == "invalid_argument"
    rows = module_database.execute(
        "SELECT action, changes->>'shortfall', reason, admin_user_id"
        " FROM billing_data.admin_audit_logs WHERE resource_id = %s",
        part[0],
    )
    assert rows == [("payment_return.resolve", "5", "written off", ada.id)]


def test_a_payment_is_attached_to_one_purchase_only(module_database: Database, dba: Caller) -> None:
    payment_id = unique("pi")
    attach(dba, begin(dba, new_user(module_database)), payment_id)
    other = begin(dba, new_user(module_database))
    refusal = dba.refusal(
        "attach_payment",
        account_id=other["account_id"],
        purchase_id=other["purchase_id"],
        payment_id=payment_id,
        payment_status="processing",
    )
    assert (refusal.slug, refusal.sqlstate) == ("payment_attached", "PB409")


@pytest.mark.parametrize(
    "fault",
    [
        {"return_ids": [None]},
        {"return_ids": [""]},
        {"return_ids": ["x" * 201]},
        {"return_kinds": ["gift"]},
        {"return_amounts_minor": [0]},
        {"return_amounts_minor": [None]},
        {"return_away_minor": [None]},
        {"return_away_minor": [2]},
        {"return_away_minor": [-1]},
        {"return_states": ["odd"]},
        {"return_transactions": [-1]},
        {"payload": "null"},
        {"payload": "[]"},
    ],
    ids=str,
)
def test_an_event_with_a_faulty_return_is_refused_and_not_stored(
    module_database: Database, dba: Caller, fault: dict[str, Any]
) -> None:
    _, payment_id = bought(module_database)
    event_id = unique("evt")
    event = {
        "event_type": "charge.refunded",
        "payload": "{}",
        "action": "return",
        "currency": "usd",
        "return_ids": ["re_1"],
        "return_kinds": ["refund"],
        "return_amounts_minor": [1],
        "return_away_minor": [1],
        **fault,
    }
    refusal = dba.refusal(
        "process_payment_event", event_id=event_id, payment_id=payment_id, **event
    )
    assert refusal.slug == "invalid_argument"
    assert module_database.execute(
        "SELECT 1 FROM billing_data.payment_events WHERE event_id = %s", event_id
    ) == []  # fmt: skip


def test_a_refund_that_failed_can_be_made_again(module_database: Database, dba: Caller) -> None:
    who, payment_id = bought(module_database)
    for number in range(3):
        part = (f"re_{number}", PRICE)
        assert give_back(dba, payment_id, part)["outcome"] == "taken_back"
        assert paid_credits_of(module_database, who) == 0
        if number < 2:
            assert give_back(dba, payment_id, part, withdrawn=False)["outcome"] == "restored"
            assert paid_credits_of(module_database, who) == USES


def test_what_comes_back_may_fill_the_account_to_the_last_bit(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    give_back(dba, payment_id, ("re_1", PRICE))
    dba.row("create_credit", **who, amount_minor=BIGGEST - USES)
    assert give_back(dba, payment_id, ("re_1", PRICE), withdrawn=False)["outcome"] == "restored"
    assert paid_credits_of(module_database, who) == BIGGEST


def test_one_refund_told_by_thirty_events_at_once_takes_once(
    module_database: Database,
) -> None:
    who, payment_id = bought(module_database)
    calls = [lambda caller: give_back(caller, payment_id, ("re_1", 250))] * 30
    counted = Counter(answer["outcome"] for answer in at_once(module_database, calls, 30))
    assert counted == {"taken_back": 1, "unchanged": 29}
    assert paid_credits_of(module_database, who) == USES // 2


def test_many_refunds_at_once_take_exactly_all(module_database: Database) -> None:
    who, payment_id = bought(module_database)
    parts = [(f"re_{number}", 20) for number in range(25)]
    calls = [partial(_give_back_one, payment_id=payment_id, part=part) for part in parts]
    assert set(at_once(module_database, calls, 25)) == {"taken_back"}
    assert paid_credits_of(module_database, who) == 0
    assert sum(row[0] for row in returns_taken(module_database, payment_id).values()) == USES


def _give_back_one(caller: Caller, payment_id: str, part: tuple[str, int]) -> str:
    outcome: str = give_back(caller, payment_id, part)["outcome"]
    return outcome


def test_charges_and_refunds_that_race_never_go_below_zero(module_database: Database) -> None:
    for _ in range(3):
        who, payment_id = bought(module_database)
        refund: list[Callable[[Caller], str]] = [
            partial(_give_back_one, payment_id=payment_id, part=(f"re_{number}", 100))
            for number in range(5)
        ]
        charge: list[Callable[[Caller], str]] = [
            lambda caller, user=who: str(charge_all(caller, [user])[0]["outcome"])  # type: ignore[misc]
        ] * 15
        answers = Counter(at_once(module_database, charge + refund, 20))
        assert answers["taken_back"] == 5
        rows = returns_taken(module_database, payment_id).values()
        assert sum(row[0] for row in rows) == USES
        taken = sum(row[1] for row in rows)
        assert paid_credits_of(module_database, who) == USES - taken - answers["created"] >= 0


def test_a_payment_and_its_refund_at_once_end_the_same_in_any_order(
    module_database: Database, dba: Caller
) -> None:
    for _ in range(10):
        who, payment_id = new_user(module_database), unique("pi")
        attach(dba, begin(dba, who), payment_id)
        calls: list[Callable[[Caller], Any]] = [
            partial(deliver, event_id=unique("evt"), payment_id=payment_id),
            partial(_give_back_one, payment_id=payment_id, part=("re_1", 250)),
        ]
        at_once(module_database, calls, 2)
        assert paid_credits_of(module_database, who) == USES // 2
        assert returns_taken(module_database, payment_id) == {"re_1": (10, 10, "taken")}


def test_a_dispute_that_comes_and_goes_at_once_ends_with_the_credits_there(
    module_database: Database,
) -> None:
    for _ in range(5):
        who, payment_id = bought(module_database)
        calls = [
            lambda caller, paid=payment_id, gone=withdrawn: give_back(
                caller,
                paid,
                ("du_1", PRICE),
                kind="dispute",
                withdrawn=gone,
                occurred_at=datetime(2026, 1, 1 if gone else 2, tzinfo=UTC),
            )
            for withdrawn in (True, False) * 5
        ]
        at_once(module_database, calls, 10)
        assert paid_credits_of(module_database, who) == USES
