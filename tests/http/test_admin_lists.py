"""The console's lists: how many rows they have, how they are sorted, and the same rows as CSV."""

from __future__ import annotations

import html
import re

from tests.identity_provider import Browser
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
