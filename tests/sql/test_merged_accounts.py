"""What comes for a merged account's id or identity is done on the account that it leads to."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.sql.alerts import listen
from tests.sql.caps import set_cap
from tests.sql.helpers import (
    Caller,
    charge_all,
    charge_once,
    check_all,
    key_id,
    ledger_problems,
    outcomes,
    person,
    session,
)
from tests.sql.holds import hold_all, make_hold
from tests.sql.merges import User, merge, paid, row_of, user
from tests.sql.payments import (
    PRICE,
    USES,
    attach,
    begin,
    configure_provider,
    deliver,
    give_back,
)
from tests.sql.top_ups import agree, claim
from tests.support import Database, unique


@pytest.fixture
def pair(module_database: Database) -> tuple[User, User]:
    """A merged account, which had 5 credits, and the one it leads to, which has 10 now."""
    one, other = user(module_database, paid=5), user(module_database, paid=5)
    merge(module_database, one, other)
    return one, other


def _untouched(database: Database, account: User) -> tuple[Any, ...]:
    row = row_of(database, account)
    assert (row["status"], row["paid_credits"], row["free_uses_remaining"]) == ("merged", 0, 0)
    return tuple(row.values())


# --- checks and charges --------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [{}, {"customer_email": "new@example.com"}])
def test_a_check_answers_for_the_account_that_stays(
    module_database: Database, dba: Caller, pair: tuple[User, User], profile: dict[str, str]
) -> None:
    one, other = pair
    before = _untouched(module_database, one)
    row = dba.row("check_credit", **one.who, **profile)
    assert (row["has_credit"], row["credits_remaining"], row["total_uses"]) == (True, 10, 3)
    for wait in (True, False):
        rows = check_all(dba, [{**one.who, **profile}, person(), other.who], wait=wait)
        assert [row["credits_remaining"] for row in rows] == [10, 0, 10]
        assert [row["account_created"] for row in rows] == [False, True, False]
    assert row_of(module_database, other)["customer_email"] == profile.get("customer_email")
    assert _untouched(module_database, one) == before
    dba.row("set_account_status", **one.who, status="suspended", reason="x")
    assert dba.row("check_credit", **one.who)["reason"] == "Account suspended"
    checked = module_database.value(
        "SELECT count(*) FROM billing_data.credit_checks WHERE account_id = %s", other.id
    )
    assert checked == 7  # the first one made the account


def test_charges_by_both_identities_spend_one_balance(
    module_database: Database, dba: Caller, pair: tuple[User, User]
) -> None:
    one, other = pair
    before = _untouched(module_database, one)
    row = dba.row("create_charge", **one.who, customer_email="new@example.com")
    assert (row["account_id"], row["balance_after"]) == (other.id, 9)
    assert row_of(module_database, other)["customer_email"] == "new@example.com"
    for wait in (True, False):
        rows = charge_all(dba, [one.who, other.who, person(), one.who], wait=wait)
        assert outcomes(rows) == ["created", "created", "account_not_found", "created"]
        assert {row["account_id"] for row in rows} == {other.id, None}
    (row,) = charge_all(dba, [{**one.who, "amount_minor": 4}])
    assert (row["outcome"], row["balance"]) == ("insufficient_credits", 3)
    rows = charge_all(dba, [{**one.who, "amount_minor": 2}, {**other.who, "amount_minor": 2}])
    assert outcomes(rows) == ["created", "insufficient_credits"]
    assert paid(module_database, other) == [1]
    assert _untouched(module_database, one) == before
    assert ledger_problems(module_database) == []


def test_a_batch_under_one_key_charges_the_account_that_stays_once(
    module_database: Database, web: Caller, pair: tuple[User, User]
) -> None:
    one, other = pair
    api_key, key = key_id(module_database), unique()
    for replayed in (False, True):
        rows = charge_once(web, [one.who, other.who, one.who], api_key, key)
        assert outcomes(rows) == ["created"] * 3
        assert {row["account_id"] for row in rows} == {other.id}
        assert {row["replayed"] for row in rows} == {replayed}
    assert paid(module_database, other) == [7]


def test_a_charge_made_before_the_merge_is_recognised_by_its_key_after_it(
    module_database: Database, dba: Caller
) -> None:
    """Also after further merges, with another profile, and beside the same key of the other."""
    one, other, third = (user(module_database, paid=5) for _ in range(3))
    key = unique()
    asked = {"amount_minor": 2, "idempotency_key": key}
    firsts = charge_all(dba, [{**account.who, **asked} for account in (one, other)])
    by_both = [row["charge_id"] for row in firsts]
    for into in (other, third):
        merge(module_database, *((one, other) if into is other else (other, third)))
        for wait in (True, False):
            items = [{**account.who, **asked} for account in (one, other, one)]
            rows = charge_all(dba, items, wait=wait)
            assert outcomes(rows) == ["replayed"] * 3
            assert [row["charge_id"] for row in rows] == [*by_both, by_both[0]]
            newer = {**one.who, **asked, "customer_email": "new@example.com"}
            assert outcomes(charge_all(dba, [newer], wait=wait)) == ["conflict"]
        refusal = dba.refusal("create_charge", **one.who, **asked)
        assert refusal.slug == "charge_already_exists"
        assert refusal.detail["charge_id"] == str(by_both[0])
        # A key that was used by the merged account's identity after the first merge.
        later = {**one.who, "idempotency_key": f"{key}-later"}
        rows = charge_all(dba, [later, later])
        expected = ["created", "replayed"] if into is other else ["replayed", "replayed"]
        assert outcomes(rows) == expected
    assert paid(module_database, third) == [3 + 3 + 5 - 1]
    # A new charge of the third identity may use the key: it never used it.
    assert outcomes(charge_all(dba, [{**third.who, **asked}])) == ["created"]
    assert ledger_problems(module_database) == []


def _held_by(account: User, key: str) -> dict[str, Any]:
    return {**account.who, "amount_minor": 1, "idempotency_key": key}


def test_a_hold_made_before_a_merge_is_recognised_by_its_key_after_it_and_further_ones(
    module_database: Database, dba: Caller
) -> None:
    """Both a hold of the merged account itself and one that its identity made on the next."""
    one, other, third = (user(module_database, paid=5) for _ in range(3))
    keys = [unique() for _ in range(2)]
    holds: list[Any] = []
    for into in (other, third):
        hold = make_hold(dba, one.who, 1, idempotency_key=keys[len(holds)])["hold_id"]
        dba.row("release_hold", hold_id=hold, reason="before a merge")
        holds.append(hold)
        merge(module_database, *((one, other) if into is other else (other, third)))
        rows = hold_all(dba, [_held_by(one, key) for key in keys[: len(holds)]])
        assert [(row["outcome"], row["hold_id"]) for row in rows] == [
            ("replayed", hold) for hold in holds
        ]
        refusal = dba.refusal("create_hold", **{**_held_by(one, keys[0]), "amount_minor": 2})
        assert refusal.slug == "hold_already_exists"
    # A new hold of the third identity may use the keys: it never used them.
    assert outcomes(hold_all(dba, [_held_by(third, key) for key in keys])) == ["created"] * 2
    assert ledger_problems(module_database) == []


# --- accounts, credits, history ------------------------------------------------------------------


def test_creating_and_reading_by_the_merged_identity_gives_the_account_that_stays(
    module_database: Database, dba: Caller
) -> None:
    one, other = user(module_database), user(module_database)
    key = unique()
    first = dba.row("create_account", **one.who, idempotency_key=key)
    merge(module_database, one, other)
    for found in (
        dba.row("create_account", **one.who),
        dba.row("get_account", **one.who),
        dba.row("get_account_by_id", account_id=one.id),
    ):
        assert (found["account_id"], found["external_id"]) == (other.id, other.who["external_id"])
    # The answer of a request that was made before the merge stays what it was.
    again = dba.row("create_account", **one.who, idempotency_key=key)
    assert (again["replayed"], again["account_id"]) == (True, first["account_id"])
    refusal = dba.refusal("create_account", **one.who, idempotency_key=key, wa_id="x")
    assert refusal.slug == "idempotency_key_reused"


def test_credits_for_the_merged_identity_go_to_the_account_that_stays_once(
    module_database: Database, dba: Caller
) -> None:
    one, other = user(module_database), user(module_database)
    gift = {"amount_minor": 4, "transaction_type": "grant", "description": "a gift"}
    key = unique()
    first = dba.row("record_credit", **one.who, **gift, idempotency_key=key)
    merge(module_database, one, other)
    again = dba.row("record_credit", **one.who, **gift, idempotency_key=key)
    assert (again["outcome"], again["credit_id"]) == ("replayed", first["credit_id"])
    new = dba.row("record_credit", **one.who, **gift, idempotency_key=unique())
    assert (new["outcome"], new["account_id"], new["balance_after"]) == ("created", other.id, 8)
    changed = dba.row("record_credit", **one.who, **{**gift, "amount_minor": 5},
                      idempotency_key=key)  # fmt: skip
    assert changed["outcome"] == "conflict"
    rows = dba.rows("list_transactions", **one.who)
    assert rows == dba.rows("list_transactions", **other.who)
    assert [row["amount_minor"] for row in rows[:2]] == [4, 4]
    assert ledger_problems(module_database) == []


def test_who_holds_the_account_is_told_for_the_merged_identity_too(
    module_database: Database, dba: Caller, pair: tuple[User, User]
) -> None:
    one, other = pair
    asked = {
        "oauth_providers": [one.who["oauth_provider"]],
        "external_ids": [one.who["external_id"]],
    }
    assert dba.value("get_account_holders", **asked) is None
    with session(module_database, "t_dba", autocommit=False) as holder:
        holder.row("create_charge", **other.who)
        assert dba.value("get_account_holders", **asked) == "others"
        assert outcomes(charge_all(dba, [one.who], wait=False)) == ["busy"]
        holder.connection.rollback()


# --- purchases -----------------------------------------------------------------------------------


def test_a_payment_of_the_merged_account_is_credited_and_returned_where_it_leads_once(
    module_database: Database, dba: Caller
) -> None:
    configure_provider(module_database)
    one, other = user(module_database), user(module_database)
    pending, offered = begin(dba, one.who, idempotency_key="p"), begin(dba, one.who)
    first, second = unique("pi"), unique("pi")
    attach(dba, pending, first)
    settled = begin(dba, one.who)
    third = unique("pi")
    assert deliver(dba, unique("evt"), third, settled)["outcome"] == "credited"
    merge(module_database, one, other)
    assert paid(module_database, one, other) == [0, USES]
    # One purchase waited for its payment; of the other one only the payment's metadata knows.
    for payment, purchase in ((first, None), (second, offered)):
        for outcome in ("credited", "already_credited"):
            row = deliver(dba, unique("evt"), payment, purchase)
            assert (row["outcome"], row["account_id"]) == (outcome, other.id)
    assert deliver(dba, unique("evt"), third, settled)["outcome"] == "already_credited"
    assert paid(module_database, one, other) == [0, 3 * USES]
    again = begin(dba, one.who, idempotency_key="p")
    assert (again["replayed"], again["purchase_id"]) == (True, pending["purchase_id"])
    assert again["credits_added"] == USES
    # Money goes back, of a purchase that was credited before the merge and of one after it.
    for payment in (third, first):
        return_id = unique("re")
        for outcome in ("taken_back", "unchanged"):
            assert give_back(dba, payment, (return_id, PRICE))["outcome"] == outcome
    assert paid(module_database, one, other) == [0, USES]
    row = give_back(dba, third, (unique("dp"), PRICE // 2), kind="dispute")
    assert row["outcome"] == "taken_back"
    listed = dba.rows("list_purchases", account_id=other.id)
    assert listed == dba.rows("list_purchases", account_id=one.id)
    assert len(listed) == 3
    assert ledger_problems(module_database) == []


def test_the_merged_identity_buys_for_the_account_that_stays(
    module_database: Database, dba: Caller, pair: tuple[User, User]
) -> None:
    configure_provider(module_database)
    one, other = pair
    purchase, payment = begin(dba, one.who), unique("pi")
    assert purchase["account_id"] == other.id
    attach(dba, {**purchase, "account_id": one.id}, payment)
    row = deliver(dba, unique("evt"), payment, {**purchase, "account_id": one.id}, **one.who)
    assert (row["outcome"], row["account_id"]) == ("credited", other.id)
    assert paid(module_database, one, other) == [0, 10 + USES]
    # A payment that nobody else knows, named by a credit of the other identity.
    later, named = begin(dba, one.who), unique("pi")
    attach(dba, later, named)
    gift = dba.row("create_credit", **other.who, amount_minor=USES, transaction_type="purchase",
                   external_transaction_id=named)  # fmt: skip
    assert gift["account_id"] == other.id
    assert deliver(dba, unique("evt"), named)["outcome"] == "already_credited"
    assert ledger_problems(module_database) == []


def test_a_credit_given_by_hand_resolves_a_payment_of_the_merged_account(
    module_database: Database, dba: Caller
) -> None:
    configure_provider(module_database)
    one, other = user(module_database), user(module_database)
    payment = unique("pi")
    attach(dba, begin(dba, one.who), payment)
    merge(module_database, one, other)
    gift = dba.row("create_credit", **other.who, amount_minor=USES)
    dba.rows("resolve_payment", payment_id=payment, how="credited",
             credit_id=gift["credit_id"], reason="by hand")  # fmt: skip
    assert deliver(dba, unique("evt"), payment)["outcome"] == "already_credited"
    assert give_back(dba, payment, (unique("re"), PRICE))["outcome"] == "taken_back"
    assert paid(module_database, one, other) == [0, 0]
    assert ledger_problems(module_database) == []


# --- every function that takes an account's id ---------------------------------------------------


def _adjusted(caller: Caller, gone: User, stays: User) -> None:
    asked = {"amount": 3, "reason": "x", "idempotency_key": "a"}
    for replayed in (False, True):
        row = caller.row("adjust_credits", account_id=gone.id, **asked)
        assert (row["account_id"], row["balance_after"]) == (stays.id, 13)
        assert row["replayed"] is replayed
    several = {"account_ids": [gone.id, stays.id], "amounts": [3, 4], "reason": "x"}
    assert caller.refusal("adjust_credits", **several).slug == "invalid_argument"


def _reset(caller: Caller, gone: User, stays: User) -> None:
    row = caller.row("reset_free_uses", account_id=gone.id, free_uses=8, reason="x")
    assert row["free_uses_remaining"] == 8
    assert caller.row("check_credit", **stays.who)["free_uses_remaining"] == 8


def _attached(caller: Caller, gone: User, stays: User) -> None:
    attach(caller, {**begin(caller, stays.who), "account_id": gone.id}, unique("pi"))


def _checks(caller: Caller, gone: User, stays: User) -> None:
    caller.row("check_credit", **stays.who)
    assert len(caller.rows("list_checks", account_id=gone.id)) >= 2  # its own one too


def _read(caller: Caller, gone: User, stays: User) -> None:
    assert caller.row("get_account_by_id", account_id=gone.id)["account_id"] == stays.id


def _settled(caller: Caller, gone: User, stays: User) -> None:
    purchase = begin(caller, stays.who)
    row = caller.row(
        "settle_purchase", payment_id=unique("pi"), amount_minor=PRICE, account_id=gone.id,
        purchase_id=purchase["purchase_id"],
    )  # fmt: skip
    assert (row["outcome"], row["account_id"]) == ("credited", stays.id)


def _delivered(caller: Caller, gone: User, stays: User) -> None:
    purchase = {**begin(caller, stays.who), "account_id": gone.id}
    assert deliver(caller, unique("evt"), unique("pi"), purchase)["account_id"] == stays.id


def _explained(caller: Caller, gone: User, stays: User) -> None:
    charge_all(caller, [{**gone.who, "amount_minor": 11}])
    told = caller.row("explain_denial", account_id=gone.id)
    assert (told["reason"], told["paid_credits_then"]) == ("insufficient_credits", 10)


def _then(caller: Caller, gone: User, stays: User) -> None:
    row = caller.row("balance_at", account_id=gone.id, at=datetime.now(UTC))
    assert (row["account_id"], row["paid_credits"]) == (stays.id, 10)


def _stated(caller: Caller, gone: User, stays: User) -> None:
    rows = caller.rows("statement", account_id=gone.id)
    assert rows == caller.rows("statement", account_id=stays.id)
    assert rows


def _used(caller: Caller, gone: User, stays: User) -> None:
    rows = caller.rows("list_usage", account_id=gone.id)
    assert rows == caller.rows("list_usage", account_id=stays.id)
    assert rows


def _withdrawn(caller: Caller, gone: User, stays: User) -> None:
    row = caller.row("withdraw_consent", account_id=gone.id, reason="x")
    assert (row["account_id"], row["changed"]) == (stays.id, True)


def _exported(caller: Caller, gone: User, stays: User) -> None:
    document = caller.value("export_personal_data", account_id=gone.id)
    assert all(account.who["external_id"] in str(document) for account in (gone, stays))


def _erased(caller: Caller, gone: User, stays: User) -> None:
    caller.rows("erase_personal_data", account_id=gone.id, reason="x", force=True)
    left = caller.execute(
        "SELECT FROM billing_data.accounts AS a WHERE a.external_id = ANY (%s)",
        [gone.who["external_id"], stays.who["external_id"]],
    )
    assert left == []


def _held(caller: Caller, gone: User, stays: User) -> None:
    hold = caller.row("create_hold", **gone.who, amount_minor=1)
    assert hold["account_id"] == stays.id
    listed = caller.rows("list_holds", account_id=gone.id)
    assert [row["hold_id"] for row in listed] == [hold["hold_id"]]


def _lots(caller: Caller, gone: User, stays: User) -> None:
    given = caller.row("create_credit", **gone.who, amount_minor=1, priority=1)["credit_id"]
    assert given in [row["lot_id"] for row in caller.rows("list_lots", account_id=gone.id)]
    charge = caller.row("create_charge", **stays.who, amount_minor=1)
    assert charge["paid_with"] == "free" or charge["charge_id"] in [
        row["charge_id"] for row in caller.rows("list_allocations", account_id=gone.id)
    ]


def _scheduled(caller: Caller, gone: User, stays: User) -> None:
    made = caller.row("set_grant_schedule", account_id=gone.id, amount=5, reason="a plan")
    assert made["account_id"] == stays.id
    (row,) = caller.rows("list_grant_schedules", account_id=gone.id)
    assert row["schedule_id"] == made["schedule_id"]


def _verified(caller: Caller, gone: User, stays: User) -> None:
    # A merged account has books of its own.
    assert caller.rows("verify_ledger", account_id=gone.id) == []


def _purchases(caller: Caller, gone: User, stays: User) -> None:
    begin(caller, stays.who)
    assert len(caller.rows("list_purchases", account_id=gone.id)) == 1


def _totalled(caller: Caller, gone: User, stays: User) -> None:
    _bought(caller, stays)
    (total,) = caller.rows("total_purchases", account_id=gone.id)
    assert total["paid"] == 1


def _transferred(caller: Caller, gone: User, stays: User) -> None:
    third = caller.row("create_account", **person())["account_id"]
    asked = {"amount": 2, "reason": "x"}
    row = caller.row("transfer_credits", from_account_id=gone.id, to_account_id=third, **asked)
    assert row["from_account_id"] == stays.id
    row = caller.row("transfer_credits", from_account_id=third, to_account_id=gone.id, **asked)
    assert row["to_balance_after"] == 10


def _merged(caller: Caller, gone: User, stays: User) -> None:
    third = caller.row("create_account", **person())["account_id"]
    row = caller.row("merge_accounts", account_id=third, into_account_id=gone.id, reason="x")
    assert row["account_id"] == stays.id


def _unmerged(caller: Caller, gone: User, stays: User) -> None:
    assert caller.row("undo_merge", account_id=gone.id, reason="x")["account_id"] == stays.id


def _listed(caller: Caller, gone: User, stays: User) -> None:
    assert caller.rows("list_merges", account_id=gone.id) == caller.rows(
        "list_merges", account_id=stays.id
    )


def _alike(
    name: str, prepare: Callable[[Caller, User], object] | None = None
) -> Callable[[Caller, User, User], None]:
    """The function answers for the merged account as for the one that it leads to, which has
    something to tell after `prepare`."""

    def compare(caller: Caller, gone: User, stays: User) -> None:
        caller.row("add_note", account_id=gone.id, note="x")
        if prepare:
            prepare(caller, stays)
        rows = caller.rows(name, account_id=gone.id)
        assert rows == caller.rows(name, account_id=stays.id)
        assert rows

    return compare


def _suspend(caller: Caller, account: User) -> None:
    caller.row("set_account_status", **account.who, status="suspended", reason="x")


def _agree(caller: Caller, account: User) -> None:
    agree(caller, account.who, _bought(caller, account), threshold=1)


def _cap(caller: Caller, account: User) -> None:
    set_cap(caller, "account", 100, account.id)


def _tell(caller: Caller, account: User) -> None:
    listen(caller, "account.suspended")
    _suspend(caller, account)


def _noted(caller: Caller, gone: User, stays: User) -> None:
    caller.row("add_note", account_id=gone.id, note="of the merged one")
    (note,) = caller.rows("list_notes", account_id=stays.id)
    assert note["note"] == "of the merged one"


def _topped_up(caller: Caller, gone: User, stays: User) -> None:
    _agree(caller, stays)
    assert caller.row("get_top_up", account_id=gone.id)["account_id"] == stays.id
    row = caller.row("end_top_up", account_id=gone.id, reason="x")
    assert (row["account_id"], row["changed"]) == (stays.id, True)


def _bought(caller: Caller, account: User) -> str:
    """A payment of the account that was credited."""
    payment = unique("pi")
    purchase = begin(caller, account.who)
    attach(caller, purchase, payment)
    assert deliver(caller, unique("evt"), payment, purchase)["outcome"] == "credited"
    return payment


# Each function that takes an account's id, and what shows that it follows a merged one.
_FOLLOW: dict[str, Callable[[Caller, User, User], None]] = {
    "add_note": _noted,
    "adjust_credits": _adjusted,
    "attach_payment": _attached,
    "balance_at": _then,
    "count_deliveries": _alike("count_deliveries", _tell),
    "end_top_up": _topped_up,
    "erase_personal_data": _erased,
    "explain_account": _alike("explain_account", _suspend),
    "explain_denial": _explained,
    "export_personal_data": _exported,
    "get_account_by_id": _read,
    "get_top_up": _topped_up,
    "list_account_days": _alike("list_account_days"),
    "list_caps": _alike("list_caps", _cap),
    "count_caps": _alike("count_caps", _cap),
    "list_deliveries": _alike("list_deliveries", _tell),
    "list_notes": _noted,
    "list_origins": _alike("list_origins"),
    "list_timeline": _alike("list_timeline"),
    "list_top_ups": _alike("list_top_ups", _agree),
    "total_purchases": _totalled,
    "list_checks": _checks,
    "list_holds": _held,
    "list_allocations": _lots,
    "list_grant_schedules": _scheduled,
    "list_lots": _lots,
    "list_merges": _listed,
    "list_purchases": _purchases,
    "list_usage": _used,
    "merge_accounts": _merged,
    "process_payment_event": _delivered,
    "reset_free_uses": _reset,
    "settle_purchase": _settled,
    "statement": _stated,
    "set_grant_schedule": _scheduled,
    "transfer_credits": _transferred,
    "undo_merge": _unmerged,
    "verify_ledger": _verified,
    "withdraw_consent": _withdrawn,
}


def test_every_function_that_takes_an_accounts_id_is_tried_with_a_merged_one(
    module_database: Database,
) -> None:
    rows = module_database.execute(
        "SELECT DISTINCT p.proname FROM pg_proc AS p"
        " CROSS JOIN LATERAL unnest(p.proargnames[:p.pronargs]) AS a (name)"
        " WHERE p.pronamespace = 'billing'::regnamespace AND a.name ~ '^p_.*account_ids?$'"
    )
    # A server notes what became of an attempt under the two ids that it was told; how attempts are
    # listed is a test of its own.
    assert {row[0] for row in rows} - {"note_top_up", "list_top_up_attempts"} == set(_FOLLOW)


@pytest.mark.parametrize("name", _FOLLOW)
def test_a_function_follows_the_id_of_a_merged_account(
    module_database: Database, dba: Caller, pair: tuple[User, User], name: str
) -> None:
    configure_provider(module_database)
    _FOLLOW[name](dba, *pair)
    assert ledger_problems(module_database) == []


def test_attempts_to_top_up_are_listed_for_the_id_of_a_merged_account(
    module_database: Database, dba: Caller, web: Caller, pair: tuple[User, User]
) -> None:
    configure_provider(module_database)
    gone, stays = pair
    agree(dba, stays.who, _bought(dba, stays), threshold=USES - 1)
    dba.row("create_charge", **stays.who, amount_minor=USES)
    (attempt,) = claim(web)
    (listed,) = dba.rows("list_top_up_attempts", account_id=gone.id)
    assert listed["purchase_id"] == attempt["purchase_id"]
    assert [listed] == dba.rows("list_top_up_attempts", account_id=stays.id)


def test_the_own_ledger_of_a_merged_account_is_read_where_it_is_asked_for(
    module_database: Database, dba: Caller
) -> None:
    gone, stays = user(module_database, paid=10), user(module_database, paid=4)
    charge = dba.row("create_charge", **gone.who, amount_minor=3)
    merged = merge(module_database, gone, stays)
    own = dba.rows("statement", account_id=gone.id, follow=False)
    assert charge["charge_id"] in [row["transaction_id"] for row in own]
    assert (own[-2]["transfer_id"], own[-1]["balance_after"]) == (merged["merge_id"], 0)
    for at, balances in ((charge["created_at"], (7, 4)), (datetime.now(UTC), (0, 11))):
        assert balances == tuple(
            dba.row("balance_at", account_id=gone.id, at=at, follow=follow)["paid_credits"]
            for follow in (False, True)
        )
    # For an account that was not merged there is no difference.
    assert dba.rows("statement", account_id=stays.id, follow=False) == dba.rows(
        "statement", account_id=stays.id
    )
    for function in ("statement", "balance_at"):
        at = {"at": datetime.now(UTC)} if function == "balance_at" else {}
        refusal = dba.refusal(function, account_id=gone.id, follow=None, **at)
        assert refusal.slug == "invalid_argument"


def test_the_id_of_an_account_that_adoption_merged_is_followed_too(
    module_database: Database, dba: Caller
) -> None:
    stays, gone = user(module_database, paid=1), uuid.uuid4()
    module_database.execute(
        "INSERT INTO billing_data.merge_ranks VALUES (%s, 1), (%s, 2);", gone, stays.id
    )
    module_database.execute(
        "INSERT INTO billing_data.merged_accounts (id, account_id) VALUES (%s, %s)",
        gone, stays.id,
    )  # fmt: skip
    row = dba.row("adjust_credits", account_id=gone, amount=3, reason="x")
    assert row["balance_after"] == 4
    assert [row["account_id"] for row in dba.rows("list_accounts", search=str(gone))] == [stays.id]
    refusal = dba.refusal("undo_merge", account_id=gone, reason="x")
    assert "when the old service's database was taken over" in refusal.message
    # A merge of the account that stays gets a rank above.
    third = user(module_database)
    merge(module_database, stays, third)
    assert dba.row("get_account_by_id", account_id=gone)["account_id"] == third.id
    assert ledger_problems(module_database) == []
