"""Top-ups: what is agreed to, when an attempt begins, and what may come of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sql.alerts import listening
from tests.sql.helpers import (
    BIGGEST,
    Caller,
    account_of,
    at_once,
    key_id,
    ledger_problems,
    person,
    session,
    staff,
)
from tests.sql.payments import (
    PRICE,
    USES,
    bought,
    configure_provider,
    credits_of,
    deliver,
    give_back,
    purchases_of,
)
from tests.sql.top_ups import CARD, TERMS, Saver, agree, claim, note, stop_clock
from tests.support import Database, unique


@pytest.fixture(scope="module", autouse=True)
def provider(module_database: Database) -> None:
    configure_provider(module_database)
    listening(module_database, "topup.failed")


def told(database: Database, account_id: Any) -> list[tuple[str, int, str]]:
    """What alerts say of a top-up: the problem, the failures in a row, and whether it is on."""
    return database.execute(
        "SELECT DISTINCT ON (o.event_id) o.data ->> 'problem', (o.data ->> 'failures')::integer,"
        " o.data ->> 'status' FROM billing_data.outbox AS o"
        " WHERE o.account_id = %s AND o.kind = 'topup.failed' ORDER BY o.event_id", account_id,
    )  # fmt: skip


# When an attempt begins


@pytest.mark.parametrize(("left", "begins"), [(0, True), (2, True), (3, False)])
def test_an_attempt_begins_at_the_threshold_and_not_one_above(
    module_database: Database, web: Caller, left: int, begins: bool
) -> None:
    saver = Saver(module_database, left, threshold=2)
    attempts = saver.attempts(web)
    assert len(attempts) == begins
    if begins:
        assert {name: attempts[0][name] for name in ("uses", "price_minor", "currency")} == {
            "uses": USES,
            "price_minor": PRICE,
            "currency": "USD",
        }
        assert (attempts[0]["customer_id"], attempts[0]["payment_method_id"]) == ("cus_1", "pm_1")
    assert saver.attempts(web) == []  # it belongs to the server that it was handed to


def test_a_top_up_is_a_purchase_whose_credits_come_once_and_that_is_refunded_as_others(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 1, packs=2, amount_minor=2 * PRICE)
    attempt = saver.attempt(web)
    payment_id = saver.paid(dba, web, attempt)
    again = deliver(dba, unique("evt"), payment_id, amount_minor=2 * PRICE)
    assert again["outcome"] == "already_credited"
    assert account_of(module_database, saver.who)["paid_credits"] == 1 + 2 * USES
    (credit,) = [
        row
        for row in credits_of(module_database, saver.id)
        if row["external_transaction_id"] == payment_id
    ]
    assert (credit["amount_minor"], credit["transaction_type"]) == (2 * USES, "purchase")
    state = saver.state(dba)
    assert (state["status"], state["attempt_status"]) == ("on", "succeeded")
    assert state["spent_this_month_minor"] == 2 * PRICE
    assert saver.attempts(web) == []
    assert give_back(dba, payment_id, (unique("re"), PRICE))["outcome"] == "taken_back"
    assert account_of(module_database, saver.who)["paid_credits"] == 1 + USES
    assert ledger_problems(module_database) == []


def test_nothing_more_is_bought_until_what_was_paid_has_arrived(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 0)
    attempt, payment_id = saver.attempt(web), unique("pi")
    note(web, attempt, "made", payment_id=payment_id)
    note(web, attempt, "succeeded")
    saver.later()
    assert saver.attempts(web) == []
    deliver(dba, unique("evt"), payment_id)
    assert saver.attempts(web) == []  # the credits are there
    saver.keep(dba, 0)
    assert saver.attempt(web)["purchase_id"] != attempt["purchase_id"]


def test_a_paid_top_up_that_a_person_dealt_with_in_another_way_is_not_waited_for(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 0)
    attempt, payment_id = saver.attempt(web), unique("pi")
    note(web, attempt, "made", payment_id=payment_id)
    note(web, attempt, "succeeded")
    assert saver.attempts(web) == []
    dba.row("resolve_payment", payment_id=payment_id, how="refunded", reason="by hand",
            amount_minor=PRICE, currency="USD")  # fmt: skip
    assert saver.attempt(web)


def test_many_servers_begin_one_attempt_for_each_account(
    module_database: Database, dba: Caller
) -> None:
    savers = [Saver(module_database, 0) for _ in range(6)]
    handed_out = at_once(
        module_database,
        [lambda caller: claim(caller, 2)] * 40,
        connections=8,
        user="t_web",
    )
    mine = {saver.id for saver in savers}
    found = [row["account_id"] for rows in handed_out for row in rows if row["account_id"] in mine]
    assert sorted(found) == sorted(mine)
    for saver in savers:
        assert len(purchases_of(module_database, saver.id)) == 2  # the card's, and this one


def test_an_account_that_somebody_holds_is_topped_up_all_the_same_and_nothing_waits_for_it(
    module_database: Database, web: Caller
) -> None:
    saver = Saver(module_database, 0)
    with session(module_database, "postgres", autocommit=False) as holder:
        holder.execute(
            "SELECT FROM billing_data.accounts WHERE id = %s FOR NO KEY UPDATE", saver.id
        )
        web.execute("SET lock_timeout = '1s'")
        assert saver.attempt(web)
        holder.connection.rollback()


def test_a_top_up_that_another_server_holds_is_passed_over(
    module_database: Database, web: Caller
) -> None:
    held, other = Saver(module_database, 0), Saver(module_database, 0)
    with session(module_database, "postgres", autocommit=False) as holder:
        holder.execute("SELECT FROM billing_data.top_ups WHERE account_id = %s FOR UPDATE", held.id)
        assert {row["account_id"] for row in claim(web)} & {held.id, other.id} == {other.id}
        holder.connection.rollback()
    assert held.attempt(web)


def test_what_holds_keep_is_not_available(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 5, threshold=2)
    dba.row("create_hold", **saver.who, amount_minor=2)
    assert saver.attempts(web) == []  # 3 are available
    hold = dba.row("create_hold", **saver.who, amount_minor=1)
    attempt = saver.attempt(web)
    dba.row("release_hold", hold_id=hold["hold_id"], reason="a test")
    assert note(web, attempt, "made", payment_id=unique("pi"))["next_step"] == "cancel"
    note(web, attempt, "canceled")


def test_a_hold_that_is_over_and_not_booked_yet_does_not_make_the_credits_low(
    database: Database,
) -> None:
    configure_provider(database)
    saver = Saver(database, 5, threshold=2)
    with session(database, "t_dba") as dba, session(database, "t_web") as web:
        over = dba.row("create_hold", **saver.who, amount_minor=3)["expires_at"]
        stop_clock(database, over - timedelta(microseconds=1))
        saver.later()
        attempt = saver.attempt(web)
        stop_clock(database, over)
        assert note(web, attempt, "made", payment_id=unique("pi"))["next_step"] == "cancel"
        note(web, attempt, "canceled")
        assert account_of(database, saver.who)["held_credits"] == 3
        assert saver.attempts(web) == []


# The price and the cap


def test_the_cap_is_reached_exactly_and_frees_with_the_next_utc_month(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 0, monthly_cap_minor=2 * PRICE)
    for _ in range(2):
        saver.paid(dba, web, saver.attempt(web))
        saver.keep(dba, 0)
    assert saver.attempts(web) == []
    state = saver.state(dba)
    assert (state["status"], state["problem"]) == ("on", "cap_reached")
    assert state["spent_this_month_minor"] == state["monthly_cap_minor"]
    now = datetime.now(UTC)
    next_month = (now.replace(day=1) + timedelta(days=32)).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    assert state["next_attempt_at"] == next_month
    saver.later()
    assert saver.attempts(web) == []
    assert {problem for problem, _, _ in told(module_database, saver.id)} == {"cap_reached"}
    # One of the two was in the last microsecond of the month before.
    this_month = next_month.replace(month=now.month, year=now.year)
    moved = (
        "UPDATE billing_data.top_up_attempts SET created_at = %s WHERE purchase_id ="
        " (SELECT purchase_id FROM billing_data.top_up_attempts WHERE account_id = %s"
        " ORDER BY created_at LIMIT 1)"
    )
    module_database.execute(moved, this_month, saver.id)
    saver.later()
    assert saver.attempts(web) == []
    module_database.execute(moved, this_month - timedelta(microseconds=1), saver.id)
    saver.later()
    assert saver.attempt(web)


def test_a_cap_one_below_two_top_ups_allows_one_and_a_failed_one_costs_nothing(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 0, monthly_cap_minor=2 * PRICE - 1)
    note(web, saver.attempt(web), "failed", problem="card_declined")
    assert saver.state(dba)["spent_this_month_minor"] == 0
    saver.later()
    attempt = saver.attempt(web)
    assert saver.state(dba)["spent_this_month_minor"] == PRICE  # the open one counts
    saver.paid(dba, web, attempt)
    saver.keep(dba, 0)
    assert saver.attempts(web) == []
    assert saver.state(dba)["problem"] == "cap_reached"


def test_an_attempt_that_is_charged_in_the_next_month_only_is_canceled_and_begun_anew(
    database: Database,
) -> None:
    configure_provider(database)
    saver = Saver(database, 0, monthly_cap_minor=PRICE)
    with session(database, "t_dba") as dba, session(database, "t_web") as web:
        month = datetime(2027, 3, 1, tzinfo=UTC)
        stop_clock(database, month - timedelta(microseconds=1))
        old = saver.attempt(web)
        made = {"payment_id": unique("pi")}
        assert note(web, old, "made", **made)["next_step"] == "charge"
        stop_clock(database, month)
        assert note(web, old, "made", **made)["next_step"] == "cancel"
        note(web, old, "canceled")
        saver.paid(dba, web, saver.attempt(web))
        saver.keep(dba, 0)
        assert saver.attempts(web) == []
        state = saver.state(dba)
        assert (state["problem"], state["spent_this_month_minor"]) == ("cap_reached", PRICE)


@pytest.mark.parametrize(
    ("price", "currency", "taken"),
    [(PRICE - 100, "USD", PRICE - 100), (PRICE + 1, "USD", None), (PRICE, "EUR", None)],
)
def test_nobody_pays_more_than_was_agreed_to(
    database: Database, price: int, currency: str, taken: int | None
) -> None:
    configure_provider(database)
    saver = Saver(database, 0)
    with session(database, "t_dba") as dba, session(database, "t_web") as web:
        dba.row("set_pricing", pack_price_minor=price, pack_currency=currency, reason="a test")
        attempts = saver.attempts(web)
        state = saver.state(dba)
    assert [row["price_minor"] for row in attempts] == ([] if taken is None else [taken])
    if taken is None:
        assert (state["status"], state["end_reason"]) == ("off", "price_changed")
        assert state["problem_text"] == "a top-up costs more than was agreed to"


@pytest.mark.parametrize("kind", ["refund", "dispute"])
def test_after_money_went_back_nothing_is_bought_until_it_comes_again(
    module_database: Database, dba: Caller, web: Caller, kind: str
) -> None:
    saver = Saver(module_database, 0)
    payment_id, return_id = saver.paid(dba, web, saver.attempt(web)), unique("rt")
    give_back(dba, payment_id, (return_id, 1), kind=kind)
    saver.keep(dba, 0)
    for _ in range(2):
        assert saver.attempts(web) == []
        saver.later()
    state = saver.state(dba)
    assert (state["status"], state["problem"], state["failures"]) == ("on", "money_returned", 0)
    assert state["problem_text"] == "money of a payment went back; the user must agree again"
    assert told(module_database, saver.id) == [("money_returned", 0, "on")]  # once
    give_back(dba, payment_id, (return_id, 1), kind=kind, withdrawn=False)
    saver.keep(dba, 0)
    assert saver.attempt(web)


def test_the_same_consent_after_money_went_back_is_a_new_one(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 0)
    give_back(dba, saver.paid(dba, web, saver.attempt(web)), (unique("re"), PRICE))
    assert saver.attempts(web) == []
    assert agree(dba, saver.who, None)["changed"]
    assert not agree(dba, saver.who, None)["changed"]
    assert saver.attempt(web)


def test_money_that_goes_back_while_an_attempt_is_open_cancels_what_was_not_charged(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 0)
    attempt = saver.attempt(web)
    give_back(dba, saver.payment_id, (unique("dp"), PRICE), kind="dispute")
    assert note(web, attempt, "made", payment_id=unique("pi"))["next_step"] == "cancel"
    note(web, attempt, "canceled")
    assert saver.attempts(web) == []


# Failures


def test_three_failures_in_a_row_end_a_top_up_and_each_is_in_words(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 0)
    reasons = {
        "insufficient_funds": ("the card does not have enough money", timedelta(hours=1)),
        "authentication_required": (
            "the bank wants the user to confirm the payment", timedelta(days=1),
        ),
        "expired_card": ("the card has expired", None),
    }  # fmt: skip
    for number, (reason, (words, pause)) in enumerate(reasons.items(), 1):
        noted = note(web, saver.attempt(web), "failed", problem=reason)
        state = saver.state(dba)
        assert (state["failures"], state["problem"], state["problem_text"]) == (
            number,
            reason,
            words,
        )
        assert noted["switched_off"] == (number == 3)
        assert saver.attempts(web) == []
        if pause is not None:
            assert state["next_attempt_at"] - state["attempt_at"] >= pause
            assert state["next_attempt_at"] - state["attempt_at"] < pause + timedelta(minutes=1)
        saver.later()
    assert (state["status"], state["end_reason"]) == ("off", "failures")
    assert told(module_database, saver.id) == [
        ("insufficient_funds", 1, "on"), ("authentication_required", 2, "on"),
        ("expired_card", 3, "off"),
    ]  # fmt: skip
    assert saver.attempts(web) == []
    words_of = [
        row["problem_text"] for row in dba.rows("list_top_up_attempts", account_id=saver.id)
    ]
    assert words_of == [words for words, _ in reversed(reasons.values())]
    # With another consent, the first failure is the first again.
    agree(dba, saver.who, None)
    assert saver.state(dba)["failures"] == 0
    assert saver.attempt(web)


def test_a_success_makes_the_next_failure_the_first(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 0)
    for _ in range(2):
        note(web, saver.attempt(web), "failed", problem="card_declined")
        saver.later()
    saver.paid(dba, web, saver.attempt(web))
    state = saver.state(dba)
    assert (state["failures"], state["problem"]) == (0, None)
    saver.keep(dba, 0)
    note(web, saver.attempt(web), "failed", problem="card_declined")
    assert (saver.state(dba)["status"], saver.state(dba)["failures"]) == ("on", 1)


def test_what_is_not_known_stays_open_is_no_failure_and_is_asked_for_later_and_later(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 0)
    attempt, payment_id = saver.attempt(web), unique("pi")
    note(web, attempt, "made", payment_id=payment_id)
    pauses = []
    for _ in range(12):
        note(web, attempt, "unknown", problem="provider_unavailable")
        pauses.append(
            module_database.value(
                "SELECT extract(epoch FROM leased_until - clock_timestamp())"
                " FROM billing_data.top_up_attempts WHERE purchase_id = %s",
                attempt["purchase_id"],
            )
        )
        assert saver.attempts(web) == []
    assert [round(pause / 10) for pause in pauses] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360,
                                                       360]  # fmt: skip
    state = saver.state(dba)
    assert (state["status"], state["failures"], state["attempt_status"]) == ("on", 0, "open")
    assert state["problem_text"] == "the payment provider does not answer"
    saver.later()
    again = saver.attempt(web)
    assert (again["purchase_id"], again["payment_id"]) == (attempt["purchase_id"], payment_id)


def test_a_server_that_dies_leaves_its_attempt_to_another_one_after_a_minute(
    module_database: Database, web: Caller
) -> None:
    saver = Saver(module_database, 0)
    attempt = saver.attempt(web)
    left = module_database.value(
        "SELECT leased_until - clock_timestamp() FROM billing_data.top_up_attempts"
        " WHERE purchase_id = %s",
        attempt["purchase_id"],
    )
    assert timedelta(seconds=30) < left <= timedelta(minutes=1)
    assert saver.attempts(web) == []
    saver.later()
    again = saver.attempt(web)
    assert (again["purchase_id"], again["payment_id"]) == (attempt["purchase_id"], None)
    # The first payment that is recorded is the one; a second server is told of it.
    assert note(web, again, "made", payment_id="pi_first")["payment_id"] == "pi_first"
    second = note(web, attempt, "made", payment_id="pi_second")
    assert (second["next_step"], second["payment_id"]) == ("charge", "pi_first")


@pytest.mark.parametrize("told", ["succeeded", "failed", "unknown", "made", "canceled"])
def test_a_payment_that_is_reported_before_its_answer_comes_has_succeeded(
    module_database: Database, dba: Caller, web: Caller, told: str
) -> None:
    saver = Saver(module_database, 0)
    attempt, payment_id = saver.attempt(web), unique("pi")
    note(web, attempt, "made", payment_id=payment_id)
    assert deliver(dba, unique("evt"), payment_id)["outcome"] == "credited"
    noted = note(web, attempt, told, payment_id=payment_id, problem="card_declined")
    assert noted["next_step"] == "stop"
    state = saver.state(dba)
    assert (state["attempt_status"], state["failures"], state["problem"]) == ("succeeded", 0, None)
    assert account_of(module_database, saver.who)["paid_credits"] == USES


def test_what_is_noted_of_an_attempt_that_has_ended_changes_nothing(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 0)
    attempt = saver.attempt(web)
    note(web, attempt, "failed", problem="card_declined")
    before = saver.state(dba)
    for told in ("made", "succeeded", "failed", "canceled", "unknown"):
        more = {"payment_id": unique("pi"), "problem": "expired_card"}
        assert note(web, attempt, told, **more)["next_step"] == "stop"
    assert saver.state(dba) == before
    unknown = {**attempt, "purchase_id": attempt["account_id"]}
    assert note(web, unknown, "succeeded")["next_step"] == "stop"


# Consent


def test_what_was_agreed_to_is_kept_with_its_words_and_replaced_by_the_next(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who, payment_id = bought(module_database)
    key = key_id(module_database)
    first = agree(web, who, payment_id, api_key_id=key)
    assert first["changed"]
    assert not agree(web, who, payment_id, api_key_id=key)["changed"]
    assert not agree(web, who, None, api_key_id=key)["changed"]
    second = agree(dba, who, None, threshold=3, consent_version="2026-12")
    assert second["changed"]
    newest, oldest = dba.rows("list_top_ups", account_id=first["account_id"])
    assert (newest["top_up_id"], oldest["top_up_id"]) == (second["top_up_id"], first["top_up_id"])
    assert (oldest["status"], oldest["end_reason"]) == ("off", "replaced")
    assert (newest["status"], newest["threshold"], newest["card"]) == ("on", 3, "visa 4242")
    assert (oldest["consent_version"], oldest["consent_text"]) == (
        TERMS["consent_version"], TERMS["consent_text"],
    )  # fmt: skip
    assert newest["consent_by"] == "t_dba"
    assert oldest["consent_at"] < newest["consent_at"]
    assert dba.rows("list_top_ups", account_id=first["account_id"], status="on") == [newest]


@pytest.mark.parametrize(
    ("changes", "slug", "argument"),
    [
        ({"threshold": -1}, "invalid_argument", "p_threshold"),
        ({"threshold": USES}, "invalid_argument", "p_threshold"),
        ({"threshold": BIGGEST}, "invalid_argument", "p_threshold"),
        ({"threshold": None}, "invalid_argument", "p_threshold"),
        ({"packs": 0}, "invalid_argument", "p_packs"),
        ({"packs": 1001}, "invalid_argument", "p_packs"),
        ({"packs": None}, "invalid_argument", "p_packs"),
        ({"packs": 2}, "top_up_price_changed", None),
        ({"amount_minor": PRICE - 1}, "top_up_price_changed", None),
        ({"amount_minor": BIGGEST}, "top_up_price_changed", None),
        ({"amount_minor": None}, "top_up_price_changed", None),
        ({"currency": "EUR"}, "top_up_price_changed", None),
        ({"currency": None}, "top_up_price_changed", None),
        ({"monthly_cap_minor": PRICE - 1}, "invalid_argument", "p_monthly_cap_minor"),
        ({"monthly_cap_minor": None}, "invalid_argument", "p_monthly_cap_minor"),
        ({"consent_text": ""}, "invalid_argument", "p_consent_text"),
        ({"consent_text": "x" * 1001}, "invalid_argument", "p_consent_text"),
        ({"consent_version": None}, "invalid_argument", "p_consent_version"),
        ({"customer_id": None}, "top_up_card_missing", None),
        ({"payment_method_id": ""}, "top_up_card_missing", None),
        ({"payment_id": None}, "top_up_card_missing", None),
        ({"payment_id": "pi_of_nobody"}, "payment_not_found", None),
        (person("nobody at all"), "account_not_found", None),
    ],
)
def test_a_consent_that_cannot_be_meant_is_refused(
    module_database: Database, dba: Caller, changes: dict[str, Any], slug: str, argument: str | None
) -> None:
    who, payment_id = bought(module_database)
    given = {**who, **TERMS, **CARD, "payment_id": payment_id, **changes}
    refusal = dba.refusal("set_top_up", **given)
    assert refusal.slug == slug
    if argument is not None:
        assert refusal.detail["argument"] == argument
    account = account_of(module_database, who)["id"]
    assert dba.refusal("get_top_up", account_id=account).slug == "top_up_not_found"
    assert dba.refusal("end_top_up", account_id=account, reason="x").slug == "top_up_not_found"


def test_the_edges_of_a_consent_are_accepted(module_database: Database, dba: Caller) -> None:
    who, payment_id = bought(module_database)
    for terms in (
        {"threshold": 0, "monthly_cap_minor": PRICE},
        {"threshold": USES - 1, "monthly_cap_minor": BIGGEST, "consent_text": "x" * 1000},
        {"threshold": 1000 * USES - 1, "packs": 1000, "amount_minor": 1000 * PRICE,
         "monthly_cap_minor": 1000 * PRICE},
    ):  # fmt: skip
        assert agree(dba, who, payment_id, **terms)["changed"]


def test_another_persons_card_is_not_charged(module_database: Database, dba: Caller) -> None:
    who, _ = bought(module_database)
    _, payment_of_another = bought(module_database)
    given = {**who, **TERMS, **CARD, "payment_id": payment_of_another}
    assert dba.refusal("set_top_up", **given).slug == "payment_not_found"


def test_a_consent_withdrawn_while_an_attempt_is_open_cancels_what_was_not_charged(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver, key = Saver(module_database, 0), key_id(module_database)
    attempt = saver.attempt(web)
    ended = web.row("end_top_up", **saver.who, api_key_id=key)
    assert ended["changed"]
    assert not web.row("end_top_up", **saver.who, api_key_id=key)["changed"]
    noted = note(web, attempt, "made", payment_id=unique("pi"))
    assert noted["next_step"] == "cancel"
    note(web, attempt, "canceled")
    state = saver.state(dba)
    assert (state["status"], state["end_reason"]) == ("off", "withdrawn")
    assert (state["attempt_status"], state["failures"]) == ("canceled", 0)
    saver.later()
    assert saver.attempts(web) == []


def test_what_was_charged_when_the_consent_is_withdrawn_is_credited(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 0)
    attempt, payment_id = saver.attempt(web), unique("pi")
    assert note(web, attempt, "made", payment_id=payment_id)["next_step"] == "charge"
    dba.row("end_top_up", account_id=saver.id, reason="asked by e-mail")
    note(web, attempt, "succeeded")
    assert deliver(dba, unique("evt"), payment_id)["outcome"] == "credited"
    assert account_of(module_database, saver.who)["paid_credits"] == USES
    assert saver.state(dba)["attempt_status"] == "succeeded"


def test_credits_that_come_meanwhile_cancel_an_attempt_that_was_not_charged(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 0)
    attempt = saver.attempt(web)
    dba.row("create_credit", **saver.who, amount_minor=3)
    assert note(web, attempt, "made", payment_id=unique("pi"))["next_step"] == "cancel"
    note(web, attempt, "canceled")
    assert saver.attempts(web) == []
    assert saver.state(dba)["status"] == "on"


def test_staff_end_a_top_up_with_a_reason_and_begin_none(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    saver = Saver(module_database, 0)
    admin, viewer = staff(module_database, "admin"), staff(module_database, "viewer")
    end = {"account_id": saver.id, "session_hash": admin.session_hash}
    assert web.refusal("end_top_up", **end).detail["argument"] == "p_reason"
    seen = {**end, "session_hash": viewer.session_hash}
    refused = web.refusal("end_top_up", **seen, reason="a test")
    assert refused.slug == "admin_role_required"
    assert web.row("get_top_up", **seen)["status"] == "on"
    assert web.row("end_top_up", **end, reason="the card is a stolen one")["changed"]
    (row,) = dba.rows("list_audit_log", action="account.end_top_up", resource_id=str(saver.id))
    assert (row["who"], row["reason"]) == (admin.email, "the card is a stolen one")
    assert saver.state(dba)["end_reason"] == "staff"
    assert saver.attempts(web) == []
    # There is no argument by which a staff member could agree for a person.
    arguments = module_database.value(
        "SELECT proargnames FROM pg_proc WHERE oid = 'billing.set_top_up'::regproc"
    )
    assert "p_session_hash" not in arguments


def test_a_key_that_may_only_read_reads_and_ends_nothing(
    module_database: Database, web: Caller
) -> None:
    saver, key = Saver(module_database, 0), key_id(module_database, "billing:read")
    assert web.row("get_top_up", **saver.who, api_key_id=key)["status"] == "on"
    for call, more in (("end_top_up", {}), ("set_top_up", {**TERMS, **CARD})):
        refusal = web.refusal(call, **saver.who, **more, api_key_id=key)
        assert refusal.slug == "permission_missing"


def test_what_was_agreed_to_never_changes_for_the_owner_either(
    module_database: Database,
) -> None:
    saver = Saver(module_database, 0)
    with session(module_database, "postgres") as root:
        for change in (
            "UPDATE billing_data.top_ups SET monthly_cap_minor = 1000000 WHERE account_id = %s",
            "UPDATE billing_data.top_ups SET threshold = 19 WHERE account_id = %s",
            "DELETE FROM billing_data.top_ups WHERE account_id = %s",
        ):
            assert root.refused(change, saver.id).slug == "append_only"


def test_a_provider_that_is_disabled_or_away_is_not_asked(database: Database) -> None:
    configure_provider(database)
    open_one, waiting = Saver(database, 0), Saver(database, 3)
    with session(database, "t_dba") as dba, session(database, "t_web") as web:
        assert open_one.attempt(web)
        dba.row("set_provider_config", provider_type="stripe", config_data="{}", is_active=False)
        waiting.keep(dba, 0)
        open_one.later()
        assert claim(web) == []
        dba.row("set_provider_config", provider_type="stripe", config_data="{}", is_active=True)
        assert {row["account_id"] for row in claim(web)} == {open_one.id, waiting.id}
