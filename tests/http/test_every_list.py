"""Every list of the console has what lists have: heads that sort, days, a total, CSV, and the same
days and total as JSON. What a list lacks is named here with the reason; a new list that is named
nowhere fails."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from csv import DictReader
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import urlencode, urljoin

import pytest

from server.admin_api.models import ListedDays, PageQuery
from server.http.route import PAGE, STAFF, Route
from server.routes import ROUTES
from tests.identity_provider import Browser
from tests.sql.alerts import listening, raised
from tests.sql.helpers import account_of, charge_all, key_id, new_user, session, staff
from tests.sql.payments import begin, bought, configure_provider
from tests.support import Database

WHOLE = "it is short and read as a whole: the answer is an array of all there is"
NOW = "it says what there is now, whenever it came"


@dataclass(frozen=True)
class List:
    """A list: the path of its page, that of its JSON, and the reason for each thing it lacks."""

    page: str
    json: str | None
    lacks: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.page


LISTS = (
    List("/admin/accounts", "/admin/api/users"),
    List("/admin/payments", "/admin/api/purchases", {
        "json total": "it has totals by currency, with their number"}),
    List("/admin/payments/events", "/admin/api/payment-events"),
    List("/admin/payments/problems", "/admin/api/payment-problems", {
        "sort": "each problem is a form of its own, the newest first",
        "days": NOW, "json days": NOW}),
    List("/admin/keys", "/admin/api/api-keys", {
        "days": NOW, "total": WHOLE, "json days": NOW, "json total": WHOLE}),
    List("/admin/caps", "/admin/api/caps", {"days": NOW, "json days": NOW}),
    List("/admin/webhooks", "/admin/api/webhooks", {
        "days": NOW, "total": WHOLE, "csv": "there are few, and each is a form",
        "json days": NOW, "json total": WHOLE}),
    List("/admin/webhooks/deliveries", "/admin/api/webhook-deliveries", {
        "sort": "its rows are found newest first, by the index of each filter"}),
    List("/admin/staff", "/admin/api/staff", {
        "days": NOW, "total": WHOLE, "json days": NOW, "json total": WHOLE}),
    List("/admin/audit", "/admin/api/audit-log"),
    List("/admin/consumers", "/admin/api/analytics/top-consumers", {
        "days": "it is of a month", "total": "it is the top of a list",
        "json days": "its days are a period, without its end",
        "json total": "it is the top of a list"}),
)  # fmt: skip
# Pages without variables in their paths that are no lists.
NO_LISTS = {
    "/admin": "the dashboard",
    "/admin/search": "the hits by kind; each kind says when there are more",
    "/admin/settings": "forms",
    "/admin/proof": "one state",
}
# Lists in JSON that have no page of their own.
OF_ONE_ACCOUNT = "it is of one account, whose page shows it"
FIGURES = "it has a row for each day"
OTHER_JSON = {
    "/admin/api/users/{account_id}/transactions": OF_ONE_ACCOUNT,
    "/admin/api/users/{account_id}/checks": OF_ONE_ACCOUNT,
    "/admin/api/users/{account_id}/timeline": OF_ONE_ACCOUNT,
    "/admin/api/users/{account_id}/statement": OF_ONE_ACCOUNT,
    "/admin/api/users/{account_id}/merges": OF_ONE_ACCOUNT,
    "/admin/api/users/{account_id}/holds": OF_ONE_ACCOUNT,
    "/admin/api/users/{account_id}/lots": OF_ONE_ACCOUNT,
    "/admin/api/users/{account_id}/allocations": OF_ONE_ACCOUNT,
    "/admin/api/users/{account_id}/grant-schedules": OF_ONE_ACCOUNT,
    "/admin/api/users/{account_id}/top-up": OF_ONE_ACCOUNT,
    "/admin/api/users/{account_id}/explanation": OF_ONE_ACCOUNT,
    "/admin/api/users/{account_id}/usage": FIGURES,
    "/admin/api/analytics/usage": FIGURES,
    "/admin/api/analytics/daily": FIGURES,
    "/admin/api/config/providers": "it has one row for each kind of provider",
}


def _has_list(route: Route) -> bool:
    """Whether an answer is a list, or has one of objects."""
    if get_origin(route.answer) is list:
        return True
    hints = get_type_hints(route.answer).values() if route.answer else ()
    return any(get_origin(hint) is list and get_args(hint)[0] is not str for hint in hints)


def test_every_list_is_named_here() -> None:
    pages = {
        route.path
        for route in ROUTES
        if route.guard == PAGE and route.method == "GET" and not re.search(r"\{|\.csv$", route.path)
    }
    assert pages == {one.page for one in LISTS} | NO_LISTS.keys()
    answers = {
        route.path
        for route in ROUTES
        if route.guard == STAFF and route.method == "GET" and _has_list(route)
    }
    assert answers == {one.json for one in LISTS if one.json} | OTHER_JSON.keys()


@pytest.fixture(scope="module")
def viewer(module_database: Database, browsers: dict[str, Browser]) -> Browser:
    """Somebody who sees lists that have rows."""
    configure_provider(module_database)
    who, _ = bought(module_database)
    raised(module_database, listening(module_database))
    staff(module_database, "viewer")
    key_id(module_database)
    with session(module_database, "t_dba") as dba:
        charge_all(dba, [who])
        dba.row("set_cap", scope="agent", subject="a", period="day", limit_minor=1, reason="x")
    module_database.execute(
        "INSERT INTO billing_data.payment_events (provider, event_id, event_type, payload, outcome,"
        " received_at, last_received_at) VALUES"
        " ('stripe', 'evt_lost', 'x', '{}', 'amount_mismatch', now(), now())"
    )
    new_user(module_database)
    return browsers["viewer"]


@pytest.mark.parametrize("one", LISTS, ids=str)
def test_a_page_has_heads_that_sort_days_a_total_and_csv(viewer: Browser, one: List) -> None:
    answer = viewer.get(one.page)
    assert answer.status_code == 200
    links = re.findall(r'class="sort" href="([^"]+)"', answer.text)
    assert bool(links) != ("sort" in one.lacks)
    for link in map(html.unescape, links):
        shown = viewer.get(urljoin(one.page, link))
        assert (shown.status_code, 'aria-sort="' in shown.text) == (200, True), link
    has_days = all(f'name="{name}" type="date"' in answer.text for name in ("from", "to"))
    assert has_days != ("days" in one.lacks)
    if has_days:
        for days, fault in (
            ("from=2020-01-02&to=2020-01-01", "The last day is before the first."),
            ("from=x", "Give a day as 2026-11-22."),
        ):
            wrong = viewer.get(f"{one.page}?{days}")
            assert (wrong.status_code, fault in wrong.text) == (422, True)
    assert ('class="totals"' in answer.text) != ("total" in one.lacks)
    csv = re.search(rf'href="({one.page}\.csv[^"]*)"', answer.text)
    assert bool(csv) != ("csv" in one.lacks)
    if csv:
        sent = viewer.get(html.unescape(csv[1]))
        assert sent.headers["content-type"].startswith("text/csv")
        assert sent.headers["x-truncated"] == "false"
        assert len(sent.text.splitlines()) > 1


@pytest.mark.parametrize("one", [one for one in LISTS if one.json], ids=str)
def test_the_same_list_in_json_has_its_days_and_its_total(viewer: Browser, one: List) -> None:
    assert one.json
    answer = viewer.get(one.json)
    assert answer.status_code == 200
    page: Any = answer.json()
    rows = page if isinstance(page, list) else next(v for v in page.values() if type(v) is list)
    assert rows
    assert (isinstance(page, dict) and "total" in page) != ("json total" in one.lacks)
    if "json total" not in one.lacks:
        assert page["total"] == len(rows)
    (route,) = (route for route in ROUTES if route.path == one.json and route.method == "GET")
    has_days = route.query is not None and issubclass(route.query, ListedDays)
    assert has_days != ("json days" in one.lacks)
    if not has_days:
        return
    for days, name in (("from=2020-01-02&to=2020-01-01", "to"), ("from=x", "from")):
        wrong = viewer.get(f"{one.json}?{days}")
        assert wrong.status_code == 422
        assert [fault["loc"] for fault in wrong.json()["detail"]] == [["query", name]]
    empty = viewer.get(f"{one.json}?from=2020-01-01&to=2020-01-02").json()
    assert not next(value for value in empty.values() if type(value) is list)
    assert empty.get("total", 0) == 0


def test_the_payments_that_the_dashboard_leads_to_sum_up_to_its_gross(
    module_database: Database, viewer: Browser
) -> None:
    """Also where a pack was offered on another day than it was paid on."""
    payments = [bought(module_database)[1] for _ in range(3)]
    module_database.execute(
        "UPDATE billing_data.purchases SET created_at = created_at - interval '3 days'"
        " WHERE payment_id = %s", payments[0],
    )  # fmt: skip
    module_database.execute(
        "UPDATE billing_data.purchases SET settled_at = now() - interval '2 days',"
        " created_at = now() - interval '3 days' WHERE payment_id = %s", payments[1],
    )  # fmt: skip
    with session(module_database, "t_dba") as dba:
        who = new_user(module_database)
        begin(dba, who)  # offered today, and not paid
    page = viewer.get("/admin?range=today").text
    gross = re.search(r"<dt>Gross, USD</dt><dd>([^<]+)</dd>", page)
    address = re.search(r'href="([^"]+)">Payments of these days', page)
    assert gross
    assert address
    path = html.unescape(address[1])
    rows = list(
        DictReader(viewer.get(path.replace("/payments?", "/payments.csv?")).text.splitlines())
    )
    assert payments[0] in {row["payment_id"] for row in rows}
    assert payments[1] not in {row["payment_id"] for row in rows}
    total = sum(int(row["price_minor"]) for row in rows)
    assert gross[1] == f"${total / 100:.2f}"
    assert f"{gross[1]} gross" in viewer.get(path).text
    day = {"from": f"{datetime.now(UTC):%Y-%m-%d}", "days_of": "paid"}
    (sums,) = viewer.get(f"/admin/api/purchases?{urlencode(day)}").json()["totals"]
    assert sums["gross_minor"] == total


@pytest.mark.parametrize(
    ("path", "name"),
    [("explanation", "at"), ("denial", "at"), ("usage", "from"), ("usage", "to")],
)
def test_a_time_at_the_end_of_the_calendar_is_refused_by_the_name_of_its_field(
    module_database: Database, viewer: Browser, path: str, name: str
) -> None:
    account = account_of(module_database, new_user(module_database))["id"]
    paths = [f"/admin/api/users/{account}/{path}"]
    paths += [f"/admin/api/analytics/{path}"] * (path == "usage")
    moments = ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00")
    for address in paths:
        for value in moments if name == "at" else ("9999-12-31", "0001-01-01"):
            answer = viewer.get(f"{address}?{urlencode({name: value})}")
            assert answer.status_code == 422, address
            assert [fault["loc"] for fault in answer.json()["detail"]] == [["query", name]]


def test_a_page_of_json_that_goes_on_says_so() -> None:
    for route in ROUTES:
        if route.guard == STAFF and route.query and issubclass(route.query, PageQuery):
            assert route.answer
            fields = get_type_hints(route.answer).keys()
            assert {"has_more", "total_pages"} & fields, route.path
