"""Each figure that people read, as a page, JSON, CSV and at the command line, against sums over the
tables themselves."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.identity_provider import Browser
from tests.ops.command_line import run
from tests.sql.helpers import account_of, charge_all, new_user, session
from tests.sql.payments import bought, configure_provider, give_back
from tests.support import Database, unique

_USAGE = """
    SELECT
        (SELECT count(*) FROM billing_data.credit_checks AS k WHERE {day:k.created_at}) AS checks,
        (SELECT count(*) FROM billing_data.credit_checks AS k
            WHERE {day:k.created_at} AND NOT k.has_credit) AS denied,
        (SELECT count(*) FROM billing_data.charges AS c
            WHERE {day:c.created_at} AND c.paid_with = 'free') AS free,
        (SELECT count(*) FROM billing_data.charges AS c
            WHERE {day:c.created_at} AND c.paid_with = 'paid') AS paid,
        (SELECT coalesce(sum(c.amount_minor), 0) FROM billing_data.credits AS c
            WHERE {day:c.created_at} AND c.transaction_type = 'purchase') AS sold,
        (SELECT coalesce(sum(c.amount_minor), 0) FROM billing_data.charges AS c
            WHERE {day:c.created_at} AND c.paid_with = 'paid') AS used,
        (SELECT count(DISTINCT c.account_id) FROM billing_data.charges AS c
            WHERE {day:c.created_at}) AS users,
        (SELECT count(*) FROM billing_data.accounts AS a WHERE {day:a.created_at}) AS accounts,
        (SELECT coalesce(sum(p.price_minor), 0) FROM billing_data.purchases AS p
            WHERE {day:p.settled_at}) AS gross,
        (SELECT coalesce(sum(r.away_minor), 0) FROM billing_data.payment_returns AS r
            WHERE {day:r.created_at}) AS refunded
"""
_ACCOUNT = """
    SELECT
        (SELECT sum(c.amount_minor) FROM billing_data.credits AS c WHERE c.account_id = %(id)s)
            - u.used AS left,
        u.uses, u.free, u.used,
        (SELECT sum(c.amount_minor) FROM billing_data.credits AS c
            WHERE c.account_id = %(id)s AND c.amount_minor > 0) AS added,
        (SELECT -coalesce(sum(c.amount_minor), 0) FROM billing_data.credits AS c
            WHERE c.account_id = %(id)s AND c.amount_minor < 0) AS taken,
        (SELECT count(*) FROM billing_data.credits AS c WHERE c.account_id = %(id)s) AS credits,
        (SELECT sum(p.price_minor) FROM billing_data.purchases AS p
            WHERE p.account_id = %(id)s AND p.settled_at IS NOT NULL) AS gross,
        (SELECT sum(r.away_minor) FROM billing_data.payment_returns AS r
            WHERE r.account_id = %(id)s) AS refunded
    FROM (
        SELECT
            count(*) AS uses, count(*) FILTER (WHERE c.paid_with = 'free') AS free,
            coalesce(sum(c.amount_minor) FILTER (WHERE c.paid_with = 'paid'), 0) AS used
        FROM billing_data.charges AS c WHERE c.account_id = %(id)s
    ) AS u
