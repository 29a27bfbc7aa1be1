"""The comparison of holds with what was asked and answered, after a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg

from tests.torture.history import Hold, Json

Finding = tuple[str, str]  # the report's list that it belongs to, and what was found
Rows = psycopg.Connection[dict[str, Any]]


def compare_holds(connection: Rows, accounts: str, asked: dict[str, Hold]) -> Iterator[Finding]:
    """Compares the holds of accounts with what was asked and answered. `accounts` is a pattern of
    their names."""
    rows = connection.execute(_HOLDS, {"accounts": accounts}).fetchall()
    found = {row["name"]: row for row in rows}
    for name, count in Counter(row["name"] for row in rows).items():
        if count > 1:
            yield "doubled", f"hold {name}"
    for name in found.keys() - asked.keys():
        yield "wrong", f"nobody asked for hold {name}"
    for hold in asked.values():
        row = found.get(hold.name)
        if row is not None:
            yield from _compare(hold, row)
        elif hold.id:
            yield "lost", f"{hold}"
    for row in connection.execute(_BELOW_ZERO, {"accounts": accounts}):
        yield "overspent", f"more was held than there was: {row}"


def _compare(hold: Hold, row: Json) -> Iterator[Finding]:
    what = f"{hold} is {row}"
    if hold.id and (hold.id != row["id"] or row["ends"] < hold.ends - 0.001):
        yield "lost", what
    if hold.settled is not None and any(
        hold.settled[answered] != row[kept]
        for answered, kept in (
            ("status", "state"), ("captured_minor", "captured_minor"), ("charge_id", "charge_id")
        )
    ):  # fmt: skip
        yield "lost", what
    if row["state"] in ("captured", "released") and row["state"] not in hold.asked:
        yield "wrong", f"nobody settled it: {what}"
    charged = row["charged"] or []
    if len(charged) > 1 or sum(charged) != (row["captured_minor"] or 0):
        yield "doubled", f"{what} and was charged {charged}"
    if (row["captured_minor"] or 0) > row["amount_minor"] and row["capture_overage"] == "refuse":
        yield "overspent", what


def count_holds(connection: Rows, accounts: str) -> Counter[str]:
    """How many holds were made, and what became of them."""
    row = connection.execute(_COUNTS, {"accounts": accounts}).fetchone()
    return Counter(row)


def find_stuck(connection: Rows, accounts: str) -> Iterator[Finding]:
    """Moves the clock past the end of every hold, and finds what is held then all the same: as a
    check tells it, and in the account once it was used. Nothing of this is kept."""
    with connection.transaction(force_rollback=True):
        connection.execute(
            "CREATE OR REPLACE FUNCTION billing_data.clock() RETURNS timestamptz LANGUAGE sql"
            " VOLATILE RETURN clock_timestamp() + interval '1 hour'"
        )
        for who in connection.execute(_ACCOUNTS, {"accounts": accounts}).fetchall():
            try:
                with connection.transaction():
                    yield from _use(connection, who)
            except psycopg.IntegrityError as error:
                yield "stuck", f"{who['name']} cannot be used any more: {error}"


def _use(connection: Rows, who: Json) -> Iterator[Finding]:
    told = connection.execute(f"SELECT * FROM billing.check_credit({_WHO})", who).fetchone()
    connection.execute(
        f"SELECT billing.create_credit({_WHO}, p_amount_minor => 1, p_currency => 'USD',"
        " p_description => 'the end', p_transaction_type => 'grant')",
        who,
    )
    left = connection.execute(_HELD, who).fetchone()
    assert told is not None
    assert left is not None
    if told["held"] or any(left.values()):
        yield "stuck", f"{who['name']}: a check says {told}, and there is {left}"
    for fault in connection.execute(
        "SELECT * FROM billing.verify_ledger(p_account_id => %(id)s)", who
    ):
        yield "wrong", f"{who['name']}: verify_ledger: {fault}"


_WHO = "p_oauth_provider => %(provider)s, p_external_id => %(name)s"
_ACCOUNTS = """
    SELECT a.id, a.oauth_provider AS provider, a.external_id AS name
    FROM billing_data.accounts AS a
    WHERE a.external_id LIKE %(accounts)s
"""
_HELD = """
    SELECT
        a.held_credits, a.held_free_uses,
        (
            SELECT count(*) FROM billing_data.holds AS h
            WHERE h.account_id = a.id AND h.state = 'open'
        ) AS open_holds
    FROM billing_data.accounts AS a
    WHERE a.id = %(id)s
"""
_HOLDS = """
    SELECT
        h.idempotency_key AS name, h.id::text, h.state, h.amount_minor, h.captured_minor,
        h.capture_overage, h.charge_id::text, extract(epoch FROM h.expires_at)::float AS ends,
        (
            SELECT array_agg(c.amount_minor) FROM billing_data.charges AS c
            WHERE c.account_id = h.account_id AND c.description = h.description
        ) AS charged
    FROM billing_data.holds AS h
    INNER JOIN billing_data.accounts AS a ON a.id = h.account_id
    WHERE a.external_id LIKE %(accounts)s
"""
_COUNTS = """
    SELECT
        count(*) AS made,
        count(*) FILTER (WHERE h.state = 'captured') AS captured,
        count(*) FILTER (WHERE h.is_late) AS "captured late",
        count(*) FILTER (WHERE h.captured_minor > h.amount_minor) AS "captured beyond",
        count(*) FILTER (WHERE h.state = 'released') AS released,
        count(*) FILTER (
            WHERE h.state = 'expired' OR (h.state = 'open' AND h.expires_at <= clock_timestamp())
        ) AS expired
    FROM billing_data.holds AS h
    INNER JOIN billing_data.accounts AS a ON a.id = h.account_id
    WHERE a.external_id LIKE %(accounts)s
"""
# What was available after each moment at which it changed.
_BELOW_ZERO = """
    WITH changes (account_id, at, change) AS (
        SELECT c.account_id, c.created_at, c.amount_minor FROM billing_data.credits AS c
        UNION ALL
        SELECT c.account_id, c.created_at, -c.amount_minor FROM billing_data.charges AS c
        WHERE c.paid_with = 'paid'
        UNION ALL
        SELECT h.account_id, h.created_at, -h.amount_minor FROM billing_data.holds AS h
        WHERE h.free_uses = 0
        UNION ALL
        SELECT h.account_id, least(h.settled_at, h.expires_at), h.amount_minor
        FROM billing_data.holds AS h
        WHERE h.free_uses = 0 AND (h.settled_at IS NOT NULL OR h.expires_at < clock_timestamp())
    )
    SELECT s.account_id, s.at, s.available
    FROM (
        SELECT
            c.account_id, c.at,
            sum(c.change) OVER (PARTITION BY c.account_id ORDER BY c.at) AS available
        FROM changes AS c
        INNER JOIN billing_data.accounts AS a ON a.id = c.account_id
        WHERE a.external_id LIKE %(accounts)s
    ) AS s
    WHERE s.available < 0
"""
