"""`ciris-billing reconcile`, as an operator runs it after an outage: Stripe's payments and returns
of money against the books, what is listed, what --fix puts right, what stays for a person."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import secrets
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest

from server.encryption import Cipher
from server.payments.settings import seal_settings
from tests.ops.command_line import refused, run
from tests.stripe_double import (
    HoldAfter,
    HoldBefore,
    Status,
    StripeDouble,
    running_stripe,
)
from tests.support import (
    BILLING,
    Database,
    Process,
    clean_environment,
    running_service,
    unique,
)

KEY = secrets.token_urlsafe(48)
USES, PRICE = 20, 500
DAY = 24 * 3600
FIELDS = {
    "kind",
    "payment_id",
    "amount_minor",
    "currency",
    "created_at",
    "return_id",
    "account_id",
    "fixed",
    "outcome",
}
Json = dict[str, Any]


def day(ago: int) -> str:
    return (datetime.now(UTC) - timedelta(days=ago)).date().isoformat()


class Shop:
    """Books and the Stripe they belong to. Purchases and payments are made as the server and its
    customers make them; what a test leaves out is what was lost."""

    def __init__(self, database: Database, double: StripeDouble) -> None:
        self.database = database
        self.double = double
        given = {"api_key": double.api_key, "webhook_secret": double.webhook_secret}
        self._call(
            "SELECT * FROM billing.set_provider_config(p_provider_type => 'stripe',"
            " p_config_data => %s::jsonb)",
            json.dumps(seal_settings("stripe", given, Cipher([KEY]))),
        )

    def _call(self, statement: str, *arguments: Any) -> list[Any]:
        return self.database.execute(statement, *arguments, user="t_dba")

    # What happened

    def offer(self, user: str) -> dict[str, str]:
        """A purchase written down; gives the metadata of its payment."""
        [(account_id, purchase_id)] = self._call(
            "SELECT account_id::text, purchase_id::text FROM billing.begin_purchase("
            "p_oauth_provider => 'oauth:google', p_external_id => %s,"
            " p_customer_email => 'ada@example.com')",
            user,
        )
        return {"account_id": account_id, "purchase_id": purchase_id, **named(user)}

    def pay(self, metadata: dict[str, str] | None = None, **params: Any) -> str:
        """Somebody's payment through the Stripe account."""
        asked = {"amount": PRICE, "currency": "usd", **params}
        intent = self.double.create_intent(**asked, metadata=metadata or {})
        self.double.pay(intent["id"])
        return str(intent["id"])

    def buy(self, user: str, *, attached: bool = True, **params: Any) -> str:
        """A purchase that was paid, without anything heard of it; gives the payment's id. Not
        attached: the server died before it wrote the payment's id down."""
        metadata = self.offer(user)
        payment_id = self.pay(metadata, **params)
        if attached:
            self._call(
                "SELECT * FROM billing.attach_payment(p_account_id => %s::uuid,"
                " p_purchase_id => %s::uuid, p_payment_id => %s,"
                " p_payment_status => 'requires_payment_method')",
                metadata["account_id"],
                metadata["purchase_id"],
                payment_id,
            )
        return payment_id

    def credit(self, payment_id: str, user: str | None = None) -> str:
        """The payment is credited as if it were of the present price; gives the outcome."""
        [(outcome,)] = self._call(
            "SELECT outcome FROM billing.settle_purchase(p_payment_id => %s, p_amount_minor => %s,"
            " p_oauth_provider => %s, p_external_id => %s, p_account_id => (SELECT a.id"
            " FROM billing_data.accounts AS a WHERE a.external_id = %s))",
            payment_id,
            PRICE,
            user and "oauth:google",
            user,
            user,
        )
        return str(outcome)

    def bought(self, user: str) -> str:
        """A purchase that was paid and credited; gives the payment's id."""
        payment_id = self.buy(user)
        assert self.credit(payment_id) == "credited"
        return payment_id

    def take_back(self, payment_id: str, subject: Json) -> None:
        """The refund or dispute was heard of."""
        [(outcome,)] = self._call(
            "SELECT outcome FROM billing.return_payment(p_payment_id => %s, p_return_id => %s,"
            " p_kind => %s, p_amount_minor => %s)",
            payment_id,
            subject["id"],
            subject["object"],
            subject["amount"],
        )
        assert outcome == "taken_back"

    # What the command makes of it

    def environment(self, user: str = "t_dba", **changes: str) -> dict[str, str]:
        return {
            "DATABASE_URL": self.database.dsn(user),
            "ENCRYPTION_KEY": KEY,
            "STRIPE_API_BASE": self.double.base_url,
            "STRIPE_TIMEOUT": "5",
            **changes,
        }

    def run(
        self, *options: str, since: str | None = None, **changes: str
    ) -> subprocess.CompletedProcess[str]:
        command = ("reconcile", "stripe", "--since", since or day(1), *options)
        done = run(*command, environment=self.environment(**changes))
        for secret in (self.double.api_key, self.double.webhook_secret, KEY, "client_secret"):
            assert secret not in done.stdout + done.stderr
        return done

    def report(self, code: int, *options: str, note: str = "", **changes: str) -> Json:
        """The command's JSON, after it ended with this code and nothing but a note beside it."""
        done = self.run("--json", *options, **changes)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert done.stderr == (f"ciris-billing: {note}\n" if note else "")
        report = json.loads(done.stdout)
        assert isinstance(report, dict)
        return report

    def agrees(self, payments: int, returns: int = 0, **changes: str) -> None:
        """Both sides have so many payments and returns of money, and nothing is left to fix."""
        report = self.report(0, "--fix", **changes)
        assert (report["differences"], report["remaining"]) == ([], 0)
        assert (report["payments_compared"], report["returns_compared"]) == (payments, returns)

    def ledger(self, user: str) -> list[int]:
        """The amounts that were credited to somebody and taken back, oldest first."""
        rows = self.database.execute(
            "SELECT c.amount_minor FROM billing_data.credits AS c"
            " INNER JOIN billing_data.accounts AS a ON a.id = c.account_id"
            " WHERE a.external_id = %s ORDER BY c.ledger_version",
            user,
        )
        return [amount for (amount,) in rows]

    def verify(self) -> list[Any]:
        return self.database.execute("SELECT * FROM billing.verify_ledger()")


