"""Calls functions of schema billing by name, and reads refusals as a caller sees them."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import secrets
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from server.embedded import find_binaries
from tests.support import Database, unique

T = TypeVar("T")
BIGGEST = 2**63 - 1
CONNECTIONS = 50
NOBODY = uuid.UUID("00000000-0000-7000-8000-000000000000")
NO_SESSION = bytes(32)


@dataclass(frozen=True)
class Refusal:
    """What a refused caller sees."""

    sqlstate: str
    slug: str | None
    message: str
    detail: Any
    hint: str | None

    @classmethod
    def of(cls, error: psycopg.Error) -> Refusal:
        detail = error.diag.message_detail
        with contextlib.suppress(TypeError, ValueError):
            detail = json.loads(detail or "")
        return cls(
            error.sqlstate or "",
            error.diag.constraint_name,
            error.diag.message_primary or "",
            detail,
            error.diag.message_hint,
        )


@dataclass(frozen=True)
class Caller:
    """One session that calls functions of schema billing; p_ is added to every argument name."""

    connection: psycopg.Connection[dict[str, Any]]

    def rows(self, function: str, **arguments: Any) -> list[dict[str, Any]]:
        """All rows of the answer."""
        named = [sql.SQL("{} => %s").format(sql.Identifier(f"p_{name}")) for name in arguments]
        statement = sql.SQL("SELECT * FROM {}({})").format(
            sql.Identifier("billing", function), sql.SQL(", ").join(named)
        )
        return self.connection.execute(statement, list(arguments.values())).fetchall()

    def row(self, function: str, **arguments: Any) -> dict[str, Any]:
        """The one row of the answer."""
        (row,) = self.rows(function, **arguments)
        return row

    def value(self, function: str, **arguments: Any) -> Any:
        """The one value of the answer."""
        (value,) = self.row(function, **arguments).values()
        return value

    def refusal(self, function: str, **arguments: Any) -> Refusal:
        """Returns the refusal of the call; a call that is accepted fails the test."""
        try:
            rows = self.rows(function, **arguments)
        except psycopg.Error as error:
            return Refusal.of(error)
        raise AssertionError(f"billing.{function} was not refused; it answered {rows}")

    def execute(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        """Any statement in this session."""
        cursor = self.connection.execute(statement, arguments or None)
        return cursor.fetchall() if cursor.description else []

    def refused(self, statement: str, *arguments: Any) -> Refusal:
        """Returns the refusal of a statement; a statement that is accepted fails the test."""
        try:
            rows = self.execute(statement, *arguments)
        except psycopg.Error as error:
            return Refusal.of(error)
        raise AssertionError(f"{statement} was not refused; it answered {rows}")


@contextlib.contextmanager
def session(database: Database, user: str, *, autocommit: bool = True) -> Iterator[Caller]:
    """A new session of a login."""
    with psycopg.connect(
        database.dsn(user), autocommit=autocommit, row_factory=dict_row
    ) as connection:
        yield Caller(connection)


def person(external_id: str | None = None) -> dict[str, str]:
    """An identity; by default of a new user."""
    return {"oauth_provider": "oauth:google", "external_id": external_id or unique()}


def account_of(database: Database, who: dict[str, str]) -> dict[str, Any]:
    """The account's row, read from the table itself."""
    with session(database, "postgres") as root:
        return account_read_by(root, who)


def account_read_by(caller: Caller, who: dict[str, str]) -> dict[str, Any]:
    """The same, in the session of a DBA or a superuser that there is."""
    rows = caller.execute(
        "SELECT * FROM billing_data.accounts WHERE oauth_provider = %s AND external_id = %s",
        who["oauth_provider"],
        who["external_id"],
    )
    assert len(rows) == 1
    return rows[0]


def use_up_free_uses(database: Database, who: dict[str, str]) -> None:
    """Uses up the account's free uses; its ledger stays right."""
    with session(database, "t_dba") as dba:
        use_up_free_uses_by(dba, who)


def use_up_free_uses_by(dba: Caller, who: dict[str, str]) -> None:
    """The same in a session that there is."""
    while account_read_by(dba, who)["free_uses_remaining"] > 0:
        dba.row("create_charge", **who)


