"""billing.explain_denial, and the rows that refused charges leave for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sql.checks import set_status
from tests.sql.helpers import (
    NOBODY,
    Caller,
    account_of,
    at_once,
    charge_all,
    check_all,
    key_id,
    new_user,
    outcomes,
    session,
    staff,
)
from tests.support import Database


def _refused(database: Database, who: dict[str, str]) -> list[dict[str, Any]]:
    with session(database, "t_dba") as dba:
        return dba.execute(
            "SELECT * FROM billing_data.refused_charges WHERE account_id = %s"
            " ORDER BY minute, reason",
            account_of(database, who)["id"],
        )


def _explain(dba: Caller, database: Database, who: dict[str, str], **more: Any) -> dict[str, Any]:
    return dba.row("explain_denial", account_id=account_of(database, who)["id"], **more)


def test_a_refused_charge_is_told_in_words_with_its_key_and_the_balance_then(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who = new_user(module_database, paid=2, free=False)
    key = module_database.create_key(name="Scout's key")
    asked = {**who, "amount_minor": 5, "metadata_agent_id": "scout", "api_key_id": key.id}
    assert outcomes(charge_all(web, [asked])) == ["insufficient_credits"]
    told = _explain(dba, module_database, who)
    at = told["denied_at"].astimezone(UTC)
    assert told["sentence"] == (
        f'At {at:%Y-%m-%d %H:%M:%S} UTC, the API key "Scout\'s key" ({key.prefix}...) wanted to'
        " charge 5 credits in USD. It was refused because the account had no free uses and 2 paid"
        " credits. One free use or 3 paid credits more would have been enough."
    )
    assert told["what_helps"] == (
        "Grant at least 3 credits or set free uses anew; or the user buys a pack."
    )
    expected = {
        "kind": "charge",
        "reason": "insufficient_credits",
        "refusals": 1,
        "would_pass_now": False,
        "api_key_name": "Scout's key",
        "api_key_prefix": key.prefix,
        "database_role": None,
        "agent_id": "scout",
        "channel_id": None,
        "request_id": None,
        "amount_minor": 5,
        "currency": "USD",
        "paid_credits_then": 2,
        "free_uses_then": 0,
        "paid_credits_now": 2,
        "free_uses_now": 0,
        "status_now": "active",
    }
    assert expected.items() <= told.items()
    dba.row("create_credit", **who, amount_minor=3)
    after = _explain(dba, module_database, who)
    assert after["paid_credits_then"] == 2
    assert (after["would_pass_now"], after["paid_credits_now"]) == (True, 5)
    assert after["what_helps"].startswith("Nothing needs to be done")


def test_a_client_that_tries_again_for_long_leaves_one_row_a_minute(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who = new_user(module_database, paid=1, free=False)
    key = key_id(module_database)
    for number in range(40):
        asked = [
            {**who, "amount_minor": number + 2, "metadata_agent_id": f"agent-{number}-{place}",
             "idempotency_key": f"{number}-{place}", "api_key_id": key}
            for place in range(5)
        ]  # fmt: skip
        assert set(outcomes(charge_all(web, asked))) == {"insufficient_credits"}
    rows = _refused(module_database, who)
    minutes = {row["minute"] for row in rows}
    assert len(rows) == len(minutes) <= 3
    assert sum(row["refusals"] for row in rows) == 200
    assert (rows[-1]["amount_minor"], rows[-1]["agent_id"]) == (41, "agent-39-4")
    assert rows[0]["first_at"] < rows[-1]["last_at"]
    told = _explain(dba, module_database, who)
    assert f"the last of {rows[-1]['refusals']} refusals in that minute" in told["sentence"]


@pytest.mark.parametrize(
    ("status", "reason"), [("suspended", "account_suspended"), ("closed", "account_closed")]
)
def test_charges_and_checks_of_an_account_that_is_not_active_are_told(
    module_database: Database, dba: Caller, web: Caller, status: str, reason: str
) -> None:
    who = new_user(module_database, paid=2)
    set_status(dba, who, status)
    key = key_id(module_database)
    assert outcomes(charge_all(web, [{**who, "api_key_id": key}])) == [reason]
    told = _explain(dba, module_database, who)
    assert (told["kind"], told["reason"], told["free_uses_then"]) == ("charge", reason, 3)
    assert f"the account was {status}; the account had 3 free uses and 2" in told["sentence"]
    assert f"The account is {status}. Make it active" in told["what_helps"]
    check_all(web, [{**who, "api_key_id": key}])
    told = _explain(dba, module_database, who)
    assert (told["kind"], told["reason"], told["amount_minor"]) == ("check", reason, None)


def test_a_denied_check_is_told(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, free=False)
    assert not dba.row("check_credit", **who, context_agent_id="scout")["has_credit"]
    told = _explain(dba, module_database, who)
    assert (told["kind"], told["reason"], told["agent_id"]) == (
        "check", "insufficient_credits", "scout",
    )  # fmt: skip
    assert "the database role t_dba asked whether the user may go on" in told["sentence"]
    assert "One free use or 1 paid credit more would have been enough" in told["sentence"]
    assert told["what_helps"].startswith("Grant at least 1 credit or")


def test_a_charge_in_another_currency_is_told(module_database: Database, dba: Caller) -> None:
    who = new_user(module_database, paid=2)
    asked = [{**who, "currency": "EUR", "amount_minor": 1}]
    assert outcomes(charge_all(dba, asked)) == ["charge_currency_mismatch"]
    told = _explain(dba, module_database, who)
    assert "the account's currency was USD; the account had 3 free uses" in told["sentence"]
    assert told["what_helps"] == "The agent must charge in USD, the account's currency."
    assert told["database_role"] == "t_dba"


def test_what_a_merged_account_was_refused_before_the_merge_is_told(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who, other = (new_user(module_database, paid=paid, free=False) for paid in (2, 9))
    gone, stays = (account_of(module_database, one)["id"] for one in (who, other))
    key = key_id(module_database)
    asked = {**who, "amount_minor": 5, "api_key_id": key}
    assert outcomes(charge_all(web, [asked])) == ["insufficient_credits"]
    before = dba.row("explain_denial", account_id=gone)
    dba.row("merge_accounts", account_id=gone, into_account_id=stays, reason="one person")
    now = {"paid_credits_now": 11, "would_pass_now": True}
    for account in (gone, stays):
        told = dba.row("explain_denial", account_id=account)
        assert told == {**before, **now, "what_helps": told["what_helps"]}
    # The newest refusal is told, whichever account it was.
    asked = {**other, "amount_minor": 50, "api_key_id": key}
    assert outcomes(charge_all(web, [asked])) == ["insufficient_credits"]
    assert dba.row("explain_denial", account_id=gone)["amount_minor"] == 50
    earlier = dba.row("explain_denial", account_id=stays, at=before["denied_at"])
    assert earlier["amount_minor"] == 5


def test_the_refusal_nearest_to_a_time_and_not_after_it_is_told(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, free=False)
    began = datetime.now(UTC)
    dba.row("check_credit", **who)
    between = dba.execute("SELECT clock_timestamp() AS at")[0]["at"]
    assert outcomes(charge_all(dba, [{**who, "amount_minor": 7}])) == ["insufficient_credits"]
    assert _explain(dba, module_database, who)["kind"] == "charge"
    assert _explain(dba, module_database, who, at=between)["kind"] == "check"
    nothing = _explain(dba, module_database, who, at=began - timedelta(minutes=1))
    assert (nothing["kind"], nothing["what_helps"]) == (None, None)
    assert nothing["sentence"].startswith("Nothing that was refused to this account up to")


def test_accepted_replayed_and_unknown_charges_leave_no_row(
    module_database: Database, dba: Caller, web: Caller
) -> None:
    who = new_user(module_database, paid=2, free=False)
    key = key_id(module_database)
    asked = {**who, "idempotency_key": "k", "api_key_id": key}
    nobody = {**asked, "external_id": "nobody at all"}
    found = outcomes(charge_all(web, [asked, asked, {**asked, "amount_minor": 2}, nobody]))
    assert found == ["created", "replayed", "conflict", "account_not_found"]
    assert not _refused(module_database, who)
    # An error undoes what its transaction wrote.
    assert dba.refusal("create_charge", **who, amount_minor=9).slug == "insufficient_credits"
    assert not _refused(module_database, who)


def test_a_batch_notes_only_the_items_that_were_refused(
    module_database: Database, web: Caller
) -> None:
    first, second = (new_user(module_database, paid=3, free=False) for _ in range(2))
    key = key_id(module_database)
    asked = [
        {**who, "amount_minor": amount, "api_key_id": key}
        for who, amount in ((first, 2), (second, 4), (first, 2), (second, 5), (second, 3))
    ]
    assert [o == "created" for o in outcomes(charge_all(web, asked))] == [
        True, False, False, False, True,
    ]  # fmt: skip
    (row,) = _refused(module_database, first)
    assert (row["refusals"], row["amount_minor"], row["paid_credits"]) == (1, 2, 1)
    (row,) = _refused(module_database, second)
    assert (row["refusals"], row["amount_minor"], row["paid_credits"]) == (2, 5, 3)


def test_two_callers_that_are_refused_at_once_are_both_counted(
    module_database: Database,
) -> None:
    who = new_user(module_database, free=False)
    key = key_id(module_database)

    def refused(caller: Caller) -> list[str]:
        return outcomes(charge_all(caller, [{**who, "api_key_id": key}]))

    answers = at_once(module_database, [refused] * 40, 4, "t_web")
    assert answers == [["insufficient_credits"]] * 40
    assert sum(row["refusals"] for row in _refused(module_database, who)) == 40


def test_who_may_ask_why(module_database: Database, dba: Caller, web: Caller) -> None:
    who = new_user(module_database, free=False)
    account_id = account_of(module_database, who)["id"]
    viewer = staff(module_database, "viewer")
    told = web.row("explain_denial", account_id=account_id, session_hash=viewer.session_hash)
    assert told["kind"] is None
    assert web.refusal("explain_denial", account_id=account_id).slug == "actor_required"
    assert dba.refusal("explain_denial", account_id=NOBODY).slug == "account_not_found"
    for at in ("infinity", "-infinity"):
        refusal = dba.refusal("explain_denial", account_id=account_id, at=at)
        assert refusal.slug == "invalid_argument"


def test_old_refusals_are_deleted_in_parts(database: Database) -> None:
    who = new_user(database, free=False)
    with session(database, "t_dba") as dba:
        charge_all(dba, [{**who}])
        account_id = account_of(database, who)["id"]
        database.execute(
            "INSERT INTO billing_data.refused_charges SELECT account_id, at, reason,"
            " api_key_id, database_role, 1, at, at, 1, 'USD', 0, 0, 'USD'"
            " FROM billing_data.refused_charges,"
            " generate_series(minute - interval '65 days', minute - interval '60 days',"
            " '1 day') AS at"
        )
        before = datetime.now(UTC) - timedelta(days=40)
        assert dba.value("delete_refused_charges", before=before, rows=4) == 4
        assert dba.value("delete_refused_charges", before=before, rows=4) == 2
        assert dba.value("delete_refused_charges", before=before, rows=4) == 0
        (row,) = _refused(database, who)
        assert row["account_id"] == account_id
        logged = dba.rows("list_audit_log", action="refused_charges")
        assert [entry["changes"]["deleted"] for entry in logged] == [2, 4]
        soon = datetime.now(UTC) - timedelta(days=3)
        assert dba.refusal("delete_refused_charges", before=soon).slug == "invalid_argument"
