"""Alerts of balances: raised once, where a balance crosses, by the transaction that moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sql.alerts import alerts_of, listening
from tests.sql.helpers import (
    Caller,
    account_of,
    at_once,
    charge_all,
    ledger_problems,
    new_user,
    person,
    session,
)
from tests.sql.payments import (
    PRICE,
    USES,
    attach,
    begin,
    configure_provider,
    credits_of,
    deliver,
)
from tests.support import Database, unique

LOW, EMPTY, RECOVERED = "balance.low", "balance.empty", "balance.recovered"


@pytest.fixture(scope="module")
def shop(module_database: Database) -> Database:
    """A database with an endpoint that is told of everything, and 5 as the low balance."""
    listening(module_database)
    with session(module_database, "t_dba") as dba:
        dba.row("set_low_balance", threshold=5, reason="a test")
    return module_database


def kinds(database: Database, who: dict[str, str]) -> list[str]:
    """The kinds of the alerts about an account, in their order."""
    return [kind for kind, _ in alerts_of(database, account_of(database, who)["id"])]


def user(database: Database, paid: int) -> dict[str, str]:
    """A user of `paid` credits without free uses, of whom nothing was told yet."""
    who = new_user(database, paid=paid, free=False)
    database.execute(
        "DELETE FROM billing_data.outbox WHERE account_id = %s", account_of(database, who)["id"]
    )
    return who


@pytest.mark.parametrize(
    ("paid", "amounts_and_told"),
    [
        (7, ([1], [])),  # one above the threshold
        (6, ([1], [LOW])),  # at it
        (6, ([2], [LOW])),  # one below
        (6, ([1, 1, 1], [LOW])),  # it is low already
        (5, ([1], [])),
        (6, ([6], [LOW, EMPTY])),  # both at once
        (5, ([5], [EMPTY])),
        (5, ([4], [])),
        (9, ([2, 2, 2, 2, 1], [LOW, EMPTY])),
    ],
)
@pytest.mark.parametrize("way", ["one by one", "a list", "captures"])
def test_an_alert_is_raised_where_a_charge_makes_a_balance_cross(
    shop: Database, dba: Caller, way: str, paid: int, amounts_and_told: Any
) -> None:
    amounts, told = amounts_and_told
    who = user(shop, paid)
    if way == "a list":
        charge_all(dba, [{**who, "amount_minor": amount} for amount in amounts])
    for amount in amounts if way != "a list" else ():
        if way == "captures":
            hold = dba.row("create_hold", **who, amount_minor=amount)
            dba.row("capture_hold", hold_id=hold["hold_id"])
        else:
            dba.row("create_charge", **who, amount_minor=amount)
    assert kinds(shop, who) == told
    if told:
        data = alerts_of(shop, account_of(shop, who)["id"])[0][1]
        newest = shop.execute(
            "SELECT c.id::text, c.balance_after FROM billing_data.charges AS c"
            " WHERE c.id = %s", data["charge_id"],
        )  # fmt: skip
        assert newest == [(data["charge_id"], data["credits_remaining"])]
        assert (data["threshold"], data["free_uses_remaining"]) == (5, 0)


def test_free_uses_count_as_what_is_left(shop: Database, dba: Caller) -> None:
    who = person()
    dba.row("check_credit", **who)
    account = account_of(shop, who)["id"]
    dba.row("reset_free_uses", account_id=account, free_uses=6, reason="a test")
    assert kinds(shop, who) == [RECOVERED]  # 3 free uses are low
    charge_all(dba, [{**who}] * 6)
    assert kinds(shop, who) == [RECOVERED, LOW, EMPTY]
    assert alerts_of(shop, account)[1][1]["free_uses_remaining"] == 5


def test_a_balance_recovers_above_the_threshold_once(shop: Database, dba: Caller) -> None:
    who = user(shop, 6)
    dba.row("create_charge", **who, amount_minor=6)
    dba.row("create_credit", **who, amount_minor=5)
    assert kinds(shop, who) == [LOW, EMPTY]
    dba.row("create_credit", **who, amount_minor=1)
    dba.row("create_credit", **who, amount_minor=9)
    assert kinds(shop, who) == [LOW, EMPTY, RECOVERED]
    account = account_of(shop, who)["id"]
    dba.row("adjust_credits", account_id=account, amount=-15, reason="a test")
    assert kinds(shop, who) == [LOW, EMPTY, RECOVERED, LOW, EMPTY]
    dba.row("adjust_credits", account_id=account, amount=6, reason="a test", dry_run=True)
    assert len(kinds(shop, who)) == 5


def test_what_is_refused_or_undone_raises_nothing(shop: Database, dba: Caller) -> None:
    who = user(shop, 6)
    assert dba.refusal("create_charge", **who, amount_minor=7).slug == "insufficient_credits"
    with session(shop, "t_dba", autocommit=False) as undone:
        undone.row("create_charge", **who, amount_minor=6)
        undone.connection.rollback()
    assert kinds(shop, who) == []
    keyed = {**who, "amount_minor": 6, "idempotency_key": unique()}
    assert [row["outcome"] for row in charge_all(dba, [keyed, keyed])] == ["created", "replayed"]
    assert kinds(shop, who) == [LOW, EMPTY]


def test_concurrent_charges_raise_one_alert_for_each_crossing(shop: Database) -> None:
    people = [user(shop, 20) for _ in range(3)]

    def one(who: dict[str, str]) -> Any:
        return lambda caller: charge_all(caller, [{**who}] * 2)

    def alone(who: dict[str, str]) -> Any:
        return lambda caller: caller.rows("create_charge", **who)

    calls = [make(who) for who in people for make in [one] * 6 + [alone] * 8]
    at_once(shop, calls, connections=8)
    for who in people:
        assert account_of(shop, who)["paid_credits"] == 0
        assert kinds(shop, who) == [LOW, EMPTY]
    assert ledger_problems(shop) == []


def test_without_a_threshold_only_an_empty_balance_is_told(database: Database) -> None:
    listening(database)
    who = user(database, 3)
    with session(database, "t_dba") as dba:
        dba.row("create_charge", **who, amount_minor=2)
        dba.row("create_charge", **who)
        dba.row("create_credit", **who, amount_minor=1)
        dba.row("create_credit", **who, amount_minor=1)
    assert kinds(database, who) == [EMPTY, RECOVERED]


def test_nothing_is_written_where_nobody_listens(database: Database) -> None:
    listening(database, "cap.reached")
    who = user(database, 3)
    with session(database, "t_dba") as dba:
        dba.row("create_charge", **who, amount_minor=3)
    assert kinds(database, who) == []


def test_a_merge_tells_nobody_that_the_merged_account_is_empty(shop: Database, dba: Caller) -> None:
    who, other = user(shop, 9), user(shop, 2)
    merged, stays = (account_of(shop, one)["id"] for one in (who, other))
    dba.rows("merge_accounts", account_id=merged, into_account_id=stays, reason="one person")
    assert kinds(shop, who) == []
    assert kinds(shop, other) == [RECOVERED]


def test_a_purchase_is_told_once_by_the_transaction_that_credits_it(
    shop: Database, web: Caller, dba: Caller
) -> None:
    configure_provider(shop)
    who, payment_id = new_user(shop), unique("pi")
    purchase = begin(dba, who)
    attach(dba, purchase, payment_id)
    account = purchase["account_id"]
    # Another amount than the price: the credit is refused, and nothing is told.
    refused = deliver(web, unique("evt"), payment_id, purchase, amount_minor=PRICE - 1)
    assert (refused["outcome"], refused["credits_added"]) == ("amount_mismatch", 0)
    assert alerts_of(shop, account) == []
    for _ in range(2):
        deliver(web, unique("evt"), payment_id, purchase)
    dba.row("settle_purchase", payment_id=payment_id, amount_minor=PRICE)
    [credit] = credits_of(shop, account)
    told = [data for kind, data in alerts_of(shop, account) if kind == "purchase.credited"]
    assert told == [
        {
            "credit_id": str(credit["id"]),
            "credits": USES,
            "credits_remaining": USES,
            "payment_id": payment_id,
            "provider": "stripe",
            "amount_minor": PRICE,
            "currency": "USD",
        }
    ]
    # One transaction wrote the credit and the alert.
    assert shop.execute(
        "SELECT count(DISTINCT x.writer)::int FROM ("
        "SELECT o.xmin::text AS writer FROM billing_data.outbox AS o WHERE o.account_id = %s"
        " UNION ALL SELECT c.xmin::text FROM billing_data.credits AS c WHERE c.account_id = %s"
        ") AS x", account, account,
    ) == [(1,)]  # fmt: skip


def test_suspending_and_reactivating_are_told_once_each(shop: Database, dba: Caller) -> None:
    who = user(shop, 9)
    for status in ("suspended", "suspended", "active", "active", "closed"):
        dba.row("set_account_status", **who, status=status, reason="Ada Lovelace is gone")
    account = account_of(shop, who)["id"]
    assert alerts_of(shop, account) == [
        ("account.suspended", {"previous_status": "active"}),
        ("account.reactivated", {"previous_status": "suspended"}),
    ]


def test_a_check_says_low_balance_only_where_staff_set_a_threshold(
    shop: Database, database: Database, dba: Caller
) -> None:
    for paid, low in ((5, True), (6, False), (0, True)):
        who = user(shop, paid)
        assert dba.row("check_credit", **who)["low_balance"] is low
        (row,) = shop.execute(
            "SELECT c.low_balance FROM billing.check_items(ARRAY[jsonb_populate_record("
            " NULL::billing.check_item, jsonb_build_object('oauth_provider', %s::text,"
            " 'external_id', %s::text))]) AS c", *who.values(), user="t_dba",
        )  # fmt: skip
        assert row == (low,)
    held = user(shop, 6)
    dba.row("create_hold", **held, amount_minor=1)
    assert dba.row("check_credit", **held)["low_balance"] is True
    with session(database, "t_dba") as other:
        assert other.row("check_credit", **person())["low_balance"] is None


def test_credits_that_end_within_a_week_are_told_once(database: Database) -> None:
    listening(database)
    now = datetime.now(UTC)
    who = new_user(database, free=False)
    account = account_of(database, who)["id"]
    with session(database, "t_dba") as dba, session(database, "t_web") as web:
        for days, amount in ((6, 3), (8, 4), (5, 2)):
            dba.row("create_credit", **who, amount_minor=amount,
                    expires_at=now + timedelta(days=days))  # fmt: skip
        dba.row("create_credit", **who, amount_minor=9)  # without an end
        dba.row("create_charge", **who, amount_minor=2)  # what ends first is used up
        assert web.value("announce_expiring_credits") == 1
        assert web.value("announce_expiring_credits") == 0
        told = [data for kind, data in alerts_of(database, account) if kind == "credits.expiring"]
        assert [data["credits"] for data in told] == [3]
        assert datetime.fromisoformat(told[0]["expires_at"]) == now + timedelta(days=6)
        database.execute(
            "CREATE OR REPLACE FUNCTION billing_data.clock() RETURNS timestamptz LANGUAGE sql"
            " AS $$ SELECT clock_timestamp() + interval '2 days' $$"
        )
        assert web.value("announce_expiring_credits") == 1


def test_credits_that_end_are_told_to_nobody_who_does_not_listen(database: Database) -> None:
    who = new_user(database)
    with session(database, "t_dba") as dba, session(database, "t_web") as web:
        soon = datetime.now(UTC) + timedelta(days=1)
        dba.row("create_credit", **who, amount_minor=1, expires_at=soon)
        assert web.value("announce_expiring_credits") == 0
        listening(database)
        assert web.value("announce_expiring_credits") == 1
