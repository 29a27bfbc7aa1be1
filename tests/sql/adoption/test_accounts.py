"""Accounts of a database that was taken over: identities, profiles, free uses, balances."""

from __future__ import annotations

import uuid

import pytest

from server.config import SettingsSeed
from tests.sql.adoption.helpers import (
    ACCOUNTS,
    LAST,
    Adopted,
    add_account,
    bare_database,
    old_database,
    take_over,
)
from tests.sql.helpers import ledger_problems, session
from tests.support import (
    TestCluster,
)


def test_accounts_of_one_identity_become_the_earliest_one(adopted: Adopted) -> None:
    old = [row for row in adopted.old_rows.values() if row.get("external_id") == "user-43"]
    group = [row for row in old if "paid_credits" in row]
    assert len(group) == 3
    now = adopted.account(42)
    earliest = min(group, key=lambda row: row["created_at"])
    assert (now["id"], now["created_at"]) == (earliest["id"], earliest["created_at"])
    assert now["paid_credits"] == sum(row["paid_credits"] for row in group)
    assert now["total_uses"] == sum(row["total_uses"] for row in group)
    newest = max(group, key=lambda row: row["updated_at"])
    addressed = [row for row in group if row["customer_email"]]
    assert now["customer_email"] == max(addressed, key=lambda r: r["updated_at"])["customer_email"]
    assert now["plan_name"] == newest["plan_name"]
    assert now["status"] == "suspended"  # one of the two was suspended
    assert any("several states" in finding.what for finding in adopted.report.findings)
    assert adopted.rule("accounts merged into another one of their identity") == (None, 3)
    assert adopted.rule("accounts") == (ACCOUNTS, ACCOUNTS - 3)


def test_the_id_of_a_merged_account_still_leads_to_the_one_that_stayed(adopted: Adopted) -> None:
    stayed = adopted.account(42)["id"]
    gone = [
        row["id"]
        for row in adopted.old_rows.values()
        if row.get("external_id") == "user-43" and "paid_credits" in row and row["id"] != stayed
    ]
    with session(adopted.database, "t_dba") as dba:
        for old_id in gone:
            found = dba.row("get_account_by_id", account_id=old_id)
            assert str(found["account_id"]) == stayed
        assert dba.refusal("get_account_by_id", account_id=str(uuid.uuid4())).sqlstate == "PB404"


@pytest.mark.parametrize(("most", "left"), [(3, 3), (4, 4), (10, 6), (0, 2)])
def test_free_uses_of_merged_accounts_add_up_to_what_one_account_may_have(
    cluster: TestCluster, most: int, left: int
) -> None:
    with bare_database(cluster) as (database, connection):
        for number in range(3):
            add_account(connection, "ada", wa_id=str(number), free_uses_remaining=2)
        add_account(connection, "ben", free_uses_remaining=7)
        connection.commit()
        take_over(database, SettingsSeed(free_uses=most))
        rows = database.execute(
            "SELECT external_id, free_uses_remaining FROM billing_data.accounts ORDER BY 1"
        )
        assert rows == [("ada", left), ("ben", 7)]
        assert ledger_problems(database) == []


def test_consents_hold_and_nulls_stay(adopted: Adopted) -> None:
    names = ("marketing_opt_in", "marketing_opt_in_at", "marketing_opt_in_source")
    for class_ in (60, 61, 62):
        was, now = adopted.accounts(class_), adopted.account(class_)
        assert [now[name] for name in names] == [was[name] for name in names]
    assert adopted.account(40)["marketing_opt_in"]  # one of the two had consented


def test_a_currency_in_small_letters_is_charged_like_any_other(adopted: Adopted) -> None:
    assert adopted.account(53)["currency"] == "USD"
    assert adopted.account(52)["currency"] == "EUR"
    assert adopted.account(54)["currency"] == "XXX"
    assert adopted.rule("accounts with a currency in small letters") == (1, 0)
    with session(adopted.database, "t_dba") as dba:
        who = {"oauth_provider": adopted.account(53)["oauth_provider"], "external_id": "user-54"}
        assert dba.row("create_charge", **who)["paid_with"] in ("free", "paid")


def test_balance_minor_is_never_added_to_the_credits(cluster: TestCluster) -> None:
    with old_database(cluster, LAST) as (database, _):
        paid = dict(database.execute("SELECT external_id, paid_credits FROM public.accounts"))
        stored = dict(database.execute("SELECT external_id, balance_minor FROM public.accounts"))
        assert any(paid[who] and stored[who] == paid[who] for who in paid)
        take_over(database)
        rows = database.execute(
            "SELECT external_id, paid_credits, balance_minor FROM billing_data.accounts"
        )
        for who, credits, balance in rows:
            assert credits == paid[who]
            assert balance == (0 if stored[who] == paid[who] else stored[who])
