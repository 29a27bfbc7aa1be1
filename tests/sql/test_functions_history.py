"""An account's history, the proof of the ledger, and the analysts' views."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sql.helpers import (
    BIGGEST,
    Caller,
    account_of,
    charge_all,
    key_id,
    ledger_problems,
    new_user,
    person,
    session,
    tamper,
)
from tests.support import Database, unique

# --- history -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def busy_user(module_database: Database) -> dict[str, str]:
    """A user with 12 entries: every fourth is a credit, the others are charges."""
    who = person()
    with session(module_database, "t_dba") as dba:
        dba.row("check_credit", **who)
        for number in range(1, 13):
            if number % 4 == 1:
                dba.row(
                    "create_credit",
                    **who,
                    amount_minor=10,
                    description=f"entry {number}",
                    external_transaction_id=f"pi_{number}",
                )
            else:
                dba.row(
                    "create_charge",
                    **who,
                    amount_minor=2,
                    description=f"entry {number}",
                    metadata_message_id=f"m{number}",
                )
    return who


def test_history_shows_charges_and_credits_newest_first(
    dba: Caller, busy_user: dict[str, str]
) -> None:
    rows = dba.rows("list_transactions", **busy_user)
    assert [row["description"] for row in rows] == [f"entry {n}" for n in range(12, 0, -1)]
    assert [row["ledger_version"] for row in rows] == list(range(12, 0, -1))
    assert {row["total_count"] for row in rows} == {12}
    assert [row["created_at"] for row in rows] == sorted(
        (row["created_at"] for row in rows), reverse=True
    )
    oldest, second = rows[-1], rows[-2]
    assert (oldest["type"], oldest["amount_minor"], oldest["balance_after"]) == ("credit", 10, 10)
    assert (oldest["transaction_type"], oldest["external_transaction_id"]) == ("grant", "pi_1")
    assert (oldest["metadata_message_id"], oldest["paid_with"]) == (None, None)
    assert (second["type"], second["amount_minor"], second["balance_after"]) == ("charge", -2, 10)
    assert (second["transaction_type"], second["external_transaction_id"]) == (None, None)
    assert (second["metadata_message_id"], second["paid_with"]) == ("m2", "free")
    assert rows[0]["balance_after"] == 30 - 2 * 6


@pytest.mark.parametrize("limit", [1, 2, 5, 11, 12, 13, 500])
def test_pages_of_any_size_put_together_are_the_whole_history(
    dba: Caller, busy_user: dict[str, str], limit: int
) -> None:
    found: list[int] = []
    for offset in range(0, 12, limit):
        page = dba.rows("list_transactions", **busy_user, limit=limit, offset=offset)
        assert len(page) == min(limit, 12 - offset)
        assert {row["total_count"] for row in page} == {12}
        found += [row["ledger_version"] for row in page]
    assert found == list(range(12, 0, -1))


@pytest.mark.parametrize(
    ("limit", "offset"), [(0, 0), (0, 5), (10, 12), (500, 13), (1, BIGGEST), (0, BIGGEST)]
)
def test_an_empty_page_still_tells_the_number_of_entries(
    dba: Caller, busy_user: dict[str, str], limit: int, offset: int
) -> None:
    row = dba.row("list_transactions", **busy_user, limit=limit, offset=offset)
    assert row["total_count"] == 12
    assert row["transaction_id"] is None


def test_the_history_of_nobody_and_of_a_new_user_is_empty(
    module_database: Database, dba: Caller
) -> None:
    for who in (person(), new_user(module_database)):
        row = dba.row("list_transactions", **who)
        assert row["total_count"] == 0
        assert row["transaction_id"] is None


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
def test_a_senseless_page_is_refused(
    dba: Caller, busy_user: dict[str, str], arguments: dict[str, Any], argument: str
) -> None:
    refusal = dba.refusal("list_transactions", **busy_user, **arguments)
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.detail["argument"] == argument


def test_a_key_that_may_read_sees_the_history(
    module_database: Database, web: Caller, busy_user: dict[str, str]
) -> None:
    reader = key_id(module_database, "billing:read")
    assert len(web.rows("list_transactions", **busy_user, api_key_id=reader)) == 12


# --- the ledger checks itself --------------------------------------------------------------------


@pytest.fixture
def ledger(database: Database) -> tuple[Database, Any]:
    """A database with three accounts in use, and the id of the account to damage: 10 credits,
    3 free charges, charges of 1 and 2, 5 credits."""
    for _ in range(2):
        new_user(database, paid=5, free=False)
    who = new_user(database, paid=10, free=False)
    with session(database, "t_dba") as dba:
        charge_all(dba, [who, {**who, "amount_minor": 2}])
        dba.row("create_credit", **who, amount_minor=5)
    assert ledger_problems(database) == []
    return database, account_of(database, who)["id"]


BEFORE = "does not continue the one before"
DAMAGE: dict[str, tuple[list[str], set[str]]] = {
    "a balance that was raised": (
        ["UPDATE billing_data.accounts SET paid_credits = paid_credits + 1 WHERE id = %(id)s"],
        {
            "paid_credits is not the sum of the entries",
            "paid_credits is not the newest entry's balance_after",
        },
    ),
    "a use that was forgotten": (
        ["UPDATE billing_data.accounts SET total_uses = total_uses - 1 WHERE id = %(id)s"],
        {"total_uses is not the number of charges"},
    ),
    "a version that was raised": (
        ["UPDATE billing_data.accounts SET ledger_version = ledger_version + 1 WHERE id = %(id)s"],
        {"accounts.ledger_version is not the number of entries"},
    ),
    "a charge that is gone from the middle": (
        ["DELETE FROM billing_data.charges WHERE account_id = %(id)s AND ledger_version = 5"],
        {
            "ledger_version has a gap or a duplicate",
            f"entry 6 {BEFORE}",
            "paid_credits is not the sum of the entries",
            "total_uses is not the number of charges",
        },
    ),
    "a credit that is gone from the end": (
        ["DELETE FROM billing_data.credits WHERE account_id = %(id)s AND ledger_version = 7"],
        {
            "accounts.ledger_version is not the number of entries",
            "paid_credits is not the sum of the entries",
            "paid_credits is not the newest entry's balance_after",
        },
    ),
    "a first entry that is gone": (
        ["DELETE FROM billing_data.credits WHERE account_id = %(id)s AND ledger_version = 1"],
        {
            "ledger_version has a gap or a duplicate",
            f"entry 2 {BEFORE}",
            "paid_credits is not the sum of the entries",
        },
    ),
    "a charge made larger": (
        [
            "UPDATE billing_data.charges SET amount_minor = 2, balance_after = balance_after - 1"
            " WHERE account_id = %(id)s AND ledger_version = 5"
        ],
        {f"entry 6 {BEFORE}", "paid_credits is not the sum of the entries"},
    ),
    "a credit moved up by one": (
        [
            "UPDATE billing_data.credits SET balance_before = balance_before + 1,"
            " balance_after = balance_after + 1 WHERE account_id = %(id)s AND ledger_version = 7"
        ],
        {f"entry 7 {BEFORE}", "paid_credits is not the newest entry's balance_after"},
    ),
    "a charge and a credit with one version": (
        [
            "UPDATE billing_data.credits SET ledger_version = 6"
            " WHERE account_id = %(id)s AND ledger_version = 7",
            "UPDATE billing_data.accounts SET ledger_version = 6 WHERE id = %(id)s",
        ],
        {"ledger_version has a gap or a duplicate"},
    ),
    "a whole history that is gone": (
        [
            "DELETE FROM billing_data.charges WHERE account_id = %(id)s",
            "DELETE FROM billing_data.credits WHERE account_id = %(id)s",
        ],
        {
            "accounts.ledger_version is not the number of entries",
            "paid_credits is not the sum of the entries",
            "total_uses is not the number of charges",
        },
    ),
    "a free use made a paid one": (
        [
            "UPDATE billing_data.charges SET paid_with = 'paid', balance_after = balance_before - 1"
            " WHERE account_id = %(id)s AND ledger_version = 2"
        ],
        {f"entry 3 {BEFORE}", "paid_credits is not the sum of the entries"},
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_ledgers_check_finds(ledger: tuple[Database, Any], kind: str) -> None:
    database, account = ledger
    statements, problems = DAMAGE[kind]
    tamper(database, *statements, id=account)
    found = ledger_problems(database)
    assert {row[0] for row in found} == {account}
    assert {row[1] for row in found} >= problems


def test_the_ledgers_check_says_what_it_expected(ledger: tuple[Database, Any]) -> None:
    database, account = ledger
    tamper(
        database, "UPDATE billing_data.accounts SET paid_credits = 99 WHERE id = %(id)s", id=account
    )
    assert sorted(ledger_problems(database)) == [
        (account, "paid_credits is not the newest entry's balance_after", "12", "99"),
        (account, "paid_credits is not the sum of the entries", "12", "99"),
    ]


def test_an_account_with_credits_and_no_entry_is_found(ledger: tuple[Database, Any]) -> None:
    database, _ = ledger
    who = new_user(database)
    tamper(
        database,
        "UPDATE billing_data.accounts SET paid_credits = 7 WHERE external_id = %(user)s",
        user=who["external_id"],
    )
    assert ledger_problems(database) == [
        (
            account_of(database, who)["id"],
            "paid_credits is not the sum of the entries",
            "0",
            "7",
        )
    ]


def _take_over(database: Database, account: Any) -> None:
    """Turns the account's first four entries into entries of the old service: ids of another kind,
    no fingerprint, no digest, balances in another unit. The account's own books begin after them,
    with 10."""
    old = (
        "database_role = 'legacy', id = gen_random_uuid(), request_fingerprint = NULL,"
        " digest = NULL, balance_before = 700 + balance_before,"
        " balance_after = 700 + balance_after, created_at = created_at - interval '1 day'"
    )
    tamper(
        database,
        f"UPDATE billing_data.charges SET {old}, free_uses_after = NULL"
        " WHERE account_id = %(id)s AND ledger_version <= 4",
        f"UPDATE billing_data.credits SET {old} WHERE account_id = %(id)s AND ledger_version <= 4",
        "INSERT INTO billing_data.ledger_openings (account_id, ledger_version, paid_credits,"
        " total_uses, free_uses) VALUES (%(id)s, 4, 10, 3, 0)",
        id=account,
    )


def test_what_the_old_service_recorded_in_another_unit_is_no_damage(
    ledger: tuple[Database, Any],
) -> None:
    database, account = ledger
    _take_over(database, account)
    assert ledger_problems(database) == []


def test_an_account_of_the_old_service_is_still_held_to_its_newest_entry(
    ledger: tuple[Database, Any],
) -> None:
    database, account = ledger
    _take_over(database, account)
    tamper(
        database,
        "UPDATE billing_data.accounts SET paid_credits = paid_credits + 1000 WHERE id = %(id)s",
        id=account,
    )
    assert "paid_credits is not the newest entry's balance_after" in {
        row[1] for row in ledger_problems(database)
    }


def test_a_break_after_the_old_services_entries_is_found(ledger: tuple[Database, Any]) -> None:
    database, account = ledger
    _take_over(database, account)
    tamper(
        database,
        "UPDATE billing_data.charges SET balance_before = balance_before + 1,"
        " balance_after = balance_after + 1 WHERE account_id = %(id)s AND ledger_version = 6",
        id=account,
    )
    assert f"entry 6 {BEFORE}" in {row[1] for row in ledger_problems(database)}


# --- views ---------------------------------------------------------------------------------------


def test_daily_usage_adds_up_what_happened_today(database: Database) -> None:
    one, two = new_user(database, paid=10, free=False), new_user(database)
    with session(database, "t_dba") as dba:
        dba.row("create_charge", **one, amount_minor=4)
        dba.row("create_charge", **two, amount_minor=9)
    with session(database, "t_analyst") as analyst:
        (row,) = analyst.execute("SELECT * FROM billing.daily_usage")
    assert row.pop("day") == database.value("SELECT (now() AT TIME ZONE 'UTC')::date")
    assert row == {
        "charges": 5,
        "free_charges": 4,
        "credits": 1,
        "credits_used": 4,
        "credits_added": 10,
        "credits_taken_back": 0,
        "unique_accounts": 2,
    }


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago", "UTC"])
def test_a_day_is_a_day_in_utc_whatever_the_readers_time_zone(
    database: Database, zone: str
) -> None:
    who = new_user(database)
    database.execute(
        "INSERT INTO billing_data.credits (account_id, ledger_version, id, amount_minor, currency,"
        " balance_before, balance_after, transaction_type, description, database_role, created_at)"
        " SELECT a.id, v.n, gen_random_uuid(), 1, 'USD', 0, 1, 'grant', 'd', 'x', v.at"
        " FROM billing_data.accounts AS a, (VALUES (1, timestamptz '2026-01-31 23:59:59Z'),"
        " (2, timestamptz '2026-02-01 00:00:00Z')) AS v (n, at) WHERE a.external_id = %s",
        who["external_id"],
    )
    with session(database, "t_analyst") as analyst:
        analyst.execute(f"SET TimeZone = '{zone}'")
        rows = analyst.execute("SELECT d.day::text FROM billing.daily_usage AS d ORDER BY 1")
    assert [row["day"] for row in rows] == ["2026-01-31", "2026-02-01"]


def test_the_ledger_view_explains_every_balance(database: Database) -> None:
    for _ in range(3):
        who = new_user(database, paid=10, free=False)
        with session(database, "t_dba") as dba:
            charge_all(dba, [who, {**who, "amount_minor": 3}])
    with session(database, "t_analyst") as analyst:
        rows = analyst.execute("""
            SELECT b.paid_credits, sum(l.balance_change) AS explained, count(*) AS entries,
                b.ledger_version
            FROM billing.account_balances AS b
            INNER JOIN billing.ledger AS l ON l.account_id = b.account_id
            GROUP BY b.account_id, b.paid_credits, b.ledger_version
        """)
    assert len(rows) == 3
    for row in rows:
        assert row["explained"] == row["paid_credits"] == 6
        assert row["entries"] == row["ledger_version"] == 6


def test_a_description_is_kept_to_the_letter(module_database: Database, dba: Caller) -> None:
    who, text = new_user(module_database), f"ünï '\"\\ {unique()} \u202e {{balance}} 100%"
    dba.row("create_charge", **who, description=text, idempotency_key=text)
    (row,) = dba.rows("list_transactions", **who)
    assert row["description"] == text
    refusal = dba.refusal("create_charge", **who, description=text, idempotency_key=text)
    assert refusal.slug == "charge_already_exists"
