"""A database as after a year of service: accounts, their credits and charges, made by set-based
statements.

The books of this data agree: `billing.verify_ledger()` finds nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg

DAYS = 365
HOLDS = 10_000  # settled ones, at most
PROVIDER = "oauth:google"
# For filling only, on a cluster that is restarted afterwards: nothing written then need be durable.
FILLING = {
    "shared_buffers": "1GB",
    "maintenance_work_mem": "512MB",
    "max_wal_size": "8GB",
    "fsync": "off",
    "full_page_writes": "off",
}

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Contents:
    """What to make: users user-0, user-1, ... with one credit and `charges` charges each, after
    which `credits_left` (SQL, of the user's number k) remain. The n-th charge of all has the
    idempotency key k<n>, so user-<k>'s first has k<k>. `for_console` adds what only the staff
    console reads."""

    accounts: int
    charges: int
    credits_left: str = "1000000000"
    for_console: bool = False


# An id of a given time, as billing_data.new_id makes it.
_ID = """(lpad(to_hex((extract(EPOCH FROM {at}) * 1000)::bigint), 12, '0')
    || '7' || substr(md5({seed}::text), 1, 3) || '8' || substr(md5({seed}::text), 4, 15))::uuid"""


def fill(connection: Connection, contents: Contents) -> None:
    """Fills a new database with a year up to now, in the order of time, as a service would have
    written it. The first three charges of each account are free."""
    accounts, charges = contents.accounts, contents.charges
    free = min(charges, 3)
    paid = charges - free
    total = accounts * charges
    left = f"({contents.credits_left})"
    account = "md5('account ' || {k})::uuid"
    at = f"now() - interval '{DAYS} days' * (1 - ({{n}})::float8 / {{of}})"
    created = at.format(n="k", of=accounts * (charges + 1))
    charged = at.format(n=f"{accounts} + g.n", of=accounts + total)
    status = "CASE WHEN k % 100 = 0 THEN 'suspended' ELSE 'active' END"
    # Charge n = i * accounts + k is the i-th charge of account k, so versions rise with time.
    statements = {
        "accounts": f"""
            INSERT INTO billing_data.accounts (id, oauth_provider, external_id, customer_email,
                status, paid_credits, free_uses_remaining, total_uses, ledger_version, created_at,
                updated_at)
            SELECT {account.format(k="k")}, '{PROVIDER}', 'user-' || k,
                CASE WHEN k % 10 > 0 THEN 'person' || k || '@example.com' END,
                {status if contents.for_console else "'active'"},
                {left}, {3 - free}, {charges}, {charges + 1}, {created}, {created}
            FROM generate_series(0, {accounts - 1}) AS g (k)""",
        "credits": f"""
            INSERT INTO billing_data.credits (id, account_id, ledger_version, amount_minor,
                currency, balance_before, balance_after, transaction_type, description,
                database_role, created_at)
            SELECT {_ID.format(at=created, seed="k")}, {account.format(k="k")}, 1,
                {paid} + {left}, 'USD', 0, {paid} + {left},
                CASE WHEN k % 4 = 0 THEN 'grant' ELSE 'purchase' END, 'a pack', 'bench', {created}
            FROM generate_series(0, {accounts - 1}) AS g (k)""",
        "charges": f"""
            INSERT INTO billing_data.charges (id, account_id, ledger_version, amount_minor,
                currency, balance_before, balance_after, free_uses_after, paid_with, description,
                idempotency_key, database_role, created_at, digest)
            SELECT r.id, r.account_id, r.version, r.amount, r.currency, r.before, r.after,
                r.free_uses, r.paid_with, r.description, r.key, r.role, r.at,
                billing_data.new_charge_digest(r.account_id, r.version, r.id, r.amount, r.currency,
                    r.before, r.after, r.free_uses, r.paid_with, r.description, r.key, NULL, r.at,
                    NULL, NULL, r.role)
            FROM (
                SELECT {_ID.format(at=charged, seed="g.n")} AS id,
                    {account.format(k="v.k")} AS account_id, 2 + v.i AS version, 1 AS amount,
                    'USD' AS currency, {paid} + v.left - greatest(v.i - {free}, 0) AS before,
                    {paid} + v.left - greatest(v.i - {free - 1}, 0) AS after,
                    greatest({2} - v.i, 0) AS free_uses,
                    CASE WHEN v.i < {free} THEN 'free' ELSE 'paid' END AS paid_with,
                    'Message interaction' AS description, 'k' || g.n AS key, 'bench' AS role,
                    {charged} AS at
                FROM generate_series(0, {total - 1}) AS g (n)
                CROSS JOIN LATERAL (
                    SELECT n.k, n.i, {left} AS left
                    FROM (SELECT g.n % {accounts} AS k, g.n / {accounts} AS i) AS n
                ) AS v
            ) AS r""",
        # Without any, plans of functions about holds would be made for an empty table.
        "holds": f"""
            INSERT INTO billing_data.holds (id, account_id, amount_minor, free_uses, currency,
                state, created_at, expires_at, settled_at, charge_id, captured_minor, capture_asked,
                capture_overage, description, request_fingerprint, database_role)
            SELECT c.id, c.account_id, c.amount_minor, (c.paid_with = 'free')::integer, c.currency,
                'captured', c.created_at, c.created_at + interval '15 minutes', c.created_at, c.id,
                c.amount_minor, c.amount_minor, 'refuse', c.description, '', 'bench'
            FROM billing_data.charges AS c
            WHERE c.ledger_version = {charges + 1}
            LIMIT {HOLDS}""",
        "checks": f"""
            INSERT INTO billing_data.credit_checks (id, account_id, oauth_provider, external_id,
                has_credit, denial_reason, database_role, created_at)
            SELECT gen_random_uuid(), {account.format(k="n")}, '{PROVIDER}', 'user-' || n,
                n % 20 > 0, CASE WHEN n % 20 = 0 THEN 'no credit' END, 'bench',
                {at.format(n="n", of=accounts)}
            FROM generate_series(0, {accounts - 1}) AS g (n)""",
    }
    if contents.for_console:
        statements |= {
            "payment events": f"""
                INSERT INTO billing_data.payment_events (provider, event_id, event_type,
                    payment_id, payload, outcome, received_at, last_received_at)
                SELECT 'stripe', 'evt_' || n, 'payment_intent.succeeded', 'pi_' || n, '{{}}',
                    CASE WHEN n % 10000 = 0 THEN 'metadata_missing' ELSE 'credited' END,
                    {at.format(n="n", of=accounts)}, now()
                FROM generate_series(0, {accounts - 1}, 4) AS g (n)""",
            "the audit log": f"""
                INSERT INTO billing_data.admin_audit_logs (action, resource_type, resource_id,
                    reason, database_role, created_at)
                SELECT 'account.adjust_credits', 'account', {account.format(k="n")}::text,
                    'goodwill', 'bench', {at.format(n="n", of=accounts)}
                FROM generate_series(0, {accounts - 1}, 10) AS g (n)""",
        }
    connection.execute("SELECT billing.create_check_partitions()")
    # The statements make rows that fit together, so 10,000,000 look-ups of foreign keys are left
    # out.
    connection.execute("SET session_replication_role = replica")
    with _without_indexes(connection):
        for name, statement in statements.items():
            _timed(name, partial(connection.execute, statement.encode()))
    connection.execute("SET session_replication_role = origin")
    # The credits have no digest, like entries of an older release.
    connection.execute("UPDATE billing_data.settings SET digests_since = now() + interval '1 hour'")
    _timed("vacuum and analyze", lambda: connection.execute("VACUUM ANALYZE"))
    _timed("first roll-up", lambda: connection.execute("SELECT billing.refresh_figures()"))
    connection.execute("VACUUM ANALYZE billing_data.user_activity, billing_data.usage_figures")


@contextmanager
def _without_indexes(connection: Connection) -> Iterator[None]:
    """Makes the indexes of the large tables after the block instead of row by row within it."""
    found = connection.execute("""
        SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
        FROM pg_index AS i INNER JOIN pg_class AS c ON c.oid = i.indrelid
        WHERE c.relnamespace = 'billing_data'::regnamespace
            AND c.relname IN ('accounts', 'charges', 'credits')
            AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid)
    """).fetchall()
    for name, _ in found:
        connection.execute(f"DROP INDEX {name}".encode())
    yield
    for name, definition in found:
        _timed(name, partial(connection.execute, definition.encode()))


def _timed(what: str, work: Callable[[], object]) -> None:
    begun = time.perf_counter()
    work()
    taken = time.perf_counter() - begun
    if taken >= 1:
        print(f"{what}: {taken:.1f} s", file=sys.stderr, flush=True)
