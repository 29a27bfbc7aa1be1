"""Drives purchases, payments and returns of money at random and compares them with a small model.

The model is who has whose money, in as few lines as possible. At the provider a payment is paid,
refunds are made and fail, and disputes are opened, withdraw money, give back part of it, are lost,
won and lost again. That is the truth, and each of its states is a snapshot. Events report any
snapshot, in any order, any number of times, under any type. The credits are what was sold and not
returned, by the newest snapshot that was reported. Never more credits are taken than there are, and
money that comes back lowers a shortfall first. Payments of others change nothing. A failure prints
the steps and a blob to repeat them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.sql.helpers import NOBODY, Caller, charge_all, ledger_problems, person
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
PACKS = ((20, 500), (7, 400))  # uses and price
# A dispute is reported with its balance transactions, all within one second. Or it is reported
# without them, as doubles of the provider do; then the time tells which report is newer.
KINDS = ("refund", "dispute", "dispute without transactions")
TYPES = ("created", "closed", "funds_withdrawn", "funds_reinstated", "updated")
START = datetime(2026, 1, 1, tzinfo=UTC)
users = st.sampled_from(USERS)
numbers = st.integers(0, 2)  # which of a user's purchases
returns = st.integers(0, 17)  # which of all returns
# What the user spends; how much is away then, in which state; which snapshots are reported, where 0
# is the newest.
news = st.tuples(
    st.sampled_from((0, 15, 0, 5)),
    st.sampled_from((500, 200, 0, 333, 41)),
    st.sampled_from(("open", "closed")),
    st.lists(st.sampled_from((0, 1, 0, 2)), min_size=1, max_size=3),
    st.sampled_from(TYPES),
)


@dataclass(frozen=True)
class Snapshot:
    """How much of a return's money is away according to the provider, and since when."""

    away: int
    state: str
    at: datetime = field(default_factory=lambda: datetime.now(UTC), compare=False)


@dataclass
class Return:
    """A refund or dispute: what the provider knows of it, and which part was reported to us."""

    id: str
    kind: str
    amount: int
    history: list[Snapshot]
    told: int | None = None

    @property
    def away(self) -> int:
        """The amount that we know to be away."""
        return 0 if self.told is None else self.history[self.told].away

    def change(self, away: int, state: str) -> None:
        """A dispute withdraws or gives back money; a refund can only fail, for good."""
        if self.kind != "refund":
            self.history.append(Snapshot(min(away, self.amount), state))
        elif len(self.history) == 1 and not away:
            self.history.append(Snapshot(0, "closed"))

    def version(self, number: int) -> dict[str, Any]:
        """What the provider sends beside a snapshot, by which older and newer reports are told
        apart."""
        if self.kind == "dispute":
            moves = [one.away for one in self.history[: number + 1]]
            changes = sum(a != b for a, b in zip([0, *moves], moves, strict=False))
            return {"transactions": changes, "at": START}
        if self.kind == "refund":
            return {"transactions": None, "at": START}
        return {"transactions": None, "at": self.history[number].at}


@dataclass
class Purchase:
    """What was sold to a user."""

    row: dict[str, Any]
    payment_id: str
    uses: int
    price: int
    attached: bool = False
    settled: bool = False
    due: int = 0
    taken: int = 0
    returns: list[Return] = field(default_factory=list)
    # In the order in which they were first reported.
    told: list[Return] = field(default_factory=list)
    events: int = 0

    @property
    def is_known(self) -> bool:
        """Whether its payment's id is recorded."""
        return self.attached or self.settled

    def due_for(self, away: int) -> int:
        return self.uses * min(self.price, away) // self.price


