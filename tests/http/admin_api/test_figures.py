"""The figures of the staff API, against the ledger."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from tests.http.admin_api.helpers import (
    Person,
    account_id,
    hire,
    new_account,
    staff_environment,
)
from tests.http.contract import (
    INT64_MAX,
    make_account,
    make_charges,
)
from tests.sql.helpers import set_staff_domain
from tests.support import (
    Database,
    Service,
    charge_body,
    running_service,
)

# Figures


OVERVIEW = (
    *("total_users", "active_users", "total_api_keys", "active_api_keys"),
    *("total_balance_minor", "total_charged_all_time", "total_credited_all_time"),
    *("charges_last_24h", "credits_last_24h", "charges_last_7d", "credits_last_7d"),
)


def test_the_overview_agrees_with_the_ledger(service: Service, viewer: Person) -> None:
    user = make_account(service, free=1, paid=10)
    make_charges(service.database, user, 3)
    closed = make_account(service, status="closed")
    assert closed
    found = viewer.get("/analytics/overview")
    assert tuple(found) == OVERVIEW
    assert all(type(value) is int for value in found.values())
    expected = service.database.execute(
        "SELECT (SELECT count(*) FROM billing_data.accounts),"
        " (SELECT count(*) FROM billing_data.accounts WHERE status = 'active'),"
        " (SELECT count(*) FROM billing_data.api_keys),"
        " (SELECT count(*) FROM billing_data.api_keys WHERE status = 'active'),"
        " (SELECT sum(balance_minor) FROM billing_data.accounts),"
        " (SELECT sum(amount_minor) FROM billing_data.charges WHERE paid_with = 'paid'),"
        " (SELECT sum(amount_minor) FROM billing_data.credits WHERE amount_minor > 0),"
        " c.charges, c.credits, c.charges, c.credits"
        " FROM (SELECT (SELECT count(*) FROM billing_data.charges) AS charges,"
        " (SELECT count(*) FROM billing_data.credits WHERE amount_minor > 0) AS credits) AS c"
    )[0]
    assert tuple(found.values()) == expected


def _ledger_days(database: Database) -> dict[date, tuple[Any, ...]]:
    """What the ledger says of each day that it speaks of."""
    rows = database.execute(
        "WITH entries AS ("
        " SELECT (c.created_at AT TIME ZONE 'UTC')::date AS day, c.account_id, c.amount_minor,"
        "   'charge' AS kind, c.paid_with, NULL AS type FROM billing_data.charges AS c"
        " UNION ALL SELECT (c.created_at AT TIME ZONE 'UTC')::date, c.account_id, c.amount_minor,"
        "   'credit', NULL, c.transaction_type FROM billing_data.credits AS c)"
        " SELECT e.day, count(*) FILTER (WHERE e.kind = 'charge'),"
        " count(*) FILTER (WHERE e.kind = 'credit' AND e.amount_minor > 0),"
        " coalesce(sum(e.amount_minor) FILTER (WHERE e.kind = 'charge'), 0),"
        " coalesce(sum(e.amount_minor) FILTER (WHERE e.kind = 'credit' AND e.amount_minor > 0), 0),"
        " count(DISTINCT e.account_id) FILTER (WHERE e.kind = 'charge'),"  # users, not buyers
        " count(*) FILTER (WHERE e.paid_with = 'free'),"
        " coalesce(sum(e.amount_minor) FILTER (WHERE e.type = 'purchase'), 0)"
        " FROM entries AS e GROUP BY e.day"
    )
    return {row[0]: row[1:] for row in rows}


DAILY = ("charges", "credits", "charge_amount", "credit_amount", "unique_users")


def test_daily_figures_agree_with_the_ledger(database: Database) -> None:
    set_staff_domain(database)
    with running_service(database, **staff_environment()) as service:
        viewer = hire(service, "viewer")
        for days_ago in (0, 3, 30, 31):
            for paid in (0, 7):
                user = make_account(service, free=1, paid=paid)
                make_charges(database, user, 1 + min(paid, 2))
                with service.client() as client:
                    bought = {
                        **charge_body(user, 20),
                        "transaction_type": "purchase",
                        "description": "a pack",
                    }
                    assert client.post("/v1/billing/credits", json=bought).status_code == 201
                for table in ("charges", "credits"):
                    for statement in (
                        f"ALTER TABLE billing_data.{table} DISABLE TRIGGER USER",
                        f"UPDATE billing_data.{table} SET created_at = created_at"
                        f" - interval '{days_ago} days' WHERE account_id ="
                        f" '{account_id(service, user)}'",
                        f"ALTER TABLE billing_data.{table} ENABLE TRIGGER USER",
                    ):
                        database.execute(statement)
        database.execute("SELECT billing.rebuild_figures()", user="t_dba")
        for days in (1, 30, 365):
            found = viewer.get("/analytics/daily", days=days)
            today = datetime.now(UTC).date()
            wanted = [today - timedelta(days=ago) for ago in range(days, -1, -1)]
            assert [row["date"] for row in found] == [day.isoformat() for day in wanted]
            ledger = _ledger_days(database)
            for row in found:
                assert tuple(row)[:6] == ("date", *DAILY)
                figures = [row[name] for name in (*DAILY, "free_charges", "credits_sold")]
                expected = ledger.get(date.fromisoformat(row["date"]), (0,) * 7)
                assert tuple(figures) == expected
            assert sum(row["charges"] for row in found) > 0
        assert viewer.get("/analytics/daily") == viewer.get("/analytics/daily", days=30)
        assert len(viewer.get("/analytics/daily")) == 31


def test_figures_beyond_64_bits_are_whole_numbers_still(database: Database) -> None:
    set_staff_domain(database)
    with running_service(database, **staff_environment()) as service:
        admin = hire(service, "admin")
        for _ in range(3):
            body = {"amount_minor": INT64_MAX, "reason": "very rich"}
            given = admin.post(f"/users/{new_account(service)}/credits", body)
            assert given.status_code == 201
        assert admin.get("/analytics/overview")["total_credited_all_time"] == 3 * INT64_MAX
        assert admin.get("/analytics/daily")[-1]["credit_amount"] == 3 * INT64_MAX