"""


class _Days:
    """Writes the condition that a time is in these UTC days, both included."""

    def __init__(self, first: date, last: date) -> None:
        self._days = f"BETWEEN '{first}' AND '{last}'"

    def __format__(self, column: str) -> str:
        return f"({column} AT TIME ZONE 'UTC')::date {self._days}"


def _summed(database: Database, statement: str, **arguments: Any) -> dict[str, int]:
    with session(database, "postgres") as root:
        (row,) = root.connection.execute(statement, arguments).fetchall()
    return {name: int(value) for name, value in row.items()}


def _use(database: Database, purchases: int, refunded: int) -> str:
    """The id of an account with free and paid charges, one of them given back, a credit that was
    reversed, purchases, of one of which money went back, and somebody who was denied."""
    who = new_user(database, paid=70)
    with session(database, "t_dba") as dba:
        charge_all(dba, [{**who, "amount_minor": 3}] * 8)
        charge = dba.row("create_charge", **who, amount_minor=5)
        dba.row("reverse_charge", charge_id=charge["charge_id"], reason="the job failed")
        granted = dba.row("create_credit", **who, amount_minor=11)
        dba.row("reverse_credit", credit_id=granted["credit_id"], reason="a mistake")
        dba.row("check_credit", **who)
        dba.row("check_credit", **new_user(database, free=False))
        payments = [bought(database, who)[1] for _ in range(purchases)]
        give_back(dba, payments[0], (unique("re"), refunded))
        give_back(dba, payments[-1], (unique("dp"), 200), kind="dispute", withdrawn=False)
    return str(account_of(database, who)["id"])


@pytest.fixture(scope="module")
def ada(module_database: Database) -> str:
    """The id of an account of today, in a database where others were as busy 59 days ago: on the
    first day of the period before the last 30 days."""
    database = module_database
    configure_provider(database)
    _use(database, 3, 125)
    for table, columns in {
        "credit_checks": ("created_at",),
        "charges": ("created_at",),
        "credits": ("created_at",),
        "accounts": ("created_at",),
        "purchases": ("created_at", "settled_at"),
        "payment_returns": ("created_at",),
    }.items():
        moved = ", ".join(f"{column} = {column} - interval '59 days'" for column in columns)
        database.execute(f"ALTER TABLE billing_data.{table} DISABLE TRIGGER USER")
        database.execute(f"UPDATE billing_data.{table} SET {moved}")
        database.execute(f"ALTER TABLE billing_data.{table} ENABLE TRIGGER USER")
    database.execute("SELECT billing.rebuild_figures()", user="t_dba")
    return _use(database, 2, 80)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).strip()


def _shown(page: str) -> dict[str, list[str]]:
    """The figures of a page: the name of each, and its values; of two of one name, the first."""
    pattern = r"<dt>([^<]+)</dt><dd>(.*?)</dd>(?:<dd class=\"before\">before: (.*?)</dd>)?"
    return {
        name: [_plain(value).replace(",", "") for value in values]
        for name, *values in reversed(re.findall(pattern, page))
    }


def _money(minor: int) -> str:
    return f"${minor / 100:.2f}"


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), strict=True))


def _sum(rows: Iterable[Mapping[str, Any]], name: str) -> int:
    return sum(int(row[name] or 0) for row in rows)


def _told(database: Database, *arguments: str) -> Any:
    done = run(*arguments, environment={"DATABASE_URL": database.dsn("t_dba")})
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize("days", [(29, 0), (59, 51)], ids=["30 days", "of one's own"])
def test_the_dashboard_tells_what_the_tables_hold_and_held_in_the_period_before(
    module_database: Database, browsers: dict[str, Browser], days: tuple[int, int]
) -> None:
    viewer, today = browsers["viewer"], datetime.now(UTC).date()
    first, last = (today - timedelta(days=count) for count in days)
    beyond = last + timedelta(days=1)
    before = first - (beyond - first)
    now, then = (
        _summed(module_database, _USAGE.format(day=_Days(*period)))
        for period in ((first, last), (before, first - timedelta(days=1)))
    )
    assert now["refunded"] == (80 if days[1] == 0 else 125)
    assert (then["gross"] > 0) == (days[1] == 0)
    address = "range=30" if days[1] == 0 else f"from={first}&to={last}"
    shown = _shown(viewer.get(f"/admin?{address}").text)
    for title, name in {
        "Charges, free": "free", "Charges, paid": "paid", "Credits sold": "sold",
        "Credits used": "used", "Users": "users", "New accounts": "accounts", "Checks": "checks",
    }.items():  # fmt: skip
        assert shown[title][0] == str(now[name]), title
        assert shown[title][1].split()[0] == str(then[name]), title
    share = f"{100 * now['denied'] / now['checks']:.1f} %"
    assert shown["of them denied"][0] == f"{now['denied']} {share}"
    for title, name in {"Gross": "gross", "Refunded": "refunded", "Net": "net"}.items():
        for place, counted in enumerate((now, then)):
            sums = {**counted, "net": counted["gross"] - counted["refunded"]}
            told = shown[f"{title}, USD"][place]
            assert told == (_money(sums[name]) if sums["gross"] else "nothing"), title
    # The days of the same period as CSV and JSON come to the same.
    lines = _rows(viewer.get(f"/admin/figures.csv?{address}").text)
    daily = viewer.get("/admin/api/analytics/daily?days=60").json()
    daily = [row for row in daily if first.isoformat() <= row["date"] <= last.isoformat()]
    usage = viewer.get(f"/admin/api/analytics/usage?from={first}&to={beyond}").json()
    assert len(lines) == len(daily) == len({row["day"] for row in usage}) == (beyond - first).days
    for rows in (lines, daily, usage):
        assert _sum(rows, "charges") == now["free"] + now["paid"]
        assert _sum(rows, "free_charges") == now["free"]
        assert _sum(rows, "credits_used") == now["used"]
        assert _sum(rows, "credits_sold") == now["sold"]
    for rows in (lines, daily):
        assert _sum(rows, "checks") == now["checks"]
        assert _sum(rows, "checks_denied") == now["denied"]
        assert _sum(rows, "accounts_created") == now["accounts"]
    assert _sum(usage, "sold_minor") == now["gross"]
    assert _sum(usage, "returned_minor") == now["refunded"]


def test_an_account_and_its_statement_tell_what_its_ledger_holds(
    module_database: Database, browsers: dict[str, Browser], ada: str
) -> None:
    viewer, today = browsers["viewer"], datetime.now(UTC).date()
    sums = _summed(module_database, _ACCOUNT, id=ada)
    page = viewer.get(f"/admin/accounts/{ada}").text
    shown = {name: values[0] for name, values in _shown(page).items()}
    found = viewer.get(f"/admin/api/users/{ada}").json()
    told = _told(module_database, "accounts", "show", ada, "--json")["account"]
    for title, names, name in (
        ("Paid credits", ["paid_credits"], "left"),
        ("Uses in all", ["total_uses", "charge_count"], "uses"),
        ("Credits used", ["total_charged"], "used"),
        ("Credits added", ["total_credited"], "added"),
    ):
        assert shown[title] == str(sums[name]), title
        for column in names:
            assert int(found[column]) == int(told[column]) == sums[name], column
    assert found["credit_count"] == sums["credits"]

    first, beyond = today, today + timedelta(days=1)
    address = f"/admin/accounts/{ada}/statement"
    shown = {
        name: values[0]
        for name, values in _shown(viewer.get(f"{address}?from={first}&last={today}").text).items()
    }
    for title, name in {
        "Uses": "uses", "of them free": "free", "Credits used": "used", "Credits added": "added",
        "Credits taken": "taken",
    }.items():  # fmt: skip
        assert shown[title] == str(sums[name]), title
    assert shown["Paid, USD"] == _money(sums["gross"] - sums["refunded"])
    period = f"from={first}&to={beyond}"
    statements = [
        _rows(viewer.get(f"{address}.csv?from={first}&last={today}").text),
        _rows(viewer.get(f"/admin/api/users/{ada}/statement.csv?{period}").text),
        viewer.get(f"/admin/api/users/{ada}/statement?{period}").json()["rows"],
        _told(
            module_database, "accounts", "statement", ada, "--from", str(first), "--to",
            str(beyond), "--format", "json",
        ),
    ]  # fmt: skip
    for rows in statements:
        entries = [row for row in rows if row["kind"] == "entry"]
        changes = [int(row["credits_change"] or 0) for row in entries]
        assert len(entries) == sums["uses"] + sums["credits"]
        assert sum(change for change in changes if change > 0) == sums["added"]
        assert sum(changes) == sums["left"] == int(rows[-1]["balance_after"])
        assert sum(row["paid_with"] == "free" for row in entries) == sums["free"]


def test_the_totals_of_a_list_of_purchases_are_the_sums_of_its_rows(
    module_database: Database, browsers: dict[str, Browser], ada: str
) -> None:
    viewer = browsers["viewer"]
    sums = _summed(module_database, _ACCOUNT, id=ada)
    net = sums["gross"] - sums["refunded"]
    today = datetime.now(UTC).date()
    page = viewer.get(f"/admin/payments?from={today}&to={today}").text
    money = (_money(amount) for amount in (sums["gross"], sums["refunded"], net))
    assert "2 offered, 2 paid: {} gross, {} refunded, {} net".format(*money) in _plain(page)
    found = viewer.get(f"/admin/api/purchases?account_id={ada}").json()
    assert found["totals"] == [
        {
            "currency": "USD",
            "purchases": 2,
            "paid": 2,
            "gross_minor": sums["gross"],
            "returned_minor": sums["refunded"],
            "net_minor": net,
        }
    ]
    lines = _rows(viewer.get(f"/admin/payments.csv?from={today}&to={today}").text)
    told = _told(module_database, "payments", "find", ada, "--json")
    for rows in (found["purchases"], lines, told):
        assert _sum(rows, "price_minor") == sums["gross"]
        assert _sum(rows, "returned_minor") == sums["refunded"]
