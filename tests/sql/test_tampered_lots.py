"""billing.verify_ledger against an attacker who can change everything about holds, lots and
schedules: each change is found, and named for the account."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.sql.helpers import Caller, account_of, ledger_problems, new_user
from tests.sql.lots import clock_at
from tests.support import Database

_NOW = datetime(2027, 12, 15, 10, tzinfo=UTC)
_TABLES = (
    "accounts", "charges", "credits", "holds", "hold_lots", "lots", "lot_allocations",
    "grant_schedules", "scheduled_grants",
)  # fmt: skip

_LEFT = "lot {lot} has not left what it should have"
_TOOK = "entry {} took of lots another amount than it could"
_GRANT = "credit {grant} is not the grant of its schedule"
_CAPTURE = "hold {captured} is not captured by its charge"
_COUNTED = "what is held is not what open holds keep"
_HAS_LOTS = "the account does not say whether it has lots"

# What is done -> (the statement, the account it is found for, and as what).
TAMPERING: dict[str, tuple[str, str, set[str]]] = {
    "more held than holds keep": (
        "UPDATE accounts SET held_credits = held_credits + 1 WHERE id = %(main)s",
        "main", {_COUNTED},
    ),
    "a free use held by nothing": (
        "UPDATE accounts SET held_free_uses = 1, free_uses_remaining = 1 WHERE id = %(main)s",
        "main", {_COUNTED},
    ),
    "a hold that ended and gave nothing back": (
        "UPDATE holds SET state = 'expired' WHERE id = %(held)s",
        "main", {_COUNTED, _LEFT},
    ),
    "nothing is due": (
        "UPDATE accounts SET due_at = NULL WHERE id = %(main)s",
        "main", {
            "hold {held} ends and nothing will book it",
            "a lot ends and nothing will book it",
            "schedule {schedule} gives and nothing will book it",
        },
    ),
    "a hold's end is due too late": (
        "UPDATE accounts AS a SET due_at = h.expires_at + interval '1 microsecond'"
        " FROM holds AS h WHERE h.id = %(held)s AND a.id = h.account_id",
        "main", {"hold {held} ends and nothing will book it"},
    ),
    "a schedule is due too late": (
        "UPDATE accounts AS a SET due_at = g.next_at + interval '1 microsecond'"
        " FROM grant_schedules AS g WHERE g.id = %(schedule)s AND a.id = g.account_id",
        "main", {"schedule {schedule} gives and nothing will book it"},
    ),
    "a lot's end is due too late": (
        "UPDATE accounts AS a SET due_at = l.expires_at + interval '1 microsecond'"
        " FROM lots AS l WHERE l.id = %(lot)s AND a.id = l.account_id",
        "main", {"a lot ends and nothing will book it"},
    ),
    "less captured than was charged": (
        "UPDATE holds SET captured_minor = captured_minor - 1 WHERE id = %(captured)s",
        "main", {_CAPTURE},
    ),
    "a capture in another currency": (
        "UPDATE holds SET currency = 'EUR' WHERE id = %(captured)s", "main", {_CAPTURE},
    ),
    "a capture by somebody else's charge": (
        "UPDATE holds SET charge_id = %(other_charge)s WHERE id = %(captured)s", "main", {_CAPTURE},
    ),
    "a capture whose charge is gone": (
        "DELETE FROM charges AS c USING holds AS h"
        " WHERE h.id = %(captured)s AND c.id = h.charge_id",
        "main", {_CAPTURE},
    ),
    "credits put back into a lot": (
        "UPDATE lots SET left_minor = left_minor + 1 WHERE id = %(lot)s", "main", {_LEFT},
    ),
    "credits taken out of a lot": (
        "UPDATE lots SET left_minor = left_minor - 1 WHERE id = %(lot)s", "main", {_LEFT},
    ),
    "an allocation that is gone": (
        "DELETE FROM lot_allocations WHERE entry_id = %(spent)s AND lot_id = %(lot)s",
        "main", {_LEFT},
    ),
    "what a hold keeps of a lot is gone": (
        "DELETE FROM hold_lots WHERE hold_id = %(held)s AND lot_id = %(lot)s", "main", {_LEFT},
    ),
    "credits of lots that the account has not": (
        "UPDATE accounts SET paid_credits = held_credits WHERE id = %(main)s",
        "main", {"the lots have more left than is available"},
    ),
    "lots that are not looked at": (
        "UPDATE accounts SET has_lots = false WHERE id = %(main)s", "main", {_HAS_LOTS},
    ),
    "lots that are held and not looked at": (
        "UPDATE accounts SET has_lots = false WHERE id = %(all_held)s", "all_held", {_HAS_LOTS},
    ),
    "lots where there are none": (
        "UPDATE accounts SET has_lots = true WHERE id = %(plain)s", "plain", {_HAS_LOTS},
    ),
    "a free use that lots paid": (
        "INSERT INTO lot_allocations VALUES (%(free)s, %(lot)s, 1)",
        "main", {_TOOK.format("{free}"), _LEFT},
    ),
    "a charge that gave to lots": (
        "UPDATE lot_allocations SET amount_minor = -1"
        " WHERE entry_id = %(spent)s AND lot_id = %(promotion)s",
        "main", {_TOOK.format("{spent}")},
    ),
    "a charge that took more of lots than it was": (
        "UPDATE lot_allocations SET amount_minor = 100 WHERE entry_id = %(spent)s"
        " AND lot_id = %(lot)s",
        "main", {_TOOK.format("{spent}"), _LEFT},
    ),
    "an entry that took of one lot and gave to another": (
        "INSERT INTO lot_allocations VALUES (%(lot)s, %(lot)s, 1), (%(lot)s, %(promotion)s, -2)",
        "main", {_TOOK.format("{lot}"), _LEFT},
    ),
    "a gift that took of lots": (
        "INSERT INTO lot_allocations VALUES (%(lot)s, %(lot)s, 1)",
        "main", {_TOOK.format("{lot}"), _LEFT},
    ),
    "the end of a lot that took more than was left": (
        "UPDATE lot_allocations SET amount_minor = amount_minor + 1 WHERE entry_id = %(ended)s",
        "main", {_TOOK.format("{ended}")},
    ),
    "an allocation of an entry that is not there": (
        "INSERT INTO lot_allocations VALUES (gen_random_uuid(), %(lot)s, 1)",
        "main", {"lot {lot} paid for another account", _LEFT},
    ),
    "a lot that paid for another account": (
        "INSERT INTO lot_allocations VALUES (%(other_charge)s, %(lot)s, 1)",
        "main", {"lot {lot} paid for another account", _LEFT},
    ),
    "a lot of more than its credit": (
        "UPDATE lots SET amount_minor = amount_minor + 1, left_minor = left_minor + 1"
        " WHERE id = %(lot)s",
        "main", {"credit {lot} made lots of more than it was"},
    ),
    "a lot that somebody else has": (
        "UPDATE lots SET account_id = %(other)s WHERE id = %(lot)s",
        "main", {"credit {lot} made lots of more than it was"},
    ),
    "one of two lots of a credit that somebody else has": (
        "UPDATE lots SET account_id = 'ffffffff-ffff-4fff-bfff-ffffffffffff'"
        " WHERE credit_id = %(moved)s AND amount_minor = 2",
        "other", {"credit {moved} made lots of more than it was"},
    ),
    "a grant that took": (
        "ALTER TABLE credits DROP CONSTRAINT credits_amount;"
        "UPDATE credits SET amount_minor = -1, balance_before = balance_after + 1"
        " WHERE id = %(grant)s",
        "main", {_GRANT},
    ),
    "a grant to another account": (
        "UPDATE scheduled_grants SET credit_id = %(other_credit)s WHERE credit_id = %(grant)s",
        "other", {"credit {other_credit} is not the grant of its schedule"},
    ),
    "a grant that is gone": (
        "DELETE FROM credits WHERE id = %(grant)s", "main", {_GRANT},
    ),
    "a grant whose schedule is gone": (
        "DELETE FROM grant_schedules WHERE id = %(schedule)s", "main", {_GRANT},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def books(module_database: Database, dba: Caller) -> Iterator[dict[str, Any]]:
    """Books with lots, holds and a schedule; what the statements name, by its name."""
    with clock_at(module_database, _NOW):
        main, other, all_held, plain = (
            new_user(module_database, paid=paid, free=False) for paid in (10, 30, 0, 1)
        )
        names = {
            name: account_of(module_database, who)["id"]
            for name, who in (
                ("main", main),
                ("other", other),
                ("all_held", all_held),
                ("plain", plain),
            )
        }
        # The two are in different ranges, whose ids are random.
        names["border"] = min(names["main"], names["other"])
        names["free"] = module_database.value(
            "SELECT id FROM billing_data.charges WHERE account_id = %s LIMIT 1", names["main"]
        )
        ended = _give(dba, main, 3, expires_at=_NOW + timedelta(hours=1))
        dba.row(
            "set_grant_schedule", account_id=names["main"], amount=4, repeat="daily",
            lasts_days=20, rollover=True, reason="a plan",
        )  # fmt: skip
    with clock_at(module_database, _NOW + timedelta(days=1)):
        names["lot"] = _give(dba, main, 20, expires_at=_NOW + timedelta(days=9))
        names["promotion"] = _give(dba, main, 5, priority=10)
        names["spent"] = dba.row("create_charge", **main, amount_minor=7)["charge_id"]
        names["captured"] = _hold(dba, main, 6)
        dba.row("capture_hold", hold_id=names["captured"], amount_minor=5)
        names["held"] = _hold(dba, main, 2)
        _give(dba, all_held, 5, priority=10)
        _hold(dba, all_held, 5)
        names["other_charge"] = dba.row("create_charge", **other, amount_minor=5)["charge_id"]
        names["other_credit"] = _one(module_database, "credits", names["other"], "true")
        names["ended"] = module_database.value(
            "SELECT entry_id FROM billing_data.lot_allocations WHERE lot_id = %s", ended
        )
        names["schedule"] = _one(module_database, "grant_schedules", names["main"], "true")
        names["grant"] = module_database.value(
            "SELECT credit_id FROM billing_data.scheduled_grants"
        )
        names["moved"] = _move_two_lots(module_database, dba, names["other"])
        assert ledger_problems(module_database) == []
        yield names


def _give(dba: Caller, who: dict[str, str], amount: int, **more: Any) -> Any:
    return dba.row("create_credit", **who, amount_minor=amount, **more)["credit_id"]


def _hold(dba: Caller, who: dict[str, str], amount: int) -> Any:
    return dba.row("create_hold", **who, amount_minor=amount)["hold_id"]


def _one(database: Database, table: str, account: Any, which: str) -> Any:
    return database.value(
        f"SELECT id FROM billing_data.{table} WHERE account_id = %s AND {which} LIMIT 1", account
    )


def _move_two_lots(database: Database, dba: Caller, to_account: Any) -> Any:
    """Moves a lot of one and a lot of two credits to the account, as one credit of three."""
    giver = new_user(database, free=False)
    _give(dba, giver, 1, priority=10)
    _give(dba, giver, 2, priority=10)
    dba.row(
        "transfer_credits", from_account_id=account_of(database, giver)["id"],
        to_account_id=to_account, amount=3, reason="a test",
    )  # fmt: skip
    return _one(database, "credits", to_account, "transfer_id IS NOT NULL")


@pytest.mark.parametrize("what", TAMPERING)
def test_what_was_changed_about_lots_holds_and_schedules_is_found_and_named(
    module_database: Database, books: dict[str, Any], what: str
) -> None:
    statement, account, expected = TAMPERING[what]
    with psycopg.connect(module_database.dsn(), row_factory=dict_row) as root:  # undone at its end
        for table in _TABLES:
            root.execute(f"ALTER TABLE billing_data.{table} DISABLE TRIGGER ALL")
        root.execute("SET LOCAL search_path = billing_data")
        *schema, change = statement.split(";")
        for each in schema:
            root.execute(each)
        assert root.execute(change, books).rowcount >= 1
        found = root.execute("SELECT * FROM billing.verify_ledger()").fetchall()
        in_ranges = root.execute(
            "SELECT * FROM billing.verify_ledger(p_through => %(border)s) UNION ALL"
            " SELECT * FROM billing.verify_ledger(p_after => %(border)s)", books,
        ).fetchall()  # fmt: skip
        root.rollback()
    named = [(str(row["account_id"]), row["problem"]) for row in found]
    assert sorted(named) == sorted((str(row["account_id"]), row["problem"]) for row in in_ranges)
    problems = {row["problem"] for row in found if row["account_id"] == books[account]}
    assert problems >= {text.format(**books) for text in expected}
