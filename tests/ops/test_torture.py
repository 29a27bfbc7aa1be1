"""The quick form of `make torture`: each fault once, two in a round. It also proves that the runner
finds losses, by planting some."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from random import Random

import pytest

from tests.torture.faults import FAULTS, Fault
from tests.torture.model import Account, State, Write, WrongAnswer
from tests.torture.runner import Report, Round, torture
from tests.torture.stage import Stage, running_stage


async def test_no_fault_loses_or_doubles_a_credit_or_makes_an_answer_wrong() -> None:
    report = await torture((len(FAULTS) + 1) // 2, secrets.randbelow(1_000_000), each_once=True)
    print(report.text())
    assert report.faults == []
    missing = FAULTS.keys() - report.struck.keys()
    assert missing <= ({"full disk"} if os.environ.get("CI") != "true" else set())


# What somebody changes in the tables, and in which list of the report that is found.
_PLANTED = (
    (
        "lost",
        "DELETE FROM billing_data.charges WHERE id IN (SELECT id FROM billing_data.charges"
        " WHERE description LIKE '{round}%' AND description NOT LIKE '%-h%' ORDER BY id LIMIT 1)",
    ),
    (
        "doubled",
        "INSERT INTO billing_data.charges SELECT (jsonb_populate_record(c, jsonb_build_object("
        "'id', gen_random_uuid(), 'ledger_version', 1000000, 'idempotency_key', NULL))).*"
        " FROM billing_data.charges AS c WHERE c.description LIKE '{round}%' LIMIT 1",
    ),
    (
        "overspent",
        "UPDATE billing_data.accounts SET paid_credits = paid_credits + 1"
        " WHERE external_id LIKE '{round}hot-%'",
    ),
    (
        "wrong",
        "UPDATE billing_data.accounts SET free_uses_remaining = 99"
        " WHERE external_id LIKE '{round}%' AND external_id NOT LIKE '{round}hot-%'",
    ),
    # A hold that keeps more than there was, at the moment when it was made.
    (
        "overspent",
        "UPDATE billing_data.holds SET amount_minor = 1000000 WHERE id IN (SELECT id FROM"
        " billing_data.holds WHERE description LIKE '{round}%' AND free_uses = 0 LIMIT 1)",
    ),
)
# A rule that is broken, and in which list of the report that is found.
_BROKEN = (
    ("doubled", "capture_round", "d.is_new AND h.ctid = d.hold_at", "false"),
    ("stuck", "bring_up_to_date", "a.held_credits - t.credits", "a.held_credits"),
)


async def test_what_somebody_falsifies_and_a_broken_rule_are_found() -> None:
    async with running_stage() as stage:
        for number, (found_as, statement) in enumerate(_PLANTED, 1):
            falsify = _planted(statement.format(round=f"torture-{number}-"))
            await _assert_found(stage, number, found_as, falsify)
        for number, (found_as, function, rule, broken) in enumerate(_BROKEN, len(_PLANTED) + 1):
            definition = stage.database.value(
                "SELECT pg_get_functiondef(%s::regproc::oid)", f"billing_data.{function}"
            )
            assert definition.count(rule) == 1
            stage.database.execute(definition.replace(rule, broken))
            await _assert_found(stage, number, found_as, _no_fault)
            stage.database.execute(definition)


async def _assert_found(stage: Stage, number: int, found_as: str, fault: Fault) -> None:
    report = Report(number)
    await Round(stage, report, number, Random(number)).run([("planted", fault)])
    print(report.text())
    assert getattr(report, found_as) != []


@contextlib.asynccontextmanager
async def _no_fault(_: Stage, __: Random) -> AsyncIterator[None]:
    yield


def _planted(statement: str) -> Fault:
    """A superuser changes the tables, bypassing every trigger, once the clients have written what
    the statement changes."""

    @contextlib.asynccontextmanager
    async def falsify(stage: Stage, _: Random) -> AsyncIterator[None]:
        with stage.connect() as connection:
            for table in ("charges", "holds"):
                connection.execute(f"ALTER TABLE billing_data.{table} DISABLE TRIGGER USER")
            while not (await asyncio.to_thread(connection.execute, statement)).rowcount:
                await asyncio.sleep(0.02)
        yield

    return falsify


def test_the_model_allows_what_is_unknown_and_nothing_else() -> None:
    account = Account()
    first, second = Write("first", -1), Write("second", 2)
    account.unknown(first)
    account.seen("either", lambda state: state.free in (2, 3))
    assert account.states == {State(), State(2, 0, 1, frozenset({"first"}))}
    account.written(second, "granted", lambda state: state.paid == 2)
    with pytest.raises(WrongAnswer):
        account.seen("a use too many", lambda state: state.uses == 2)
    account.settle(["first", "second"], "both are there")
    assert account.states == {State(2, 2, 1, frozenset({"first", "second"}))}
    with pytest.raises(WrongAnswer):
        account.refused(Write("third", -1), "refused with a free use left", lambda _: True)
    with pytest.raises(WrongAnswer):
        account.settle(["first"], "one is lost")


def test_a_report_says_what_was_found() -> None:
    assert "lost 1" in Report(7, lost=["round 1: torture-1-0-1"]).text()
