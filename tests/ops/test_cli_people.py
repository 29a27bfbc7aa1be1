"""The commands by which people find, explain and correct what concerns an account."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.ops.command_line import refused, run
from tests.ops.reconcile.helpers import Shop
from tests.sql.helpers import account_of, new_user, session
from tests.stripe_double import StripeDouble, running_stripe
from tests.support import BILLING, Database, clean_environment, unique


@pytest.fixture(scope="module")
def environment(module_database: Database) -> dict[str, str]:
    """The environment of a DBA."""
    return {"DATABASE_URL": module_database.dsn("t_dba")}


def _said(environment: dict[str, str], *arguments: str, code: int = 0) -> str:
    done = run(*arguments, environment=environment)
    assert (done.returncode, done.stderr) == (code, "")
    return done.stdout


def _told(environment: dict[str, str], *arguments: str) -> Any:
    return json.loads(_said(environment, *arguments, "--json"))


@pytest.fixture
def ada(module_database: Database) -> dict[str, str]:
    """Somebody without credits whose check was denied."""
    name = unique("ada")
    who = new_user(module_database, free=False, external_id=name)
    with session(module_database, "t_dba") as dba:
        dba.row("check_credit", **who, customer_email=f"{name}@example.com")
    account = str(account_of(module_database, who)["id"])
    return {"id": account, "name": name, "email": f"{name}@example.com"}


def test_an_account_is_found_by_a_part_of_its_address_or_not_at_all(
    environment: dict[str, str], ada: dict[str, str]
) -> None:
    for text in (ada["email"][:8].upper(), ada["name"][2:], ada["id"]):
        assert ada["id"] in _said(environment, "accounts", "find", text)
    (row,) = _told(environment, "accounts", "find", ada["email"])
    assert (row["external_id"], row["paid_credits"]) == (ada["name"], 0)
    nobody = _said(environment, "accounts", "find", "nobody-like-this", code=1)
    assert nobody == "No account matches.\n"


def test_an_account_is_shown_with_why_it_was_denied_its_notes_and_what_happened(
    module_database: Database, environment: dict[str, str], ada: dict[str, str]
) -> None:
    with session(module_database, "t_dba") as dba:
        dba.row("add_note", account_id=ada["id"], note="likes letters\x1b[2J")
    shown = _said(environment, "accounts", "show", ada["email"])
    assert "0 paid credits and 0 free uses; 3 uses in all" in shown
    assert "It was refused because the account had no free uses and no paid credits." in shown
    assert "Grant at least 1 credit or set free uses anew" in shown
    assert "likes letters" in shown
    assert "\x1b" not in shown
    for words in ("Check: denied", "Check: allowed", "Free use", "Note written"):
        assert words in shown
    found = _told(environment, "accounts", "show", ada["id"], "--kind", "charge", "--limit", "2")
    assert [row["what"] for row in found["timeline"]] == ["free_use", "free_use"]
    assert [state["kind"] for state in found["states"]] == ["out_of_credits", "denied"]
    wrong = run("accounts", "show", "nobody@example.com", environment=environment)
    assert "Account not found" in refused(wrong, 1)


def test_credits_are_granted_to_one_account_and_taken_back(
    environment: dict[str, str], ada: dict[str, str]
) -> None:
    grant = ("accounts", "grant", ada["email"], "7", "--reason", "goodwill", "--key", "k")
    would = _said(environment, *grant, "--dry-run")
    assert would == "Nothing was changed. The balance is 0 and would be 7.\n"
    first = _said(environment, *grant)
    assert first == "7 credits granted. The balance was 0 and is 7 now.\n"
    assert "was not done again" in _said(environment, *grant)
    (row,) = _told(environment, "accounts", "show", ada["id"], "--kind", "credit")["timeline"]
    reverse = ("accounts", "reverse", row["id"], "--reason", "too much", "--amount", "2")
    would = _said(environment, *reverse, "--dry-run")
    assert "would be reversed: the balance is 7 and would be 5" in would
    back = _said(environment, *reverse)
    assert back == "The credit was reversed: the balance was 7 and is 5 now.\n"
    (charge, *_) = _told(environment, "accounts", "show", ada["id"], "--kind", "charge")["timeline"]
    given = _said(environment, "accounts", "reverse", charge["id"], "--reason", "the job failed")
    assert given == "The charge was reversed: a free use is back, 1 left.\n"
    for wrong in (
        ("accounts", "grant", ada["id"], "--reason", "x"),
        ("accounts", "grant", ada["id"], "0", "--reason", "x"),
        ("accounts", "grant", ada["id"], "5", "--file", "x.csv", "--reason", "x"),
        ("accounts", "grant", "--reason", "x"),
        ("accounts", "reverse", ada["id"], "--reason", "no entry has this id"),
    ):
        refused(run(*wrong, environment=environment), 1)


def test_an_account_is_suspended_and_reactivated(
    environment: dict[str, str], ada: dict[str, str]
) -> None:
    why = ("--reason", "a look at it")
    said = _said(environment, "accounts", "suspend", ada["id"], *why)
    assert said == "The account was active and is suspended now.\n"
    again = _said(environment, "accounts", "suspend", ada["id"], *why)
    assert again == "The account was suspended already. Nothing was changed.\n"
    assert "suspended since" in _said(environment, "accounts", "show", ada["id"])
    row = _told(environment, "accounts", "reactivate", ada["email"], *why)
    assert (row["previous_status"], row["status"]) == ("suspended", "active")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("suspend", "--reason", "a look at it"), "is suspended now"),
        (("statement",), "closing"),  # its rows are read in parts
    ],
)
def test_who_waits_at_a_terminal_for_longer_than_two_seconds_is_told_for_what(
    module_database: Database,
    environment: dict[str, str],
    ada: dict[str, str],
    arguments: tuple[str, ...],
    answer: str,
) -> None:
    leader, follower = os.openpty()
    with session(module_database, "postgres", autocommit=False) as holder:
        holder.execute("LOCK TABLE billing_data.accounts IN ACCESS EXCLUSIVE MODE")
        command = subprocess.Popen(
            [BILLING, "accounts", arguments[0], ada["id"], *arguments[1:]],
            env={**clean_environment(), **environment}, cwd="/", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=follower, text=True,
        )  # fmt: skip
        os.close(follower)
        told = os.read(leader, 1000).decode()
        holder.connection.rollback()
    said, _ = command.communicate(timeout=60)
    os.close(leader)
    assert told.strip() == "waiting for the database: 2 s"
    assert answer in said


def test_a_staff_member_is_deactivated_and_activated(
    module_database: Database, environment: dict[str, str]
) -> None:
    email = f"{unique('mary')}@ciris.ai"
    module_database.execute("SELECT billing.add_admin(p_email => %s)", email, user="t_dba")
    off = _said(environment, "admins", "deactivate", email, "--reason", "left")
    assert off == f"{email} (viewer) is deactivated\n"
    assert _told(environment, "admins", "activate", email, "--reason", "back")["is_active"]
    nobody = run("admins", "deactivate", "x@ciris.ai", "--reason", "x", environment=environment)
    refused(nobody, 1)


@pytest.fixture(scope="module")
def double() -> Iterator[StripeDouble]:
    """A Stripe for the tests of this module."""
    with running_stripe() as double:
        yield double


def test_a_payment_is_found_and_refunded_by_its_provider_once(
    database: Database, double: StripeDouble
) -> None:
    shop = Shop(database, double)
    user = unique("ada")
    payment_id = shop.bought(user)
    environment = shop.environment()
    for what in (payment_id, f"oauth:google:{user}"):
        (row,) = _told(environment, "payments", "find", what)
        assert (row["payment_id"], row["status"]) == (payment_id, "settled")
    assert _said(environment, "payments", "find", "pi_nobody", code=1) == "No payment matches.\n"
    refund = ("payments", "refund", payment_id, "--reason", "asked for", "--amount", "2.00")
    would = _said(environment, *refund, "--dry-run")
    assert would.startswith("Nothing was changed. Stripe would refund $2.00; ")
    for _ in range(2):
        assert "Stripe refunds $2.00 (re_" in _said(environment, *refund, "--key", "once")
    assert shop.run("--fix").returncode == 0
    (row,) = _told(environment, "payments", "find", payment_id)
    assert row["returned_text"] == "$2.00"
    for wrong in (("--amount", "99.00"), ("--amount", "much")):
        asked = ("payments", "refund", payment_id, "--reason", "x", *wrong)
        refused(run(*asked, environment=environment), 1)
    # Without what the provider needs, nothing is recorded that would wait for its answer.
    unable = run(
        "payments",
        "refund",
        payment_id,
        "--reason",
        "x",
        environment={
            name: value for name, value in environment.items() if name != "ENCRYPTION_KEY"
        },
    )
    assert "ENCRYPTION_KEY" in unable.stderr
    assert _told(environment, "payments", "find", payment_id)[0]["left_text"] == row["left_text"]
    nothing = run("payments", "refund", "pi_x", "--reason", "x", environment=environment)
    refused(nothing, 1)