def new_user(
    database: Database, *, paid: int = 0, free: bool = True, external_id: str | None = None
) -> dict[str, str]:
    """The identity of a new account with `paid` credits; its free uses are kept or used up."""
    with session(database, "t_dba") as dba:
        return new_user_by(dba, paid=paid, free=free, external_id=external_id)


def new_user_by(
    dba: Caller, *, paid: int = 0, free: bool = True, external_id: str | None = None
) -> dict[str, str]:
    """The same in a session that there is: one that has called these functions before is ten times
    as quick."""
    who = person(external_id)
    dba.row("check_credit", **who)
    if paid:
        dba.row("create_credit", **who, amount_minor=paid)
    if not free:
        use_up_free_uses_by(dba, who)
    return who


# Field of an item -> argument of the functions that take arrays.
_PLURALS = {
    "oauth_provider": "oauth_providers",
    "external_id": "external_ids",
    "amount_minor": "amounts_minor",
    "currency": "currencies",
    "description": "descriptions",
    "idempotency_key": "idempotency_keys",
    "wa_id": "wa_ids",
    "tenant_id": "tenant_ids",
    "context_agent_id": "context_agent_ids",
    "context_channel_id": "context_channel_ids",
    "context_request_id": "context_request_ids",
    "metadata_message_id": "metadata_message_ids",
    "metadata_agent_id": "metadata_agent_ids",
    "metadata_channel_id": "metadata_channel_ids",
    "metadata_request_id": "metadata_request_ids",
    "customer_email": "customer_emails",
    "user_role": "user_roles",
    "agent_id": "agent_ids",
    "marketing_opt_in": "marketing_opt_ins",
    "marketing_opt_in_source": "marketing_opt_in_sources",
    "api_key_id": "api_key_ids",
}
_CHARGE = {"amount_minor": 1, "currency": "USD", "description": "one use"}


def _arrays(items: Sequence[dict[str, Any]], defaults: dict[str, Any]) -> dict[str, list[Any]]:
    fields = {field for item in items for field in item} | set(defaults)
    return {
        _PLURALS[field]: [item.get(field, defaults.get(field)) for item in items]
        for field in sorted(fields)
    }


def charge_all(
    caller: Caller, items: Sequence[dict[str, Any]], **options: Any
) -> list[dict[str, Any]]:
    """billing.create_charges, its answers in the order of the items."""
    rows = caller.rows("create_charges", **_arrays(items, _CHARGE), **options)
    assert sorted(row["item"] for row in rows) == list(range(1, len(items) + 1))
    return sorted(rows, key=lambda row: row["item"])


def charge_once(
    caller: Caller,
    items: Sequence[dict[str, Any]],
    api_key_id: uuid.UUID | None,
    idempotency_key: str,
    fingerprint: bytes = b"as sent",
    **options: Any,
) -> list[dict[str, Any]]:
    """billing.create_charges_once, its answers in the order of the items."""
    given = _arrays(items, _CHARGE)
    optional = {
        name: given.get(name, [None] * len(items))
        for field, name in _PLURALS.items()
        if not field.startswith(("wa_", "tenant_", "context_", "api_"))
    }
    rows = caller.rows(
        "create_charges_once",
        **{**given, **optional},
        api_key_id=api_key_id,
        idempotency_key=idempotency_key,
        request_fingerprint=fingerprint,
        **options,
    )
    return sorted(rows, key=lambda row: row["item"])


def check_all(
    caller: Caller, items: Sequence[dict[str, Any]], **options: Any
) -> list[dict[str, Any]]:
    """billing.check_credits, its answers in the order of the items."""
    rows = caller.rows("check_credits", **_arrays(items, {}), **options)
    assert sorted(row["item"] for row in rows) == list(range(1, len(items) + 1))
    return sorted(rows, key=lambda row: row["item"])


def outcomes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The outcome of each item."""
    return [row["outcome"] for row in rows]


def key_id(database: Database, *permissions: str) -> uuid.UUID:
    """A new API key's id; by default it may read and write."""
    return uuid.UUID(
        database.create_key(permissions or ("billing:read", "billing:write"), name=unique()).id
    )


