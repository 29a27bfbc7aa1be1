"""`ciris-billing reconcile`: what differs, what is listed, what --fix puts right."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from tests.ops.command_line import run
from tests.ops.reconcile.helpers import PRICE, USES, Shop, day, found, named
from tests.support import (
    unique,
)

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
    del old["purchase_id"]  # the old service had none
    lost[users["legacy"]] = shop.pay(old)
    intent = shop.double.create_intent(
        amount=PRICE, currency="usd", metadata=shop.offer(users["declined"])
    )
    for card in ("4000000000000002", "4242424242424242"):
        shop.double.pay(intent["id"], card=card)
    lost[users["declined"]] = intent["id"]
    shop.bought(users["fine"])
    # None of these payments is ours.
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
    never = double.refund(asked)  # this failed before it was reported
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
    # 255 of 500 cents take back 10 of 20 uses together, in either order.
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
    # A refund that waits for its payment was reported, and the payment was not.
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
    assert writers == [("t_dba", None)] * 4  # entries of a person, not of the provider
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
    # Lost, but 200 were given back, which was not reported.
    lost = double.dispute(part)
    shop.take_back(part, lost)
    double.close_dispute(lost["id"], "lost")
    double.move_dispute(lost["id"], 200)
    # Won, which was reported, and lost again, which was not.
    twice = double.dispute(again)
    shop.take_back(again, twice)
    double.close_dispute(twice["id"], "won")
    assert shop.report(0, "--fix")["remaining"] == 0
    double.move_dispute(twice["id"], -500)
    double.close_dispute(twice["id"], "lost")
    # An amount other than the refund's was taken back by hand.
    refund = double.refund(wrong, 300)
    shop.take_back(wrong, {**refund, "amount": 125})
    # The credits are spent: that is a shortfall and not a difference.
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
