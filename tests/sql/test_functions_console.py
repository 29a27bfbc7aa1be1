"""What staff read and correct in the console: accounts, checks, purchases, events, audit log."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sql.console import account_id_of, assert_argument_refused
from tests.sql.helpers import (
    BIGGEST,
    NOBODY,
    Caller,
    account_of,
    charge_all,
    ledger_problems,
    new_user,
    person,
    session,
    staff,
)
from tests.sql.payments import (
    EMAIL,
    PRICE,
    bought,
    configure_provider,
    give_back,
)
from tests.sql.totals import TOTALS, assert_totals
from tests.support import Database

LISTS = {
    "list_accounts": {},
    "list_audit_log": {},
    "list_checks": {"account_id": NOBODY},
    "list_payment_events": {},
    "list_purchases": {},
}


# One row more than a page or a CSV has tells that it is cut.
LARGEST = {name: 10_001 if name == "list_audit_log" else 501 for name in LISTS}


# --- every list ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LISTS)
def test_a_page_has_a_size_within_bounds(dba: Caller, name: str) -> None:
    for limit in (-1, LARGEST[name] + 1, None):
        assert_argument_refused(dba, name, "p_limit", **LISTS[name], limit=limit)
    for offset in (-1, None):
        assert_argument_refused(dba, name, "p_offset", **LISTS[name], offset=offset)
    dba.rows(name, **LISTS[name], limit=LARGEST[name], offset=0)
    assert dba.rows(name, **LISTS[name], limit=0) == []
    assert dba.rows(name, **LISTS[name], offset=BIGGEST) == []


# --- the list of accounts ------------------------------------------------------------------------


def _create(dba: Caller, external_id: str, email: str | None = None, **more: Any) -> uuid.UUID:
    arguments = {**person(external_id), "customer_email": email, **more}
    found: uuid.UUID = dba.row("create_account", **arguments)["account_id"]
    return found


def _found(caller: Caller, **arguments: Any) -> list[str]:
    return [row["external_id"] for row in caller.rows("list_accounts", **arguments)]


_PEOPLE = {
    "ada": "Ada@Example.com",
    "ADA-2": "ada.lovelace@example.com",
    "ben": "ben@ada.example",
    "50%": "half@x.test",
    "50 percent": None,
    "under_score": "a_b@x.test",
    "underXscore": "aXb@x.test",
    r"back\slash": r"c\d@x.test",
    "quote'd": "o'neil@x.test",
    'say "x"': None,
    "$1 || true --": None,
    "Ärger": "ärger@x.test",
    "A\u0308pfel": "apfel@x.test",  # the same letter, written as two characters
}


@pytest.mark.parametrize(
    ("search", "prefix", "substring"),
    [
        ("ada", {"ada", "ADA-2"}, {"ada", "ADA-2", "ben"}),
        ("ADA", {"ada", "ADA-2"}, {"ada", "ADA-2", "ben"}),
        ("ada@example.com", {"ada"}, {"ada"}),
        ("example.com", set(), {"ada", "ADA-2"}),
        ("50%", {"50%"}, {"50%"}),
        ("%", set(), {"50%"}),
        ("under_", {"under_score"}, {"under_score"}),
        ("_", set(), {"under_score"}),
        ("a_b", {"under_score"}, {"under_score"}),
        ("back\\", {"back\\slash"}, {"back\\slash"}),
        ("\\", set(), {"back\\slash"}),
        ("c\\d", {"back\\slash"}, {"back\\slash"}),
        ("o'neil", {"quote'd"}, {"quote'd"}),
        ("'", set(), {"quote'd"}),
        ("quote'd", {"quote'd"}, {"quote'd"}),
        ('say "', {'say "x"'}, {'say "x"'}),
        ("$1 ||", {"$1 || true --"}, {"$1 || true --"}),
        ("' OR true --", set(), set()),
        ("äRGER", {"Ärger"}, {"Ärger"}),
        ("a\u0308rger", {"Ärger"}, {"Ärger"}),
        ("äpf", {"A\u0308pfel"}, {"A\u0308pfel"}),
        ("ä", {"Ärger", "A\u0308pfel"}, {"Ärger", "A\u0308pfel"}),
        (" ada", set(), set()),
        ("nobody", set(), set()),
        ("", set(_PEOPLE), set(_PEOPLE)),
        (None, set(_PEOPLE), set(_PEOPLE)),
    ],
)
def test_accounts_are_found_by_what_their_address_or_id_begins_with_or_contains(
    people: Caller, search: str | None, prefix: set[str], substring: set[str]
) -> None:
    for match, expected in (("prefix", prefix), ("substring", substring)):
        rows = people.rows("list_accounts", search=search, match=match, count=True)
        found = {row["external_id"] for row in rows if row["account_id"]}
        assert found == expected
        assert {row["total_count"] for row in rows} == {len(expected)}
        assert {row["total_count"] for row in people.rows("list_accounts", search=search)} <= {None}


@pytest.fixture(scope="module")
def people(module_database: Database) -> Any:
    """A DBA's session on a database with the people above."""
    with (
        module_database.cluster.database() as database,
        session(database, "t_dba") as dba,
    ):
        for external_id, email in _PEOPLE.items():
            _create(dba, external_id, email)
        yield dba