@dataclass
class Account:
    """An account according to the rules."""

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
        away = 0
        for returned in purchase.told:  # one entry for each return that waited
            away += returned.away
            self.book(purchase, away)
        return "credited"

    def tell(self, purchase: Purchase, returned: Return, number: int) -> str:
        told, before = returned.history[number], returned.away
        if returned.told is None and told == Snapshot(0, "inquiry"):
            return "ignored"
        if returned.told is not None and number <= returned.told:
            return "waiting" if before and not purchase.settled else "unchanged"
        if returned.told is None:
            purchase.told.append(returned)
        returned.told = number
        if purchase.settled:
            self.book(purchase, sum(one.away for one in purchase.returns))
        if told.away < before:
            return "restored"
        if told.away and not purchase.settled:
            return "waiting"
        return "taken_back" if told.away > before else "unchanged"

    def book(self, purchase: Purchase, away: int) -> None:
        """Takes or gives back the credits for the money that is away now."""
        due = purchase.due_for(away)
        if due > purchase.due:
            change = min(due - purchase.due, self.paid)
        else:
            change = min(purchase.taken, due) - purchase.taken
        purchase.due, purchase.taken = due, purchase.taken + change
        self.move(-change)

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
        for user, pack in zip(USERS, PACKS, strict=True):
            self.offer(user, pack)
            for kind in KINDS:
                self.begin_return(user, kind, pack[1] // 2)
            for _ in range(3):
                self.charge(user, 1)  # the free uses
        self.attach(USERS[0], 0)
        self.pay(USERS[0], 0, again=False, says="own")

    def offer(self, user: str, pack: tuple[int, int]) -> None:
        uses, price = pack
        self.dba.row("set_pricing", reason="a test", pack_uses=uses, pack_price_minor=price)
        row = begin(self.dba, self.people[user])
        assert (row["uses"], row["price_minor"]) == pack
        self.model[user].purchases.append(Purchase(row, unique("pi"), uses, price))

    def purchase(self, user: str, number: int) -> Purchase:
        purchases = self.model[user].purchases
        return purchases[number % len(purchases)]

    def returned(self, which: int) -> tuple[str, Purchase, Return]:
        found = [
            (user, purchase, returned)
            for user, account in self.model.items()
            for purchase in account.purchases
            for returned in purchase.returns
        ]
        return found[which % len(found)]

    # What people do

    @rule(user=users, pack=st.sampled_from(PACKS))
    def begin(self, user: str, pack: tuple[int, int]) -> None:
        if len(self.model[user].purchases) < 3:
            self.offer(user, pack)

    @rule(user=users, number=numbers)
    def attach(self, user: str, number: int) -> None:
        purchase = self.purchase(user, number)
        answer = attach(self.dba, purchase.row, purchase.payment_id)
        assert answer["payment_id"] == purchase.payment_id
        purchase.attached = True

    @rule(user=users, amount=st.sampled_from((8, 15, 3, 1)))
    def charge(self, user: str, amount: int) -> None:
        (row,) = charge_all(self.dba, [{**self.people[user], "amount_minor": amount}])
        assert row["outcome"] == self.model[user].charge(amount)

    @rule(user=users, amount=st.integers(1, 3))
    def grant(self, user: str, amount: int) -> None:
        self.dba.row("create_credit", **self.people[user], amount_minor=amount)
        self.model[user].move(amount)

    # What happens at the provider before it is reported

    @rule(user=users, number=numbers, kind=st.sampled_from(KINDS), share=st.integers(1, 500))
    def a_return_begins(self, user: str, number: int, kind: str, share: int) -> None:
        purchase = self.purchase(user, number)
        if len(purchase.returns) < 4:
            self.begin_return(user, kind, min(share, purchase.price), number)

    def begin_return(self, user: str, kind: str, amount: int, number: int = 0) -> None:
        name = "re" if kind == "refund" else "du"
        first = Snapshot(amount, "open") if kind == "refund" else Snapshot(0, "inquiry")
        self.purchase(user, number).returns.append(Return(unique(name), kind, amount, [first]))

    # What is reported

    @rule(user=users, number=numbers, again=st.booleans(), says=st.sampled_from(("own", "", "x")))
    def pay(self, user: str, number: int, again: bool, says: str) -> None:
        """One more event of the payment, or the newest one again. A payment that is recorded is
        ours whatever its metadata says."""
        purchase = self.purchase(user, number)
        claims: dict[str, Any] = metadata(purchase.row)
        if purchase.attached and says != "own":
            claims = {"is_claimed": False} if not says else {"account_id": NOBODY, **person()}
        replays = again and purchase.events > 0
        purchase.events += 0 if replays else 1
        answer = deliver(
            self.web,
            f"evt-{purchase.payment_id}-{purchase.events}",
            purchase.payment_id,
            amount_minor=purchase.price,
            **claims,
        )
        if replays:
            assert answer["credits_added"] == 0
            assert answer["deliveries"] > 1
            return
        assert answer["outcome"] == self.model[user].settle(purchase)
        expected = purchase.uses if answer["outcome"] == "credited" else 0
        assert answer["credits_added"] == expected

    @rule(user=users, number=numbers)
    def pay_too_little(self, user: str, number: int) -> None:
        purchase = self.purchase(user, number)
        answer = deliver(self.web, unique("evt"), purchase.payment_id, purchase.row, amount_minor=1)
        expected = "already_credited" if purchase.settled else "amount_mismatch"
        assert answer["outcome"] == expected

    @rule(which=returns, news=st.lists(news, min_size=3, max_size=6))
    def a_return_changes_and_is_told(
        self, which: int, news: list[tuple[int, int, str, list[int], str]]
    ) -> None:
        """Money is withdrawn and reinstated, and some of the snapshots, old and new, are
        reported."""
        user, purchase, returned = self.returned(which)
        for spent, away, state, backs, type in news:
            if spent:
                self.charge(user, spent)
            returned.change(away, state)
            for back in backs:
                place = max(len(returned.history) - 1 - back, 0)
                self.tell(self.model[user], purchase, returned, place, type)

    def tell(
        self, account: Account, purchase: Purchase, returned: Return, place: int, type: str
    ) -> None:
        told, version = returned.history[place], returned.version(place)
        kind = returned.kind.partition(" ")[0]
        answer = give_back(
            self.web,
            purchase.payment_id,
            (returned.id, returned.amount),
            kind=kind,
            event_type=f"charge.{kind}.{type}",
            return_away_minor=[told.away],
            return_states=[told.state],
            return_transactions=[version["transactions"]],
            occurred_at=version["at"],
            **metadata(purchase.row),
        )
        assert answer["outcome"] == account.tell(purchase, returned, place)

    @rule()
    def reconcile(self) -> None:
        """Every return is set to what the provider says now; then nothing differs."""
        now = self.dba.execute("SELECT clock_timestamp() AS now")[0]["now"]
        for account in self.model.values():
            for purchase in account.purchases:
                for returned in purchase.returns:
                    self.put_right(account, purchase, returned, now)
        known = {
            row["payment_id"]: dict(zip(row["return_ids"], row["return_away_minor"], strict=True))
            for row in self.dba.rows(
                "list_payments",
                payment_ids=[p.payment_id for a in self.model.values() for p in a.purchases],
            )
        }
        for account in self.model.values():
            for purchase in filter(lambda one: one.is_known, account.purchases):
                away = {one.id: one.history[-1].away for one in purchase.returns}
                found = {**dict.fromkeys(away, 0), **known[purchase.payment_id]}
                assert found == away

    def put_right(
        self, account: Account, purchase: Purchase, returned: Return, read_at: datetime
    ) -> None:
        newest = len(returned.history) - 1
        told, version = returned.history[newest], returned.version(newest)
        answer = self.dba.row(
            "return_payment",
            payment_id=purchase.payment_id,
            return_id=returned.id,
            kind=returned.kind.partition(" ")[0],
            amount_minor=returned.amount,
            away_minor=told.away,
            state=told.state,
            transactions=version["transactions"],
            read_at=read_at,
        )
        if not purchase.is_known:
            assert answer["outcome"] == "ignored"
            return
        expected = account.tell(purchase, returned, newest)
        assert answer["outcome"] == expected

    @rule(user=users, number=numbers, livemode=st.sampled_from((None, None, True)))
    def somebody_elses(self, user: str, number: int, livemode: bool | None) -> None:
        """Payments that are not ours come and go, with metadata copied from ours."""
        purchase = self.purchase(user, number)
        own = {"account_id": purchase.row["account_id"], **self.people[user]}
        claims: list[dict[str, Any]] = [
            {"is_claimed": False},
            {**own, "account_id": NOBODY},
            {**own, "purchase_id": NOBODY},
            {**own, **metadata(purchase.row), "is_foreign": True},
        ]
        for said in claims:
            payment_id, part = unique("pi"), (unique("re"), 100)
            refunded = give_back(self.web, payment_id, part, livemode=livemode, **said)
            assert (refunded["outcome"], refunded["needs_attention"]) == ("ignored", False)
            paid = deliver(self.web, unique("evt"), payment_id, livemode=livemode, **said)
            is_told = said != {"is_claimed": False} and not livemode
            assert paid["outcome"] == ("not_sold_here" if is_told else "ignored")
            assert (paid["needs_attention"], paid["credits_added"]) == (is_told, 0)

    @invariant()
    def books_agree(self) -> None:
        type(self).steps += 1
        for user, account in self.model.items():
            row = self.dba.row("get_account", **self.people[user])
            assert row["paid_credits"] == account.paid >= 0
            assert row["free_uses_remaining"] == account.free
            assert row["ledger_version"] == account.version
            rows = self.dba.execute(
                "SELECT p.id, p.settled_at IS NOT NULL AS settled, p.payment_id,"
                " coalesce(sum(r.uses_taken), 0) AS taken, coalesce(sum(r.uses_due), 0) AS due,"
                " jsonb_object_agg(r.return_id, r.away_minor)"
                " FILTER (WHERE r.away_minor > 0) AS away"
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
                assert stored["payment_id"] == (purchase.payment_id if purchase.is_known else None)
                away = {one.id: one.away for one in purchase.returns if one.away}
                assert (stored["away"] or {}) == away
                assert (stored["due"], stored["taken"]) == (purchase.due, purchase.taken)
                sold = purchase.due_for(sum(away.values())) if purchase.settled else 0
                assert purchase.due == sold
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
    """Stripe is set up; at the end the books agree."""
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


# A return is one of three: two quarters and one half of the price.
SHARES = {"re_1": (1, 4), "re_2": (1, 4), "du_1": (1, 2)}
# An event: the payment succeeded, or a return was made (True) or undone (False).
events = st.one_of(st.just(None), st.tuples(st.sampled_from(sorted(SHARES)), st.booleans()))


def _amount(price: int, return_id: str) -> int:
    share, whole = SHARES[return_id]
    return price * share // whole


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
