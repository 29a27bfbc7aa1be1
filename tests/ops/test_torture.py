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
from tests.torture.runner import Report, torture
from tests.torture.stage import Stage


async def test_no_fault_loses_or_doubles_a_credit_or_makes_an_answer_wrong() -> None:
    report = await torture((len(FAULTS) + 1) // 2, secrets.randbelow(1_000_000), each_once=True)
    print(report.text())
    assert report.faults == []
    missing = FAULTS.keys() - report.struck.keys()
    assert missing <= ({"full disk"} if os.environ.get("CI") != "true" else set())


@pytest.mark.parametrize(
    ("statement", "found_as"),
    [
        (
            "DELETE FROM billing_data.charges WHERE id IN (SELECT id FROM billing_data.charges"
            " WHERE description LIKE 'torture-%' ORDER BY id LIMIT 1)",
            "lost",
        ),
        (
            "INSERT INTO billing_data.charges SELECT (jsonb_populate_record(c, jsonb_build_object("
            "'id', gen_random_uuid(), 'ledger_version', 1000000, 'idempotency_key', NULL))).*"
            " FROM billing_data.charges AS c WHERE c.description LIKE 'torture-%' LIMIT 1",
            "doubled",
        ),
        (
            "UPDATE billing_data.accounts SET paid_credits = paid_credits + 1"
            " WHERE external_id LIKE 'torture-%-hot-%'",
            "overspent",
        ),
        (
            "UPDATE billing_data.accounts SET free_uses_remaining = 99"
            " WHERE external_id LIKE 'torture-%' AND external_id NOT LIKE 'torture-%-hot-%'",
            "wrong",
        ),
    ],
)
async def test_what_somebody_falsifies_is_found(statement: str, found_as: str) -> None:
    report = await torture(1, 1, faults={"planted": _planted(statement)})
    print(report.text())
    assert getattr(report, found_as) != []


def _planted(statement: str) -> Fault:
    """A superuser changes the tables, bypassing every trigger, after the clients have worked for a
    while."""

    @contextlib.asynccontextmanager
    async def falsify(stage: Stage, _: Random) -> AsyncIterator[None]:
        def change() -> None:
            with stage.connect() as connection:
                connection.execute("ALTER TABLE billing_data.charges DISABLE TRIGGER USER")
                done = connection.execute(statement)
                assert done.rowcount > 0

        await asyncio.sleep(0.5)
        await asyncio.to_thread(change)
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
