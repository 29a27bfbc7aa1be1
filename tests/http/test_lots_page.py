"""Credits that end and regular grants on the page of an account."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.identity_provider import Browser
from tests.sql.helpers import account_of, new_user
from tests.support import Database


@pytest.fixture
def address(module_database: Database) -> str:
    """The page of a new account without credits."""
    who = new_user(module_database, free=False)
    return f"/admin/accounts/{account_of(module_database, who)['id']}"


def _text(browser: Browser, address: str) -> str:
    answer = browser.get(address)
    assert answer.status_code == 200
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text)))


def _sent(browser: Browser, address: str, **fields: str) -> Any:
    return browser.post(address, {"csrf_token": browser.csrf_token(), **fields})


def test_a_grant_may_have_a_last_day_and_the_page_shows_what_is_left(
    browsers: dict[str, Browser], address: str
) -> None:
    admin, viewer = browsers["admin"], browsers["viewer"]
    assert "Credits that end" not in _text(viewer, address)
    grant = {"amount": "20", "reason": "a gift", "idempotency_key": "gift"}
    for day, fault in (("2020-01-01", "It must be a time to come."), ("x", "Give a day as")):
        answer = _sent(admin, f"{address}/grant", **grant, ends_on=day)
        assert answer.status_code == 422
        assert f'id="grant-ends_on-fault">{fault}' in answer.text
    last = (datetime.now(UTC) + timedelta(days=10)).date()
    assert _sent(admin, f"{address}/grant", **grant, ends_on=f"{last}").status_code == 303
    told = _text(viewer, address)
    ends = last + timedelta(days=1)
    assert re.search(rf"grant 20 20 0 50 \S* ?{ends}", told), told
    assert "Grant credits regularly" not in told


def test_an_administrator_adds_pauses_and_ends_a_regular_grant(
    module_database: Database, browsers: dict[str, Browser], address: str
) -> None:
    admin = browsers["admin"]
    plan = {
        "amount": "20", "repeat": "weekly", "day": "9", "rollover": "no", "reason": "a plan",
        "idempotency_key": "plan",
    }  # fmt: skip
    refused = _sent(admin, f"{address}/grant-schedules", **plan)
    assert refused.status_code == 422
    assert 'id="schedule-day-fault"' in refused.text
    assert _sent(admin, f"{address}/grant-schedules", **{**plan, "day": "7"}).status_code == 303
    told = _text(browsers["viewer"], address)
    assert "20 credits every Sunday, not kept when the next ones come" in told
    (schedule,) = module_database.execute(
        "SELECT id FROM billing_data.grant_schedules WHERE account_id = %s",
        address.rsplit("/", maxsplit=1)[-1],
    )[0]
    change = f"{address}/grant-schedules/{schedule}"
    assert _sent(admin, change, do="pause").status_code == 422
    viewer = browsers["viewer"]
    assert _sent(viewer, change, do="end", reason="no").status_code == 403
    better = {"do": "change", "amount": "35", "rollover": "yes", "description": "a greater plan"}
    assert _sent(viewer, change, **better, reason="no").status_code == 403
    wrong = _sent(admin, change, **{**better, "amount": "0"})
    assert wrong.status_code == 422
    for field in ("amount", "reason"):
        assert f'id="schedule-{schedule}-new-{field}-fault"' in wrong.text
    assert 'value="a greater plan"' in wrong.text
    assert _sent(admin, change, **better, reason="more to do").status_code == 303
    told = _text(viewer, address)
    assert "35 credits every Sunday, kept when the next ones come" in told
    assert "a greater plan. Next:" in told
    assert "Regular grant changed" in told
    for do, state in (("pause", "paused"), ("resume", "active"), ("end", None)):
        assert _sent(admin, change, do=do, reason="asked for").status_code == 303
        assert ("35 credits every Sunday" in _text(viewer, address)) == (state is not None)
    assert _sent(admin, change, do="end", reason="again").status_code in (409, 422)
