"""Users whose accounts are merged or who get each other's credits, for the tests of both."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.sql.helpers import Caller, account_of, new_user, session
from tests.support import Database


@dataclass(frozen=True)
class User:
    """An identity with its account, as it was created."""

    who: dict[str, str]
    id: uuid.UUID


def user(database: Database, *, paid: int = 0, free: bool = False) -> User:
    """A new user with `paid` credits, and free uses only where asked for."""
    who = new_user(database, paid=paid, free=free)
    return User(who, account_of(database, who)["id"])


def merge(database: Database, one: User, other: User, **arguments: Any) -> dict[str, Any]:
    """Merges `one` into `other`, as a DBA does."""
    with session(database, "t_dba") as dba:
        return dba.row(
            "merge_accounts",
            account_id=one.id,
            into_account_id=other.id,
            reason="one person",
            **arguments,
        )


def row_of(database: Database, account: User) -> dict[str, Any]:
    """The account's own row, whatever became of it."""
    return account_of(database, account.who)


def paid(database: Database, *accounts: User) -> list[int]:
    """The paid credits that each account's own row has."""
    return [row_of(database, account)["paid_credits"] for account in accounts]


def rows_of_transfer(database: Database, transfer_id: Any) -> list[tuple[Any, ...]]:
    """Both sides of a transfer, the giving one first."""
    rows: list[tuple[Any, ...]] = database.execute(
        "SELECT c.account_id, c.amount_minor, c.free_uses, c.transaction_type, c.description"
        " FROM billing_data.credits AS c WHERE c.transfer_id = %s ORDER BY c.amount_minor, c.id",
        transfer_id,
    )
    return rows


def everything(database: Database) -> dict[str, str]:
    """Every table's content that a money function could change, to compare."""
    tables = (
        "accounts", "charges", "credits", "merged_accounts", "merge_ranks", "account_merges",
        "admin_audit_logs",
    )  # fmt: skip
    return {
        table: str(database.value(f"SELECT md5(string_agg(t::text, '' ORDER BY t::text))"
                                  f" FROM billing_data.{table} AS t"))
        for table in tables
    }  # fmt: skip


def try_again(caller: Caller, function: str, **arguments: Any) -> dict[str, Any]:
    """Calls as the service does: once more where accounts were merged at that moment."""
    for _ in range(4):
        try:
            return caller.row(function, **arguments)
        except psycopg.errors.SerializationFailure:
            continue
    return caller.row(function, **arguments)
