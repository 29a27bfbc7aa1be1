"""Sealed entries: whatever a superuser changes afterwards is found, and the first entry named."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sql.helpers import account_of, charge_all, ledger_problems, new_user, session, tamper
from tests.sql.seals import FITTING, age, days_ago, forge_seals, seal_all
from tests.support import Database

ONE = "WHERE account_id = %(id)s AND ledger_version = "


@pytest.fixture
def sealed(database: Database) -> tuple[Database, Any]:
    """A ledger of two sealed days and of today, and an account in it: free charges (versions 1 to
    3), a gift (4) and a charge (5) of the first day, a charge (6) of the next, one (7) of today."""
    who, other = new_user(database), new_user(database, paid=5)
    with session(database, "t_dba") as dba:
        charge_all(dba, [{**who, "amount_minor": 1}] * 3)
        dba.row("create_credit", **who, amount_minor=10, idempotency_key="gift")
        dba.row("create_charge", **who)
        age(database, 1)
        dba.row("create_charge", **who)
        dba.row("create_charge", **other)
        age(database, 2)
        dba.row("create_charge", **who)
    tamper(database, "UPDATE billing_data.seal_state SET day = %(day)s", day=days_ago(3))
    # Of the day of yesterday, on which nothing happened, there is a head too when it is over.
    assert seal_all(database)[:2] == [(days_ago(3), 2, 6), (days_ago(2), 2, 2)]
    assert ledger_problems(database) == []
    return database, account_of(database, who)["id"]


def test_each_day_that_is_over_is_sealed_once_and_today_is_not(database: Database) -> None:
    who, other = new_user(database), new_user(database, paid=5)
    with session(database, "t_dba") as dba:
        for _ in range(3):
            charge_all(dba, [{**who, "amount_minor": 1}, {**other, "amount_minor": 1}])
            age(database, 1)
        dba.row("create_charge", **other)
    tamper(database, "UPDATE billing_data.seal_state SET day = %(day)s", day=days_ago(4))
    closed = seal_all(database)
    # A day can be sealed from one hour after its end on.
    newest = database.value("SELECT billing_data.newest_day_over()")
    counts = {3: (2, 3), 2: (2, 2), 1: (2, 2)}
    assert closed == [
        (days_ago(ago), *counts.get(ago, (0, 0)))
        for ago in range(4, 0, -1)
        if days_ago(ago) <= newest
    ]
    assert seal_all(database) == []
    assert ledger_problems(database) == []


def test_an_account_with_many_entries_is_sealed_in_parts(database: Database) -> None:
    for paid in (1, 7, 3):
        who = new_user(database, paid=paid)
        with session(database, "t_dba") as dba:
            charge_all(dba, [{**who, "amount_minor": 1}] * paid)
    age(database, 3)
    assert sum(entries for _, _, entries in seal_all(database, entries=2)) == 3 + 1 + 7 + 3
    assert database.value("SELECT max(last_version - first_version) FROM billing_data.seals") == 1
    assert ledger_problems(database) == []


def test_a_pause_follows_each_call_that_may_take_a_share_of_the_time(database: Database) -> None:
    new_user(database, paid=5)
    age(database, 3)
    with session(database, "t_web") as web:
        assert len(web.rows("seal_entries", percent=1)) == 1
        assert web.rows("seal_entries", percent=1) == []
        assert len(web.rows("seal_entries")) == 1


def test_one_session_seals_at_a_time_and_the_others_do_not_wait(database: Database) -> None:
    new_user(database, paid=5)
    age(database, 3)
    with (
        session(database, "t_web", autocommit=False) as one,
        session(database, "t_web") as another,
    ):
        assert len(one.rows("seal_entries")) == 1
        assert another.rows("seal_entries") == []


_HEAD = "the head of {} is not that of its seals"
SUMS = "UPDATE billing_data.accounts SET {} WHERE id = %(id)s"
# What is done with the account's rows -> (statements, what is found; {day} is the first sealed).
TAMPERING: dict[str, tuple[list[str], set[str]]] = {
    "a row rewritten, its digest too": (
        [f"UPDATE billing_data.charges SET description = 'another' {ONE} 2", FITTING["charges"]],
        {"entry 2 is not as it was sealed for {day}"},
    ),
    "a free use of another amount": (
        [f"UPDATE billing_data.charges SET amount_minor = 9 {ONE} 3", FITTING["charges"]],
        {"entry 3 is not as it was sealed for {day}"},
    ),
    "the newest rows removed and the sums fitted": (
        [
            f"DELETE FROM billing_data.charges {ONE} 7",
            f"DELETE FROM billing_data.charges {ONE} 6",
            SUMS.format(
                "ledger_version = 5, total_uses = total_uses - 2, paid_credits = paid_credits + 2"
            ),
        ],
        {"entry 6 was sealed for {next} and is gone"},
    ),
    "a row put in, of a day that is sealed": (
        [
            f"UPDATE billing_data.charges SET created_at = now() - interval '3 days' {ONE} 7",
            FITTING["charges"],
        ],
        {"entry 7 was put in after its day was sealed"},
    ),
    "the account removed with all its rows": (
        [
            "DELETE FROM billing_data.charges WHERE account_id = %(id)s",
            "DELETE FROM billing_data.credits WHERE account_id = %(id)s",
            "DELETE FROM billing_data.accounts WHERE id = %(id)s",
        ],
        {"entry 1 was sealed for {day} and is gone"},
    ),
    "the account removed with its rows and seals": (
        [
            "DELETE FROM billing_data.charges WHERE account_id = %(id)s",
            "DELETE FROM billing_data.credits WHERE account_id = %(id)s",
            "DELETE FROM billing_data.accounts WHERE id = %(id)s",
            "DELETE FROM billing_data.seals WHERE account_id = %(id)s",
            "DELETE FROM billing_data.seal_salts WHERE account_id = %(id)s",
        ],
        {_HEAD.format("{day}"), _HEAD.format("{next}")},
    ),
    "a seal rewritten": (
        [f"UPDATE billing_data.seals SET digest = sha256('') {ONE.replace('ledger', 'last')} 5"],
        {
            "the seal of entries 1 to 5 of {day} is not as it was made",
            "the head of {day} is not that of its seals",
        },
    ),
    "a seal removed": (
        ["DELETE FROM billing_data.seals WHERE account_id = %(id)s AND last_version = 5"],
        {
            "entries 1 to 5 have no seal",
            "the seal of entries 6 to 6 of {next} is not as it was made",
            "the head of {day} is not that of its seals",
        },
    ),
    "a row rewritten with its seal": (
        [
            f"UPDATE billing_data.charges SET description = 'another' {ONE} 6",
            FITTING["charges"],
            "UPDATE billing_data.seals AS s SET leaves = substring(n.leaf FOR 8), digest ="
            " billing_data.seal_digest(p.digest, s.account_id, s.day, 6, 6, n.leaf)"
            " FROM billing_data.seal_salts AS k, billing_data.seals AS p,"
            " billing_data.entry_leaves(%(id)s, 5, 6, (SELECT t.salt FROM billing_data.seal_salts"
            " AS t WHERE t.account_id = %(id)s)) AS n WHERE s.account_id = %(id)s"
            " AND s.last_version = 6 AND p.account_id = s.account_id AND p.last_version = 5"
            " AND k.account_id = s.account_id",
        ],
        {"the head of {next} is not that of its seals"},
    ),
    "a head rewritten": (
        ["UPDATE billing_data.seal_heads SET head = sha256('') WHERE day = %(day)s"],
        {_HEAD.format("{day}"), _HEAD.format("{next}")},
    ),
    "a head removed": (
        ["DELETE FROM billing_data.seal_heads WHERE day = %(day)s"],
        {"the day {day} has seals and no head", "the head of {next} is not that of its seals"},
    ),
    "a salt removed": (
        ["DELETE FROM billing_data.seal_salts WHERE account_id = %(id)s"],
        {"entry 1 was sealed for {day} and is gone"},
    ),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_what_a_superuser_changes_after_sealing_is_found_and_the_first_entry_named(
    sealed: tuple[Database, Any], what: str
) -> None:
    database, account = sealed
    statements, expected = TAMPERING[what]
    first, following = (row[0] for row in database.execute(
        "SELECT DISTINCT day FROM billing_data.seals ORDER BY day"
    ))  # fmt: skip
    tamper(database, *statements, id=account, day=first)
    problems = ledger_problems(database)
    assert {row[1] for row in problems} == {
        text.format(day=first, next=following) for text in expected
    }
    assert {row[0] for row in problems} <= {account, None}


def test_a_row_rewritten_with_all_seals_and_heads_changes_the_newest_head(
    sealed: tuple[Database, Any],
) -> None:
    database, account = sealed
    heads = database.execute("SELECT day, head FROM billing.list_seal_heads()", user="t_dba")
    change = f"UPDATE billing_data.charges SET description = 'another' {ONE} 6"
    forge_seals(database, change, id=account)
    assert ledger_problems(database) == []
    forged = database.execute("SELECT day, head FROM billing.list_seal_heads()", user="t_dba")
    following = database.value("SELECT max(day) FROM billing_data.seals")
    assert [day for day, _ in forged] == [day for day, _ in heads]
    assert [one == other for one, other in zip(forged, heads, strict=True)] == [
        day < following for day, _ in heads
    ]
    # Made again with the entries as they were, everything is as before.
    back = f"UPDATE billing_data.charges SET description = 'Usage charge' {ONE} 6"
    forge_seals(database, back, id=account)


def test_an_erased_account_stays_sealed_and_what_is_written_later_is_sealed_too(
    sealed: tuple[Database, Any],
) -> None:
    database, account = sealed
    assert database.value("SELECT billing_data.erase_entries(%s)", account) == 7
    assert ledger_problems(database) == []
    with session(database, "t_dba") as dba:
        dba.row("adjust_credits", account_id=account, amount=1, reason="a refund")
    tamper(
        database,
        "UPDATE billing_data.charges SET created_at = created_at - interval '1 day'"
        " WHERE created_at > now() - interval '1 day'",
        "UPDATE billing_data.credits SET created_at = created_at - interval '1 day'"
        " WHERE created_at > now() - interval '1 day'",
        *FITTING.values(),
        "DELETE FROM billing_data.seal_heads WHERE day >= %(day)s",
        day=days_ago(1),
    )
    seal_all(database)
    assert ledger_problems(database) == []
    sealed_now = database.value(
        "SELECT max(last_version) FROM billing_data.seals WHERE account_id = %s", account
    )
    assert sealed_now == 8 or database.value("SELECT billing_data.newest_day_over()") < days_ago(1)
    # An erased entry is proven as every other.
    tamper(
        database,
        f"UPDATE billing_data.charges SET amount_minor = 9 {ONE} 2",
        FITTING["charges"],
        id=account,
    )
    assert "entry 2 is not as it was sealed for" in ledger_problems(database)[0][1]


def test_one_account_and_a_range_of_accounts_are_verified_by_themselves(database: Database) -> None:
    ids = sorted(account_of(database, new_user(database, paid=1))["id"] for _ in range(3))
    tamper(database, "UPDATE billing_data.accounts SET paid_credits = 7")

    def found(arguments: str) -> list[Any]:
        rows = database.execute(
            f"SELECT DISTINCT v.account_id FROM billing.verify_ledger({arguments}) AS v ORDER BY 1",
            user="t_dba",
        )
        return [row[0] for row in rows]

    assert found("") == ids
    assert found(f"p_account_id => '{ids[1]}'") == [ids[1]]
    assert found(f"p_after => '{ids[0]}'") == ids[1:]
    assert found(f"p_through => '{ids[1]}'") == ids[:2]
    assert found(f"p_after => '{ids[0]}', p_through => '{ids[1]}'") == [ids[1]]
    # What belongs to no account is looked at with the first range.
    tamper(database, "UPDATE billing_data.accounts SET paid_credits = 1")
    database.execute("ALTER TABLE billing_data.accounts DISABLE TRIGGER accounts_fixed")
    assert [found(""), found(f"p_after => '{ids[0]}'")] == [[None], []]


def test_a_verification_goes_on_where_it_was_and_sessions_share_its_ranges(
    database: Database,
) -> None:
    accounts = [account_of(database, new_user(database, paid=paid))["id"] for paid in (1, 2, 3)]
    with session(database, "t_dba") as one, session(database, "t_dba", autocommit=False) as two:
        run = one.row("begin_verification", entries=1)
        assert (run["ranges"], run["ranges_done"]) == (3, 0)
        held = two.row("continue_verification")
        first = one.row("continue_verification")
        assert {held["place"], first["place"]} == {1, 2}
        assert (first["accounts"], first["entries"], first["problem_count"]) == (1, 1, 0)
        # What a session leaves undone, another one does.
        two.connection.rollback()
        assert one.row("begin_verification", entries=1) == run | {"ranges_done": 1}
        tamper(
            database, "UPDATE billing_data.accounts SET paid_credits = 9 WHERE id = %(id)s",
            id=max(accounts),
        )  # fmt: skip
        assert [one.row("continue_verification")["place"] for _ in range(2)] == [1, 3]
        assert one.rows("continue_verification") == []
        problems = one.rows("list_book_problems")
        assert {row["account_id"] for row in problems} == {max(accounts)}
        proof = one.row("get_proof")
        assert (proof["accounts_verified"], proof["entries_verified"]) == (3, 3)
        assert (proof["problems"], proof["first_account_id"]) == (len(problems), max(accounts))
        assert proof["verified_at"] >= proof["verification_started_at"]
        # A finished run is followed by a new one, and so is one that is to be begun anew.
        again = one.row("begin_verification", entries=100)
        assert (again["ranges"], again["ranges_done"]) == (1, 0)
        assert one.row("begin_verification", restart=True)["run_id"] > again["run_id"]
        assert one.row("continue_verification")["problem_count"] == len(problems)


def test_an_empty_database_is_verified_and_sealed(database: Database) -> None:
    assert [row[1:] for row in seal_all(database)] == [(0, 0)]
    with session(database, "t_dba") as dba:
        assert dba.row("begin_verification")["ranges"] == 1
        assert dba.row("continue_verification")["problem_count"] == 0