def set_staff_domain(database: Database, domain: str = "example.com") -> None:
    """Sets the domain of staff's addresses to `domain`, as a first deploy could."""
    database.execute("UPDATE billing_data.settings SET seeded_at = NULL")
    seeded = database.value(
        "SELECT billing.seed_settings(p_admin_email_domain => %s)", domain, user="t_dba"
    )
    assert seeded


@dataclass(frozen=True)
class Staff:
    """A staff member and the hash of a bearer token by which they act."""

    id: uuid.UUID
    email: str
    session_hash: bytes


def staff(database: Database, role: str, *, active: bool = True) -> Staff:
    """A new staff member."""
    set_staff_domain(database)
    email, session_hash = f"{unique('ada')}@example.com", secrets.token_bytes(32)
    with session(database, "t_dba") as dba:
        found = dba.row("add_admin", email=email, role=role)
        dba.row("create_staff_token", token_hash=session_hash, email=email)
    if not active:
        database.execute(
            "UPDATE billing_data.admin_users SET is_active = false WHERE id = %s",
            found["admin_user_id"],
        )
    return Staff(found["admin_user_id"], email, session_hash)


def tamper(database: Database, *statements: str, **arguments: Any) -> None:
    """Changes the books as an all-powerful superuser could: every trigger and foreign key is off
    for one transaction, and in force again afterwards. Each statement must change something."""
    with session(database, "postgres", autocommit=False) as root:
        guards = root.execute(
            "SELECT g.table_name, g.trigger_name FROM billing_data.list_guards() AS g"
        )
        tables = root.execute(
            "SELECT DISTINCT t.tgrelid::regclass::text AS name FROM pg_trigger AS t"
            " INNER JOIN pg_class AS c ON c.oid = t.tgrelid"
            " WHERE c.relnamespace = 'billing_data'::regnamespace"
        )
        for table in tables:
            root.execute(f"ALTER TABLE {table['name']} DISABLE TRIGGER ALL")
        for statement in statements:
            assert root.connection.execute(statement.encode(), arguments).rowcount >= 1
        for table in tables:
            root.execute(f"ALTER TABLE {table['name']} ENABLE TRIGGER ALL")
        for guard in guards:
            root.execute(
                f"ALTER TABLE billing_data.{guard['table_name']}"
                f" ENABLE ALWAYS TRIGGER {guard['trigger_name']}"
            )
        root.connection.commit()


def ledger_problems(database: Database) -> list[Any]:
    """What billing.verify_ledger finds wrong."""
    return database.execute("SELECT * FROM billing.verify_ledger()", user="t_dba")


def is_blocked(database: Database, caller: Caller) -> bool:
    """Whether the session waits for a lock that another session holds."""
    return bool(
        database.value(
            "SELECT cardinality(pg_blocking_pids(%s)) > 0", caller.connection.info.backend_pid
        )
    )


def at_once(
    database: Database,
    calls: Iterable[Callable[[Caller], T]],
    connections: int = CONNECTIONS,
    user: str = "t_dba",
) -> list[T]:
    """The results of the calls, made by this many sessions that all begin together."""
    queue = iter(list(calls))
    lock, gate = threading.Lock(), threading.Barrier(connections)

    def work(_: int) -> list[T]:
        answers: list[T] = []
        with session(database, user) as caller:
            gate.wait(timeout=60)
            while True:
                with lock:
                    call = next(queue, None)
                if call is None:
                    return answers
                answers.append(call(caller))

    with ThreadPoolExecutor(connections) as pool:
        return list(itertools.chain.from_iterable(pool.map(work, range(connections))))


def dump_of(database: Database) -> str:
    """Everything in a database, as text that is equal for equal databases."""
    dump = subprocess.run(
        [find_binaries(18) / "pg_dump", "--dbname", database.dsn()],
        capture_output=True,
        text=True,
        check=True,
    )
    return re.sub(r"^\\(un)?restrict .*$", "", dump.stdout, flags=re.MULTILINE)
