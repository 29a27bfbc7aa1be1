"""What was read at the provider, and what a DBA settles and returns."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sql.helpers import (
    NOBODY,
    Caller,
    new_user,
    person,
)
from tests.sql.payment_events.helpers import paid_credits_of
from tests.sql.payments import (
    PRICE,
    USES,
    attach,
    begin,
    bought,
    configure_provider,
    credits_of,
    deliver,
    give_back,
    legacy,
    metadata,
    problems_of,
)
from tests.support import Database, unique


def test_what_was_read_at_the_provider_counts_unless_something_happened_since(
    module_database: Database, web: Caller, dba: Caller
) -> None:
    who, payment_id = bought(module_database)
    late = {"payment_id": payment_id, "return_id": "re_1", "kind": "refund", "amount_minor": PRICE}
    (before,) = dba.execute("SELECT clock_timestamp() AS now")
    give_back(web, payment_id, ("re_1", PRICE))
    give_back(web, payment_id, ("re_1", PRICE), withdrawn=False)
    answer = dba.row("return_payment", **late, read_at=before["now"])
    assert (answer["outcome"], answer["away_minor"]) == ("unchanged", 0)
    answer = dba.row("return_payment", **late)
    assert (answer["outcome"], answer["away_minor"]) == ("taken_back", PRICE)
    assert paid_credits_of(module_database, who) == 0


# --- whose payment it is --------------------------------------------------------------------------

CLAIMS = (
    "another account",
    "an unknown purchase",
    "a purchase of another account",
    "a purchase, beside another identity",
    "a purchase with another provider",
    "an identity alone",
    "an account of a connected account",
    "a purchase of a connected account",
    "an account that is no id",
)


def _claim(database: Database, dba: Caller, kind: str) -> tuple[list[Any], dict[str, Any], str]:
    """The accounts that are named, what a payment says of them, and the outcome."""
    who, other = new_user(database), new_user(database)
    mine, theirs = legacy(database, who), legacy(database, other)
    configure_provider(database, provider="paypal")
    sold, elsewhere = begin(dba, who), begin(dba, who, provider="paypal")
    claims: dict[str, tuple[dict[str, Any], str]] = {
        "another account": ({**mine, "account_id": theirs["account_id"]}, "not_sold_here"),
        "an unknown purchase": ({**mine, "purchase_id": NOBODY}, "not_sold_here"),
        "a purchase of another account": (
            {**theirs, "purchase_id": sold["purchase_id"]},
            "not_sold_here",
        ),
        "a purchase, beside another identity": ({**metadata(sold), **other}, "not_sold_here"),
        "a purchase with another provider": ({**mine, **metadata(elsewhere)}, "not_sold_here"),
        "an identity alone": (dict(who), "not_sold_here"),
        "an account of a connected account": ({**mine, "is_foreign": True}, "not_sold_here"),
        "a purchase of a connected account": (
            {**metadata(sold), "is_foreign": True},
            "not_sold_here",
        ),
        "an account that is no id": ({**who, "is_foreign": True}, "not_sold_here"),
    }
    return [mine["account_id"], theirs["account_id"]], *claims[kind]


@pytest.mark.parametrize("kind", CLAIMS)
def test_what_a_payment_cannot_show_is_not_believed_by_any_way_of_crediting(
    module_database: Database, web: Caller, dba: Caller, kind: str
) -> None:
    accounts, said, outcome = _claim(module_database, dba, kind)
    event_id, payment_id = unique("evt"), unique("pi")
    answer = deliver(web, event_id, payment_id, **said)
    assert (answer["outcome"], answer["needs_attention"]) == (outcome, True)
    assert (answer["credits_added"], answer["purchase_id"]) == (0, None)
    by_hand = dba.row("settle_purchase", payment_id=payment_id, amount_minor=PRICE, **said)
    assert (by_hand["outcome"], by_hand["credits_added"]) == (outcome, 0)
    refunded = give_back(web, payment_id, (unique("re"), PRICE), **said)
    assert (refunded["outcome"], refunded["needs_attention"]) == ("ignored", False)
    for account_id in accounts:
        assert credits_of(module_database, account_id) == []
    (problem,) = problems_of(dba, payment_id)
    assert (problem["problem"], problem["reference"]) == (outcome, event_id)
    assert problem["what_is_wrong"] == (
        "it names a purchase or an account that it cannot show to be its own"
    )
    dba.row("resolve_payment_event", event_id=event_id, reason="somebody else's")
    assert problems_of(dba, payment_id) == []


@pytest.mark.parametrize("said", [{}, {"is_claimed": False}, "foreign", "foreign account"], ids=str)
def test_the_payment_of_a_purchase_is_ours_whatever_is_said_of_it(
    module_database: Database, web: Caller, dba: Caller, said: Any
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    purchase = begin(dba, who)
    attach(dba, purchase, payment_id)
    if said == "foreign":
        said = {"purchase_id": NOBODY, **legacy(module_database, new_user(module_database))}
    elif said == "foreign account":
        said = {"is_claimed": True, "is_foreign": True}
    assert deliver(web, unique("evt"), payment_id, **said)["outcome"] == "credited"
    back = give_back(web, payment_id, (unique("re"), 250), **said)
    assert back["outcome"] == "taken_back"
    assert paid_credits_of(module_database, who) == USES // 2


@pytest.mark.parametrize("action", ["settle", "return"])
@pytest.mark.parametrize("livemode", [True, False, None])
def test_a_payment_that_nobody_claims_is_ignored_in_any_mode(
    module_database: Database, web: Caller, dba: Caller, action: str, livemode: bool | None
) -> None:
    payment_id = unique("pi")
    said: dict[str, Any] = {"livemode": livemode, "is_claimed": False}
    if action == "settle":
        answer = deliver(web, unique("evt"), payment_id, **said)
    else:
        answer = give_back(web, payment_id, (unique("re"), PRICE), **said)
    assert (answer["outcome"], answer["needs_attention"]) == ("ignored", False)
    assert problems_of(dba, payment_id) == []


@pytest.mark.parametrize("kind", ["metadata", "an account that is unknown", "another account"])
def test_a_claim_of_the_other_mode_that_cannot_be_shown_is_ignored(
    module_database: Database, web: Caller, dba: Caller, kind: str
) -> None:
    said: dict[str, Any] = {
        "metadata": {},
        "an account that is unknown": {"account_id": NOBODY, **person()},
        "another account": {**new_user(module_database), "account_id": NOBODY},
    }[kind]
    payment_id = unique("pi")
    answer = deliver(web, unique("evt"), payment_id, livemode=True, **said)
    assert (answer["outcome"], answer["needs_attention"]) == ("ignored", False)
    part = (unique("re"), PRICE)
    assert give_back(web, payment_id, part, livemode=True, **said)["outcome"] == "ignored"
    assert problems_of(dba, payment_id) == []


# --- by hand -------------------------------------------------------------------------------------


def test_a_dba_settles_and_returns_in_their_own_name(
    module_database: Database, dba: Caller
) -> None:
    who, payment_id = new_user(module_database), unique("pi")
    purchase = begin(dba, who)
    arguments = {"payment_id": payment_id, "amount_minor": PRICE, **metadata(purchase)}
    assert dba.row("settle_purchase", **arguments) == {
        "outcome": "credited",
        **metadata(purchase),
        "credits_added": USES,
    }
    again = dba.row("settle_purchase", payment_id=payment_id, amount_minor=PRICE)
    assert (again["outcome"], again["credits_added"]) == ("already_credited", 0)
    back = {"payment_id": payment_id, "return_id": "re_1", "kind": "refund", "amount_minor": 250}
    for withdrawn, outcomes in ((True, ("taken_back", "unchanged")), (False, ("restored",))):
        for outcome in outcomes:
            answer = dba.row("return_payment", **back, withdrawn=withdrawn)
            away = 250 if withdrawn else 0
            assert answer == {"outcome": outcome, **metadata(purchase), "away_minor": away}
    credits = credits_of(module_database, purchase["account_id"])
    assert [row["amount_minor"] for row in credits] == [20, -10, 10]
    assert {(row["database_role"], row["payment_provider"]) for row in credits} == {("t_dba", None)}
    # The provider's own event about the same payment comes too late.
    assert deliver(dba, unique("evt"), payment_id)["outcome"] == "already_credited"
    assert give_back(dba, payment_id, ("re_1", 250))["outcome"] == "unchanged"


def test_a_dba_settles_an_old_payment_by_its_account_and_identity(
    module_database: Database, dba: Caller
) -> None:
    who = new_user(module_database)
    named = legacy(module_database, who)
    answer = dba.row("settle_purchase", payment_id=unique("pi"), amount_minor=PRICE, **named)
    assert answer["outcome"] == "credited"
    assert paid_credits_of(module_database, who) == USES


def test_a_dba_is_told_what_stands_in_the_way(module_database: Database, dba: Caller) -> None:
    purchase, payment_id = begin(dba, person()), unique("pi")
    for change, outcome in (
        ({"amount_minor": 1}, "amount_mismatch"),
        ({"currency": "EUR"}, "currency_mismatch"),
        ({"purchase_id": None}, "metadata_missing"),
        ({"purchase_id": None, **person()}, "account_not_found"),
    ):
        arguments = {"amount_minor": PRICE, **metadata(purchase), **change}
        answer = dba.row("settle_purchase", payment_id=payment_id, **arguments)
        assert (answer["outcome"], answer["credits_added"]) == (outcome, 0)
    back = {"return_id": "re_1", "kind": "refund", "amount_minor": 1}
    assert dba.row("return_payment", payment_id=payment_id, **back)["outcome"] == "ignored"
    assert problems_of(dba, payment_id) == []
    assert credits_of(module_database, purchase["account_id"]) == []


@pytest.mark.parametrize(
    ("function", "change", "argument"),
    [
        ("settle_purchase", {"payment_id": ""}, "p_payment_id"),
        ("settle_purchase", {"payment_id": None}, "p_payment_id"),
        ("settle_purchase", {"payment_id": "x" * 256}, "p_payment_id"),
        ("settle_purchase", {"amount_minor": 0}, "p_amount_minor"),
        ("settle_purchase", {"amount_minor": None}, "p_amount_minor"),
        ("return_payment", {"payment_id": ""}, "p_payment_id"),
        ("return_payment", {"return_id": ""}, "p_return_id"),
        ("return_payment", {"return_id": None}, "p_return_id"),
        ("return_payment", {"return_id": "x" * 201}, "p_return_id"),
        ("return_payment", {"kind": "gift"}, "p_kind"),
        ("return_payment", {"kind": None}, "p_kind"),
        ("return_payment", {"amount_minor": 0}, "p_amount_minor"),
        ("return_payment", {"amount_minor": -1}, "p_amount_minor"),
        ("return_payment", {"withdrawn": None}, "p_withdrawn"),
        ("return_payment", {"away_minor": PRICE + 1}, "p_away_minor"),
        ("return_payment", {"away_minor": -1}, "p_away_minor"),
        ("return_payment", {"state": "odd"}, "p_state"),
        ("return_payment", {"transactions": -1}, "p_transactions"),
        ("return_payment", {"read_at": "infinity"}, "p_read_at"),
        ("return_payment", {"read_at": "2100-01-01"}, "p_read_at"),
    ],
    ids=str,
)
def test_a_faulty_argument_is_named(
    dba: Caller, function: str, change: dict[str, Any], argument: str
) -> None:
    good: dict[str, Any] = {"payment_id": "pi_1", "amount_minor": PRICE}
    if function == "return_payment":
        good |= {"return_id": "re_1", "kind": "refund"}
    refusal = dba.refusal(function, **{**good, **change})
    assert (refusal.sqlstate, refusal.slug) == ("PB422", "invalid_argument")
    assert refusal.detail["argument"] == argument
