"""Which of several snapshots of the money that is away counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.sql.helpers import (
    Caller,
    account_of,
    ledger_problems,
    session,
)
from tests.sql.payment_events.helpers import entries_of, paid_credits_of, returns_taken, spend
from tests.sql.payments import (
    PRICE,
    USES,
    bought,
    configure_provider,
    credits_of,
    give_back,
    problems_of,
    returns_of,
)
from tests.support import Database, unique

# --- a return is a state --------------------------------------------------------------------------

START = datetime(2026, 1, 1, tzinfo=UTC)


def _tell(
    caller: Caller,
    payment_id: str,
    away: int,
    state: str = "open",
    *,
    transactions: int | None = None,
    second: int = 0,
    return_id: str = "du_1",
    kind: str = "dispute",
    amount: int = PRICE,
) -> str:
    """An event reports how much of a return's money is away; returns the outcome."""
    answer = give_back(
        caller,
        payment_id,
        (return_id, amount),
        kind=kind,
        return_away_minor=[away],
        return_states=[state],
        return_transactions=[transactions],
        occurred_at=START + timedelta(seconds=second),
    )
    return str(answer["outcome"])


def test_what_is_taken_is_what_the_money_that_is_away_stands_for(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    aways = (500, 300, 301, 500, 0, 24, 25, 0, 500)
    balances = []
    for number, away in enumerate(aways):
        _tell(web, payment_id, away, transactions=number)
        balances.append(paid_credits_of(module_database, who))
    assert balances == [USES - USES * away // PRICE for away in aways]
    account_id = account_of(module_database, who)["id"]
    entries = credits_of(module_database, account_id)[1:]
    assert [row["amount_minor"] for row in entries] == [-20, 8, -8, 20, -1, 1, -20]
    keys = [row["idempotency_key"].removeprefix("stripe-du_1") for row in entries]
    assert keys == ["", "-restored", "-3", "-restored-4", "-5", "-restored-6", "-7"]
    assert [row["description"] for row in entries[:3]] == [
        "Dispute of $5.00 via Stripe (20 uses taken back)",
        "Dispute of $2.00 via Stripe undone (8 uses given back)",
        "Dispute of $1.99 via Stripe (8 uses taken back)",
    ]
    assert len(entries_of(module_database, "du_1")) >= len(entries)


def test_of_two_snapshots_the_one_with_more_balance_transactions_is_newer(
    module_database: Database, web: Caller
) -> None:
    who, payment_id = bought(module_database)
    assert _tell(web, payment_id, 300, "closed", transactions=2, second=5) == "taken_back"
    for transactions, second in ((1, 9), (0, 9), (2, 4)):
        told = _tell(web, payment_id, 500, transactions=transactions, second=second)
        assert told == "unchanged"
    assert _tell(web, payment_id, 500, transactions=3, second=0) == "taken_back"
    assert paid_credits_of(module_database, who) == 0


def test_without_balance_transactions_the_time_decides_and_then_the_later_state(
    module_database: Database, web: Caller
) -> None:
    who, payment_id = bought(module_database)
    steps = (
        (0, "closed", 5, "unchanged"),
        (500, "open", 4, "unchanged"),
        (500, "open", 5, "unchanged"),
        (500, "closed", 5, "taken_back"),
        (0, "closed", 6, "restored"),
        (500, "open", 7, "taken_back"),
        (0, "inquiry", 7, "unchanged"),
    )
    for away, state, second, outcome in steps:
        assert _tell(web, payment_id, away, state, second=second) == outcome, (away, second)
    assert paid_credits_of(module_database, who) == 0


def test_a_refund_that_failed_stays_so_whenever_it_is_told(
    module_database: Database, web: Caller
) -> None:
    who, payment_id = bought(module_database)
    refund: dict[str, Any] = {"return_id": "re_1", "kind": "refund"}
    assert _tell(web, payment_id, 500, second=3, **refund) == "taken_back"
    assert _tell(web, payment_id, 0, "closed", second=1, **refund) == "restored"
    assert _tell(web, payment_id, 500, second=9, **refund) == "unchanged"
    assert paid_credits_of(module_database, who) == USES


def test_an_inquiry_leaves_no_return_behind(module_database: Database, web: Caller) -> None:
    _, payment_id = bought(module_database)
    assert _tell(web, payment_id, 0, "inquiry") == "ignored"
    assert returns_of(module_database, payment_id) == {}


def test_what_comes_again_lowers_a_shortfall_first(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    spend(module_database, who, 17)
    _tell(web, payment_id, 500, transactions=1)
    assert returns_taken(module_database, payment_id) == {"du_1": (20, 3, "taken")}
    _tell(web, payment_id, 100, transactions=2)
    assert returns_taken(module_database, payment_id) == {"du_1": (4, 3, "taken")}
    assert paid_credits_of(module_database, who) == 0
    (problem,) = problems_of(dba, payment_id)
    assert problem["what_is_wrong"] == (
        "dispute of $1.00: 4 uses were due, 3 could be taken, 1 are short"
    )
    _tell(web, payment_id, 50, transactions=3)
    assert returns_taken(module_database, payment_id) == {"du_1": (2, 2, "taken")}
    assert paid_credits_of(module_database, who) == 1
    assert problems_of(dba, payment_id) == []


def test_a_shortfall_that_was_written_off_stays_so_until_it_grows(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    spend(module_database, who, USES)
    refund_id, dispute_id = unique("re"), unique("du")
    refund: dict[str, Any] = {"return_id": refund_id, "kind": "refund", "amount": 100}
    _tell(web, payment_id, 100, **refund)
    dba.row("resolve_shortfall", return_id=refund_id, reason="written off")
    dba.row("create_credit", **who, amount_minor=8)
    _tell(web, payment_id, 400, transactions=1, return_id=dispute_id)
    # The dispute was due 16 uses and found 8; the refund's shortfall does not change.
    assert returns_taken(module_database, payment_id) == {
        refund_id: (4, 0, "taken"),
        dispute_id: (16, 8, "taken"),
    }
    assert [row["reference"] for row in problems_of(dba, payment_id)] == [dispute_id]
    _tell(web, payment_id, 200, transactions=2, return_id=dispute_id)
    assert problems_of(dba, payment_id) == []
    assert paid_credits_of(module_database, who) == 0
    dba.row("return_payment", payment_id=payment_id, return_id=refund_id, kind="refund",
            amount_minor=300)  # fmt: skip
    assert [row["reference"] for row in problems_of(dba, payment_id)] == [refund_id]


def test_a_return_whose_row_was_lost_by_a_rollback_is_not_taken_again(
    database: Database,
) -> None:
    configure_provider(database)
    who, payment_id = bought(database)
    with session(database, "t_dba") as dba, session(database, "postgres") as root:
        give_back(dba, payment_id, ("re_1", PRICE))
        root.execute("DELETE FROM billing_data.payment_return_credits")
        root.execute("DELETE FROM billing_data.payment_returns")
        dba.row("create_credit", **who, amount_minor=5)
        give_back(dba, payment_id, ("re_1", PRICE))
        assert returns_taken(database, payment_id) == {"re_1": (20, 20, "taken")}
        assert paid_credits_of(database, who) == 5
        assert ledger_problems(database) == []
        # An entry under the same key that took no credits belongs to somebody else.
        root.execute("DELETE FROM billing_data.payment_return_credits")
        root.execute("DELETE FROM billing_data.payment_returns")
        key = {"external_transaction_id": "re_2", "idempotency_key": "stripe-re_2"}
        dba.row("create_credit", **who, amount_minor=7, transaction_type="refund", **key)
        give_back(dba, payment_id, ("re_2", PRICE // 4))
        assert returns_taken(database, payment_id) == {"re_2": (5, 5, "taken")}
        assert paid_credits_of(database, who) == 7
    # The record of the first return is lost for good, and its ledger entry reveals that.
    (problem,) = ledger_problems(database)
    assert problem[1].endswith("moved credits for a return of money that is not here")
    assert problem[2] == "re_1"


def test_a_server_of_the_release_before_is_understood(
    module_database: Database, web: Caller
) -> None:
    """That release reports whether a return is withdrawn, and not when."""
    who, payment_id = bought(module_database)

    def say(withdrawn: bool) -> str:
        answer = web.row(
            "process_payment_event",
            event_id=unique("evt"),
            event_type="charge.dispute.closed",
            payload="{}",
            action="return",
            payment_id=payment_id,
            currency="usd",
            return_ids=["du_1"],
            return_kinds=["dispute"],
            return_amounts_minor=[PRICE],
            returns_withdrawn=[withdrawn],
        )
        return str(answer["outcome"])

    assert [say(True), say(True), say(False), say(True), say(False)] == [
        "taken_back",
        "unchanged",
        "restored",
        "unchanged",
        "unchanged",
    ]
    assert paid_credits_of(module_database, who) == USES
    # What that release wrote is older than what a server of this release reports.
    now = datetime.now(UTC) + timedelta(seconds=1)
    answer = give_back(web, payment_id, ("du_1", PRICE), kind="dispute", occurred_at=now)
    assert answer["outcome"] == "taken_back"