def named(user: str) -> dict[str, str]:
    return {"oauth_provider": "oauth:google", "external_id": user}


def found(report: Json) -> dict[str, tuple[str, bool, str | None]]:
    """Each difference by the id of its payment or return: kind, fixed, outcome."""
    differences = {
        one["return_id"] or one["payment_id"]: (one["kind"], one["fixed"], one["outcome"])
        for one in report["differences"]
    }
    assert len(differences) == len(report["differences"])
    return differences


@pytest.fixture(scope="module")
def double() -> Iterator[StripeDouble]:
    """A Stripe shared by the tests of one module."""
    with running_stripe() as double:
        yield double


@pytest.fixture
def shop(database: Database, double: StripeDouble) -> Iterator[Shop]:
    """One with an empty Stripe; its books must balance at the end."""
    double.forget()
    shop = Shop(database, double)
    yield shop
    assert shop.verify() == []


# What differs


def test_with_nothing_to_compare_both_sides_agree(shop: Shop) -> None:
    done = shop.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Both sides agree.",
        "0 payments and 0 returns compared, 0 differences, 0 remaining.",
    ]


PURCHASES = ("unheard", "unattached", "legacy", "declined", "fine", "unpaid")


def test_paid_purchases_that_nobody_heard_of_are_listed_and_then_credited_once(shop: Shop) -> None:
    users = {name: unique(name) for name in PURCHASES}
    lost = {
        users["unheard"]: shop.buy(users["unheard"]),
        users["unattached"]: shop.buy(users["unattached"], attached=False),
    }
    old = shop.offer(users["legacy"])
    del old["purchase_id"]  # the service before this one had none
    lost[users["legacy"]] = shop.pay(old)
    intent = shop.double.create_intent(
        amount=PRICE, currency="usd", metadata=shop.offer(users["declined"])
    )
    for card in ("4000000000000002", "4242424242424242"):
        shop.double.pay(intent["id"], card=card)
    lost[users["declined"]] = intent["id"]
    shop.bought(users["fine"])
    # Nothing of these concerns us.
    shop.pay()
    shop.pay({"order": "17", "customer": "4"}, currency="eur")
    unpaid = shop.double.create_intent(
        amount=PRICE, currency="usd", metadata=shop.offer(users["unpaid"])
    )
    shop.double.pay(unpaid["id"], card="4000000000000002")
    held = shop.double.create_intent(
        amount=PRICE, currency="usd", capture_method="manual", metadata=shop.offer(unique())
    )
    assert shop.double.pay(held["id"])["status"] == "requires_capture"

    report = shop.report(1)
    assert set(report) == {
        "since",
        "payments_compared",
        "returns_compared",
        "differences",
        "remaining",
        "notes",
    }
    assert report["since"] == f"{day(1)}T00:00:00+00:00"
    assert (report["payments_compared"], report["remaining"], report["notes"]) == (5, 4, [])
    assert found(report) == dict.fromkeys(lost.values(), ("not_credited", False, None))
    for one in report["differences"]:
        assert set(one) == FIELDS
        assert (one["amount_minor"], one["currency"], one["return_id"]) == (PRICE, "USD", None)
        age = datetime.now(UTC) - datetime.fromisoformat(one["created_at"])
        assert timedelta(seconds=-5) < age < timedelta(minutes=5)
        assert (one["account_id"] is not None) == (one["payment_id"] == lost[users["unheard"]])
    assert [shop.ledger(user) for user in lost] == [[], [], [], []]

    table = shop.run("--fix")
    assert (table.returncode, table.stderr) == (0, "")
    heading, *rows, summary = table.stdout.splitlines()
    assert heading.split() == [
        *("DIFFERENCE", "PAYMENT", "RETURN", "AMOUNT", "WHEN", "ACCOUNT", "RESULT")
    ]
    for payment_id in lost.values():
        [row] = [row for row in rows if payment_id in row]
        assert re.match(rf"not_credited +{payment_id} +- +\$5\.00 .* fixed$", row)
    assert len(rows) == 4
    assert summary == "5 payments and 0 returns compared, 4 differences, 0 remaining."
    assert [shop.ledger(user) for user in lost] == [[USES]] * 4

    shop.agrees(5)
    assert [shop.ledger(user) for user in users.values()] == [*[[USES]] * 5, []]


