"""Money that goes back takes the credits with it."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta

import pytest

from tests.sql.helpers import (
    BIGGEST,
    Caller,
    account_of,
    new_user,
    session,
)
from tests.sql.lots import clock_at, now_of
from tests.sql.payment_events.helpers import entries_of, paid_credits_of, returns_taken, spend
from tests.sql.payments import (
    PRICE,
    USES,
    attach,
    begin,
    bought,
    credits_of,
    deliver,
    event_of,
    give_back,
    metadata,
    problems_of,
    returns_of,
)
from tests.support import Database, unique

# --- money that goes back ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["refund", "dispute"])
def test_money_that_goes_back_takes_the_credits_with_it(
    module_database: Database, web: Caller, dba: Caller, kind: str
) -> None:
    who, payment_id = bought(module_database)
    return_id, event_id = unique("re"), unique("evt")
    account = account_of(module_database, who)
    answer = give_back(web, payment_id, (return_id, PRICE), kind=kind, event_id=event_id)
    (row,) = returns_of(module_database, payment_id).values()
    assert answer == {
        "outcome": "taken_back",
        "needs_attention": False,
        "deliveries": 1,
        "account_id": account["id"],
        "purchase_id": row["purchase_id"],
        "credits_added": 0,
    }
    credit = credits_of(module_database, account["id"])[-1]
    expected = {
        "amount_minor": -USES,
        "balance_before": USES,
        "balance_after": 0,
        "transaction_type": "refund",
        "description": f"{kind.capitalize()} of $5.00 via Stripe (20 uses taken back)",
        "external_transaction_id": return_id,
        "idempotency_key": f"stripe-{return_id}",
        "payment_provider": "stripe",
    }
    assert {name: credit[name] for name in expected} == expected
    assert (row["kind"], row["status"], row["amount_minor"]) == (kind, "taken", PRICE)
    assert (row["uses_due"], row["uses_taken"]) == (USES, USES)
    assert entries_of(module_database, return_id) == [credit["id"]]
    newest = dba.rows("list_transactions", **who)[0]
    assert (newest["type"], newest["amount_minor"], newest["balance_after"]) == ("credit", -USES, 0)
    assert newest["transaction_type"] == "refund"
    assert event_of(module_database, event_id)["account_id"] == account["id"]
    assert problems_of(dba, payment_id) == []


def test_a_return_that_is_told_again_takes_nothing_more(
    module_database: Database, web: Caller
) -> None:
    who, payment_id = bought(module_database)
    return_id, event_id = unique("re"), unique("evt")
    give_back(web, payment_id, (return_id, 250), event_id=event_id)
    before = account_of(module_database, who)
    for same in (event_id, unique("evt"), unique("evt")):
        answer = give_back(web, payment_id, (return_id, 250), event_id=same)
        assert answer["outcome"] == ("taken_back" if same == event_id else "unchanged")
    assert account_of(module_database, who) == before


def test_the_view_of_the_days_shows_what_was_taken_back(own: tuple[Database, Caller]) -> None:
    database, dba = own
    _, payment_id = bought(database)
    give_back(dba, payment_id, ("re_1", 250))
    give_back(dba, payment_id, ("re_2", 250))
    give_back(dba, payment_id, ("re_2", 250), withdrawn=False)
    with session(database, "t_analyst") as analyst:
        (day,) = analyst.execute("SELECT * FROM billing.daily_usage")
        changes = analyst.execute(
            "SELECT l.amount_minor, l.balance_change FROM billing.ledger AS l"
            " WHERE l.type = 'credit' ORDER BY l.ledger_version"
        )
    assert (day["credits"], day["credits_added"], day["credits_taken_back"]) == (4, 30, 20)
    assert [(row["amount_minor"], row["balance_change"]) for row in changes] == [
        (20, 20),
        (-10, -10),
        (-10, -10),
        (10, 10),
    ]


@pytest.mark.parametrize(
    ("split", "due"),
    [
        ([1], [0]),
        ([24], [0]),
        ([25], [1]),
        ([499], [19]),
        ([500], [20]),
        ([24, 1], [0, 1]),
        ([250, 250], [10, 10]),
        ([1, 499], [0, 20]),
        ([499, 1], [19, 1]),
        ([166, 167, 167], [6, 7, 7]),
        ([100] * 5, [4] * 5),
        ([300, 300], [12, 8]),
        ([500, 500], [20, 0]),
        ([501], [20]),
        ([BIGGEST], [20]),
        ([BIGGEST, BIGGEST], [20, 0]),
    ],
    ids=str,
)
def test_uses_go_in_proportion_to_the_money_rounded_down_over_all_returns_together(
    module_database: Database, dba: Caller, split: list[int], due: list[int]
) -> None:
    who, payment_id = bought(module_database)
    for number, amount in enumerate(split):
        give_back(dba, payment_id, (f"re_{number}", amount))
    rows = returns_of(module_database, payment_id)
    assert [rows[f"re_{number}"]["uses_due"] for number in range(len(split))] == due
    assert paid_credits_of(module_database, who) == USES - sum(due)


def _sell(database: Database, uses: int, price: int) -> None:
    """Sets the price of a pack from now on, whether Stripe takes such a price or not."""
    database.execute(
        "UPDATE billing_data.settings SET pack_uses = %s, pack_price_minor = %s", uses, price
    )


@pytest.mark.parametrize("uses", [1, 7, 20, 333])
def test_any_split_of_all_the_money_takes_all_the_uses_and_no_part_more_than_its_share(
    own: tuple[Database, Caller], uses: int
) -> None:
    database, dba = own
    dice = random.Random(uses)
    for price in (1, 7, 500, 99_999):
        _sell(database, uses, price)  # Stripe takes some of these prices in no currency
        who, payment_id = new_user(database, free=False), unique("pi")
        deliver(dba, unique("evt"), payment_id, begin(dba, who), amount_minor=price)
        cuts = sorted({0, price, *(dice.randint(0, price) for _ in range(6))})
        parts = [after - before for before, after in itertools.pairwise(cuts)]
        gone = 0
        for number, part in enumerate(parts):
            give_back(dba, payment_id, (f"re_{number}", part))
            gone += part
            assert paid_credits_of(database, who) == uses - uses * gone // price
        assert paid_credits_of(database, who) == 0


def test_several_returns_in_one_event_are_all_taken(module_database: Database, dba: Caller) -> None:
    who, payment_id = bought(module_database)
    answer = give_back(dba, payment_id, ("re_1", 100), ("re_2", 150), ("re_3", 1))
    assert answer["outcome"] == "taken_back"
    assert returns_taken(module_database, payment_id) == {
        "re_1": (4, 4, "taken"),
        "re_2": (6, 6, "taken"),
        "re_3": (0, 0, "taken"),
    }
    assert give_back(dba, payment_id, ("re_1", 100), ("re_4", 249))["outcome"] == "taken_back"
    assert paid_credits_of(module_database, who) == 0


def test_an_event_that_names_no_return_changes_nothing(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    assert give_back(dba, payment_id)["outcome"] == "unchanged"
    assert paid_credits_of(module_database, who) == USES


def test_a_return_of_a_payment_that_is_not_ours_is_ignored(
    module_database: Database, dba: Caller
) -> None:
    event_id = unique("evt")
    answer = give_back(dba, unique("pi"), (unique("re"), PRICE), event_id=event_id)
    assert (answer["outcome"], answer["needs_attention"]) == ("ignored", False)
    assert event_of(module_database, event_id)["outcome"] == "ignored"


def test_a_return_in_another_currency_is_flagged_and_tried_again(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    event_id, part = unique("evt"), (unique("re"), PRICE)
    wrong = give_back(dba, payment_id, part, event_id=event_id, currency="eur")
    assert (wrong["outcome"], wrong["needs_attention"]) == ("currency_mismatch", True)
    assert paid_credits_of(module_database, who) == USES
    assert [row["problem"] for row in problems_of(dba, payment_id)] == ["currency_mismatch"]
    assert give_back(dba, payment_id, part, event_id=event_id)["outcome"] == "taken_back"
    assert problems_of(dba, payment_id) == []


@pytest.mark.parametrize("is_attached", [True, False], ids=["attached", "never attached"])
def test_money_that_goes_back_before_the_payment_is_known_waits_for_it(
    module_database: Database, web: Caller, dba: Caller, is_attached: bool
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    purchase = begin(dba, who)
    known = metadata(purchase)
    if is_attached:
        attach(dba, purchase, payment_id)
        known = {}
    for part in ((unique("re"), 100), (unique("re"), 150)):
        answer = give_back(web, payment_id, part, **known)
        assert (answer["outcome"], answer["needs_attention"]) == ("waiting", False)
        assert answer["purchase_id"] == purchase["purchase_id"]
        assert give_back(web, payment_id, part, **known)["outcome"] == "waiting"
    assert credits_of(module_database, purchase["account_id"]) == []
    settled = deliver(web, unique("evt"), payment_id, purchase)
    assert (settled["outcome"], settled["credits_added"]) == ("credited", USES)
    credits = credits_of(module_database, purchase["account_id"])
    assert [row["amount_minor"] for row in credits] == [20, -4, -6]
    assert {row[2] for row in returns_taken(module_database, payment_id).values()} == {"taken"}


def test_money_that_went_and_came_before_the_payment_is_known_takes_nothing(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id, part = new_user(module_database), unique("pi"), (unique("du"), PRICE)
    attach(dba, begin(dba, who), payment_id)
    assert give_back(dba, payment_id, part, kind="dispute")["outcome"] == "waiting"
    won = give_back(dba, payment_id, part, kind="dispute", withdrawn=False)
    assert won["outcome"] == "restored"
    deliver(dba, unique("evt"), payment_id)
    assert returns_taken(module_database, payment_id) == {part[0]: (0, 0, "restored")}
    assert paid_credits_of(module_database, who) == USES


def test_a_dispute_that_was_won_gives_back_what_it_took(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    part = (unique("du"), PRICE)
    give_back(web, payment_id, part, kind="dispute")
    assert paid_credits_of(module_database, who) == 0
    assert give_back(web, payment_id, part, kind="dispute", withdrawn=False)["outcome"] == (
        "restored"
    )
    (row,) = returns_of(module_database, payment_id).values()
    credit = credits_of(module_database, row["account_id"])[-1]
    expected = {
        "amount_minor": USES,
        "transaction_type": "adjustment",
        "description": "Dispute of $5.00 via Stripe undone (20 uses given back)",
        "external_transaction_id": part[0],
        "idempotency_key": f"stripe-{part[0]}-restored",
    }
    assert {name: credit[name] for name in expected} == expected
    assert row["status"] == "restored"
    assert entries_of(module_database, part[0])[1:] == [credit["id"]]
    long_ago = datetime(2026, 1, 1, tzinfo=UTC)
    for withdrawn in (False, True):
        again = give_back(
            web, payment_id, part, kind="dispute", withdrawn=withdrawn, occurred_at=long_ago
        )
        assert again["outcome"] == "unchanged"
    assert paid_credits_of(module_database, who) == USES


def test_what_a_return_took_of_lots_goes_back_to_them(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    end = now_of(module_database) + timedelta(hours=1)
    dba.row("create_credit", **who, amount_minor=10, expires_at=end, priority=90)
    dba.row("create_credit", **who, amount_minor=10, priority=91)
    spend(module_database, who, USES)  # the pool, which is spent before them
    refund, dispute = (unique("re"), PRICE // 2), (unique("du"), PRICE)
    other = (unique("du"), PRICE // 2)

    def left() -> list[int]:
        rows = module_database.execute(
            "SELECT left_minor FROM billing_data.lots WHERE account_id = %s ORDER BY priority",
            account_of(module_database, who)["id"],
        )
        return [minor for (minor,) in rows]

    # What is taken last comes back first. What came back is taken and comes back again.
    for money, kind, withdrawn, expected in (
        (refund, "refund", True, [0, 10]),
        (dispute, "dispute", True, [0, 0]),
        (refund, "refund", False, [0, 0]),  # the dispute is due all of it
        (dispute, "dispute", False, [10, 10]),
        (other, "dispute", True, [0, 10]),
        (other, "dispute", False, [10, 10]),
    ):
        give_back(dba, payment_id, money, kind=kind, withdrawn=withdrawn)
        assert left() == expected, money
        assert dba.rows("verify_ledger") == []
    with clock_at(module_database, end):
        assert dba.row("check_credit", **who)["credits_remaining"] == 10


def test_what_a_return_took_of_lots_of_a_merged_account_comes_back_as_it_was(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    end = now_of(module_database) + timedelta(hours=1)
    dba.row("create_credit", **who, amount_minor=20, expires_at=end, priority=90)
    spend(module_database, who, USES)
    dispute = (unique("du"), PRICE)
    give_back(dba, payment_id, dispute, kind="dispute")
    stays = new_user(module_database, free=False)
    dba.row(
        "merge_accounts",
        account_id=account_of(module_database, who)["id"],
        into_account_id=account_of(module_database, stays)["id"],
        reason="one person",
    )
    for _ in range(2):
        give_back(dba, payment_id, dispute, kind="dispute", withdrawn=False)
        assert paid_credits_of(module_database, stays) == USES
        lots = dba.rows("list_lots", account_id=account_of(module_database, stays)["id"])
        assert sum(row["left_minor"] for row in lots if row["expires_at"] == end) == USES
        give_back(dba, payment_id, dispute, kind="dispute")
        assert paid_credits_of(module_database, stays) == 0
    give_back(dba, payment_id, dispute, kind="dispute", withdrawn=False)
    assert dba.rows("verify_ledger") == []
    with clock_at(module_database, end):
        assert dba.row("check_credit", **stays)["credits_remaining"] == 0


def test_news_in_the_wrong_order_end_the_same(module_database: Database, dba: Caller) -> None:
    who, payment_id = bought(module_database)
    part = (unique("du"), PRICE)
    for _ in range(2):
        back = give_back(dba, payment_id, part, kind="dispute", withdrawn=False)
        assert back["outcome"] == "unchanged"
    late = give_back(
        dba, payment_id, part, kind="dispute", occurred_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert late["outcome"] == "unchanged"
    assert returns_taken(module_database, payment_id) == {part[0]: (0, 0, "restored")}
    assert paid_credits_of(module_database, who) == USES


def test_a_pack_that_is_spent_leaves_a_shortfall_and_never_a_debt(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    spend(module_database, who, 17)
    part = (unique("re"), PRICE)
    answer = give_back(web, payment_id, part)
    assert (answer["outcome"], answer["needs_attention"]) == ("taken_back", False)
    assert paid_credits_of(module_database, who) == 0
    assert returns_taken(module_database, payment_id) == {part[0]: (20, 3, "taken")}
    (problem,) = problems_of(dba, payment_id)
    assert (problem["problem"], problem["reference"]) == ("shortfall", part[0])
    assert problem["account_id"] == account_of(module_database, who)["id"]
    assert problem["what_is_wrong"] == (
        "refund of $5.00: 20 uses were due, 3 could be taken, 17 are short"
    )
    dba.row("create_credit", **who, amount_minor=5)
    assert give_back(web, payment_id, part)["outcome"] == "unchanged"
    assert paid_credits_of(module_database, who) == 5
    # When the money comes back, the credits that were taken come back, and nothing is short any
    # more.
    give_back(web, payment_id, part, withdrawn=False)
    assert paid_credits_of(module_database, who) == 8
    assert problems_of(dba, payment_id) == []


def test_a_pack_that_is_spent_whole_leaves_no_entry(module_database: Database, dba: Caller) -> None:
    who, payment_id = bought(module_database)
    spend(module_database, who, USES)
    before = account_of(module_database, who)
    assert give_back(dba, payment_id, ("re_1", PRICE))["outcome"] == "taken_back"
    assert returns_taken(module_database, payment_id) == {"re_1": (20, 0, "taken")}
    assert give_back(dba, payment_id, ("re_1", PRICE), withdrawn=False)["outcome"] == "restored"
    assert returns_taken(module_database, payment_id) == {"re_1": (0, 0, "restored")}
    assert account_of(module_database, who) == before


def test_a_refund_takes_paid_credits_of_any_origin_and_no_free_uses(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=4)
    _, payment_id = bought(module_database, who)
    assert paid_credits_of(module_database, who) == 24
    give_back(dba, payment_id, (unique("re"), PRICE))
    account = account_of(module_database, who)
    assert (account["paid_credits"], account["free_uses_remaining"]) == (4, 3)


def test_a_refund_and_a_dispute_of_the_same_money_take_it_once(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database, paid=100, free=False)
    _, payment_id = bought(module_database, who)
    give_back(dba, payment_id, ("re_1", 300))
    give_back(dba, payment_id, ("du_1", PRICE), kind="dispute")
    assert returns_taken(module_database, payment_id) == {
        "du_1": (8, 8, "taken"),
        "re_1": (12, 12, "taken"),
    }
    assert paid_credits_of(module_database, who) == 100
    give_back(dba, payment_id, ("du_1", PRICE), kind="dispute", withdrawn=False)
    assert paid_credits_of(module_database, who) == 108


@pytest.mark.parametrize("order", ["refund first", "dispute first"])
def test_a_dispute_that_is_won_gives_nothing_back_that_a_refund_is_due(
    module_database: Database, dba: Caller, order: str
) -> None:
    who, payment_id = bought(module_database)
    refund, dispute = (unique("re"), PRICE), (unique("du"), PRICE)
    steps = [
        lambda: give_back(dba, payment_id, refund),
        lambda: give_back(dba, payment_id, dispute, kind="dispute"),
    ]
    for step in steps if order == "refund first" else reversed(steps):
        step()
    assert paid_credits_of(module_database, who) == 0
    answer = give_back(dba, payment_id, dispute, kind="dispute", withdrawn=False)
    assert answer["outcome"] == "restored"
    assert paid_credits_of(module_database, who) == 0
    assert returns_taken(module_database, payment_id) == {
        refund[0]: (20, 20, "taken"),
        dispute[0]: (0, 0, "restored"),
    }
    # The refund fails too: then all of it comes back.
    give_back(dba, payment_id, refund, withdrawn=False)
    assert paid_credits_of(module_database, who) == USES
    assert dba.rows("verify_ledger") == []


def test_what_stays_due_falls_to_the_returns_that_stand_shortfall_and_all(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    spend(module_database, who, 13)
    small, large, lost = (unique("re"), 100), (unique("re"), 300), (unique("du"), PRICE)
    give_back(dba, payment_id, lost, kind="dispute")
    give_back(dba, payment_id, small)
    give_back(dba, payment_id, large)
    assert returns_taken(module_database, payment_id) == {
        lost[0]: (20, 7, "taken"),
        small[0]: (0, 0, "taken"),
        large[0]: (0, 0, "taken"),
    }
    give_back(dba, payment_id, lost, kind="dispute", withdrawn=False)
    assert paid_credits_of(module_database, who) == 0
    assert returns_taken(module_database, payment_id) == {
        lost[0]: (0, 0, "restored"),
        small[0]: (4, 4, "taken"),
        large[0]: (12, 3, "taken"),
    }
    (problem,) = problems_of(dba, payment_id)
    assert problem["reference"] == large[0]
    assert dba.rows("verify_ledger") == []