def test_an_account_is_found_by_its_id_and_by_an_external_id_that_looks_like_one(
    database: Database,
) -> None:
    with session(database, "t_dba") as dba:
        looks_like_one = str(uuid.uuid4())
        ada, _ = _create(dba, "ada"), _create(dba, looks_like_one.upper())
        for search in (str(ada), str(ada).upper()):
            for match in ("prefix", "substring"):
                assert _found(dba, search=search, match=match) == ["ada"]
        assert _found(dba, search=looks_like_one) == [looks_like_one.upper()]
        assert dba.row("list_accounts", search=str(NOBODY), count=True)["total_count"] == 0
        for odd in (str(ada)[:-1], f"{ada}0", f"{{{ada}}}"):
            assert _found(dba, search=odd) == []


def test_accounts_are_filtered_by_status(database: Database) -> None:
    with session(database, "t_dba") as dba:
        for name, status in (("a", "active"), ("s", "suspended"), ("c", "closed")):
            for n in range(2):
                _create(dba, f"{name}{n}")
                who = person(f"{name}{n}")
                dba.row("set_account_status", **who, status=status, reason="a test")
        for name, status in (("a", "active"), ("s", "suspended"), ("c", "closed")):
            rows = dba.rows("list_accounts", status=status, count=True)
            assert {row["external_id"] for row in rows} == {f"{name}0", f"{name}1"}
            assert {(row["status"], row["total_count"]) for row in rows} == {(status, 2)}
            assert _found(dba, status=status, search=f"{name.upper()}1") == [f"{name}1"]
        assert _found(dba, status="suspended", search="a") == []
        assert _found(dba, status="odd") == []


def _many(database: Database, seed: int = 1) -> list[dict[str, Any]]:
    """Accounts with many equal values in every field they are sorted by."""
    rng = random.Random(seed)
    born = datetime(2026, 1, 1, tzinfo=UTC)
    for n in range(60):
        database.execute(
            "INSERT INTO billing_data.accounts (oauth_provider, external_id, customer_email,"
            " paid_credits, total_uses, created_at) VALUES ('oauth:google', %s, %s, %s, %s, %s)",
            f"user-{n}",
            rng.choice([None, "a@x.test", "B@x.test", "c@x.test"]),
            rng.choice([0, 1, BIGGEST]),
            rng.choice([0, 5, 9]),
            born + timedelta(days=rng.randint(0, 3)),
        )
    with session(database, "postgres") as root:
        return root.execute("SELECT * FROM billing_data.accounts")


_SORTS: dict[str, Any] = {
    "newest": lambda a: (-a["created_at"].timestamp(), -a["id"].int),
    "oldest": lambda a: (a["created_at"].timestamp(), a["id"].int),
    "email": lambda a: (
        a["customer_email"] is None,
        (a["customer_email"] or "").lower(),
        a["id"].int,
    ),
    "credits": lambda a: (-a["paid_credits"], a["id"].int),
    "uses": lambda a: (-a["total_uses"], a["id"].int),
}


def test_every_order_is_stable_and_the_pages_show_each_account_once(database: Database) -> None:
    accounts = _many(database)
    with session(database, "t_dba") as dba:
        for sort, key in _SORTS.items():
            expected = [a["id"] for a in sorted(accounts, key=key)]
            for size in (7, 60, 501):
                pages: list[uuid.UUID] = []
                for offset in range(0, 60, size):
                    rows = dba.rows("list_accounts", sort=sort, limit=size, offset=offset)
                    pages += [row["account_id"] for row in rows]
                assert pages == expected, (sort, size)


