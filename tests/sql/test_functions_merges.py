"""Two accounts that become one, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.sql.helpers import (
    NOBODY,
    Caller,
    ledger_problems,
    session,
    staff,
    tamper,
)
from tests.sql.merges import User, everything, merge, paid, row_of, rows_of_transfer, user
from tests.sql.payments import begin, configure_provider
from tests.support import Database, unique


def _free(database: Database, dba: Caller, account: User, uses: int) -> None:
    dba.row("reset_free_uses", account_id=account.id, reason="a test", free_uses=uses)


def _undo(caller: Caller, account: User, **more: Any) -> dict[str, Any]:
    return caller.row("undo_merge", account_id=account.id, reason="two people", **more)


def test_a_merge_moves_the_credits_closes_the_ledger_and_leaves_an_audit_row_at_both(
    module_database: Database, web: Caller
) -> None:
    ada = staff(module_database, "admin")
    one, other = user(module_database, paid=9, free=True), user(module_database, paid=1)
    made = web.row(
        "merge_accounts",
        account_id=one.id,
        into_account_id=other.id,
        reason="one person",
        session_hash=ada.session_hash,
    )
    assert (made["merged_account_id"], made["account_id"]) == (one.id, other.id)
    assert (made["credits_moved"], made["balance_after"]) == (9, 10)
    assert (made["free_uses_given"], made["free_uses_after"]) == (3, 3)
    assert (made["takes_consent"], made["replayed"]) == (False, False)
    assert rows_of_transfer(module_database, made["merge_id"]) == [
        (one.id, -9, -3, "adjustment", "one person"),
        (other.id, 9, 3, "adjustment", "one person"),
    ]
    assert paid(module_database, one, other) == [0, 10]
    merged = row_of(module_database, one)
    assert (merged["status"], merged["free_uses_remaining"]) == ("merged", 0)
    audit = module_database.execute(
        "SELECT l.resource_id, l.reason, l.admin_user_id FROM billing_data.admin_audit_logs AS l"
        " WHERE l.action = 'account.merge' AND l.changes ->> 'merge_id' = %s ORDER BY 1",
        str(made["merge_id"]),
    )
    assert audit == [
        (resource, "one person", ada.id) for resource in sorted((str(one.id), str(other.id)))
    ]
    assert ledger_problems(module_database) == []


@pytest.mark.parametrize(
    ("merged", "stays", "together"),
    [(3, 3, 3), (1, 1, 2), (0, 2, 2), (2, 0, 2), (10, 1, 10), (1, 10, 10), (0, 0, 0), (7, 9, 9)],
)
def test_free_uses_are_together_what_one_account_may_have_or_had(
    module_database: Database, dba: Caller, merged: int, stays: int, together: int
) -> None:
    one, other = user(module_database), user(module_database)
    _free(module_database, dba, one, merged)
    _free(module_database, dba, other, stays)
    assert merge(module_database, one, other)["free_uses_after"] == together
    assert row_of(module_database, other)["free_uses_remaining"] == together
    assert ledger_problems(module_database) == []
    _undo(dba, one)
    after = [row_of(module_database, account)["free_uses_remaining"] for account in (one, other)]
    assert after == [merged, stays]
    assert ledger_problems(module_database) == []


def _consent(database: Database, account: User, day: int | None, source: str | None) -> None:
    database.execute(
        "UPDATE billing_data.accounts SET marketing_opt_in = %s, marketing_opt_in_at = %s,"
        " marketing_opt_in_source = %s, customer_email = %s WHERE id = %s",
        day is not None,
        datetime(2026, 1, day, tzinfo=UTC) if day else None,
        source,
        f"{account.who['external_id']}@example.com",
        account.id,
    )


@pytest.mark.parametrize(
    ("merged", "stays", "counts"),
    [
        ((2, "web"), (1, "api"), (2, "web")),
        ((1, "web"), (2, "api"), (2, "api")),
        ((1, "web"), (None, None), (1, "web")),
        ((None, None), (1, "api"), (1, "api")),
        ((None, None), (None, None), (None, None)),
    ],
)
def test_the_profile_that_stays_is_kept_and_the_newest_consent_counts(
    module_database: Database, dba: Caller, merged: Any, stays: Any, counts: Any
) -> None:
    one, other = user(module_database), user(module_database)
    _consent(module_database, one, *merged)
    _consent(module_database, other, *stays)
    before = row_of(module_database, other)
    assert merge(module_database, one, other)["takes_consent"] is (counts != stays)
    after = row_of(module_database, other)
    assert after["customer_email"] == before["customer_email"]
    at = after["marketing_opt_in_at"]
    assert (at and at.day, after["marketing_opt_in_source"]) == counts
    _undo(dba, one)
    restored = row_of(module_database, other)
    for name in ("marketing_opt_in", "marketing_opt_in_at", "marketing_opt_in_source"):
        assert restored[name] == before[name]


def test_a_withdrawn_consent_is_not_given_again_by_a_merge(
    module_database: Database, dba: Caller
) -> None:
    for merged_withdraws in (True, False):
        one, other = user(module_database), user(module_database)
        _consent(module_database, one, 1, "web")
        _consent(module_database, other, 2, "api")
        withdrawing = one if merged_withdraws else other
        dba.row("withdraw_consent", account_id=withdrawing.id, reason="asked by e-mail")
        withdrawn_at = row_of(module_database, withdrawing)["marketing_withdrawn_at"]
        assert merge(module_database, one, other)["takes_consent"] is merged_withdraws
        after = row_of(module_database, other)
        assert (after["marketing_opt_in"], after["marketing_withdrawn_at"]) == (False, withdrawn_at)
        _undo(dba, one)
        assert row_of(module_database, other)["marketing_opt_in"] is merged_withdraws


def test_a_dry_run_of_a_merge_and_of_its_undoing_writes_nothing(
    module_database: Database, dba: Caller
) -> None:
    one, other = user(module_database, paid=5, free=True), user(module_database, paid=2)
    before = everything(module_database)
    asked = {"account_id": one.id, "into_account_id": other.id, "reason": "one person"}
    shown = dba.row("merge_accounts", **asked, dry_run=True)
    assert everything(module_database) == before
    made = dba.row("merge_accounts", **asked)
    new = {"merge_id", "created_at"}
    assert {shown[name] for name in new} == {None}
    assert all(made[name] == shown[name] for name in shown.keys() - new)
    before = everything(module_database)
    shown = _undo(dba, one, dry_run=True)
    assert everything(module_database) == before
    undone = _undo(dba, one)
    new = {"undo_id", "undone_at"}
    assert {shown[name] for name in new} == {None}
    assert all(undone[name] == shown[name] for name in shown.keys() - new)
    assert paid(module_database, one, other) == [5, 2]


def test_a_merge_and_its_undoing_happen_once_under_their_keys(
    module_database: Database, dba: Caller
) -> None:
    one, other, third = (user(module_database, paid=5) for _ in range(3))
    asked = {
        "account_id": one.id,
        "into_account_id": other.id,
        "reason": "one person",
        "idempotency_key": unique(),
    }
    first = dba.row("merge_accounts", **asked)
    again = dba.row("merge_accounts", **asked)
    assert (first.pop("replayed"), again.pop("replayed")) == (False, True)
    assert again == first
    for change in ({"into_account_id": third.id}, {"reason": "another"}):
        refusal = dba.refusal("merge_accounts", **{**asked, **change})
        assert refusal.slug == "idempotency_key_reused"
    first = _undo(dba, one, idempotency_key="u")
    again = _undo(dba, one, idempotency_key="u")
    assert (first.pop("replayed"), again.pop("replayed")) == (False, True)
    assert again == first
    other_request = {"account_id": one.id, "reason": "another reason", "idempotency_key": "u"}
    assert dba.refusal("undo_merge", **other_request).slug == "idempotency_key_reused"
    assert dba.row("merge_accounts", **asked)["replayed"] is True  # and nothing is merged again
    assert paid(module_database, one, other, third) == [5, 5, 5]
    refusal = dba.refusal("undo_merge", account_id=one.id, reason="x")
    assert (refusal.slug, refusal.detail) == ("account_not_merged", {"account_id": str(one.id)})


@pytest.mark.parametrize("status", ["suspended", "closed"])
@pytest.mark.parametrize("which", ["merged", "stays"])
def test_accounts_that_are_not_active_are_not_merged(
    module_database: Database, dba: Caller, status: str, which: str
) -> None:
    one, other = user(module_database, paid=5), user(module_database)
    barred = one if which == "merged" else other
    dba.row("set_account_status", **barred.who, status=status, reason="a test")
    for dry_run in (True, False):
        refusal = dba.refusal(
            "merge_accounts", account_id=one.id, into_account_id=other.id, reason="x",
            dry_run=dry_run,
        )  # fmt: skip
        assert (refusal.sqlstate, refusal.message) == ("PB409", f"Account {barred.id} is {status}")
    assert paid(module_database, one, other) == [5, 0]


def test_what_cannot_be_merged_is_refused_with_a_sentence(
    module_database: Database, dba: Caller
) -> None:
    one, other, third = (user(module_database, paid=1) for _ in range(3))

    def refusal(account: Any, into: Any, reason: Any = "x") -> Any:
        return dba.refusal(
            "merge_accounts", account_id=account, into_account_id=into, reason=reason
        )

    assert refusal(one.id, one.id).slug == "accounts_are_one"
    assert refusal(one.id, NOBODY).slug == "account_not_found"
    assert refusal(NOBODY, one.id).slug == "account_not_found"
    assert refusal(None, one.id).slug == "account_not_found"
    assert refusal(one.id, None).slug == "account_not_found"
    assert refusal(one.id, other.id, " ").slug == "invalid_argument"
    who = {"oauth_provider": "oauth:google", "external_id": unique()}
    euros = dba.row("create_account", **who, currency="EUR")["account_id"]
    assert refusal(one.id, euros).message == ("The accounts have different currencies: USD and EUR")
    merge(module_database, one, other)
    assert refusal(one.id, other.id).message == f"Both ids lead to one account: {other.id}"
    assert refusal(other.id, one.id).slug == "accounts_are_one"
    assert refusal(one.id, third.id).message == (
        f"Account {one.id} was merged into account {other.id} before"
    )
    # What leads on is followed on the other side.
    assert merge(module_database, third, one)["account_id"] == other.id


def test_a_chain_of_merges_leads_to_its_end_and_is_undone_from_there(
    module_database: Database, dba: Caller
) -> None:
    one, other, third = (user(module_database) for _ in range(3))
    merge(module_database, one, other)
    merge(module_database, other, third)
    for account in (one, other, third):
        assert dba.row("get_account", **account.who)["account_id"] == third.id
    problem = dba.refusal("undo_merge", account_id=one.id, reason="x")
    assert problem.slug == "merge_stands"
    assert f"account {other.id} was merged into another one since" in problem.message
    _undo(dba, other)
    assert dba.row("get_account", **one.who)["account_id"] == other.id
    assert dba.row("get_account", **third.who)["account_id"] == third.id
    # The other way round is no circle any more, and a longer chain has higher ranks.
    merge(module_database, third, other)
    assert dba.row("get_account", **third.who)["account_id"] == other.id
    assert ledger_problems(module_database) == []


def test_a_circle_of_merges_is_impossible_even_for_a_superuser(database: Database) -> None:
    one, other, third = (user(database) for _ in range(3))
    merge(database, one, other)
    merge(database, other, third)
    with session(database, "postgres") as root:
        for rank, account_rank in ((3, 1), (3, 4), (1, 2)):
            refusal = root.refused(
                "INSERT INTO billing_data.merged_accounts (id, rank, account_id, account_rank)"
                " VALUES (%s, %s, %s, %s)", third.id, rank, one.id, account_rank,
            )  # fmt: skip
            assert refusal.slug in ("merged_accounts_upwards", "merged_accounts_rank",
                                    "merged_accounts_account_rank")  # fmt: skip
        refusal = root.refused(
            "UPDATE billing_data.merge_ranks SET rank = 9 WHERE account_id = %s", one.id
        )
        assert refusal.slug == "merged_accounts_upwards"


_CHANGES: dict[str, Callable[[Caller, User], Any]] = {
    "a charge": lambda caller, other: caller.row("create_charge", **other.who),
    "a gift": lambda caller, other: caller.row("create_credit", **other.who, amount_minor=1),
    "a profile": lambda caller, other: caller.row(
        "check_credit", **other.who, customer_email="new@example.com"
    ),
    "a state": lambda caller, other: caller.row(
        "set_account_status", **other.who, status="suspended", reason="x"
    ),
    "free uses": lambda caller, other: caller.row(
        "reset_free_uses", account_id=other.id, free_uses=77, reason="x"
    ),
    "a purchase": lambda caller, other: begin(caller, other.who),
}


@pytest.mark.parametrize("change", _CHANGES)
def test_a_merge_stands_once_the_account_changed_and_the_refusal_says_how(
    module_database: Database, dba: Caller, change: str
) -> None:
    configure_provider(module_database)
    one, other = user(module_database, paid=5), user(module_database, paid=5)
    merge(module_database, one, other)
    assert [row["problem"] for row in dba.rows("list_merges", account_id=one.id)] == [None]
    _CHANGES[change](dba, one)  # by the merged account's identity or id
    (listed,) = dba.rows("list_merges", account_id=other.id)
    words = {
        "a charge": "1 newer ledger rows",
        "a gift": "1 newer ledger rows",
        "a purchase": "a purchase was begun",
    }.get(change, "changed since")
    before = everything(module_database)
    for dry_run in (True, False):
        refusal = dba.refusal("undo_merge", account_id=one.id, reason="x", dry_run=dry_run)
        assert (refusal.sqlstate, refusal.slug) == ("PB409", "merge_stands")
        assert refusal.message == f"The merge cannot be undone: {listed['problem']}"
        assert words in refusal.message
    assert everything(module_database) == before
    assert ledger_problems(module_database) == []


def test_the_list_of_merges_shows_who_merged_what_and_what_was_undone(
    module_database: Database, dba: Caller
) -> None:
    one, other, third = (user(module_database, paid=2) for _ in range(3))
    merge(module_database, one, other)
    _undo(dba, one)
    merge(module_database, one, other)
    merge(module_database, other, third)
    rows = dba.rows("list_merges", account_id=third.id)
    assert dba.rows("list_merges", account_id=one.id) == rows
    assert [(row["merged_account_id"], row["credits_moved"]) for row in rows] == [
        (other.id, 4),
        (one.id, 2),
        (one.id, 2),
    ]
    assert [row["undo_reason"] for row in rows] == [None, None, "two people"]
    assert {row["who"] for row in rows} == {"t_dba"}
    assert [row["problem"] is None for row in rows] == [True, False, False]
    assert dba.rows("list_merges", account_id=NOBODY) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            "UPDATE billing_data.account_merges SET credits = 4 WHERE id = %(merge)s",
            "merge {merge} did not move what it says",
        ),
        (
            "DELETE FROM billing_data.merged_accounts WHERE id = %(one)s",
            "the account is merged and leads nowhere",
        ),
        (
            "UPDATE billing_data.accounts SET status = 'active' WHERE id = %(one)s",
            "the account leads to another one and is not merged",
        ),
        (
            "DELETE FROM billing_data.account_merges WHERE id = %(merge)s",
            "transfer {merge} moves free uses and is of no merge",
        ),
    ],
)
def test_verify_ledger_finds_a_merge_that_was_tampered_with(
    database: Database, change: str, problem: str
) -> None:
    one, other = user(database, paid=5, free=True), user(database)
    made = merge(database, one, other)
    assert ledger_problems(database) == []
    tamper(database, change, one=one.id, merge=made["merge_id"])
    found = {row[1] for row in ledger_problems(database)}
    assert problem.format(merge=made["merge_id"]) in found
