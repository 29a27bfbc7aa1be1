"""What becomes of money: billing.process_payment_event, settle_purchase, return_payment, and what
people look at afterwards."""

from __future__ import annotations

import itertools
import json
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from tests.sql.helpers import (
    BIGGEST,
    NOBODY,
    Caller,
    account_of,
    at_once,
    charge_all,
    key_id,
    ledger_problems,
    new_user,
    person,
    session,
    staff,
    tamper,
)
from tests.sql.payments import (
    PRICE,
    USES,
    attach,
    begin,
    bought,
    configure_provider,
    credits_of,
    deliver,
    event_of,
    give_back,
    legacy,
    metadata,
    problems_of,
    purchases_of,
    returns_of,
)
from tests.support import Database, unique


@pytest.fixture(autouse=True)
def the_ledger_is_right_afterwards(module_database: Database) -> Iterator[None]:
    """Stripe is set up for tests; every account's books agree at the end."""
    configure_provider(module_database)
    yield
    assert ledger_problems(module_database) == []


@pytest.fixture
def own(database: Database) -> Iterator[tuple[Database, Caller]]:
    """A database of the test's own, whose settings it may change."""
    configure_provider(database)
    with session(database, "t_dba") as dba:
        yield database, dba
    assert ledger_problems(database) == []


def _balance(database: Database, who: dict[str, str]) -> int:
    paid: int = account_of(database, who)["paid_credits"]
    return paid


def _taken(database: Database, payment_id: str) -> dict[str, tuple[int, int, str]]:
    return {
        return_id: (row["uses_due"], row["uses_taken"], row["status"])
        for return_id, row in returns_of(database, payment_id).items()
    }


def _entries(database: Database, return_id: str) -> list[Any]:
    """The ledger entries of a return, the oldest first."""
    rows = database.execute(
        "SELECT n.credit_id FROM billing_data.payment_return_credits AS n"
        " INNER JOIN billing_data.credits AS c ON c.id = n.credit_id WHERE n.return_id = %s"
        " ORDER BY c.ledger_version",
        return_id,
    )
    return [credit_id for (credit_id,) in rows]


def _spend(database: Database, who: dict[str, str], amount: int) -> None:
    with session(database, "t_dba") as dba:
        dba.row("create_charge", **who, amount_minor=amount)


# --- a payment that succeeded --------------------------------------------------------------------


@pytest.mark.parametrize("is_attached", [True, False], ids=["attached", "never attached"])
def test_a_payment_adds_what_was_sold(
    module_database: Database, web: Caller, dba: Caller, is_attached: bool
) -> None:
    who, event_id, payment_id = new_user(module_database), unique("evt"), unique("pi")
    purchase = begin(dba, who)
    if is_attached:
        attach(dba, purchase, payment_id)
    answer = deliver(web, event_id, payment_id, None if is_attached else purchase, livemode=False)
    assert answer == {
        "outcome": "credited",
        "needs_attention": False,
        "deliveries": 1,
        "account_id": purchase["account_id"],
        "purchase_id": purchase["purchase_id"],
        "credits_added": USES,
    }
    (credit,) = credits_of(module_database, purchase["account_id"])
    expected = {
        "ledger_version": 1,
        "amount_minor": USES,
        "currency": "USD",
        "balance_before": 0,
        "balance_after": USES,
        "transaction_type": "purchase",
        "description": "Purchased $5.00 (20 uses) via Stripe",
        "external_transaction_id": payment_id,
        "idempotency_key": f"stripe-{payment_id}",
        "payment_provider": "stripe",
        "database_role": None,
    }
    assert {name: credit[name] for name in expected} == expected
    (row,) = purchases_of(module_database, purchase["account_id"])
    assert (row["payment_id"], row["credit_id"]) == (payment_id, credit["id"])
    assert row["settled_at"] == credit["created_at"]
    event = event_of(module_database, event_id)
    expected = {
        "provider": "stripe",
        "event_type": "payment_intent.succeeded",
        "payment_id": payment_id,
        "outcome": "credited",
        "livemode": False,
        "deliveries": 1,
        "account_id": purchase["account_id"],
        "resolved_at": None,
    }
    assert {name: event[name] for name in expected} == expected
    assert problems_of(dba, payment_id) == []
    assert account_of(module_database, who)["free_uses_remaining"] == 3


