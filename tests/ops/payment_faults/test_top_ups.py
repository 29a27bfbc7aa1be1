"""Top-ups when things go wrong. Whatever happens, a card is charged once, and the credits that it
bought come once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ops.payment_faults.helpers import INTENTS, kill, settled, waiting_for_a_lock
from tests.payments import forget_faults, paid_credits, paying_service, tell
from tests.stripe_double import (
    Drop,
    DropAfter,
    HoldAfter,
    HoldBefore,
    Slow,
    Status,
    StatusAfter,
    StripeDouble,
)
from tests.support import Database, Service, charge_body, held_account, wait_for
from tests.top_ups import (
    CHARGES,
    CONFIRM,
    assert_charged_once,
    attempts,
    hurry,
    intents,
    read,
    saver,
    top_up_path,
    use_up,
    wait_for_attempt,
)


def assert_topped_up_once(service: Service, double: StripeDouble, user: str) -> None:
    """The one attempt ends well, by whichever server, and brings its credits once."""

    def done() -> Any:
        hurry(service.database, user)  # a lease need not be waited for
        rows = attempts(service.database, user)
        return rows and rows[-1][0] == "succeeded" and rows

    ((_, _, payment_id),) = wait_for(done, "the top-up to succeed", timeout=40)
    assert_charged_once(service, double, user, payment_id)

    assert len(attempts(service.database, user)) == 1


@pytest.mark.parametrize(
    ("step", "path"),
    [
        ("before the payment was asked for", INTENTS),
        ("before the payment was recorded", INTENTS),
        ("before the card was charged", CONFIRM),
        ("between Stripe's answer and the note", CONFIRM),
    ],
)
def test_a_server_killed_at_any_step_charges_a_card_once(
    module_database: Database, double: StripeDouble, tmp_path: Path, step: str, path: str
) -> None:
    before = step in ("before the payment was asked for", "before the card was charged")
    hold = HoldBefore() if before else HoldAfter()
    with paying_service(module_database, double, TMPDIR=str(tmp_path)) as first:
        user, _ = saver(first, double)
        double.on("POST", path, hold)
        use_up(first, user)
        assert hold.reached.wait(20)
        kill(first)
    hold.release()
    wait_for(lambda: settled(module_database), "what was under way")
    assert [state for state, _, _ in attempts(module_database, user)] == ["open"]
    assert paid_credits(module_database, user) == 0
    with paying_service(module_database, double) as second:
        assert_topped_up_once(second, double, user)


FAULTS: dict[str, Callable[[], Any]] = {
    "500, nothing done": lambda: Status(500),
    "500 after it took effect": lambda: StatusAfter(500),
    "500 that Stripe remembers": lambda: Status(500, remembered=True),
    "429": lambda: Status(429),
    "the connection breaks before": Drop,
    "the connection breaks after it took effect": DropAfter,
    "it hangs": lambda: Slow(3),
}


@pytest.mark.parametrize("how", FAULTS)
def test_a_charge_whose_outcome_is_unknown_is_asked_for_and_not_made_again(
    shop: Service, double: StripeDouble, how: str
) -> None:
    user, _ = saver(shop, double)
    double.on("POST", CONFIRM, FAULTS[how](), times=2)  # the SDK tries twice
    use_up(shop, user)
    state, problem, _ = wait_for(
        lambda: [row for row in attempts(shop.database, user) if row[1] or row[0] != "open"],
        "a problem to be noted",
        timeout=40,
    )[0]
    assert (state, problem) == ("open", "provider_unavailable")
    assert read(shop, user)["failures"] == 0
    forget_faults(double)
    assert_topped_up_once(shop, double, user)


def test_while_stripe_is_away_nothing_is_bought_and_nothing_counts_as_a_failure(
    shop: Service, double: StripeDouble
) -> None:
    user, _ = saver(shop, double)
    with double.outage():
        use_up(shop, user)
        for _ in range(4):
            wait_for(
                lambda: [row for row in attempts(shop.database, user) if row[1]],
                "a problem to be noted",
                timeout=40,
            )
            hurry(shop.database, user)
        assert (read(shop, user)["status"], read(shop, user)["failures"]) == ("on", 0)
    assert_topped_up_once(shop, double, user)


def test_two_servers_charge_a_card_once(
    shop: Service, module_database: Database, double: StripeDouble
) -> None:
    with paying_service(module_database, double, workers=2) as other:
        users = [saver(other, double)[0] for _ in range(4)]
        for user in users:
            use_up(shop, user)
        for user in users:
            wait_for_attempt(module_database, user, "succeeded")
            assert_topped_up_once(shop, double, user)


def test_a_second_server_that_goes_on_while_the_first_waits_for_stripe_charges_nothing_twice(
    shop: Service, double: StripeDouble
) -> None:
    user, _ = saver(shop, double)
    hold = double.on("POST", CONFIRM, HoldAfter())
    use_up(shop, user)
    assert hold.reached.wait(20)
    assert_topped_up_once(shop, double, user)  # the lease is over, though the first still waits
    hold.release()
    wait_for(lambda: settled(shop.database), "the first one's note")
    assert len(attempts(shop.database, user)) == 1
    assert paid_credits(shop.database, user) == 20


def test_an_event_before_the_answer_credits_once(shop: Service, double: StripeDouble) -> None:
    user, _ = saver(shop, double)
    hold = double.on("POST", CONFIRM, HoldAfter())
    use_up(shop, user)
    assert hold.reached.wait(20)
    # What is held may also be a request that a test before gave up and Stripe's SDK repeats.
    ((_, _, payment_id),) = wait_for(
        lambda: [row for row in attempts(shop.database, user) if row[2]], "the attempt"
    )
    assert tell(shop, double, double.succeeded_event(payment_id)).status_code == 200
    assert paid_credits(shop.database, user) == 20
    hold.release()
    wait_for_attempt(shop.database, user, "succeeded")
    assert_charged_once(shop, double, user, payment_id)


def test_a_consent_withdrawn_before_the_card_is_charged_charges_nothing(
    shop: Service, double: StripeDouble
) -> None:
    user, _ = saver(shop, double)
    hold = double.on("POST", INTENTS, HoldAfter())
    use_up(shop, user)
    assert hold.reached.wait(20)
    with shop.client() as client:
        assert client.delete(top_up_path(user)).json()["status"] == "off"
    hold.release()
    _, _, payment_id = wait_for_attempt(shop.database, user, "canceled")
    assert double.intent(payment_id)["status"] == "canceled"
    assert [row["status"] for row in intents(double, user)].count("succeeded") == 1
    assert paid_credits(shop.database, user) == 0


def test_a_charge_never_waits_for_a_top_up_under_way(shop: Service, double: StripeDouble) -> None:
    user, _ = saver(shop, double, threshold=19)
    hold = double.on("POST", CONFIRM, HoldAfter())
    with shop.client() as client:
        while not attempts(shop.database, user):
            answer = client.post(CHARGES, json=charge_body(user))
            assert answer.status_code == 201
            if answer.json()["balance_after"] <= 19:
                break
        assert hold.reached.wait(20)
        for number in range(10):
            began = time.monotonic()
            assert client.post(CHARGES, json=charge_body(user)).status_code == 201
            assert time.monotonic() - began < 2, number
        # Nothing of the account is locked while Stripe is asked.
        assert waiting_for_a_lock(shop.database) == 0
        with held_account(shop.database, user):
            pass
    hold.release()
    wait_for_attempt(shop.database, user, "succeeded")
