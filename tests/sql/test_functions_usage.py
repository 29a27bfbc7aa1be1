"""Usage and money by day, of one account and of all, and who used the service most."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.sql.console import account_id_of, assert_argument_refused
from tests.sql.helpers import NOBODY, Caller, account_of, charge_all, new_user, session, tamper
from tests.sql.payments import PRICE, bought, configure_provider, give_back
from tests.support import Database

Row = dict[str, Any]
FIRST = date(2026, 11, 1)
BEYOND = date(2026, 11, 5)
COUNTS = (
    "charges", "free_charges", "credits_used", "credits_added", "credits_sold",
    "credits_taken_back", "sold_minor", "returned_minor",
)  # fmt: skip
INSTANT = timedelta(microseconds=1)


def _usage(caller: Caller, first: date, beyond: date, **more: Any) -> list[Row]:
    return caller.rows("list_usage", **{"from": first, "to": beyond}, **more)


def _midnight(day: int) -> datetime:
    return datetime(2026, 11, day, tzinfo=UTC)


@pytest.fixture(scope="module")
def history(module_database: Database) -> tuple[Database, uuid.UUID]:
    """A database whose one account was charged at the edges of the UTC days of 2026-11-02: a free
    use an instant before, two at its first and last moment, a paid one an instant after; it bought
    a pack on the 2nd, which was paid back on the 3rd."""
    configure_provider(module_database)
    who, payment_id = bought(module_database)  # three free uses, then the pack
    with session(module_database, "t_dba") as dba:
        dba.row("create_charge", **who, amount_minor=3)
        give_back(dba, payment_id, ("re_1", PRICE))
        account_id = account_id_of(module_database, who)
        times = [
            _midnight(2) - INSTANT, _midnight(2), _midnight(3) - INSTANT, _midnight(3) - INSTANT,
            _midnight(3), _midnight(3),
        ]  # fmt: skip
        tamper(
            module_database,
            """WITH dated AS (
                SELECT u.at, u.version
                FROM unnest(%(times)s::timestamptz[]) WITH ORDINALITY AS u (at, version)
            ), charged AS (
                UPDATE billing_data.charges AS c SET created_at = d.at,
                    id = (substr(billing_data.first_id(d.at)::text, 1, 14)
                        || substr(c.id::text, 15))::uuid
                FROM dated AS d WHERE c.ledger_version = d.version
            )
            UPDATE billing_data.credits AS c SET created_at = d.at
            FROM dated AS d WHERE c.ledger_version = d.version""",
            "UPDATE billing_data.purchases SET settled_at = '2026-11-02 23:59:59.999999Z'",
            "UPDATE billing_data.payment_returns SET created_at = '2026-11-03 00:00Z'",
            "UPDATE billing_data.settings SET digests_since = NULL",
            times=times,
        )
        dba.value("rebuild_figures")
    return module_database, account_id


def test_usage_and_money_are_counted_on_the_utc_day_on_which_they_happened(
    history: tuple[Database, uuid.UUID],
) -> None:
    database, account_id = history
    with session(database, "t_dba") as dba:
        dba.execute("SET TimeZone = 'America/Los_Angeles'")
        of_one = _usage(dba, FIRST, BEYOND, account_id=account_id)
        of_all = _usage(dba, FIRST, BEYOND)
    assert [row["day"].day for row in of_one] == [1, 2, 3, 4]
    assert [tuple(row[name] for name in COUNTS) for row in of_one] == [
        (1, 1, 0, 0, 0, 0, 0, 0),
        (2, 2, 0, 20, 20, 0, PRICE, 0),
        (1, 0, 3, 0, 0, 17, 0, PRICE),
        (0, 0, 0, 0, 0, 0, 0, 0),
    ]
    assert [row["currency"] for row in of_one] == [None, "USD", "USD", None]
    assert of_all == of_one


def test_a_period_of_days_ends_before_its_last_day(history: tuple[Database, uuid.UUID]) -> None:
    database, account_id = history
    with session(database, "t_dba") as dba:
        for more in ({}, {"account_id": account_id}):
            (second,) = _usage(dba, date(2026, 11, 2), date(2026, 11, 3), **more)
            assert second["charges"] == 2
            assert _usage(dba, FIRST, FIRST, **more) == []


def test_a_day_with_money_in_two_currencies_has_a_row_for_each_and_its_usage_once(
    history: tuple[Database, uuid.UUID],
) -> None:
    database, _ = history
    who, _ = bought(database)
    other = account_of(database, who)["id"]
    tamper(
        database,
        "UPDATE billing_data.purchases SET settled_at = '2026-11-03 12:00Z', currency = 'EUR'"
        " WHERE account_id = %(id)s",
        id=other,
    )
    with session(database, "t_dba") as dba:
        rows = _usage(dba, date(2026, 11, 3), date(2026, 11, 4))
    found = [(row["currency"], row["charges"], row["sold_minor"]) for row in rows]
    assert found == [("EUR", 1, PRICE), ("USD", 0, 0)]


def test_the_sums_of_an_accounts_days_are_those_of_its_statement(
    history: tuple[Database, uuid.UUID],
) -> None:
    database, account_id = history
    with session(database, "t_dba") as dba:
        rows = dba.rows(
            "statement", account_id=account_id, **{"from": _midnight(1), "to": _midnight(5)}
        )
        days = _usage(dba, FIRST, BEYOND, account_id=account_id)
    entries = [row for row in rows if row["kind"] == "entry"]
    change = sum(row["credits_change"] for row in entries)
    assert change == sum(
        row["credits_added"] - row["credits_used"] - row["credits_taken_back"] for row in days
    )
    charges = [row for row in entries if row["type"] == "charge"]
    assert len(charges) == sum(row["charges"] for row in days) == 4


def test_top_consumers_are_those_with_most_charges_or_credits_of_the_period(
    database: Database,
) -> None:
    ids = {}
    with session(database, "t_dba") as dba:
        for name, charges, amount in (("often", 9, 1), ("much", 4, 50), ("little", 4, 1)):
            who = new_user(database, paid=100, external_id=name)
            charge_all(dba, [{**who, "amount_minor": amount}] * charges)
            ids[name] = account_of(database, who)["id"]
        new_user(database, paid=5, external_id="never charged")
        by_uses = dba.rows("list_top_consumers")
        assert [row["place"] for row in by_uses] == [1, 2, 3]
        assert by_uses[0]["external_id"] == "often"
        # Equals are in the order of their ids.
        assert [row["account_id"] for row in by_uses[1:]] == sorted([ids["much"], ids["little"]])
        # The ids of rows that are younger than this tell their times.
        tamper(database, "UPDATE billing_data.settings SET digests_since = '2020-01-01'")
        assert dba.rows("list_top_consumers") == by_uses
        by_credits = dba.rows("list_top_consumers", sort="credits", limit=2)
        assert [
            (row["external_id"], row["charges"], row["free_charges"], row["credits_used"])
            for row in by_credits
        ] == [("much", 4, 3, 50), ("often", 9, 3, 6)]
        assert dba.rows("list_top_consumers", **{"to": "2020-02-01", "from": "2020-01-01"}) == []
        # Charges of an account that was merged count for the one that stayed.
        tamper(
            database,
            "INSERT INTO billing_data.merged_accounts (id, account_id)"
            " VALUES (%(gone)s, %(stayed)s)",
            gone=ids["much"],
            stayed=ids["little"],
        )
        rows = dba.rows("list_top_consumers", sort="credits")
        assert [(row["external_id"], row["charges"], row["credits_used"]) for row in rows] == [
            ("little", 8, 51), ("often", 9, 6)
        ]  # fmt: skip


def test_charges_of_the_old_service_count_whatever_their_ids(
    history: tuple[Database, uuid.UUID],
) -> None:
    database, _ = history
    with session(database, "t_dba") as dba:
        period = {"from": "2026-11-01", "to": "2026-11-05"}
        assert dba.row("list_top_consumers", **period)["charges"] == 4
        tamper(database, "UPDATE billing_data.charges SET id = gen_random_uuid()")
        assert dba.row("list_top_consumers", **period)["charges"] == 4


@pytest.mark.parametrize(
    ("function", "arguments", "argument"),
    [
        ("list_usage", {"from": BEYOND, "to": FIRST}, "p_to"),
        ("list_usage", {"from": date(2000, 1, 1), "to": date(2026, 1, 1)}, "p_to"),
        ("list_usage", {"from": "infinity"}, "p_from"),
        ("list_usage", {"from": FIRST, "to": "infinity"}, "p_to"),
        ("list_top_consumers", {"from": BEYOND, "to": FIRST}, "p_to"),
        ("list_top_consumers", {"sort": "fame"}, "p_sort"),
        ("list_top_consumers", {"sort": None}, "p_sort"),
        ("list_top_consumers", {"limit": 10_002}, "p_limit"),
    ],
    ids=str,
)
def test_senseless_figures_are_refused(
    dba: Caller, function: str, arguments: dict[str, Any], argument: str
) -> None:
    assert_argument_refused(dba, function, argument, **arguments)


def test_nobody_has_no_usage(dba: Caller) -> None:
    assert dba.refusal("list_usage", account_id=NOBODY).slug == "account_not_found"
