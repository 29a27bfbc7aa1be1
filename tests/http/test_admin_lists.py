"""The console's lists: how many rows they have, how they are sorted, and the same rows as CSV."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import get_args

from server.admin_api import payments as payments_api
from server.admin_pages import payments
from server.payments.advice import ADVICE
from tests.identity_provider import Browser
from tests.sql.alerts import listening, raised
from tests.sql.helpers import account_of, charge_all, new_user, new_user_by, session
from tests.support import Database


def _text(browser: Browser, address: str) -> str:
    answer = browser.get(address)
    assert answer.status_code == 200
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text)))


def test_events_and_the_audit_log_say_how_many_rows_match(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    module_database.execute(
        "INSERT INTO billing_data.payment_events (provider, event_id, event_type, payload, outcome,"
        " received_at, last_received_at) SELECT 'stripe', 'evt_count_' || n, 'x', '{}', 'ignored',"
        " '2020-01-01 00:00Z'::timestamptz + n * interval '1 minute', now()"
        " FROM generate_series(1, 10002) AS s (n)"
    )
    module_database.execute(
        "INSERT INTO billing_data.admin_audit_logs (action, resource_type, resource_id,"
        " database_role) SELECT 'counted.' || (n % 3), 'test', 'thing', 'test'"
        " FROM generate_series(1, 62) AS s (n)"
    )
    viewer = browsers["viewer"]
    assert " 62 entries " in _text(viewer, "/admin/audit?action=counted")
    assert " 20 entries " in _text(viewer, "/admin/audit?action=counted.0&page=1")
    assert " 1 event " in _text(viewer, "/admin/payments/events?event=evt_count_7")
    assert " 1,440 events " in _text(viewer, "/admin/payments/events?from=2020-01-02&to=2020-01-02")
    assert "more than 10,000 events" in _text(viewer, "/admin/payments/events?to=2020-01-31")
    for address, total, is_minimum in (
        ("audit-log?action=counted.0&page_size=7&page=2", 20, False),
        ("payment-events?page_size=1", 10_000, True),
    ):
        page = viewer.get(f"/admin/api/{address}").json()
        assert (page["total"], page["total_is_minimum"]) == (total, is_minimum)


def test_caps_are_sorted_by_what_their_heads_say_and_sent_as_csv(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    for agent, limit in (("bob", 7), ("ann", 70), ("cid", 30)):
        module_database.execute(
            "SELECT billing.set_cap(p_scope => 'agent', p_subject => %s, p_period => 'day',"
            " p_mode => 'hard', p_limit_minor => %s, p_reason => 'a test')",
            agent,
            limit,
            user="t_dba",
        )
    viewer = browsers["viewer"]

    def agents(address: str, pattern: str) -> list[str]:
        return re.findall(pattern, viewer.get(address).text, re.MULTILINE)

    for order, expected in {
        "": ["ann", "bob", "cid"],
        "?sort=-subject_name": ["cid", "bob", "ann"],
        "?sort=limit_minor": ["ann", "cid", "bob"],
        "?sort=-limit_minor": ["bob", "cid", "ann"],
        "?sort=nonsense": ["ann", "bob", "cid"],
    }.items():
        assert agents(f"/admin/caps{order}", r'<th scope="row">(ann|bob|cid)<') == expected
        assert agents(f"/admin/caps.csv{order}", r"agent,(ann|bob|cid),") == expected
    assert " 3 caps " in _text(viewer, "/admin/caps")


def test_deliveries_are_filtered_by_days_and_sent_as_csv_without_bodies(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    endpoint = listening(module_database)
    old, new = (str(raised(module_database, endpoint)) for _ in range(2))
    module_database.execute(
        "UPDATE billing_data.outbox SET created_at = '2020-02-02 23:59Z' WHERE id = %s", old
    )
    viewer, address = browsers["viewer"], "/admin/webhooks/deliveries"

    def found(query: str) -> list[str]:
        lines = viewer.get(f"{address}.csv?{query}").text.splitlines()
        assert "payload" not in lines[0]
        return [line.split(",")[0] for line in lines[1:]]

    assert found("") == [new, old]
    assert found("from=2020-02-02&to=2020-02-02") == [old]
    assert found("to=2020-02-01") == []
    assert found("from=2020-02-03&state=waiting") == [new]
    assert " 2 deliveries " in _text(viewer, address)
    for query, total in (("", 2), ("&state=failed", 0), ("&kind=cap.reached", 2)):
        page = viewer.get(f"/admin/api/webhook-deliveries?page_size=1{query}").json()
        assert (page["total"], page["total_is_minimum"]) == (total, False)
    assert " 1 delivery " in _text(viewer, f"{address}?from=2020-02-03&state=waiting")
    assert "2020-02-02 23:59" in _text(viewer, f"{address}?to=2020-02-02")
    assert "2020-02-02 23:59" not in _text(viewer, f"{address}?from=2020-02-03")
    account = account_of(module_database, new_user(module_database))
    module_database.execute(
        "UPDATE billing_data.outbox SET account_id = %s WHERE id = %s", account["id"], new
    )
    link = f'<a href="/admin/accounts/{account["id"]}">{account["external_id"]}</a>'
    assert viewer.get(address).text.count(link) == 1
    wrong = viewer.get(f"{address}?from=2020-02-03&to=2020-02-02")
    assert wrong.status_code == 422
    assert "The last day is before the first." in wrong.text
    with session(module_database, "t_dba") as dba:
        for filters in (
            {"endpoint_id": endpoint}, {"endpoint_id": old}, {"state": "waiting"},
            {"state": "failed"}, {"kind": "cap.reached"}, {"kind": "none"}, {"to": "2020-02-02"},
            {"from": "2020-02-02", "to": "2020-02-02"}, {"from": "2020-02-03"},
            {"account_id": old},
        ):  # fmt: skip
            found_rows = len(dba.rows("list_deliveries", **filters))
            counted = dba.row("count_deliveries", **filters)
            assert counted == {"deliveries": found_rows, "is_more": False}
        assert dba.row("count_deliveries", most=1) == {"deliveries": 1, "is_more": True}
        assert dba.row("count_deliveries", most=2) == {"deliveries": 2, "is_more": False}


def test_lists_that_stop_say_so(module_database: Database, browsers: dict[str, Browser]) -> None:
    account = str(account_of(module_database, new_user(module_database))["id"])
    module_database.execute(
        "INSERT INTO billing_data.payment_events (provider, event_id, event_type, payload, outcome,"
        " account_id, received_at, last_received_at) SELECT 'stripe', 'evt_lost_' || n, 'x', '{}',"
        " 'amount_mismatch', %s, '2020-01-01 00:00Z', now() FROM generate_series(1, 502) AS s (n)",
        account,
    )
    viewer = browsers["viewer"]
    # Each event names its account.
    link = rf'<a href="/admin/accounts/{account}\?tab=purchases">([^<]+)</a>'
    names = set(re.findall(link, viewer.get("/admin/payments/events?from=2020-01-01").text))
    assert "Account" not in names
    problems = viewer.get("/admin/payments/problems.csv")
    assert sum("evt_lost_" in line for line in problems.text.splitlines()) == 502
    assert problems.headers["X-Truncated"] == "false"
    assert " 502 payments need a person" in _text(viewer, "/admin")
    assert " The account has 492 more of these problems." in _text(
        viewer, f"/admin/accounts/{account}"
    )
    page = viewer.get("/admin/api/payment-problems?page_size=100").json()
    assert (len(page["problems"]), page["has_more"]) == (100, True)
    with session(module_database, "t_dba") as dba:
        charge_all(dba, [new_user_by(dba) for _ in range(51)])
    told = _text(viewer, "/admin/consumers")
    assert "These are the first 50; there are more. The CSV has up to 10,000." in told
    first = viewer.get("/admin/api/analytics/top-consumers?limit=50")
    assert (len(first.json()), first.headers["X-Truncated"]) == (50, "true")
    every = viewer.get("/admin/api/analytics/top-consumers?limit=1000")
    assert every.headers["X-Truncated"] == "false"
    csv = viewer.get("/admin/consumers.csv")
    assert csv.headers["X-Truncated"] == "false"
    assert len(csv.text.splitlines()) == len(every.json()) + 1


def test_every_table_of_the_console_is_the_lists_macro() -> None:
    pages = Path(__file__).parents[2] / "templates/admin"
    tables = [str(page.name) for page in pages.rglob("*.html") if "<table" in page.read_text()]
    assert tables == ["macros.html"]
    # A cell without its heading has no name on a narrow screen.
    for page in pages.rglob("*.html"):
        text = page.read_text()
        for table in re.findall(r"ui\.table\(.*?endcall", text, re.DOTALL):
            bare = re.findall(r"<td(?![^>]*data-label)[^>]*>", table)
            assert not bare, page


def test_the_pages_of_an_account_have_every_row_once_also_of_one_moment(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    who = new_user(module_database, paid=150, free=False)
    with session(module_database, "t_dba") as dba:
        charge_all(dba, [who] * 120)
    account = account_of(module_database, who)["id"]
    charges = {
        str(row[0])
        for row in module_database.execute(
            "SELECT id FROM billing_data.charges WHERE account_id = %s", account
        )
    }
    moments = module_database.value(
        "SELECT count(DISTINCT created_at) FROM billing_data.charges WHERE account_id = %s", account
    )
    assert moments < 50, "a page ends between rows of one moment"
    for tab, following in (("timeline", "Older"), ("ledger", "Next")):
        address, seen, pages = f"/admin/accounts/{account}?tab={tab}", [], 0
        while address:
            text, pages = browsers["admin"].get(address).text, pages + 1
            seen += re.findall(rf'href="/admin/accounts/{account}/reverse/charge/([^"]+)"', text)
            link = re.search(rf'<a href="([^"]+)" rel="next">{following}</a>', text)
            address = html.unescape(link[1]) if link else ""
        assert (sorted(seen), pages) == (sorted(charges), 3), tab


def test_every_outcome_of_an_event_has_its_words(module_database: Database) -> None:
    allowed = module_database.value(
        "SELECT pg_get_constraintdef(c.oid) FROM pg_constraint AS c"
        " WHERE c.conname = 'payment_events_outcome'"
    )
    outcomes = set(re.findall(r"'(\w+)'", allowed))
    assert len(outcomes) > 10
    faults = {
        outcome
        for outcome in outcomes
        if module_database.value("SELECT billing_data.is_payment_fault(%s)", outcome)
    }
    words = {
        outcome: module_database.value("SELECT billing_data.payment_outcome_words(%s)", outcome)
        for outcome in outcomes
    }
    assert all(" " in text for text in words.values()), words
    assert len(set(words.values())) == len(outcomes)
    warnings = module_database.value(
        "SELECT pg_get_constraintdef(c.oid) FROM pg_constraint AS c"
        " WHERE c.conname = 'payment_warnings_kind'"
    )
    assert set(get_args(payments_api.Outcome)) == outcomes
    assert set(get_args(payments_api.Fault)) == faults
    assert set(get_args(payments_api.Warned)) == set(payments._WARNINGS)
    assert set(payments._WARNINGS) == set(re.findall(r"'(\w+)'", warnings))
    assert ADVICE.keys() == faults | {"shortfall", *payments._WARNINGS}