def test_money_that_went_back_or_came_again_unheard_is_found_and_put_right(shop: Shop) -> None:
    users = [unique(name) for name in ("full", "part", "disputed", "failed", "won", "asked")]
    payments = dict(zip(users, map(shop.bought, users), strict=True))
    full, part, disputed, failed, won, asked = payments.values()
    double = shop.double
    unheard = {
        double.refund(full)["id"]: ("not_taken_back", "taken_back"),
        double.refund(part, 125)["id"]: ("not_taken_back", "taken_back"),
        double.refund(part, 130)["id"]: ("not_taken_back", "taken_back"),
        double.dispute(disputed)["id"]: ("not_taken_back", "taken_back"),
    }
    refund, dispute = double.refund(failed), double.dispute(won)
    shop.take_back(failed, refund)
    shop.take_back(won, dispute)
    double.fail_refund(refund["id"])
    double.close_dispute(dispute["id"], "won")
    for subject in (refund, dispute):
        unheard[subject["id"]] = ("not_given_back", "restored")
    double.dispute(asked, status="warning_needs_response")  # moves no money
    never = double.refund(asked)  # failed before anybody heard of it
    double.fail_refund(never["id"])
    stranger = shop.pay()
    double.refund(stranger)

    report = shop.report(1)
    assert found(report) == {key: (kind, False, None) for key, (kind, _) in unheard.items()}
    by_id = {one["return_id"]: one for one in report["differences"]}
    assert sorted(one["amount_minor"] for one in by_id.values()) == [125, 130, *[500] * 4]
    assert {one["payment_id"] for one in by_id.values()} == {full, part, disputed, failed, won}
    assert all(one["account_id"] and one["created_at"] for one in by_id.values())
    assert shop.ledger(users[0]) == [USES]

    fixed = shop.report(0, "--fix")
    assert found(fixed) == {key: (kind, True, done) for key, (kind, done) in unheard.items()}
    ledgers = [shop.ledger(user) for user in users]
    # Of 255 cents of 500 together 10 of 20 uses, in whichever order.
    assert sum(ledgers[1]) == USES - 10
    assert [ledgers[0], *ledgers[2:]] == [
        [USES, -USES],
        [USES, -USES],
        [USES, -USES, USES],
        [USES, -USES, USES],
        [USES],
    ]
    shop.agrees(6, returns=7)