def test_a_page_beyond_the_last_is_empty_and_still_tells_the_number(database: Database) -> None:
    _many(database)
    with session(database, "t_dba") as dba:
        assert dba.rows("list_accounts", offset=60) == []
        for arguments in ({}, {"search": "user"}, {"search": "r", "match": "substring"}):
            (row,) = dba.rows("list_accounts", offset=60, count=True, **arguments)
            assert row.pop("total_count") == 60
            assert set(row.values()) == {None}
            (row,) = dba.rows("list_accounts", limit=0, count=True, **arguments)
            assert row["total_count"] == 60
            rows = dba.rows("list_accounts", limit=2, offset=59, count=True, **arguments)
            assert [row["total_count"] for row in rows] == [60]
        dba.value("refresh_figures")
        assert dba.row("list_accounts", limit=1, count=True)["total_count"] == 60


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"sort": "id"}, "p_sort"),
        ({"sort": "newest; DROP TABLE billing_data.accounts"}, "p_sort"),
        ({"sort": None}, "p_sort"),
        ({"match": "exact"}, "p_match"),
        ({"match": None}, "p_match"),
    ],
)
def test_a_faulty_list_of_accounts_is_refused(
    dba: Caller, arguments: dict[str, Any], argument: str
) -> None:
    assert_argument_refused(dba, "list_accounts", argument, **arguments)


def test_totals_are_the_sums_of_the_ledger(database: Database) -> None:
    configure_provider(database)
    rng = random.Random(3)
    new_user(database)
    users = [new_user(database, paid=rng.randint(0, 50)) for _ in range(6)]
    who, payment_id = bought(database)
    with session(database, "t_dba") as dba:
        give_back(dba, payment_id, ("re_1", PRICE // 4), ("re_2", PRICE // 4))
        give_back(dba, payment_id, ("re_2", PRICE // 4), withdrawn=False)
        for _ in range(60):
            user = rng.choice([*users, who])
            charge_all(dba, [{**user, "amount_minor": rng.randint(1, 4)}])
            if rng.random() < 0.3:
                account = account_id_of(database, user)
                arguments = {"account_id": account, "reason": "a test"}
                dba.row("adjust_credits", **arguments, amount=rng.randint(1, 9))
                balance = account_of(database, user)["paid_credits"]
                dba.row("adjust_credits", **arguments, amount=-rng.randint(1, balance))
        dba.row(
            "reset_free_uses", account_id=account_id_of(database, who), reason="a test", free_uses=9
        )
    assert_totals(database)
    assert ledger_problems(database) == []


def test_totals_of_accounts_of_the_old_service_are_counted(database: Database) -> None:
    """Their balances were in another unit and say nothing about what was charged."""
    with session(database, "postgres") as root:
        root.execute("ALTER TABLE billing_data.ledger_openings DISABLE TRIGGER USER")
        for name, free, table in (("a", False, "charges"), ("b", True, "charges"),
                                  ("c", False, "credits")):  # fmt: skip
            (row,) = root.execute(
                "INSERT INTO billing_data.accounts (oauth_provider, external_id, paid_credits,"
                " total_uses, ledger_version) VALUES ('oauth:google', %s, 13, 40, 2) RETURNING id",
                name,
            )
            root.execute(
                "INSERT INTO billing_data.ledger_openings VALUES (%s, 2, 13, 40, 3)", row["id"]
            )
            for version in (1, 2):
                kind = ("free" if free else "paid") if table == "charges" else "grant"
                after = 500 if free else 493 if table == "charges" else 507
                column = "paid_with" if table == "charges" else "transaction_type"
                root.execute(
                    f"INSERT INTO billing_data.{table} (id, account_id, amount_minor, currency,"
                    f" balance_before, balance_after, description, ledger_version, {column},"
                    " database_role) VALUES (%s, %s, 7, 'USD', 500, %s, 'd', %s, %s, 'legacy')",
                    uuid.uuid4(),
                    row["id"],
                    after,
                    version,
                    kind,
                )
    assert_totals(database)
    with session(database, "t_dba") as dba:
        for name in ("a", "b", "c"):
            charge_all(dba, [{**person(name), "amount_minor": 2}] * 5)
            dba.row("create_credit", **person(name), amount_minor=5)
    assert_totals(database)


def test_one_account_is_read_with_everything_about_it(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who = person()
    dba.row(
        "create_account", **who, wa_id="w", tenant_id="t", customer_email=EMAIL, user_role="r",
        agent_id="agent", marketing_opt_in=True, marketing_opt_in_source="web",
    )  # fmt: skip
    dba.row("create_credit", **who, amount_minor=5)
    stored = account_of(module_database, who)
    viewer = staff(module_database, "viewer")
    row = web.row("get_account_by_id", account_id=stored["id"], session_hash=viewer.session_hash)
    assert row.pop("account_id") == stored["id"]
    assert {name: row[name] for name in row if name not in TOTALS} == {
        name: stored[name] for name in row if name not in TOTALS
    }
    assert (row["marketing_opt_in_source"], row["total_credited"]) == ("web", 5)
    for nobody in (NOBODY, None):
        refusal = web.refusal(
            "get_account_by_id", account_id=nobody, session_hash=viewer.session_hash
        )
        assert (refusal.sqlstate, refusal.slug) == ("PB404", "account_not_found")
