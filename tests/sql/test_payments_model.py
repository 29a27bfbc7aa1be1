"""Drives purchases, payments and returns of money at random and holds them against a small model.

The model is what was agreed in the fewest lines: a payment adds once what was sold; money that
goes back takes credits in proportion, never more than are there; money that comes again gives back
what it took; whatever is told again, or in another order, ends the same. Amounts of returns are
such that no rounding is needed, and those of one payment together are its price: how returns are
rounded and capped is tested by itself. A failure prints the steps and a blob to repeat them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.sql.helpers import Caller, charge_all, ledger_problems, person
from tests.sql.payments import (
    attach,
    begin,
    configure_provider,
    credits_of,
    deliver,
    give_back,
    metadata,
    purchases_of,
    returns_of,
)
from tests.support import Database, unique

USERS = ("ada", "ben")
PACKS = ((20, 500), (8, 400))  # uses and price
# A return is one of three, a quarter, a quarter and a half of the price.
SHARES = {"re_1": (1, 4), "re_2": (1, 4), "du_1": (1, 2)}
users = st.sampled_from(USERS)
returns = st.sampled_from(sorted(SHARES))
numbers = st.integers(0, 3)  # which of somebody's purchases; none has more


def _amount(price: int, return_id: str) -> int:
    share, whole = SHARES[return_id]
    return price * share // whole


@dataclass
class Return:
    """What became of one refund or dispute."""

    status: str
    taken: int = 0


@dataclass
class Purchase:
    """What was sold to somebody."""

    row: dict[str, Any]
    payment_id: str
    uses: int
    price: int
    attached: bool = False
    settled: bool = False
    returns: dict[str, Return] = field(default_factory=dict)
    events: int = 0


@dataclass
class Account:
    """What the rules say an account is."""

    free: int = 3
    paid: int = 0
    version: int = 0
    bought: int = 0
    purchases: list[Purchase] = field(default_factory=list)

    def settle(self, purchase: Purchase) -> str:
        if purchase.settled:
            return "already_credited"
        purchase.settled = True
        self.bought += 1
        self.move(purchase.uses)
        for return_id, found in purchase.returns.items():  # in the order they were told
            if found.status == "waiting":
                self.take(purchase, return_id)
        return "credited"

    def take(self, purchase: Purchase, return_id: str) -> str:
        found = purchase.returns.setdefault(return_id, Return("waiting"))
        if found.status != "waiting":
            return "unchanged"
        if not purchase.settled:
            return "waiting"
        found.status = "taken"
        found.taken = min(_amount(purchase.uses, return_id), self.paid)
        self.move(-found.taken)
        return "taken_back"

    def restore(self, purchase: Purchase, return_id: str) -> str:
        found = purchase.returns.setdefault(return_id, Return("restored"))
        if found.status == "restored":
            return "unchanged"
        found.status = "restored"
        self.move(found.taken)
        return "restored"

    def move(self, change: int) -> None:
        if change:
            self.paid += change
            self.version += 1

    def charge(self, amount: int) -> str:
        if self.free > 0:
            self.free -= 1
            self.version += 1
        elif self.paid >= amount:
            self.move(-amount)
        else:
            return "insufficient_credits"
        return "created"


class PaymentsMachine(RuleBasedStateMachine):
    """Two users with a few purchases each, so that repetitions and empty accounts are frequent."""

    database: Database  # set by the test
    dba: Caller
    web: Caller
    steps = 0

    @initialize()
    def fresh_users(self) -> None:
        self.model = {user: Account() for user in USERS}
        self.people = {user: person() for user in USERS}
        for who in self.people.values():
            self.dba.row("create_account", **who)

    def purchase(self, user: str, number: int) -> Purchase | None:
        purchases = self.model[user].purchases
        return purchases[number % len(purchases)] if purchases else None

    @rule(user=users, pack=st.sampled_from(PACKS))
    def begin(self, user: str, pack: tuple[int, int]) -> None:
        if len(self.model[user].purchases) < 4:
            uses, price = pack
            self.dba.row("set_pricing", reason="a test", pack_uses=uses, pack_price_minor=price)
            row = begin(self.dba, self.people[user])
            assert (row["uses"], row["price_minor"]) == pack
            self.model[user].purchases.append(Purchase(row, unique("pi"), uses, price))

    def has_purchases(self) -> bool:
        return any(account.purchases for account in self.model.values())

    @precondition(has_purchases)
    @rule(user=users, number=numbers)
    def attach(self, user: str, number: int) -> None:
        if purchase := self.purchase(user, number):
            answer = attach(self.dba, purchase.row, purchase.payment_id)
            assert answer["payment_id"] == purchase.payment_id
            purchase.attached = True

    @precondition(has_purchases)
    @rule(user=users, number=numbers, again=st.booleans())
    def pay(self, user: str, number: int, again: bool) -> None:
        """One more event of the payment, or the newest one again."""
        if purchase := self.purchase(user, number):
            known = None if purchase.attached else purchase.row
            replays = again and purchase.events > 0
            purchase.events += 0 if replays else 1
            answer = deliver(
                self.web,
                f"evt-{purchase.payment_id}-{purchase.events}",
                purchase.payment_id,
                known,
                amount_minor=purchase.price,
            )
            if replays:
                assert answer["credits_added"] == 0
                assert answer["deliveries"] > 1
                return
            assert answer["outcome"] == self.model[user].settle(purchase)
            expected = purchase.uses if answer["outcome"] == "credited" else 0
            assert answer["credits_added"] == expected

    @precondition(has_purchases)
    @rule(user=users, number=numbers)
    def pay_too_little(self, user: str, number: int) -> None:
        if purchase := self.purchase(user, number):
            answer = deliver(
                self.web, unique("evt"), purchase.payment_id, purchase.row, amount_minor=1
            )
            expected = "already_credited" if purchase.settled else "amount_mismatch"
            assert answer["outcome"] == expected

    @precondition(has_purchases)
    @rule(user=users, number=numbers, return_id=returns, withdrawn=st.booleans())
    def return_money(self, user: str, number: int, return_id: str, withdrawn: bool) -> None:
        if purchase := self.purchase(user, number):
            account = self.model[user]
            step = account.take if withdrawn else account.restore
            expected = step(purchase, return_id)
            answer = give_back(
                self.web,
                purchase.payment_id,
                (f"{return_id}-{purchase.payment_id}", _amount(purchase.price, return_id)),
                kind="dispute" if return_id.startswith("du") else "refund",
                withdrawn=withdrawn,
                **metadata(purchase.row),
            )
            assert answer["outcome"] == expected

    @rule(user=users, amount=st.sampled_from((1, 1, 3, 8)))
    def charge(self, user: str, amount: int) -> None:
        (row,) = charge_all(self.dba, [{**self.people[user], "amount_minor": amount}])
        assert row["outcome"] == self.model[user].charge(amount)

    @rule(user=users, amount=st.integers(1, 3))
    def grant(self, user: str, amount: int) -> None:
        self.dba.row("create_credit", **self.people[user], amount_minor=amount)
        self.model[user].move(amount)

    @invariant()
    def books_agree(self) -> None:
        type(self).steps += 1
        for user, account in self.model.items():
            row = self.dba.row("get_account", **self.people[user])
            assert row["paid_credits"] == account.paid >= 0
            assert row["free_uses_remaining"] == account.free
            assert row["ledger_version"] == account.version
            rows = self.dba.execute(
                "SELECT p.id, p.settled_at IS NOT NULL AS settled, p.payment_id, count(r) AS n,"
                " coalesce(sum(r.uses_taken) FILTER (WHERE r.status = 'taken'), 0) AS taken,"
                " jsonb_object_agg(split_part(r.return_id, '-', 1), r.status)"
                " FILTER (WHERE r.status IS NOT NULL) AS statuses"
                " FROM billing_data.purchases AS p LEFT JOIN billing_data.payment_returns AS r"
                " ON r.account_id = p.account_id AND r.purchase_id = p.id"
                " WHERE p.account_id = %s GROUP BY p.id, 2, 3",
                row["account_id"],
            )
            found = {row["id"]: row for row in rows}
            assert len(found) == len(account.purchases)
            for purchase in account.purchases:
                stored = found[purchase.row["purchase_id"]]
                assert stored["settled"] is purchase.settled
                known = purchase.attached or purchase.settled
                assert stored["payment_id"] == (purchase.payment_id if known else None)
                statuses = {name: item.status for name, item in purchase.returns.items()}
                assert (stored["statuses"] or {}) == statuses
                assert stored["taken"] <= purchase.uses
            bought = self.dba.execute(
                "SELECT count(*) AS n FROM billing_data.credits AS c"
                " WHERE c.account_id = %s AND c.transaction_type = 'purchase'",
                row["account_id"],
            )
            assert bought[0]["n"] == account.bought

    def teardown(self) -> None:
        assert self.dba.rows("verify_ledger") == []


@pytest.fixture(scope="module")
def shop(module_database: Database) -> Iterator[Database]:
    """Stripe is set up; the books are right after all."""
    configure_provider(module_database)
    yield module_database
    assert ledger_problems(module_database) == []


def test_functions_agree_with_the_model_after_every_step(
    shop: Database, dba: Caller, web: Caller
) -> None:
    PaymentsMachine.database, PaymentsMachine.dba, PaymentsMachine.web = shop, dba, web
    PaymentsMachine.steps = 0
    examples = max(40, (settings.default.max_examples if settings.default else 0) // 4)
    PaymentsMachine.TestCase.settings = settings(
        max_examples=examples, stateful_step_count=30, deadline=None, print_blob=True
    )
    PaymentsMachine.TestCase("runTest").runTest()
    print(f"{PaymentsMachine.steps} steps checked")
    assert PaymentsMachine.steps >= 600


# An event: the payment succeeded, or a return was made (True) or undone (False).
events = st.one_of(st.just(None), st.tuples(returns, st.booleans()))


@settings(
    max_examples=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(news=st.lists(events, min_size=1, max_size=8), data=st.data())
def test_the_order_of_news_does_not_matter_for_how_it_ends(
    shop: Database, web: Caller, dba: Caller, news: list[Any], data: st.DataObject
) -> None:
    dba.row("set_pricing", reason="a test", pack_uses=20, pack_price_minor=500)
    orders = [news, data.draw(st.permutations(news)), [*news[::-1], *news]]
    undone = {event[0] for event in news if event and not event[1]}
    made = {event[0] for event in news if event} - undone
    is_paid = None in news
    left = 20 - sum(_amount(20, return_id) for return_id in made) if is_paid else 0
    status = "taken" if is_paid else "waiting"
    expected = dict.fromkeys(undone, "restored") | dict.fromkeys(made, status)
    for order in orders:
        who, payment_id = person(), unique("pi")
        purchase = begin(dba, who)
        attach(dba, purchase, payment_id)
        for event in order:
            if event is None:
                deliver(web, unique("evt"), payment_id)
            else:
                return_id, withdrawn = event
                part = (return_id, _amount(500, return_id))
                give_back(web, payment_id, part, withdrawn=withdrawn)
        assert dba.row("get_account", **who)["paid_credits"] == left
        found = returns_of(shop, payment_id)
        assert {name: row["status"] for name, row in found.items()} == expected
        (row,) = purchases_of(shop, purchase["account_id"])
        assert (row["settled_at"] is not None) is is_paid
        bought = [
            credit
            for credit in credits_of(shop, purchase["account_id"])
            if credit["transaction_type"] == "purchase"
        ]
        assert len(bought) == is_paid


@pytest.mark.usefixtures("shop")
@settings(
    max_examples=30,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    amounts=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    uses=st.integers(1, 50),
    data=st.data(),
)
def test_refunds_of_any_amount_in_any_order_take_the_same(
    web: Caller, dba: Caller, amounts: list[int], uses: int, data: st.DataObject
) -> None:
    dba.row("set_pricing", reason="a test", pack_uses=uses, pack_price_minor=500)
    left = uses - uses * min(sum(amounts), 500) // 500
    order = data.draw(st.permutations(range(len(amounts))))
    for numbers_ in (range(len(amounts)), order):
        who, payment_id = person(), unique("pi")
        attach(dba, begin(dba, who), payment_id)
        early = data.draw(st.integers(0, len(amounts)))
        for place, number in enumerate(numbers_):
            if place == early:
                deliver(web, unique("evt"), payment_id)
            give_back(web, payment_id, (f"re_{number}", amounts[number]))
        deliver(web, unique("evt"), payment_id)
        assert dba.row("get_account", **who)["paid_credits"] == left