def test_an_event_that_comes_again_changes_nothing(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, event_id, payment_id = new_user(module_database), unique("evt"), unique("pi")
    purchase = begin(dba, who)
    deliver(web, event_id, payment_id, purchase)
    before = account_of(module_database, who)
    for number in (2, 3):
        again = deliver(web, event_id, payment_id, purchase, payload='{"other": 1}')
        assert (again["outcome"], again["needs_attention"]) == ("credited", False)
        assert (again["deliveries"], again["credits_added"]) == (number, 0)
        assert again["account_id"] == purchase["account_id"]
    assert account_of(module_database, who) == before
    event = event_of(module_database, event_id)
    assert event["last_received_at"] > event["received_at"]
    assert event["payload"] == {}


def test_another_event_of_a_paid_payment_adds_nothing(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    purchase = begin(dba, who)
    deliver(web, unique("evt"), payment_id, purchase)
    other = deliver(web, unique("evt"), payment_id, purchase)
    assert (other["outcome"], other["credits_added"]) == ("already_credited", 0)
    assert (other["account_id"], other["purchase_id"]) == tuple(metadata(purchase).values())
    assert _balance(module_database, who) == USES


def test_one_event_fifty_times_at_once_credits_once(module_database: Database, dba: Caller) -> None:
    who, event_id, payment_id = new_user(module_database), unique("evt"), unique("pi")
    purchase = begin(dba, who)
    call = partial(deliver, event_id=event_id, payment_id=payment_id, purchase=purchase)
    answers = at_once(module_database, [call] * 50)
    assert sorted(answer["deliveries"] for answer in answers) == list(range(1, 51))
    assert {answer["outcome"] for answer in answers} == {"credited"}
    assert Counter(answer["credits_added"] for answer in answers) == {USES: 1, 0: 49}
    assert len(credits_of(module_database, purchase["account_id"])) == 1
    assert event_of(module_database, event_id)["deliveries"] == 50


@pytest.mark.parametrize("kind", ["attached", "never attached", "of the old service"])
def test_twenty_events_of_one_payment_at_once_credit_once(
    module_database: Database, dba: Caller, kind: str
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    known = legacy(module_database, who)
    if kind != "of the old service":
        purchase = begin(dba, who)
        known = metadata(purchase)
        if kind == "attached":
            attach(dba, purchase, payment_id)
            known = {}
    calls = [
        partial(deliver, event_id=unique("evt"), payment_id=payment_id, **known) for _ in range(20)
    ]
    answers = at_once(module_database, calls, 20)
    assert Counter(answer["outcome"] for answer in answers) == {
        "credited": 1,
        "already_credited": 19,
    }
    account = account_of(module_database, who)
    assert account["paid_credits"] == USES
    assert len(credits_of(module_database, account["id"])) == 1
    assert len(purchases_of(module_database, account["id"])) == 1


def test_an_event_and_reconciliation_at_once_credit_once(
    module_database: Database, dba: Caller
) -> None:
    for _ in range(5):
        who, payment_id = new_user(module_database), unique("pi")
        attach(dba, begin(dba, who), payment_id)
        calls: list[Callable[[Caller], dict[str, Any]]] = [
            lambda caller, paid=payment_id: deliver(caller, unique("evt"), paid),  # type: ignore[misc]
            lambda caller, paid=payment_id: caller.row(  # type: ignore[misc]
                "settle_purchase", payment_id=paid, amount_minor=PRICE
            ),
        ]
        answers = at_once(module_database, calls * 5, 10)
        assert Counter(answer["outcome"] for answer in answers)["credited"] == 1
        assert _balance(module_database, who) == USES


def test_many_payments_of_one_account_at_once_are_all_credited(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    calls = [
        partial(deliver, event_id=unique("evt"), payment_id=unique("pi"), purchase=begin(dba, who))
        for _ in range(30)
    ]
    answers = at_once(module_database, calls, 30)
    assert {answer["outcome"] for answer in answers} == {"credited"}
    assert _balance(module_database, who) == 30 * USES


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_suspended_and_closed_accounts_get_what_they_paid_for_and_lose_what_went_back(
    module_database: Database, dba: Caller, status: str
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    purchase = begin(dba, who)
    dba.row("set_account_status", **who, status=status, reason="a test")
    assert deliver(dba, unique("evt"), payment_id, purchase)["outcome"] == "credited"
    assert _balance(module_database, who) == USES
    assert give_back(dba, payment_id, (unique("re"), PRICE))["outcome"] == "taken_back"
    assert _balance(module_database, who) == 0
    assert account_of(module_database, who)["status"] == status


def test_what_was_sold_is_credited_whatever_the_settings_say_by_then(
    own: tuple[Database, Caller],
) -> None:
    database, dba = own
    who = new_user(database)
    attach(dba, begin(dba, who), "pi_1")
    unattached = begin(dba, who)
    dba.row(
        "set_pricing",
        reason="a test",
        pack_uses=1,
        pack_price_minor=999,
        pack_currency="EUR",
    )
    assert deliver(dba, "evt_1", "pi_1")["credits_added"] == USES
    assert deliver(dba, "evt_2", "pi_2", unattached)["credits_added"] == USES
    assert _balance(database, who) == 2 * USES
    later = begin(dba, who)
    answer = deliver(dba, "evt_3", "pi_3", later, amount_minor=999, currency="eur")
    assert (answer["outcome"], answer["credits_added"]) == ("credited", 1)
    newest = dba.rows("list_transactions", **who, limit=1)[0]
    assert newest["description"] == "Purchased 9.99 EUR (1 uses) via Stripe"
    assert newest["currency"] == "USD"


def test_an_account_in_another_currency_gets_its_credits_in_its_own(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = person(), unique("pi")
    dba.row("create_account", **who, currency="EUR")
    purchase = begin(dba, who)
    assert purchase["currency"] == "USD"
    assert deliver(dba, unique("evt"), payment_id, purchase)["outcome"] == "credited"
    give_back(dba, payment_id, (unique("re"), PRICE // 2))
    credits = credits_of(module_database, purchase["account_id"])
    assert [(row["currency"], row["amount_minor"]) for row in credits] == [
        ("EUR", USES),
        ("EUR", -USES // 2),
    ]


@pytest.mark.parametrize(
    ("currency", "amount", "text"),
    [
        ("USD", 50, "$0.50"),
        ("USD", 123456, "$1234.56"),
        ("EUR", 550, "5.50 EUR"),
        ("JPY", 550, "550 JPY"),
        ("KRW", 700, "700 KRW"),
        ("KWD", 12340, "12.340 KWD"),
        ("UGX", 500_000, "5000 UGX"),
        ("ISK", 60_000, "600 ISK"),
        ("HUF", 17_500, "175.00 HUF"),
    ],
)
def test_a_description_shows_money_as_people_write_it(
    own: tuple[Database, Caller], currency: str, amount: int, text: str
) -> None:
    database, dba = own
    who = new_user(database)
    dba.row("set_pricing", reason="a test", pack_price_minor=amount, pack_currency=currency)
    deliver(dba, "evt_1", "pi_1", begin(dba, who), amount_minor=amount, currency=currency.lower())
    (row,) = dba.rows("list_transactions", **who)
    assert row["description"] == f"Purchased {text} (20 uses) via Stripe"


def test_the_client_secret_is_not_stored(module_database: Database, web: Caller) -> None:
    event_id, secret = unique("evt"), unique("pi_secret")
    payload = {
        "id": event_id,
        "data": {
            "object": {
                "id": "pi_1",
                "client_secret": secret,
                "last_payment_error": {"payment_intent": {"client_secret": secret}},
            }
        },
    }
    for action in ("settle", "ignore"):
        deliver(web, event_id, "pi_1", payload=json.dumps(payload), action=action)
    event = event_of(module_database, event_id)
    assert event["payload"]["data"]["object"] == {
        "id": "pi_1",
        "client_secret": None,
        "last_payment_error": {"payment_intent": {"client_secret": None}},
    }
    dump = module_database.value(
        "SELECT string_agg(e::text, ' ') FROM billing_data.payment_events AS e"
    )
    assert secret not in dump


@pytest.mark.parametrize(
    ("action", "outcome"), [("acknowledge", "acknowledged"), ("ignore", "ignored")]
)
def test_events_without_effect_are_stored_and_change_nothing(
    module_database: Database, web: Caller, action: str, outcome: str
) -> None:
    event_id = unique("evt")
    for number in (1, 2):
        answer = web.row(
            "process_payment_event",
            event_id=event_id,
            event_type="payment_intent.payment_failed",
            payload="{}",
            action=action,
            livemode=True,
        )
        assert answer == {
            "outcome": outcome,
            "needs_attention": False,
            "deliveries": number,
            "account_id": None,
            "purchase_id": None,
            "credits_added": 0,
        }
    assert event_of(module_database, event_id)["outcome"] == outcome


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"event_id": ""}, "p_event_id"),
        ({"event_id": None}, "p_event_id"),
        ({"event_id": "x" * 256}, "p_event_id"),
        ({"event_type": ""}, "p_event_type"),
        ({"event_type": None}, "p_event_type"),
        ({"event_type": "x" * 256}, "p_event_type"),
        ({"provider": "bank"}, "p_provider"),
        ({"provider": None}, "p_provider"),
        ({"payload": None}, "p_payload"),
        ({"action": "pay"}, "p_action"),
        ({"action": None}, "p_action"),
        ({"payment_id": None}, "p_payment_id"),
        ({"payment_id": ""}, "p_payment_id"),
        ({"payment_id": "x" * 256}, "p_payment_id"),
        ({"action": "return", "payment_id": None}, "p_payment_id"),
        ({"action": "return", "return_ids": ["re_1"]}, "arrays"),
        ({"action": "return", "return_ids": None}, "arrays"),
        ({"action": "return", "returns_withdrawn": [True]}, "arrays"),
    ],
    ids=lambda value: (
        ",".join(f"{k}={str(v)[:9]}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_a_faulty_event_is_refused_and_not_stored(
    module_database: Database, web: Caller, change: dict[str, Any], argument: str
) -> None:
    count = "SELECT count(*) FROM billing_data.payment_events"
    before = module_database.value(count)
    event = {
        "event_id": unique("evt"),
        "event_type": "payment_intent.succeeded",
        "payload": "{}",
        "action": "settle",
        "payment_id": unique("pi"),
        "amount_minor": PRICE,
        "currency": "usd",
    }
    refusal = web.refusal("process_payment_event", **{**event, **change})
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.detail["argument"] == argument
    assert module_database.value(count) == before


@pytest.mark.parametrize(
    "call",
    ["process_payment_event", "resolve_payment_event", "settle_purchase", "return_payment"],
)
def test_what_moves_money_commits_durably(module_database: Database, call: str) -> None:
    with session(module_database, "t_dba", autocommit=False) as dba:
        event_id = unique("evt")
        deliver(dba, event_id, unique("pi"))
        dba.connection.commit()
        dba.execute("SET synchronous_commit = off")
        if call == "process_payment_event":
            deliver(dba, unique("evt"), "pi_1")
        elif call == "resolve_payment_event":
            dba.row(call, event_id=event_id, reason="a test")
        elif call == "settle_purchase":
            dba.row(call, payment_id="pi_1", amount_minor=1)
        else:
            dba.row(call, payment_id="pi_1", return_id="re", kind="refund", amount_minor=1)
        assert dba.execute("SHOW synchronous_commit") == [{"synchronous_commit": "on"}]
        dba.connection.rollback()


# --- a payment that cannot be credited -----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"amount_minor": PRICE - 1}, ("amount_mismatch", "another amount was paid")),
        ({"amount_minor": PRICE + 1}, ("amount_mismatch", "another amount was paid")),
        ({"amount_minor": 0}, ("amount_mismatch", "another amount was paid")),
        ({"amount_minor": None}, ("amount_mismatch", "another amount was paid")),
        ({"amount_minor": BIGGEST}, ("amount_mismatch", "another amount was paid")),
        ({"currency": "eur"}, ("currency_mismatch", "it was paid in another currency")),
        ({"currency": None}, ("currency_mismatch", "it was paid in another currency")),
        ({"livemode": True}, ("mode_mismatch", "a test event met a live set-up")),
        ({"payment_id": "another"}, ("payment_mismatch", "the purchase already has another")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_payment_that_does_not_fit_is_kept_flagged_and_credited_once_it_fits(
    module_database: Database,
    web: Caller,
    dba: Caller,
    change: dict[str, Any],
    fault: tuple[str, str],
) -> None:
    outcome, what_is_wrong = fault
    who, event_id = new_user(module_database), unique("evt")
    purchase = begin(dba, who)
    payment_id = unique("pi")
    attach(dba, purchase, payment_id)
    if "payment_id" in change:
        change = {"payment_id": unique("pi")}
    sent = {"payment_id": payment_id, **metadata(purchase), **change}
    for number in (1, 2):
        answer = deliver(web, event_id, **sent)
        assert (answer["outcome"], answer["needs_attention"]) == (outcome, True)
        assert (answer["credits_added"], answer["deliveries"]) == (0, number)
    assert credits_of(module_database, purchase["account_id"]) == []
    (row,) = purchases_of(module_database, purchase["account_id"])
    assert (row["settled_at"], row["payment_id"]) == (None, payment_id)
    (problem,) = problems_of(dba, sent["payment_id"])
    assert (problem["problem"], problem["reference"]) == (outcome, event_id)
    assert problem["what_is_wrong"].startswith(what_is_wrong)
    assert problem["happened_at"] == event_of(module_database, event_id)["received_at"]
    if outcome != "mode_mismatch":  # such an event is not even looked at
        assert problem["account_id"] == purchase["account_id"]
    mended = deliver(web, event_id, payment_id, purchase)
    assert (mended["outcome"], mended["needs_attention"]) == ("credited", False)
    assert mended["deliveries"] == 3
    assert _balance(module_database, who) == USES
    assert problems_of(dba, payment_id) == []


def test_a_payment_for_nobody_is_credited_once_the_account_that_it_names_is_there(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, event_id, payment_id = person(), unique("evt"), unique("pi")
    named = {"account_id": uuid.uuid4(), **who}
    answer = deliver(web, event_id, payment_id, **named)
    assert (answer["outcome"], answer["needs_attention"]) == ("account_not_found", True)
    assert answer["account_id"] is None
    (problem,) = problems_of(dba, payment_id)
    assert problem["what_is_wrong"] == "the payment names an identity without an account"
    assert dba.refusal("get_account", **who).slug == "account_not_found"
    # As when the database was restored from a backup. One made anew is another account.
    module_database.execute(
        "INSERT INTO billing_data.accounts (id, oauth_provider, external_id) VALUES (%s, %s, %s)",
        *named.values(),
    )
    mended = deliver(web, event_id, payment_id, **named)
    assert (mended["outcome"], mended["credits_added"]) == ("credited", USES)
    assert mended["account_id"] == named["account_id"]
    assert problems_of(dba, payment_id) == []
    again = deliver(web, event_id, payment_id, **named)
    assert (again["outcome"], again["credits_added"]) == ("credited", 0)
    assert _balance(module_database, who) == USES


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"oauth_provider": "oauth:google"},
        {"external_id": "ada"},
        {"account_id": NOBODY, "purchase_id": NOBODY},
    ],
    ids=str,
)
def test_a_payment_that_does_not_say_whom_it_is_for_is_flagged(
    module_database: Database, web: Caller, dba: Caller, known: dict[str, Any]
) -> None:
    event_id, payment_id = unique("evt"), unique("pi")
    answer = deliver(web, event_id, payment_id, **known)
    assert (answer["outcome"], answer["needs_attention"]) == ("metadata_missing", True)
    (problem,) = problems_of(dba, payment_id)
    assert problem["what_is_wrong"] == "the payment does not say whom it is for"
    named = legacy(module_database, new_user(module_database))
    assert deliver(web, event_id, payment_id, **named)["outcome"] == "credited"


def test_a_purchase_of_another_account_is_not_paid_by_naming_it(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    ada, ben = begin(dba, person()), begin(dba, person())
    mixed = {"account_id": ada["account_id"], "purchase_id": ben["purchase_id"]}
    assert deliver(web, unique("evt"), unique("pi"), **mixed)["outcome"] == "metadata_missing"
    for purchase in (ada, ben):
        assert credits_of(module_database, purchase["account_id"]) == []


def test_a_balance_that_would_overflow_waits_until_there_is_room(
    module_database: Database, dba: Caller
) -> None:
    who, event_id, payment_id = new_user(module_database, free=False), unique("evt"), unique("pi")
    dba.row("create_credit", **who, amount_minor=BIGGEST - USES + 1)
    purchase = begin(dba, who)
    assert deliver(dba, event_id, payment_id, purchase)["outcome"] == "balance_overflow"
    (problem,) = problems_of(dba, payment_id)
    assert problem["what_is_wrong"] == "the account cannot hold that many credits"
    _spend(module_database, who, 1)
    assert deliver(dba, event_id, payment_id, purchase)["outcome"] == "credited"
    assert _balance(module_database, who) == BIGGEST


def test_a_second_payment_for_one_purchase_is_not_credited(
    module_database: Database, dba: Caller
) -> None:
    who, first, second = new_user(module_database), unique("pi"), unique("pi")
    purchase = begin(dba, who)
    assert deliver(dba, unique("evt"), first, purchase)["outcome"] == "credited"
    assert deliver(dba, unique("evt"), second, purchase)["outcome"] == "payment_mismatch"
    assert give_back(dba, second, (unique("re"), PRICE), **metadata(purchase))["outcome"] == (
        "payment_mismatch"
    )
    assert {row["problem"] for row in problems_of(dba, second)} == {"payment_mismatch"}
    assert _balance(module_database, who) == USES


def test_two_payments_for_one_purchase_at_once_credit_one(
    module_database: Database, dba: Caller
) -> None:
    for _ in range(5):
        who = new_user(module_database)
        purchase = begin(dba, who)
        calls = [
            partial(deliver, event_id=unique("evt"), payment_id=unique("pi"), purchase=purchase)
            for _ in range(8)
        ]
        counted = Counter(answer["outcome"] for answer in at_once(module_database, calls, 8))
        assert counted == {"credited": 1, "payment_mismatch": 7}
        assert _balance(module_database, who) == USES


@pytest.mark.parametrize(
    ("mode", "livemode", "outcome"),
    [
        ("live", True, "credited"),
        ("live", False, "mode_mismatch"),
        ("test", False, "credited"),
        ("test", True, "mode_mismatch"),
        ("live", None, "credited"),
        (None, True, "credited"),
    ],
)
def test_an_event_of_the_other_mode_is_flagged(
    own: tuple[Database, Caller], mode: str | None, livemode: bool | None, outcome: str
) -> None:
    database, dba = own
    who = new_user(database)
    purchase = begin(dba, who)
    if mode:
        configure_provider(database, mode)
    else:
        dba.row("set_provider_config", provider_type="stripe", config_data='{"api_key": null}')
    answer = deliver(dba, "evt_1", "pi_1", purchase, livemode=livemode)
    assert answer["outcome"] == outcome
    assert _balance(database, who) == (USES if outcome == "credited" else 0)
    returned = give_back(dba, "pi_1", ("re_1", PRICE), livemode=livemode, **metadata(purchase))
    assert returned["outcome"] == ("taken_back" if outcome == "credited" else "mode_mismatch")
    assert _balance(database, who) == 0


def test_a_mode_that_was_mended_lets_the_event_through(own: tuple[Database, Caller]) -> None:
    database, dba = own
    who = new_user(database)
    purchase = begin(dba, who)
    assert deliver(dba, "evt_1", "pi_1", purchase, livemode=True)["outcome"] == "mode_mismatch"
    configure_provider(database, "live")
    assert deliver(dba, "evt_1", "pi_1", purchase, livemode=True)["outcome"] == "credited"


# --- payments of the old service -----------------------------------------------------------------


def test_an_old_payment_is_credited_to_its_identity_at_the_present_price(
    module_database: Database, web: Caller
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    answer = deliver(web, unique("evt"), payment_id, **legacy(module_database, who))
    assert (answer["outcome"], answer["credits_added"]) == ("credited", USES)
    account = account_of(module_database, who)
    (credit,) = credits_of(module_database, account["id"])
    (row,) = purchases_of(module_database, account["id"])
    assert answer["purchase_id"] == row["id"] == row["credit_id"] == credit["id"]
    assert (row["payment_id"], row["database_role"]) == (payment_id, "legacy")
    assert (row["uses"], row["price_minor"], row["currency"]) == (USES, PRICE, "USD")
    assert credit["description"] == "Purchased $5.00 (20 uses) via Stripe"
    assert give_back(web, payment_id, (unique("re"), PRICE))["outcome"] == "taken_back"


def test_an_old_payment_at_another_price_is_flagged(module_database: Database, dba: Caller) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    for change, outcome in (
        ({"amount_minor": PRICE + 1}, "amount_mismatch"),
        ({"currency": "eur"}, "currency_mismatch"),
    ):
        named = legacy(module_database, who)
        answer = deliver(dba, unique("evt"), payment_id, **named, **change)
        assert (answer["outcome"], answer["purchase_id"]) == (outcome, None)
    account = account_of(module_database, who)
    assert purchases_of(module_database, account["id"]) == []
    assert account["ledger_version"] == 0


def test_what_the_old_service_credited_is_not_credited_again(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    dba.row(
        "create_credit",
        **who,
        amount_minor=USES,
        transaction_type="purchase",
        external_transaction_id=payment_id,
        idempotency_key=f"stripe-{payment_id}",
    )
    answer = deliver(dba, unique("evt"), payment_id, **legacy(module_database, who))
    assert (answer["outcome"], answer["credits_added"]) == ("already_credited", 0)
    assert _balance(module_database, who) == USES


# --- money that goes back ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["refund", "dispute"])
def test_money_that_goes_back_takes_the_credits_with_it(
    module_database: Database, web: Caller, dba: Caller, kind: str
) -> None:
    who, payment_id = bought(module_database)
    return_id, event_id = unique("re"), unique("evt")
    account = account_of(module_database, who)
    answer = give_back(web, payment_id, (return_id, PRICE), kind=kind, event_id=event_id)
    (row,) = returns_of(module_database, payment_id).values()
    assert answer == {
        "outcome": "taken_back",
        "needs_attention": False,
        "deliveries": 1,
        "account_id": account["id"],
        "purchase_id": row["purchase_id"],
        "credits_added": 0,
    }
    credit = credits_of(module_database, account["id"])[-1]
    expected = {
        "amount_minor": -USES,
        "balance_before": USES,
        "balance_after": 0,
        "transaction_type": "refund",
        "description": f"{kind.capitalize()} of $5.00 via Stripe (20 uses taken back)",
        "external_transaction_id": return_id,
        "idempotency_key": f"stripe-{return_id}",
        "payment_provider": "stripe",
    }
    assert {name: credit[name] for name in expected} == expected
    assert (row["kind"], row["status"], row["amount_minor"]) == (kind, "taken", PRICE)
    assert (row["uses_due"], row["uses_taken"]) == (USES, USES)
    assert _entries(module_database, return_id) == [credit["id"]]
    newest = dba.rows("list_transactions", **who)[0]
    assert (newest["type"], newest["amount_minor"], newest["balance_after"]) == ("credit", -USES, 0)
    assert newest["transaction_type"] == "refund"
    assert event_of(module_database, event_id)["account_id"] == account["id"]
    assert problems_of(dba, payment_id) == []


def test_a_return_that_is_told_again_takes_nothing_more(
    module_database: Database, web: Caller
) -> None:
    who, payment_id = bought(module_database)
    return_id, event_id = unique("re"), unique("evt")
    give_back(web, payment_id, (return_id, 250), event_id=event_id)
    before = account_of(module_database, who)
    for same in (event_id, unique("evt"), unique("evt")):
        answer = give_back(web, payment_id, (return_id, 250), event_id=same)
        assert answer["outcome"] == ("taken_back" if same == event_id else "unchanged")
    assert account_of(module_database, who) == before


def test_the_view_of_the_days_shows_what_was_taken_back(own: tuple[Database, Caller]) -> None:
    database, dba = own
    _, payment_id = bought(database)
    give_back(dba, payment_id, ("re_1", 250))
    give_back(dba, payment_id, ("re_2", 250))
    give_back(dba, payment_id, ("re_2", 250), withdrawn=False)
    with session(database, "t_analyst") as analyst:
        (day,) = analyst.execute("SELECT * FROM billing.daily_usage")
        changes = analyst.execute(
            "SELECT l.amount_minor, l.balance_change FROM billing.ledger AS l"
            " WHERE l.type = 'credit' ORDER BY l.ledger_version"
        )
    assert (day["credits"], day["credits_added"], day["credits_taken_back"]) == (4, 30, 20)
    assert [(row["amount_minor"], row["balance_change"]) for row in changes] == [
        (20, 20),
        (-10, -10),
        (-10, -10),
        (10, 10),
    ]


@pytest.mark.parametrize(
    ("split", "due"),
    [
        ([1], [0]),
        ([24], [0]),
        ([25], [1]),
        ([499], [19]),
        ([500], [20]),
        ([24, 1], [0, 1]),
        ([250, 250], [10, 10]),
        ([1, 499], [0, 20]),
        ([499, 1], [19, 1]),
        ([166, 167, 167], [6, 7, 7]),
        ([100] * 5, [4] * 5),
        ([300, 300], [12, 8]),
        ([500, 500], [20, 0]),
        ([501], [20]),
        ([BIGGEST], [20]),
        ([BIGGEST, BIGGEST], [20, 0]),
    ],
    ids=str,
)
def test_uses_go_in_proportion_to_the_money_rounded_down_over_all_returns_together(
    module_database: Database, dba: Caller, split: list[int], due: list[int]
) -> None:
    who, payment_id = bought(module_database)
    for number, amount in enumerate(split):
        give_back(dba, payment_id, (f"re_{number}", amount))
    rows = returns_of(module_database, payment_id)
    assert [rows[f"re_{number}"]["uses_due"] for number in range(len(split))] == due
    assert _balance(module_database, who) == USES - sum(due)


def _sell(database: Database, uses: int, price: int) -> None:
    """From now on a pack costs so much, whether Stripe takes such a price or not."""
    database.execute(
        "UPDATE billing_data.settings SET pack_uses = %s, pack_price_minor = %s", uses, price
    )


@pytest.mark.parametrize("uses", [1, 7, 20, 333])
def test_any_split_of_all_the_money_takes_all_the_uses_and_no_part_more_than_its_share(
    own: tuple[Database, Caller], uses: int
) -> None:
    database, dba = own
    dice = random.Random(uses)
    for price in (1, 7, 500, 99_999):
        _sell(database, uses, price)  # Stripe takes some of these prices in no currency
        who, payment_id = new_user(database, free=False), unique("pi")
        deliver(dba, unique("evt"), payment_id, begin(dba, who), amount_minor=price)
        cuts = sorted({0, price, *(dice.randint(0, price) for _ in range(6))})
        parts = [after - before for before, after in itertools.pairwise(cuts)]
        gone = 0
        for number, part in enumerate(parts):
            give_back(dba, payment_id, (f"re_{number}", part))
            gone += part
            assert _balance(database, who) == uses - uses * gone // price
        assert _balance(database, who) == 0


def test_several_returns_in_one_event_are_all_taken(module_database: Database, dba: Caller) -> None:
    who, payment_id = bought(module_database)
    answer = give_back(dba, payment_id, ("re_1", 100), ("re_2", 150), ("re_3", 1))
    assert answer["outcome"] == "taken_back"
    assert _taken(module_database, payment_id) == {
        "re_1": (4, 4, "taken"),
        "re_2": (6, 6, "taken"),
        "re_3": (0, 0, "taken"),
    }
    assert give_back(dba, payment_id, ("re_1", 100), ("re_4", 249))["outcome"] == "taken_back"
    assert _balance(module_database, who) == 0


def test_an_event_that_names_no_return_changes_nothing(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    assert give_back(dba, payment_id)["outcome"] == "unchanged"
    assert _balance(module_database, who) == USES


def test_a_return_of_a_payment_that_is_not_ours_is_ignored(
    module_database: Database, dba: Caller
) -> None:
    event_id = unique("evt")
    answer = give_back(dba, unique("pi"), (unique("re"), PRICE), event_id=event_id)
    assert (answer["outcome"], answer["needs_attention"]) == ("ignored", False)
    assert event_of(module_database, event_id)["outcome"] == "ignored"


def test_a_return_in_another_currency_is_flagged_and_tried_again(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    event_id, part = unique("evt"), (unique("re"), PRICE)
    wrong = give_back(dba, payment_id, part, event_id=event_id, currency="eur")
    assert (wrong["outcome"], wrong["needs_attention"]) == ("currency_mismatch", True)
    assert _balance(module_database, who) == USES
    assert [row["problem"] for row in problems_of(dba, payment_id)] == ["currency_mismatch"]
    assert give_back(dba, payment_id, part, event_id=event_id)["outcome"] == "taken_back"
    assert problems_of(dba, payment_id) == []


@pytest.mark.parametrize("is_attached", [True, False], ids=["attached", "never attached"])
def test_money_that_goes_back_before_the_payment_is_known_waits_for_it(
    module_database: Database, web: Caller, dba: Caller, is_attached: bool
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    purchase = begin(dba, who)
    known = metadata(purchase)
    if is_attached:
        attach(dba, purchase, payment_id)
        known = {}
    for part in ((unique("re"), 100), (unique("re"), 150)):
        answer = give_back(web, payment_id, part, **known)
        assert (answer["outcome"], answer["needs_attention"]) == ("waiting", False)
        assert answer["purchase_id"] == purchase["purchase_id"]
        assert give_back(web, payment_id, part, **known)["outcome"] == "waiting"
    assert credits_of(module_database, purchase["account_id"]) == []
    settled = deliver(web, unique("evt"), payment_id, purchase)
    assert (settled["outcome"], settled["credits_added"]) == ("credited", USES)
    credits = credits_of(module_database, purchase["account_id"])
    assert [row["amount_minor"] for row in credits] == [20, -4, -6]
    assert {row[2] for row in _taken(module_database, payment_id).values()} == {"taken"}


def test_money_that_went_and_came_before_the_payment_is_known_takes_nothing(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id, part = new_user(module_database), unique("pi"), (unique("du"), PRICE)
    attach(dba, begin(dba, who), payment_id)
    assert give_back(dba, payment_id, part, kind="dispute")["outcome"] == "waiting"
    won = give_back(dba, payment_id, part, kind="dispute", withdrawn=False)
    assert won["outcome"] == "restored"
    deliver(dba, unique("evt"), payment_id)
    assert _taken(module_database, payment_id) == {part[0]: (0, 0, "restored")}
    assert _balance(module_database, who) == USES


def test_a_dispute_that_was_won_gives_back_what_it_took(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    part = (unique("du"), PRICE)
    give_back(web, payment_id, part, kind="dispute")
    assert _balance(module_database, who) == 0
    assert give_back(web, payment_id, part, kind="dispute", withdrawn=False)["outcome"] == (
        "restored"
    )
    (row,) = returns_of(module_database, payment_id).values()
    credit = credits_of(module_database, row["account_id"])[-1]
    expected = {
        "amount_minor": USES,
        "transaction_type": "adjustment",
        "description": "Dispute of $5.00 via Stripe undone (20 uses given back)",
        "external_transaction_id": part[0],
        "idempotency_key": f"stripe-{part[0]}-restored",
    }
    assert {name: credit[name] for name in expected} == expected
    assert row["status"] == "restored"
    assert _entries(module_database, part[0])[1:] == [credit["id"]]
    long_ago = datetime(2026, 1, 1, tzinfo=UTC)
    for withdrawn in (False, True):
        again = give_back(
            web, payment_id, part, kind="dispute", withdrawn=withdrawn, occurred_at=long_ago
        )
        assert again["outcome"] == "unchanged"
    assert _balance(module_database, who) == USES


def test_news_in_the_wrong_order_end_the_same(module_database: Database, dba: Caller) -> None:
    who, payment_id = bought(module_database)
    part = (unique("du"), PRICE)
    for _ in range(2):
        back = give_back(dba, payment_id, part, kind="dispute", withdrawn=False)
        assert back["outcome"] == "unchanged"
    late = give_back(
        dba, payment_id, part, kind="dispute", occurred_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert late["outcome"] == "unchanged"
    assert _taken(module_database, payment_id) == {part[0]: (0, 0, "restored")}
    assert _balance(module_database, who) == USES


def test_a_pack_that_is_spent_leaves_a_shortfall_and_never_a_debt(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    _spend(module_database, who, 17)
    part = (unique("re"), PRICE)
    answer = give_back(web, payment_id, part)
    assert (answer["outcome"], answer["needs_attention"]) == ("taken_back", False)
    assert _balance(module_database, who) == 0
    assert _taken(module_database, payment_id) == {part[0]: (20, 3, "taken")}
    (problem,) = problems_of(dba, payment_id)
    assert (problem["problem"], problem["reference"]) == ("shortfall", part[0])
    assert problem["account_id"] == account_of(module_database, who)["id"]
    assert problem["what_is_wrong"] == (
        "refund of $5.00: 20 uses were due, 3 could be taken, 17 are short"
    )
    dba.row("create_credit", **who, amount_minor=5)
    assert give_back(web, payment_id, part)["outcome"] == "unchanged"
    assert _balance(module_database, who) == 5
    # When the money comes back, only what could be taken comes back, and nothing is short.
    give_back(web, payment_id, part, withdrawn=False)
    assert _balance(module_database, who) == 8
    assert problems_of(dba, payment_id) == []


def test_a_pack_that_is_spent_whole_leaves_no_entry(module_database: Database, dba: Caller) -> None:
    who, payment_id = bought(module_database)
    _spend(module_database, who, USES)
    before = account_of(module_database, who)
    assert give_back(dba, payment_id, ("re_1", PRICE))["outcome"] == "taken_back"
    assert _taken(module_database, payment_id) == {"re_1": (20, 0, "taken")}
    assert give_back(dba, payment_id, ("re_1", PRICE), withdrawn=False)["outcome"] == "restored"
    assert _taken(module_database, payment_id) == {"re_1": (0, 0, "restored")}
    assert account_of(module_database, who) == before


def test_a_refund_takes_paid_credits_of_any_origin_and_no_free_uses(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=4)
    _, payment_id = bought(module_database, who)
    assert _balance(module_database, who) == 24
    give_back(dba, payment_id, (unique("re"), PRICE))
    account = account_of(module_database, who)
    assert (account["paid_credits"], account["free_uses_remaining"]) == (4, 3)


def test_a_refund_and_a_dispute_of_the_same_money_take_it_once(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=100, free=False)
    _, payment_id = bought(module_database, who)
    give_back(dba, payment_id, ("re_1", 300))
    give_back(dba, payment_id, ("du_1", PRICE), kind="dispute")
    assert _taken(module_database, payment_id) == {
        "du_1": (8, 8, "taken"),
        "re_1": (12, 12, "taken"),
    }
    assert _balance(module_database, who) == 100
    give_back(dba, payment_id, ("du_1", PRICE), kind="dispute", withdrawn=False)
    assert _balance(module_database, who) == 108


@pytest.mark.parametrize("order", ["refund first", "dispute first"])
def test_a_dispute_that_is_won_gives_nothing_back_that_a_refund_is_due(
    module_database: Database, dba: Caller, order: str
) -> None:
    who, payment_id = bought(module_database)
    refund, dispute = (unique("re"), PRICE), (unique("du"), PRICE)
    steps = [
        lambda: give_back(dba, payment_id, refund),
        lambda: give_back(dba, payment_id, dispute, kind="dispute"),
    ]
    for step in steps if order == "refund first" else reversed(steps):
        step()
    assert _balance(module_database, who) == 0
    answer = give_back(dba, payment_id, dispute, kind="dispute", withdrawn=False)
    assert answer["outcome"] == "restored"
    assert _balance(module_database, who) == 0
    assert _taken(module_database, payment_id) == {
        refund[0]: (20, 20, "taken"),
        dispute[0]: (0, 0, "restored"),
    }
    # The refund fails too: then all of it comes back.
    give_back(dba, payment_id, refund, withdrawn=False)
    assert _balance(module_database, who) == USES
    assert dba.rows("verify_ledger") == []


def test_what_stays_due_falls_to_the_returns_that_stand_shortfall_and_all(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    _spend(module_database, who, 13)
    small, large, lost = (unique("re"), 100), (unique("re"), 300), (unique("du"), PRICE)
    give_back(dba, payment_id, lost, kind="dispute")
    give_back(dba, payment_id, small)
    give_back(dba, payment_id, large)
    assert _taken(module_database, payment_id) == {
        lost[0]: (20, 7, "taken"),
        small[0]: (0, 0, "taken"),
        large[0]: (0, 0, "taken"),
    }
    give_back(dba, payment_id, lost, kind="dispute", withdrawn=False)
    assert _balance(module_database, who) == 0
    assert _taken(module_database, payment_id) == {
        lost[0]: (0, 0, "restored"),
        small[0]: (4, 4, "taken"),
        large[0]: (12, 3, "taken"),
    }
    (problem,) = problems_of(dba, payment_id)
    assert problem["reference"] == large[0]
    assert dba.rows("verify_ledger") == []


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
    assert _taken(module_database, payment_id) == {part[0]: (20, 20, "taken")}
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
    assert _balance(module_database, who) == USES


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
    assert _balance(module_database, who) == 3 + USES
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
    assert _balance(module_database, who) == USES
    assert give_back(dba, payment_id, (unique("re"), PRICE))["outcome"] == "taken_back"
    assert _balance(module_database, who) == 0


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
    assert _balance(module_database, who) == 0


def test_a_shortfall_is_written_off_with_a_reason(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    _spend(module_database, who, 5)
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
        assert _balance(module_database, who) == 0
        if number < 2:
            assert give_back(dba, payment_id, part, withdrawn=False)["outcome"] == "restored"
            assert _balance(module_database, who) == USES


def test_what_comes_back_may_fill_the_account_to_the_last_bit(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    give_back(dba, payment_id, ("re_1", PRICE))
    dba.row("create_credit", **who, amount_minor=BIGGEST - USES)
    assert give_back(dba, payment_id, ("re_1", PRICE), withdrawn=False)["outcome"] == "restored"
    assert _balance(module_database, who) == BIGGEST


def test_one_refund_told_by_thirty_events_at_once_takes_once(
    module_database: Database,
) -> None:
    who, payment_id = bought(module_database)
    calls = [lambda caller: give_back(caller, payment_id, ("re_1", 250))] * 30
    counted = Counter(answer["outcome"] for answer in at_once(module_database, calls, 30))
    assert counted == {"taken_back": 1, "unchanged": 29}
    assert _balance(module_database, who) == USES // 2


def test_many_refunds_at_once_take_exactly_all(module_database: Database) -> None:
    who, payment_id = bought(module_database)
    parts = [(f"re_{number}", 20) for number in range(25)]
    calls = [partial(_give_back_one, payment_id=payment_id, part=part) for part in parts]
    assert set(at_once(module_database, calls, 25)) == {"taken_back"}
    assert _balance(module_database, who) == 0
    assert sum(row[0] for row in _taken(module_database, payment_id).values()) == USES


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
        rows = _taken(module_database, payment_id).values()
        assert sum(row[0] for row in rows) == USES
        taken = sum(row[1] for row in rows)
        assert _balance(module_database, who) == USES - taken - answers["created"] >= 0


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
        assert _balance(module_database, who) == USES // 2
        assert _taken(module_database, payment_id) == {"re_1": (10, 10, "taken")}


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
        assert _balance(module_database, who) == USES


# --- a return is a state --------------------------------------------------------------------------

START = datetime(2026, 1, 1, tzinfo=UTC)


def _tell(
    caller: Caller,
    payment_id: str,
    away: int,
    state: str = "open",
    *,
    transactions: int | None = None,
    second: int = 0,
    return_id: str = "du_1",
    kind: str = "dispute",
    amount: int = PRICE,
) -> str:
    """An event says how much of a return's money is away; gives the outcome."""
    answer = give_back(
        caller,
        payment_id,
        (return_id, amount),
        kind=kind,
        return_away_minor=[away],
        return_states=[state],
        return_transactions=[transactions],
        occurred_at=START + timedelta(seconds=second),
    )
    return str(answer["outcome"])


def test_what_is_taken_is_what_the_money_that_is_away_stands_for(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    aways = (500, 300, 301, 500, 0, 24, 25, 0, 500)
    balances = []
    for number, away in enumerate(aways):
        _tell(web, payment_id, away, transactions=number)
        balances.append(_balance(module_database, who))
    assert balances == [USES - USES * away // PRICE for away in aways]
    account_id = account_of(module_database, who)["id"]
    entries = credits_of(module_database, account_id)[1:]
    assert [row["amount_minor"] for row in entries] == [-20, 8, -8, 20, -1, 1, -20]
    keys = [row["idempotency_key"].removeprefix("stripe-du_1") for row in entries]
    assert keys == ["", "-restored", "-3", "-restored-4", "-5", "-restored-6", "-7"]
    assert [row["description"] for row in entries[:3]] == [
        "Dispute of $5.00 via Stripe (20 uses taken back)",
        "Dispute of $2.00 via Stripe undone (8 uses given back)",
        "Dispute of $1.99 via Stripe (8 uses taken back)",
    ]
    assert len(_entries(module_database, "du_1")) >= len(entries)


def test_of_two_snapshots_the_one_with_more_balance_transactions_is_newer(
    module_database: Database, web: Caller
) -> None:
    who, payment_id = bought(module_database)
    assert _tell(web, payment_id, 300, "closed", transactions=2, second=5) == "taken_back"
    for transactions, second in ((1, 9), (0, 9), (2, 4)):
        told = _tell(web, payment_id, 500, transactions=transactions, second=second)
        assert told == "unchanged"
    assert _tell(web, payment_id, 500, transactions=3, second=0) == "taken_back"
    assert _balance(module_database, who) == 0


def test_without_balance_transactions_the_time_decides_and_then_the_later_state(
    module_database: Database, web: Caller
) -> None:
    who, payment_id = bought(module_database)
    steps = (
        (0, "closed", 5, "unchanged"),
        (500, "open", 4, "unchanged"),
        (500, "open", 5, "unchanged"),
        (500, "closed", 5, "taken_back"),
        (0, "closed", 6, "restored"),
        (500, "open", 7, "taken_back"),
        (0, "inquiry", 7, "unchanged"),
    )
    for away, state, second, outcome in steps:
        assert _tell(web, payment_id, away, state, second=second) == outcome, (away, second)
    assert _balance(module_database, who) == 0


def test_a_refund_that_failed_stays_so_whenever_it_is_told(
    module_database: Database, web: Caller
) -> None:
    who, payment_id = bought(module_database)
    refund: dict[str, Any] = {"return_id": "re_1", "kind": "refund"}
    assert _tell(web, payment_id, 500, second=3, **refund) == "taken_back"
    assert _tell(web, payment_id, 0, "closed", second=1, **refund) == "restored"
    assert _tell(web, payment_id, 500, second=9, **refund) == "unchanged"
    assert _balance(module_database, who) == USES


def test_an_inquiry_leaves_no_return_behind(module_database: Database, web: Caller) -> None:
    _, payment_id = bought(module_database)
    assert _tell(web, payment_id, 0, "inquiry") == "ignored"
    assert returns_of(module_database, payment_id) == {}


def test_what_comes_again_lowers_a_shortfall_first(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    _spend(module_database, who, 17)
    _tell(web, payment_id, 500, transactions=1)
    assert _taken(module_database, payment_id) == {"du_1": (20, 3, "taken")}
    _tell(web, payment_id, 100, transactions=2)
    assert _taken(module_database, payment_id) == {"du_1": (4, 3, "taken")}
    assert _balance(module_database, who) == 0
    (problem,) = problems_of(dba, payment_id)
    assert problem["what_is_wrong"] == (
        "dispute of $1.00: 4 uses were due, 3 could be taken, 1 are short"
    )
    _tell(web, payment_id, 50, transactions=3)
    assert _taken(module_database, payment_id) == {"du_1": (2, 2, "taken")}
    assert _balance(module_database, who) == 1
    assert problems_of(dba, payment_id) == []


def test_a_shortfall_that_was_written_off_stays_so_until_it_grows(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    _spend(module_database, who, USES)
    refund_id, dispute_id = unique("re"), unique("du")
    refund: dict[str, Any] = {"return_id": refund_id, "kind": "refund", "amount": 100}
    _tell(web, payment_id, 100, **refund)
    dba.row("resolve_shortfall", return_id=refund_id, reason="written off")
    dba.row("create_credit", **who, amount_minor=8)
    _tell(web, payment_id, 400, transactions=1, return_id=dispute_id)
    # The dispute was due 16 and found 8: the refund's shortfall is as it was.
    assert _taken(module_database, payment_id) == {
        refund_id: (4, 0, "taken"),
        dispute_id: (16, 8, "taken"),
    }
    assert [row["reference"] for row in problems_of(dba, payment_id)] == [dispute_id]
    _tell(web, payment_id, 200, transactions=2, return_id=dispute_id)
    assert problems_of(dba, payment_id) == []
    assert _balance(module_database, who) == 0
    dba.row("return_payment", payment_id=payment_id, return_id=refund_id, kind="refund",
            amount_minor=300)  # fmt: skip
    assert [row["reference"] for row in problems_of(dba, payment_id)] == [refund_id]


def test_a_return_whose_row_was_lost_by_a_rollback_is_not_taken_again(
    database: Database,
) -> None:
    configure_provider(database)
    who, payment_id = bought(database)
    with session(database, "t_dba") as dba, session(database, "postgres") as root:
        give_back(dba, payment_id, ("re_1", PRICE))
        root.execute("DELETE FROM billing_data.payment_return_credits")
        root.execute("DELETE FROM billing_data.payment_returns")
        dba.row("create_credit", **who, amount_minor=5)
        give_back(dba, payment_id, ("re_1", PRICE))
        assert _taken(database, payment_id) == {"re_1": (20, 20, "taken")}
        assert _balance(database, who) == 5
        assert ledger_problems(database) == []
        # An entry under the same key that took nothing is somebody's own.
        root.execute("DELETE FROM billing_data.payment_return_credits")
        root.execute("DELETE FROM billing_data.payment_returns")
        key = {"external_transaction_id": "re_2", "idempotency_key": "stripe-re_2"}
        dba.row("create_credit", **who, amount_minor=7, transaction_type="refund", **key)
        give_back(dba, payment_id, ("re_2", PRICE // 4))
        assert _taken(database, payment_id) == {"re_2": (5, 5, "taken")}
        assert _balance(database, who) == 7
    # The first return is lost for good, and its entry tells so.
    (problem,) = ledger_problems(database)
    assert problem[1].endswith("moved credits for a return of money that is not here")
    assert problem[2] == "re_1"


def test_a_server_of_the_release_before_is_understood(
    module_database: Database, web: Caller
) -> None:
    """It says of a return whether it is withdrawn, and not when."""
    who, payment_id = bought(module_database)

    def say(withdrawn: bool) -> str:
        answer = web.row(
            "process_payment_event",
            event_id=unique("evt"),
            event_type="charge.dispute.closed",
            payload="{}",
            action="return",
            payment_id=payment_id,
            currency="usd",
            return_ids=["du_1"],
            return_kinds=["dispute"],
            return_amounts_minor=[PRICE],
            returns_withdrawn=[withdrawn],
        )
        return str(answer["outcome"])

    assert [say(True), say(True), say(False), say(True), say(False)] == [
        "taken_back",
        "unchanged",
        "restored",
        "unchanged",
        "unchanged",
    ]
    assert _balance(module_database, who) == USES
    # What it wrote is older than what a server of this release says.
    now = datetime.now(UTC) + timedelta(seconds=1)
    answer = give_back(web, payment_id, ("du_1", PRICE), kind="dispute", occurred_at=now)
    assert answer["outcome"] == "taken_back"


def test_what_was_read_at_the_provider_counts_unless_something_happened_since(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    late = {"payment_id": payment_id, "return_id": "re_1", "kind": "refund", "amount_minor": PRICE}
    (before,) = dba.execute("SELECT clock_timestamp() AS now")
    give_back(web, payment_id, ("re_1", PRICE))
    give_back(web, payment_id, ("re_1", PRICE), withdrawn=False)
    answer = dba.row("return_payment", **late, read_at=before["now"])
    assert (answer["outcome"], answer["away_minor"]) == ("unchanged", 0)
    answer = dba.row("return_payment", **late)
    assert (answer["outcome"], answer["away_minor"]) == ("taken_back", PRICE)
    assert _balance(module_database, who) == 0


# --- whose payment it is --------------------------------------------------------------------------

CLAIMS = (
    "another account",
    "an unknown purchase",
    "a purchase of another account",
    "a purchase, beside another identity",
    "a purchase with another provider",
    "an identity alone",
    "an account of a connected account",
    "a purchase of a connected account",
    "an account that is no id",
)


def _claim(database: Database, dba: Caller, kind: str) -> tuple[list[Any], dict[str, Any], str]:
    """The accounts that are named, what a payment says of them, and what it comes to."""
    who, other = new_user(database), new_user(database)
    mine, theirs = legacy(database, who), legacy(database, other)
    configure_provider(database, provider="paypal")
    sold, elsewhere = begin(dba, who), begin(dba, who, provider="paypal")
    claims: dict[str, tuple[dict[str, Any], str]] = {
        "another account": ({**mine, "account_id": theirs["account_id"]}, "not_sold_here"),
        "an unknown purchase": ({**mine, "purchase_id": NOBODY}, "not_sold_here"),
        "a purchase of another account": (
            {**theirs, "purchase_id": sold["purchase_id"]},
            "not_sold_here",
        ),
        "a purchase, beside another identity": ({**metadata(sold), **other}, "not_sold_here"),
        "a purchase with another provider": ({**mine, **metadata(elsewhere)}, "not_sold_here"),
        "an identity alone": (dict(who), "not_sold_here"),
        "an account of a connected account": ({**mine, "is_foreign": True}, "not_sold_here"),
        "a purchase of a connected account": (
            {**metadata(sold), "is_foreign": True},
            "not_sold_here",
        ),
        "an account that is no id": ({**who, "is_foreign": True}, "not_sold_here"),
    }
    return [mine["account_id"], theirs["account_id"]], *claims[kind]


@pytest.mark.parametrize("kind", CLAIMS)
def test_what_a_payment_cannot_show_is_not_believed_by_any_way_of_crediting(
    module_database: Database, web: Caller, dba: Caller, kind: str
) -> None:
    accounts, said, outcome = _claim(module_database, dba, kind)
    event_id, payment_id = unique("evt"), unique("pi")
    answer = deliver(web, event_id, payment_id, **said)
    assert (answer["outcome"], answer["needs_attention"]) == (outcome, True)
    assert (answer["credits_added"], answer["purchase_id"]) == (0, None)
    by_hand = dba.row("settle_purchase", payment_id=payment_id, amount_minor=PRICE, **said)
    assert (by_hand["outcome"], by_hand["credits_added"]) == (outcome, 0)
    refunded = give_back(web, payment_id, (unique("re"), PRICE), **said)
    assert (refunded["outcome"], refunded["needs_attention"]) == ("ignored", False)
    for account_id in accounts:
        assert credits_of(module_database, account_id) == []
    (problem,) = problems_of(dba, payment_id)
    assert (problem["problem"], problem["reference"]) == (outcome, event_id)
    assert problem["what_is_wrong"] == (
        "it names a purchase or an account that it cannot show to be its own"
    )
    dba.row("resolve_payment_event", event_id=event_id, reason="somebody else's")
    assert problems_of(dba, payment_id) == []


@pytest.mark.parametrize("said", [{}, {"is_claimed": False}, "foreign", "foreign account"], ids=str)
def test_the_payment_of_a_purchase_is_ours_whatever_is_said_of_it(
    module_database: Database, web: Caller, dba: Caller, said: Any
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    purchase = begin(dba, who)
    attach(dba, purchase, payment_id)
    if said == "foreign":
        said = {"purchase_id": NOBODY, **legacy(module_database, new_user(module_database))}
    elif said == "foreign account":
        said = {"is_claimed": True, "is_foreign": True}
    assert deliver(web, unique("evt"), payment_id, **said)["outcome"] == "credited"
    back = give_back(web, payment_id, (unique("re"), 250), **said)
    assert back["outcome"] == "taken_back"
    assert _balance(module_database, who) == USES // 2


@pytest.mark.parametrize("action", ["settle", "return"])
@pytest.mark.parametrize("livemode", [True, False, None])
def test_a_payment_that_nobody_claims_is_ignored_in_any_mode(
    module_database: Database, web: Caller, dba: Caller, action: str, livemode: bool | None
) -> None:
    payment_id = unique("pi")
    said: dict[str, Any] = {"livemode": livemode, "is_claimed": False}
    if action == "settle":
        answer = deliver(web, unique("evt"), payment_id, **said)
    else:
        answer = give_back(web, payment_id, (unique("re"), PRICE), **said)
    assert (answer["outcome"], answer["needs_attention"]) == ("ignored", False)
    assert problems_of(dba, payment_id) == []


@pytest.mark.parametrize("kind", ["metadata", "an account that is unknown", "another account"])
def test_a_claim_of_the_other_mode_that_cannot_be_shown_is_ignored(
    module_database: Database, web: Caller, dba: Caller, kind: str
) -> None:
    said: dict[str, Any] = {
        "metadata": {},
        "an account that is unknown": {"account_id": NOBODY, **person()},
        "another account": {**new_user(module_database), "account_id": NOBODY},
    }[kind]
    payment_id = unique("pi")
    answer = deliver(web, unique("evt"), payment_id, livemode=True, **said)
    assert (answer["outcome"], answer["needs_attention"]) == ("ignored", False)
    part = (unique("re"), PRICE)
    assert give_back(web, payment_id, part, livemode=True, **said)["outcome"] == "ignored"
    assert problems_of(dba, payment_id) == []


# --- by hand -------------------------------------------------------------------------------------


def test_a_dba_settles_and_returns_in_their_own_name(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    purchase = begin(dba, who)
    arguments = {"payment_id": payment_id, "amount_minor": PRICE, **metadata(purchase)}
    assert dba.row("settle_purchase", **arguments) == {
        "outcome": "credited",
        **metadata(purchase),
        "credits_added": USES,
    }
    again = dba.row("settle_purchase", payment_id=payment_id, amount_minor=PRICE)
    assert (again["outcome"], again["credits_added"]) == ("already_credited", 0)
    back = {"payment_id": payment_id, "return_id": "re_1", "kind": "refund", "amount_minor": 250}
    for withdrawn, outcomes in ((True, ("taken_back", "unchanged")), (False, ("restored",))):
        for outcome in outcomes:
            answer = dba.row("return_payment", **back, withdrawn=withdrawn)
            away = 250 if withdrawn else 0
            assert answer == {"outcome": outcome, **metadata(purchase), "away_minor": away}
    credits = credits_of(module_database, purchase["account_id"])
    assert [row["amount_minor"] for row in credits] == [20, -10, 10]
    assert {(row["database_role"], row["payment_provider"]) for row in credits} == {("t_dba", None)}
    # The provider's own word about the same comes too late.
    assert deliver(dba, unique("evt"), payment_id)["outcome"] == "already_credited"
    assert give_back(dba, payment_id, ("re_1", 250))["outcome"] == "unchanged"


def test_a_dba_settles_an_old_payment_by_its_account_and_identity(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    named = legacy(module_database, who)
    answer = dba.row("settle_purchase", payment_id=unique("pi"), amount_minor=PRICE, **named)
    assert answer["outcome"] == "credited"
    assert _balance(module_database, who) == USES


def test_a_dba_is_told_what_stands_in_the_way(module_database: Database, dba: Caller) -> None:
    purchase, payment_id = begin(dba, person()), unique("pi")
    for change, outcome in (
        ({"amount_minor": 1}, "amount_mismatch"),
        ({"currency": "EUR"}, "currency_mismatch"),
        ({"purchase_id": None}, "metadata_missing"),
        ({"purchase_id": None, **person()}, "account_not_found"),
    ):
        arguments = {"amount_minor": PRICE, **metadata(purchase), **change}
        answer = dba.row("settle_purchase", payment_id=payment_id, **arguments)
        assert (answer["outcome"], answer["credits_added"]) == (outcome, 0)
    back = {"return_id": "re_1", "kind": "refund", "amount_minor": 1}
    assert dba.row("return_payment", payment_id=payment_id, **back)["outcome"] == "ignored"
    assert problems_of(dba, payment_id) == []
    assert credits_of(module_database, purchase["account_id"]) == []


@pytest.mark.parametrize(
    ("function", "change", "argument"),
    [
        ("settle_purchase", {"payment_id": ""}, "p_payment_id"),
        ("settle_purchase", {"payment_id": None}, "p_payment_id"),
        ("settle_purchase", {"payment_id": "x" * 256}, "p_payment_id"),
        ("settle_purchase", {"amount_minor": 0}, "p_amount_minor"),
        ("settle_purchase", {"amount_minor": None}, "p_amount_minor"),
        ("return_payment", {"payment_id": ""}, "p_payment_id"),
        ("return_payment", {"return_id": ""}, "p_return_id"),
        ("return_payment", {"return_id": None}, "p_return_id"),
        ("return_payment", {"return_id": "x" * 201}, "p_return_id"),
        ("return_payment", {"kind": "gift"}, "p_kind"),
        ("return_payment", {"kind": None}, "p_kind"),
        ("return_payment", {"amount_minor": 0}, "p_amount_minor"),
        ("return_payment", {"amount_minor": -1}, "p_amount_minor"),
        ("return_payment", {"withdrawn": None}, "p_withdrawn"),
        ("return_payment", {"away_minor": PRICE + 1}, "p_away_minor"),
        ("return_payment", {"away_minor": -1}, "p_away_minor"),
        ("return_payment", {"state": "odd"}, "p_state"),
        ("return_payment", {"transactions": -1}, "p_transactions"),
        ("return_payment", {"read_at": "infinity"}, "p_read_at"),
        ("return_payment", {"read_at": "2100-01-01"}, "p_read_at"),
    ],
    ids=str,
)
def test_a_faulty_argument_is_named(
    dba: Caller, function: str, change: dict[str, Any], argument: str
) -> None:
    good: dict[str, Any] = {"payment_id": "pi_1", "amount_minor": PRICE}
    if function == "return_payment":
        good |= {"return_id": "re_1", "kind": "refund"}
    refusal = dba.refusal(function, **{**good, **change})
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.detail["argument"] == argument


def test_an_event_that_was_dealt_with_by_hand_leaves_the_list_and_comes_again_in_vain(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, event_id, payment_id = new_user(module_database), unique("evt"), unique("pi")
    ada = staff(module_database, "admin")
    named = legacy(module_database, who)
    deliver(web, event_id, payment_id, **named, amount_minor=PRICE + 1)
    web.row(
        "resolve_payment_event",
        event_id=event_id,
        reason="granted by hand",
        session_hash=ada.session_hash,
    )
    assert problems_of(dba, payment_id) == []
    event = event_of(module_database, event_id)
    assert (event["outcome"], event["resolution"]) == ("amount_mismatch", "granted by hand")
    assert event["resolved_at"] > event["received_at"]
    answer = deliver(web, event_id, payment_id, **named)
    assert (answer["outcome"], answer["needs_attention"]) == ("amount_mismatch", False)
    assert _balance(module_database, who) == 0
    rows = module_database.execute(
        "SELECT action, resource_type, changes, reason, admin_user_id, database_role"
        " FROM billing_data.admin_audit_logs WHERE resource_id = %s",
        event_id,
    )
    assert rows == [
        (
            "payment_event.resolve",
            "payment_event",
            {"outcome": "amount_mismatch"},
            "granted by hand",
            ada.id,
            None,
        )
    ]


@pytest.mark.parametrize("kind", ["unknown", "credited", "resolved", "of another provider"])
def test_only_an_open_fault_can_be_resolved(
    module_database: Database, dba: Caller, kind: str
) -> None:
    event_id = unique("evt")
    provider = "paypal" if kind == "of another provider" else "stripe"
    if kind == "credited":
        deliver(dba, event_id, unique("pi"), **legacy(module_database, new_user(module_database)))
    elif kind != "unknown":
        deliver(dba, event_id, unique("pi"))
    if kind == "resolved":
        dba.row("resolve_payment_event", event_id=event_id, reason="a test")
    refusal = dba.refusal(
        "resolve_payment_event", event_id=event_id, reason="a test", provider=provider
    )
    assert (refusal.sqlstate, refusal.slug) == ("PB404", "payment_event_not_found")
    assert refusal.message == f"Payment event not found: {event_id}"


def test_money_back_of_a_charge_that_is_not_shown_to_us_waits_for_a_person_or_the_next_attempt(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    event_id = unique("evt")
    unreadable: dict[str, Any] = {"event_id": event_id, "action": "unreadable"}
    for deliveries in (1, 2):
        answer = give_back(web, payment_id, **unreadable)
        assert (answer["outcome"], answer["needs_attention"]) == ("charge_unreadable", True)
        assert answer["deliveries"] == deliveries
        assert answer["account_id"] == account_of(module_database, who)["id"]
    (problem,) = problems_of(dba, payment_id)
    assert (problem["problem"], problem["reference"]) == ("charge_unreadable", event_id)
    assert problem["account_id"] == answer["account_id"]
    assert "does not show us the charge" in problem["what_is_wrong"]
    # Now it can be read.
    answer = give_back(web, payment_id, (unique("re"), PRICE), event_id=event_id)
    assert (answer["outcome"], answer["needs_attention"]) == ("taken_back", False)
    assert problems_of(dba, payment_id) == []
    assert _balance(module_database, who) == 0
    # Or a person has dealt with it.
    who, payment_id = bought(module_database)
    unreadable["event_id"] = unique("evt")
    give_back(web, payment_id, **unreadable)
    dba.row("resolve_payment_event", event_id=unreadable["event_id"], reason="by hand")
    assert not give_back(web, payment_id, **unreadable)["needs_attention"]
    assert problems_of(dba, payment_id) == []
    # Of a payment that is not ours it is nobody's business.
    answer = give_back(web, unique("pi"), action="unreadable")
    assert (answer["outcome"], answer["needs_attention"]) == ("ignored", False)


@pytest.mark.parametrize("reason", ["", None])
def test_a_fault_is_not_resolved_without_a_reason(dba: Caller, reason: str | None) -> None:
    event_id = unique("evt")
    deliver(dba, event_id, unique("pi"))
    refusal = dba.refusal("resolve_payment_event", event_id=event_id, reason=reason)
    assert refusal.detail["argument"] == "p_reason"


def test_a_fault_resolved_at_once_by_many_is_resolved_by_one(
    module_database: Database, dba: Caller
) -> None:
    event_id = unique("evt")
    deliver(dba, event_id, unique("pi"))

    def resolve(caller: Caller) -> str | None:
        try:
            caller.row("resolve_payment_event", event_id=event_id, reason="a test")
        except Exception as error:
            diagnosis = getattr(error, "diag", None)
            return diagnosis.constraint_name if diagnosis else str(error)
        return "done"

    counted = Counter(at_once(module_database, [resolve] * 10, 10))
    assert counted == {"done": 1, "payment_event_not_found": 9}


# --- what people look at -------------------------------------------------------------------------


def test_problems_are_listed_newest_first_page_by_page(own: tuple[Database, Caller]) -> None:
    database, dba = own
    for number in range(5):
        deliver(dba, f"evt_{number}", f"pi_{number}")
    who, payment_id = bought(database)
    _spend(database, who, USES)
    give_back(dba, payment_id, ("re_1", PRICE))
    rows = dba.rows("list_payment_problems")
    assert [row["reference"] for row in rows] == [
        "re_1",
        *(f"evt_{number}" for number in range(4, -1, -1)),
    ]
    assert {row["provider"] for row in rows} == {"stripe"}
    pages = [
        row
        for offset in range(0, 8, 2)
        for row in dba.rows("list_payment_problems", limit=2, offset=offset)
    ]
    assert pages == rows
    assert dba.rows("list_payment_problems", limit=0) == []


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"limit": -1}, "p_limit"),
        ({"limit": 501}, "p_limit"),
        ({"limit": None}, "p_limit"),
        ({"offset": -1}, "p_offset"),
        ({"offset": None}, "p_offset"),
    ],
    ids=str,
)
def test_a_senseless_page_is_refused(dba: Caller, arguments: dict[str, Any], argument: str) -> None:
    refusal = dba.refusal("list_payment_problems", **arguments)
    assert (refusal.slug, refusal.detail["argument"]) == ("invalid_argument", argument)


def test_staff_see_problems_a_viewer_does_not_resolve_them_and_a_key_sees_none(
    module_database: Database, web: Caller
) -> None:
    event_id, payment_id = unique("evt"), unique("pi")
    deliver(web, event_id, payment_id)
    viewer, ada = staff(module_database, "viewer"), staff(module_database, "admin")
    for somebody in (viewer, ada):
        assert len(problems_of(web, payment_id, session_hash=somebody.session_hash)) == 1
    resolve = {"event_id": event_id, "reason": "a test"}
    refusal = web.refusal("resolve_payment_event", **resolve, session_hash=viewer.session_hash)
    assert refusal.slug == "admin_role_required"
    key = key_id(module_database)
    for function, arguments in (
        ("resolve_payment_event", resolve),
        ("list_payment_problems", {}),
    ):
        assert web.refusal(function, **arguments, api_key_id=key).sqlstate == "42883"
    web.row("resolve_payment_event", **resolve, session_hash=ada.session_hash)
    assert problems_of(web, payment_id, session_hash=viewer.session_hash) == []


def test_payments_are_listed_by_id_and_by_the_time_they_were_credited(
    own: tuple[Database, Caller],
) -> None:
    database, dba = own
    who = new_user(database)
    account_id = account_of(database, who)["id"]
    sold = {}
    for name in ("pi_a", "pi_b", "pi_c", "pi_d"):
        sold[name] = begin(dba, who)
        attach(dba, sold[name], name)
    start: datetime = database.value("SELECT clock_timestamp()")
    for name in ("pi_a", "pi_b", "pi_c"):
        deliver(dba, f"evt_{name}", name)
    give_back(dba, "pi_b", ("re_2", 100), ("re_1", 100))
    give_back(dba, "pi_b", ("re_1", 100), withdrawn=False)
    rows = dba.rows("list_payments", payment_ids=["pi_b", "pi_d", "pi_unknown"])
    assert [row["payment_id"] for row in rows] == ["pi_b", "pi_d"]
    settled_at = rows[0]["settled_at"]
    assert settled_at > start
    pack = {"account_id": account_id, "uses": USES, "price_minor": PRICE, "currency": "USD"}
    assert rows[0] == {
        "payment_id": "pi_b",
        "purchase_id": sold["pi_b"]["purchase_id"],
        **pack,
        "status": "settled",
        "settled_at": settled_at,
        "resolved": False,
        "return_ids": ["re_1", "re_2"],
        "return_statuses": ["restored", "taken"],
        "return_away_minor": [0, 100],
    }
    assert rows[1] == {
        "payment_id": "pi_d",
        "purchase_id": sold["pi_d"]["purchase_id"],
        **pack,
        "status": "pending",
        "settled_at": None,
        "resolved": False,
        "return_ids": [],
        "return_statuses": [],
        "return_away_minor": [],
    }
    since = dba.rows("list_payments", since=settled_at)
    assert [row["payment_id"] for row in since] == ["pi_b", "pi_c"]
    both = dba.rows("list_payments", payment_ids=["pi_d"], since=settled_at)
    assert [row["payment_id"] for row in both] == ["pi_b", "pi_c", "pi_d"]
    assert dba.rows("list_payments") == []
    assert dba.rows("list_payments", since=settled_at + timedelta(days=1)) == []
    assert dba.rows("list_payments", since=start, provider="paypal") == []


# --- the ledger checks purchases and returns -----------------------------------------------------

DAMAGE = {
    "a purchase that says it sold more": (
        "UPDATE billing_data.purchases SET uses = 21 WHERE payment_id = %(payment)s",
        "was not credited with what was sold",
    ),
    "a credit that is larger than what was sold": (
        "UPDATE billing_data.credits SET amount_minor = 21, balance_after = balance_after + 1"
        " WHERE external_transaction_id = %(payment)s",
        "was not credited with what was sold",
    ),
    "a purchase settled by another account's credit": (
        "UPDATE billing_data.purchases SET credit_id = (SELECT c.id FROM billing_data.credits AS c"
        " WHERE c.account_id <> purchases.account_id AND c.amount_minor = 20 LIMIT 1)"
        " WHERE payment_id = %(payment)s",
        "was not credited with what was sold",
    ),
    "a return that says it took less": (
        "UPDATE billing_data.payment_returns SET uses_taken = 3 WHERE return_id = %(return)s",
        "did not take what they say",
    ),
    "a return that took from another account": (
        "UPDATE billing_data.payment_return_credits SET credit_id = (SELECT c.id FROM"
        " billing_data.credits AS c WHERE c.account_id <> payment_return_credits.account_id"
        " AND c.amount_minor = -4 LIMIT 1) WHERE return_id = %(return)s",
        "did not take what they say",
    ),
    "a return of less money than it is due for": (
        "UPDATE billing_data.payment_returns SET away_minor = 50 WHERE return_id = %(return)s",
        "is not what its money stands for",
    ),
    "returns that were due more than was sold": (
        "UPDATE billing_data.payment_returns SET uses_due = 21 WHERE return_id = %(return)s",
        "than was sold",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_ledgers_check_finds(database: Database, kind: str) -> None:
    configure_provider(database)
    for number in (1, 2):
        who, payment_id = bought(database)
        with session(database, "t_dba") as dba:
            give_back(dba, payment_id, (f"re_{number}", 100))
    assert ledger_problems(database) == []
    statement, problem = DAMAGE[kind]
    unique = {
        "purchases": "purchases_credit_once",
        "payment_return_credits": "payment_return_credits_once",
    }
    for table, name in unique.items():
        database.execute(f"ALTER TABLE billing_data.{table} DROP CONSTRAINT {name}")
    tamper(database, statement, **{"payment": payment_id, "return": "re_2"})
    for table, name in unique.items():  # there again by name, or its absence is found as well
        database.execute(f"ALTER TABLE billing_data.{table} ADD CONSTRAINT {name} CHECK (true)")
    found = ledger_problems(database)
    assert {row[0] for row in found} == {account_of(database, who)["id"]}
    assert any(row[1].endswith(problem) for row in found), found


def test_the_tables_refuse_impossible_purchases_and_returns_even_from_a_superuser(
    database: Database,
) -> None:
    configure_provider(database)
    _, payment_id = bought(database)
    with session(database, "t_dba") as dba:
        give_back(dba, payment_id, ("re_1", 100))
        attach(dba, begin(dba, person()), "pi_pending")
    # Its trigger refuses sooner what the constraints refuse too.
    database.execute("ALTER TABLE billing_data.purchases DISABLE TRIGGER purchases_fixed")
    with session(database, "postgres") as root:
        for statement in (
            "UPDATE billing_data.purchases SET settled_at = now() WHERE payment_id = 'pi_pending'",
            "UPDATE billing_data.purchases SET payment_id = NULL WHERE settled_at IS NOT NULL",
            "UPDATE billing_data.purchases SET credit_id = NULL WHERE settled_at IS NOT NULL",
            "UPDATE billing_data.purchases SET uses = 0",
            "UPDATE billing_data.purchases SET price_minor = 0",
            "UPDATE billing_data.payment_returns SET uses_taken = uses_due + 1",
            "UPDATE billing_data.payment_returns SET uses_taken = -1",
            "UPDATE billing_data.payment_returns SET amount_minor = 0",
            "UPDATE billing_data.payment_returns SET kind = 'gift'",
            "UPDATE billing_data.payment_returns SET status = 'odd'",
            "UPDATE billing_data.payment_returns SET status = 'restored'",
            "UPDATE billing_data.payment_returns SET away_minor = 0",
            "UPDATE billing_data.payment_returns SET away_minor = amount_minor + 1",
            "UPDATE billing_data.payment_returns SET state = 'odd'",
            "UPDATE billing_data.payment_returns SET transactions = -1",
            "UPDATE billing_data.payment_events SET outcome = 'odd'",
            "UPDATE billing_data.payment_events SET resolved_at = now()",
        ):
            assert root.refused(statement).sqlstate == "23514", statement
        for statement in (
            f"UPDATE billing_data.purchases SET payment_id = '{payment_id}'",
            "UPDATE billing_data.purchases SET credit_id = (SELECT c.id FROM billing_data.credits"
            " AS c LIMIT 1), settled_at = now()",
        ):
            assert root.refused(statement).sqlstate == "23505", statement
        refusal = root.refused("DELETE FROM billing_data.purchases WHERE settled_at IS NOT NULL")
        assert refusal.sqlstate in ("23503", "23001")


@pytest.mark.parametrize(
    ("kind", "amount", "accepted"),
    [
        ("purchase", -1, False),
        ("grant", -1, False),
        ("refund", -1, True),
        ("adjustment", -1, True),
        ("refund", -6, False),
        ("refund", 0, False),
    ],
)
def test_only_refunds_and_adjustments_take_and_none_below_zero(
    database: Database, kind: str, amount: int, accepted: bool
) -> None:
    account = account_of(database, new_user(database, paid=5))["id"]
    statement = (
        "INSERT INTO billing_data.credits (account_id, ledger_version, id, amount_minor, currency,"
        " balance_before, balance_after, transaction_type, description, payment_provider)"
        " VALUES (%s, 2, gen_random_uuid(), %s, 'USD', 5, 5 + %s, %s, 'd', 'stripe')"
    )
    with session(database, "postgres") as root:
        if accepted:
            root.execute(statement, account, amount, amount, kind)
        else:
            assert root.refused(statement, account, amount, amount, kind).sqlstate == "23514"
