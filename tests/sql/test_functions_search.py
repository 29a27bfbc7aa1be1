"""The one search of the console: what finds what, and that indexes serve."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.sql.helpers import Caller, account_of, new_user, person, session, staff
from tests.sql.payments import bought, configure_provider
from tests.support import Database, unique


def _found(caller: Caller, text: Any, **more: Any) -> list[tuple[str, str]]:
    return [(row["kind"], row["id"]) for row in caller.rows("search", search=text, **more)]


@pytest.fixture(scope="module")
def ada(module_database: Database, dba: Caller) -> dict[str, str]:
    """Somebody with an address, a charge, a credit, a hold and a payment; the ids by kind."""
    configure_provider(module_database)
    name = unique("ada.lovelace")
    who = person(f"{name}-id")
    dba.row("create_account", **who, customer_email=f"{name}@example.com")
    charge = dba.row("create_charge", **who)["charge_id"]
    credit = dba.row("create_credit", **who, amount_minor=9)["credit_id"]
    hold = dba.row("create_hold", **who, amount_minor=1)["hold_id"]
    _, payment_id = bought(module_database, who)
    account = account_of(module_database, who)["id"]
    found = {"charge": charge, "credit": credit, "hold": hold, "account": account}
    return {**{kind: str(id_) for kind, id_ in found.items()}, "payment": payment_id, "name": name}


def test_an_address_an_external_id_and_their_beginnings_find_the_account(
    dba: Caller, ada: dict[str, str]
) -> None:
    name = ada["name"]
    for text in (f"{name}@example.com", f" {name.upper()}@EX", f"{name}-id", name, ada["account"]):
        assert _found(dba, text) == [("account", ada["account"])], text


def test_a_part_finds_the_account_where_nothing_begins_so(dba: Caller, ada: dict[str, str]) -> None:
    assert _found(dba, ada["name"][4:]) == [("account", ada["account"])]
    assert _found(dba, "nobody-like-this") == []


@pytest.mark.parametrize("kind", ["charge", "credit", "hold", "payment"])
def test_an_id_finds_its_thing_and_the_account(dba: Caller, ada: dict[str, str], kind: str) -> None:
    (row,) = dba.rows("search", search=ada[kind])
    assert (row["kind"], row["id"], str(row["account_id"])) == (kind, ada[kind], ada["account"])


def test_events_keys_staff_and_reasons_are_found(
    module_database: Database, dba: Caller, web: Caller, ada: dict[str, str]
) -> None:
    event = dba.row("list_payment_events", payment_id=ada["payment"])["event_id"]
    assert _found(dba, event) == [("event", event)]
    key = module_database.create_key()
    for text in (key.prefix, key.prefix[:15]):
        assert ("key", key.id) in _found(dba, text, limit=100)
    grace = staff(module_database, "viewer")
    email = grace.email
    assert _found(web, email, session_hash=grace.session_hash) == [("staff", email)]
    word = unique("zebra")
    who = new_user(module_database)
    for reason in (f"the {word} was striped", f"about it's \\ {word}", None):
        dba.row("adjust_credits", account_id=account_of(module_database, who)["id"], amount=1,
                reason=reason or "no such word")  # fmt: skip
    for text, hits in (
        (word, 2),
        (f"the {word}", 1),
        (f"{word} was str", 1),
        (f"{word} striped", 0),
    ):
        assert [kind for kind, _ in _found(dba, text)] == ["audit"] * hits, text


def test_merged_accounts_lead_to_the_one_that_stayed(
    module_database: Database, dba: Caller
) -> None:
    one, other = (
        str(account_of(module_database, new_user(module_database))["id"]) for _ in range(2)
    )
    dba.row("merge_accounts", account_id=one, into_account_id=other, reason="one person")
    assert ("account", other) in _found(dba, one)


def test_odd_texts_find_nothing_and_break_nothing(dba: Caller, web: Caller) -> None:
    for text in (None, "", " ", "a", "%%", "__", "' OR 1=1 --", "':*", "\\", "& | !", "🦓🦓", "()"):
        assert _found(dba, text) == [], text
    assert dba.refusal("search", search="x" * 256).slug == "invalid_argument"
    assert dba.refusal("search", search="xx", limit=101).slug == "invalid_argument"
    assert web.refusal("search", search="xx").slug == "actor_required"
    assert _found(dba, str(uuid.uuid4())) == []


def test_indexes_serve_the_search(module_database: Database) -> None:
    plans = {
        "admin_audit_logs_reason": "SELECT FROM billing_data.admin_audit_logs AS l WHERE"
        " to_tsvector('simple'::regconfig, l.reason) @@ to_tsquery('simple', '''ada'':*')",
        "accounts_customer_email": "SELECT FROM billing_data.accounts AS a"
        " WHERE lower(a.customer_email) LIKE 'ada%'",
        "accounts_created_at": "SELECT FROM billing_data.accounts AS a"
        " ORDER BY a.created_at DESC, a.id DESC LIMIT 100",
        "purchases_settled_at": "SELECT sum(p.price_minor) FROM billing_data.purchases AS p"
        " WHERE p.settled_at >= '2026-01-01' AND p.settled_at < '2026-02-01'",
    }
    with session(module_database, "postgres", autocommit=False) as root:
        root.execute("SET LOCAL enable_seqscan = off")
        root.execute("SET LOCAL enable_sort = off")
        for index, query in plans.items():
            plan = root.execute(f"EXPLAIN {query}")
            assert index in str(plan), plan
        root.connection.rollback()