def test_a_payment_refunded_before_it_was_credited_ends_without_credits(shop: Shop) -> None:
    users = [unique("attached"), unique("unattached")]
    payments = [shop.buy(users[0]), shop.buy(users[1], attached=False)]
    refunds = [shop.double.refund(payment, amount)["id"] for payment, amount in
               zip(payments, (None, 250), strict=True)]  # fmt: skip
    # A refund that waits for its payment is heard of, and the payment is not.
    shop._call(
        "SELECT * FROM billing.return_payment(p_payment_id => %s, p_return_id => %s,"
        " p_kind => 'refund', p_amount_minor => 500)",
        payments[0],
        refunds[0],
    )
    done = found(shop.report(0, "--fix"))
    assert done[refunds[1]] == ("not_taken_back", True, "taken_back")
    assert [sum(shop.ledger(user)) for user in users] == [0, USES // 2]
    writers = shop.database.execute(
        "SELECT c.database_role, c.payment_provider FROM billing_data.credits AS c"
    )
    assert writers == [("t_dba", None)] * 4  # a person's entries, not the provider's
    shop.agrees(2, returns=2)


def test_what_a_person_has_dealt_with_is_no_difference_and_is_never_credited(shop: Shop) -> None:
    user = unique("late")
    metadata = {**named(user), "account_id": str(uuid4())}
    by_hand, refunded = shop.pay(metadata), shop.pay(metadata)
    pending = shop.buy(unique("less"), amount=PRICE - 1)
    assert len(shop.report(1)["differences"]) == 3
    [(credit_id,)] = shop._call(
        "SELECT c.credit_id::text FROM billing.create_account(p_oauth_provider => 'oauth:google',"
        " p_external_id => %s) AS a, LATERAL billing.create_credit(p_oauth_provider =>"
        " a.oauth_provider, p_external_id => a.external_id, p_amount_minor => 20) AS c",
        user,
    )
    for command in (
        ("resolve", by_hand, "--how", "credited", "--credit", credit_id),
        ("resolve", refunded, "--how", "refunded"),
        ("resolve", pending, "--how", "other"),
    ):
        done = run("payments", *command, "--reason", "by hand", environment=shop.environment())
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{command[1]} is resolved: {command[3]}")
    for payment_id in (refunded, pending):
        shop.double.refund(payment_id)
    shop.agrees(3)
    assert shop.ledger(user) == [20]
    part = shop.double.refund(by_hand, amount=PRICE // 2)
    report = shop.report(0, "--fix")
    assert found(report) == {part["id"]: ("not_taken_back", True, "taken_back")}
    assert shop.ledger(user) == [20, -10]
    again = run("payments", "resolve", by_hand, "--how", "other", "--reason", "x",
                environment=shop.environment())  # fmt: skip
    assert again.returncode == 1
    assert f"Payment {by_hand} was credited or dealt with before" in again.stderr
    opened = run("payments", "reopen", pending, "--reason", "a mistake", "--json",
                 environment=shop.environment())  # fmt: skip
    assert json.loads(opened.stdout) == {"payment_id": pending}


def test_what_cannot_be_put_right_stays_with_its_reason(shop: Shop) -> None:
    users = {name: unique(name) for name in ("less", "yen", "twice", "differs")}
    twice = shop.offer(users["twice"])
    assert shop.credit(first := shop.pay(twice), users["twice"]) == "credited"
    metadata = shop.offer(users["twice"])
    shop._call(
        "SELECT * FROM billing.attach_payment(p_account_id => %s::uuid, p_purchase_id => %s::uuid,"
        " p_payment_id => 'pi_another', p_payment_status => 'processing')",
        metadata["account_id"],
        metadata["purchase_id"],
    )
    wrong = {
        shop.buy(users["less"], amount=PRICE - 1): "amount_mismatch",
        shop.buy(users["yen"], currency="jpy"): "currency_mismatch",
        shop.pay({**named(unique("nobody")), "account_id": str(uuid4())}): "account_not_found",
        shop.pay({"account_id": "who", "purchase_id": "what"}): "metadata_missing",
        shop.pay(metadata): "payment_mismatch",
    }
    differs = shop.pay(named(users["differs"]), amount=700)
    shop.offer(users["differs"])
    assert shop.credit(differs, users["differs"]) == "credited"
    assert shop.credit("pi_invented", users["differs"]) == "credited"
    odd = "../charges?x=/é pi"
    assert shop.credit(odd, users["differs"]) == "credited"
    before = {user: shop.ledger(user) for user in users.values()}

    report = shop.report(1, "--fix")
    assert found(report) == {
        **{payment: ("not_credited", False, reason) for payment, reason in wrong.items()},
        differs: ("amount_differs", False, None),
        "pi_invented": ("unknown_to_stripe", False, None),
        odd: ("unknown_to_stripe", False, None),
    }
    assert report["remaining"] == len(report["differences"]) == 8
    amounts = {one["payment_id"]: one["amount_minor"] for one in report["differences"]}
    assert (amounts[differs], amounts["pi_invented"]) == (700, PRICE)
    assert first not in amounts
    assert {user: shop.ledger(user) for user in users.values()} == before

    table = shop.run("--fix")
    assert table.returncode == 1
    lines = table.stdout.splitlines()
    for payment_id, reason in wrong.items():
        assert [line for line in lines if payment_id in line and line.endswith(f" {reason}")]
    assert [line for line in lines if "pi_invented" in line and line.endswith(" to do")]
    assert lines[-1].endswith("8 differences, 8 remaining.")


def test_one_payment_with_odd_metadata_does_not_stop_the_others(shop: Shop) -> None:
    users = [unique("before"), unique("after")]
    payments = [shop.buy(users[0])]
    odd = [
        shop.pay({"external_id": "a\0b", "oauth_provider": "oauth:google", "account_id": "?"}),
        shop.pay({"external_id": "x" * 500, "oauth_provider": "'; --", "account_id": "\ud7ff" * 9}),
    ]
    payments.append(shop.buy(users[1]))
    done = found(shop.report(1, "--fix"))
    assert {payment: done[payment][1] for payment in payments} == dict.fromkeys(payments, True)
    assert {payment: done[payment][2] for payment in odd} == dict.fromkeys(odd, "not_sold_here")


def test_amounts_that_are_away_are_compared_and_put_to_what_stripe_says(shop: Shop) -> None:
    users = [unique(name) for name in ("part", "again", "wrong", "short", "asked")]
    part, again, wrong, short, asked = map(shop.bought, users)
    double = shop.double
    # Lost, but 200 were given back, which nobody heard of.
    lost = double.dispute(part)
    shop.take_back(part, lost)
    double.close_dispute(lost["id"], "lost")
    double.move_dispute(lost["id"], 200)
    # Won, which was heard of, and lost again, which was not.
    twice = double.dispute(again)
    shop.take_back(again, twice)
    double.close_dispute(twice["id"], "won")
    assert shop.report(0, "--fix")["remaining"] == 0
    double.move_dispute(twice["id"], -500)
    double.close_dispute(twice["id"], "lost")
    # Another amount than the refund's was taken back by hand.
    refund = double.refund(wrong, 300)
    shop.take_back(wrong, {**refund, "amount": 125})
    # The credits are gone: that is a shortfall, and no difference.
    spent = "SELECT * FROM billing.create_charge(p_oauth_provider => 'oauth:google',"
    for amount in (1, 1, 1, 15):
        shop._call(f"{spent} p_external_id => %s, p_amount_minor => %s)", users[3], amount)
    shop.take_back(short, double.dispute(short))
    double.dispute(asked, status="warning_needs_response")

    report = shop.report(1)
    assert found(report) == {
        twice["id"]: ("not_taken_back", False, None),
        refund["id"]: ("not_taken_back", False, None),
    }
    amounts = {one["return_id"]: one["amount_minor"] for one in report["differences"]}
    assert amounts == {twice["id"]: 500, refund["id"]: 175}
    fixed = found(shop.report(0, "--fix"))
    assert fixed == dict.fromkeys(amounts, ("not_taken_back", True, "taken_back"))
    shop.agrees(5, returns=4)
    assert [shop.ledger(user) for user in users] == [
        [USES, -USES, 8],
        [USES, -USES, USES, -USES],
        [USES, -5, -7],
        [USES, -5],
        [USES],
    ]


def test_a_return_that_stripe_says_again_otherwise_is_put_right_back(shop: Shop) -> None:
    payment_id = shop.bought(user := unique())
    refund = shop.double.refund(payment_id)
    shop.take_back(payment_id, refund)
    shop._call(
        "SELECT * FROM billing.return_payment(p_payment_id => %s, p_return_id => %s,"
        " p_kind => 'refund', p_amount_minor => 500, p_withdrawn => false)",
        payment_id,
        refund["id"],
    )
    fixed = found(shop.report(0, "--fix"))
    assert fixed == {refund["id"]: ("not_taken_back", True, "taken_back")}
    assert shop.ledger(user) == [USES, -USES, USES, -USES]
    shop.agrees(1, returns=1)


def test_what_comes_back_to_a_full_account_stays_a_difference(shop: Shop) -> None:
    payment_id = shop.bought(user := unique())
    refund = shop.double.refund(payment_id)
    shop.take_back(payment_id, refund)
    shop.double.fail_refund(refund["id"])
    shop._call(
        "SELECT * FROM billing.create_credit(p_oauth_provider => 'oauth:google',"
        " p_external_id => %s, p_amount_minor => %s)",
        user,
        2**63 - 1,
    )
    report = shop.report(1, "--fix")
    assert found(report) == {refund["id"]: ("not_given_back", False, "balance_overflow")}


def test_a_payment_that_only_claims_to_be_ours_is_not_credited(shop: Shop) -> None:
    user, other = unique(), unique()
    mine, theirs = shop.offer(user), shop.offer(other)
    claims = {
        "another account": {**named(user), "account_id": theirs["account_id"]},
        "an unknown purchase": {**mine, "purchase_id": str(uuid4())},
        "a purchase of another account": {**mine, "purchase_id": theirs["purchase_id"]},
        "somebody else": {**mine, **named(other)},
        "no id": {**named(user), "account_id": "7"},
    }
    payments = {shop.pay(metadata) for metadata in claims.values()}
    fixed = shop.report(1, "--fix")
    assert found(fixed) == dict.fromkeys(payments, ("not_credited", False, "not_sold_here"))
    assert shop.ledger(user) == shop.ledger(other) == []


def test_our_own_payment_is_credited_whatever_its_metadata_says(shop: Shop) -> None:
    users = [unique() for _ in range(3)]
    foreign = {"account_id": str(uuid4()), "purchase_id": str(uuid4()), **named(unique())}
    for user, metadata in zip(users, ({}, {"order": "7"}, foreign), strict=True):
        offer = shop.offer(user)
        shop._call(
            "SELECT * FROM billing.attach_payment(p_account_id => %s::uuid,"
            " p_purchase_id => %s::uuid, p_payment_id => %s, p_payment_status => 'processing')",
            offer["account_id"],
            offer["purchase_id"],
            shop.pay(metadata),
        )
    assert shop.report(0, "--fix")["payments_compared"] == 3
    assert [shop.ledger(user) for user in users] == [[USES]] * 3


# From when on


def test_what_is_older_than_the_date_is_not_compared(shop: Shop) -> None:
    users = [unique(name) for name in ("older", "edge", "newer")]
    older, edge, newer = (shop.buy(user) for user in users)
    created = {payment: shop.double.charge_of(payment)["created"] for payment in (older, edge)}
    since = int(time.time()) - 2 * DAY
    for payment, second in ((older, since - 1), (edge, since)):
        shop.double.age(shop.double.charge_of(payment)["id"], created[payment] - second)
    at = datetime.fromtimestamp(since, timezone(timedelta(hours=9))).isoformat()
    with ThreadPoolExecutor(2) as threads:
        exact = threads.submit(shop.report, 1, since=at)
        earlier = threads.submit(shop.report, 1, since=day(3))
    assert set(found(exact.result())) == {edge, newer}
    assert set(found(earlier.result())) == {older, edge, newer}

    # What was credited since then is asked for by name when its payment is older.
    assert shop.credit(older) == "credited"
    fixed = shop.report(0, "--fix", since=at)
    assert (fixed["payments_compared"], set(found(fixed))) == (3, {edge, newer})
    refunds = [shop.double.refund(payment)["id"] for payment in (older, edge, newer)]
    dispute = shop.double.dispute(edge)["id"]
    for returned in (refunds[0], dispute):
        shop.double.age(returned, int(time.time()) - since + 60)
    assert set(found(shop.report(1, since=at))) == {refunds[1], refunds[2]}


@pytest.mark.parametrize("date", ["yesterday", "2026-02-30"])
def test_what_is_no_date_is_answered_with_the_usage(date: str) -> None:
    message = refused(run("reconcile", "stripe", "--since", date), 2)
    assert message.startswith("usage: ciris-billing reconcile")
    assert "must be a date like 2026-11-01" in message


def test_another_provider_is_answered_with_the_usage() -> None:
    assert "paypal" in refused(run("reconcile", "paypal", "--since", day(1)), 2)


def test_dates_far_off_are_dates(troubled: Shop) -> None:
    with ThreadPoolExecutor(2) as threads:
        dates = {"0001-01-01": 1, "9999-12-31T23:59:59+00:00": 0}
        reports = {date: threads.submit(troubled.report, 0, since=date) for date in dates}
    compared = {date: report.result()["payments_compared"] for date, report in reports.items()}
    assert compared == dates


# Many


def test_every_page_is_read_and_a_run_that_failed_between_two_is_finished(shop: Shop) -> None:
    user = unique()
    metadata = shop.offer(user)
    del metadata["purchase_id"]  # one account suffices, as with the old service
    payments = {shop.pay(metadata) for _ in range(115)}

    hold = shop.double.on("GET", "/v1/charges$", HoldAfter())
    with ThreadPoolExecutor(1) as threads:
        midway = threads.submit(shop.run, "--fix")
        assert hold.reached.wait(30)
        shop.double.on("GET", "/v1/charges$", Status(500), times=2)
        hold.release()
    message = refused(midway.result(), 1)
    assert midway.result().stdout == ""
    assert "Stripe failed" in message
    assert "try again" in message
    assert shop.ledger(user) == [USES] * 100  # what was done by then is right
    assert shop.verify() == []

    shop.double.requests.clear()
    rest = shop.report(0, "--fix")
    assert (rest["payments_compared"], len(rest["differences"])) == (115, 15)
    pages = [one.query for one in shop.double.requests if one.path == "/v1/charges"]
    assert [page["limit"] for page in pages] == ["100", "100"]
    assert shop.ledger(user) == [USES] * 115
    known = shop.database.execute("SELECT payment_id::text FROM billing_data.purchases")
    assert payments <= {payment_id for (payment_id,) in known}
    shop.agrees(115)


# Trouble


@pytest.mark.parametrize(
    ("path", "status", "attempts", "words"),
    [
        ("/v1/refunds$", 502, 2, "Stripe failed"),
        ("/v1/disputes$", 500, 2, "Stripe failed"),
        ("/v1/payment_intents/", 503, 2, "Stripe failed"),
        ("/v1/disputes$", 429, 1, "429"),
        ("/v1/charges$", 401, 1, "does not accept the API key"),
    ],
)
def test_what_stripe_cannot_answer_is_no_agreement(
    troubled: Shop, path: str, status: int, attempts: int, words: str
) -> None:
    troubled.double.on("GET", path, Status(status), times=attempts)
    done = troubled.run("--json")
    assert words in refused(done, 1)
    assert done.stdout == ""


@pytest.mark.parametrize("path", ["/v1/charges$", "/v1/disputes$"])
def test_stripe_gone_midway_is_no_agreement(troubled: Shop, path: str) -> None:
    hold = troubled.double.on("GET", path, HoldBefore())
    with ThreadPoolExecutor(1) as threads:
        midway = threads.submit(troubled.run, "--json", "--fix")
        assert hold.reached.wait(30)
        with troubled.double.outage():
            done = midway.result()
    hold.release()
    assert "Stripe cannot be reached" in refused(done, 1)
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.fixture(scope="module")
def troubled(module_database: Database) -> Iterator[Shop]:
    """Where Stripe cannot answer; the books and Stripe agree but for one payment of nobody."""
    with running_stripe() as double:
        shop = Shop(module_database, double)
        shop.bought(unique())
        shop.pay({"order": "17"})
        shop.agrees(1)
        yield shop


def test_a_key_that_may_not_read_disputes_is_said_and_the_rest_compared(troubled: Shop) -> None:
    troubled.double.on("GET", "/v1/disputes$", Status(403))
    done = troubled.run("--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    [note] = report["notes"]
    assert note.startswith("disputes were not compared: ")
    assert "permission" in note
    assert done.stderr == f"ciris-billing: {note}\n"
    assert report["payments_compared"] == 1


def test_who_is_no_dba_is_refused_with_a_sentence(troubled: Shop) -> None:
    done = troubled.run("--fix", user="t_web")
    assert "permission denied" in refused(done, 1)
    assert len(done.stderr.splitlines()) == 1


def test_without_its_configuration_nothing_is_asked(troubled: Shop) -> None:
    troubled.double.requests.clear()
    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(troubled.run, ENCRYPTION_KEY=secrets.token_urlsafe(48))
        weak = threads.submit(troubled.run, ENCRYPTION_KEY="weak")
    assert "with a key that ENCRYPTION_KEY does not have" in refused(other.result(), 1)
    assert "ENCRYPTION_KEY" in refused(weak.result(), 2)
    assert troubled.double.requests == []


# What a terminal sees


def read_all(terminal: int) -> str:
    """What was written to a terminal whose other end is closed."""
    parts = []
    with contextlib.suppress(OSError):  # how a terminal ends
        while part := os.read(terminal, 65536):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode()


@pytest.mark.parametrize("options", [("--json",), ()], ids=["json", "table"])
def test_progress_is_shown_on_a_terminal_and_never_in_the_output(
    troubled: Shop, options: tuple[str, ...]
) -> None:
    command = [BILLING, "reconcile", "stripe", "--since", day(1), *options]
    environment = {**clean_environment(), **troubled.environment(), "TERM": "xterm"}
    terminal, its_end = pty.openpty()
    termios.tcsetwinsize(its_end, (24, 120))
    with subprocess.Popen(
        command, env=environment, stdin=its_end, stdout=subprocess.PIPE, stderr=its_end, text=True
    ) as process:
        os.close(its_end)
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait(30) == 0
    seen = read_all(terminal)
    assert "comparing" in seen
    assert "comparing" not in output
    if options:
        assert json.loads(output)["payments_compared"] == 1
    else:
        assert output.startswith("Both sides agree.\n")


def test_a_plain_localstripe_is_enough_but_for_disputes(shop: Shop) -> None:
    user = unique()
    payment = shop.buy(user)
    shop.double.refund(payment, 250)
    direct = shop.double.direct_url
    done = shop.run("--fix", "--json", STRIPE_API_BASE=direct)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"ciris-billing: disputes were not compared: .+\n", done.stderr)
    fixed = json.loads(done.stdout)
    assert [f"ciris-billing: {note}\n" for note in fixed["notes"]] == [done.stderr]
    assert sorted(kind for kind, _, _ in found(fixed).values()) == [
        "not_credited",
        "not_taken_back",
    ]
    assert shop.ledger(user) == [USES, -USES // 2]


# At the same time, and again


def test_two_runs_beside_the_webhook_credit_and_take_back_once(shop: Shop) -> None:
    users = [unique(f"user{number}") for number in range(12)]
    payments = [shop.buy(user, attached=number % 2 == 0) for number, user in enumerate(users)]
    double = shop.double
    for payment in payments[:4]:
        double.refund(payment, 250)
    events = [double.succeeded_event(payment) for payment in payments]
    events += [double.refunded_event(payment) for payment in payments[:4]]
    selling = running_service(shop.database, ENCRYPTION_KEY=KEY, STRIPE_API_BASE=double.base_url)
    with selling as service, ThreadPoolExecutor(10) as threads:
        first = double.on("GET", "/v1/charges$", HoldAfter())
        second = double.on("GET", "/v1/charges$", HoldAfter())
        runs = [threads.submit(shop.run, "--fix", "--json") for _ in range(2)]
        assert first.reached.wait(30)
        assert second.reached.wait(30)
        posted = [
            threads.submit(double.deliver, service.base_url, event)
            for event in [*events[::-1], *events]
        ]
        first.release()
        second.release()
        statuses = {answer.result().status_code for answer in posted}
    assert statuses == {200}
    for one in runs:
        assert one.result().returncode == 0, one.result().stderr
    for number, user in enumerate(users):
        assert sorted(shop.ledger(user)) == ([-USES // 2, USES] if number < 4 else [USES])
    shop.agrees(12, returns=4)


def test_a_run_that_was_killed_midway_is_finished_by_the_next(shop: Shop) -> None:
    users = [unique(f"user{number}") for number in range(6)]
    payments = [shop.buy(user) for user in users]
    for payment in payments[:3]:
        shop.double.refund(payment)
    command = [BILLING, "reconcile", "stripe", "--since", day(1), "--fix"]
    # While it asks for the newest but two, and again before the returns.
    for path in (f"/v1/payment_intents/{payments[3]}$", "/v1/refunds$"):
        hold = shop.double.on("GET", path, HoldBefore())
        process = Process(command, shop.environment()).start()
        assert hold.reached.wait(30), process.output
        assert process.stop(signal.SIGKILL) == -signal.SIGKILL
        hold.release()
        assert shop.verify() == []
        credited = [shop.ledger(user) for user in users]
        assert all(amounts in ([], [USES]) for amounts in credited)
        assert credited.count([USES]) == (2 if "intents" in path else 6)
    shop.report(0, "--fix")
    assert [sum(shop.ledger(user)) for user in users] == [0, 0, 0, USES, USES, USES]
    assert sum(len(shop.ledger(user)) for user in users) == 9
    shop.agrees(6, returns=3)


def test_a_run_whose_database_goes_away_says_so_and_the_next_one_finishes(shop: Shop) -> None:
    users = [unique(f"user{number}") for number in range(3)]
    payments = [shop.buy(user) for user in users]
    hold = shop.double.on("GET", f"/v1/payment_intents/{payments[1]}$", HoldAfter())
    name = shop.database.name
    with ThreadPoolExecutor(1) as threads:
        midway = threads.submit(shop.run, "--fix")
        assert hold.reached.wait(30)
        admin = Database(shop.database.cluster, "postgres")
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        hold.release()
        message = refused(midway.result(), 1)
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert "database" in message
    assert sum(map(len, map(shop.ledger, users))) == 1
    shop.report(0, "--fix")
    assert [shop.ledger(user) for user in users] == [[USES]] * 3
