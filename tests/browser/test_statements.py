"""Staff look at an account's statement, print it and take it along as CSV."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import ARTEFACTS, Person, Shop
from tests.sql.helpers import charge_all, new_user, session
from tests.support import unique

Look = Callable[[Page, str], None]


@pytest.fixture
def ada(shop: Shop) -> str:
    """The id of an account with a short history of this month: credits, uses, free uses that a DBA
    set, and a charge that was given back."""
    name = unique("ada")
    who = new_user(shop.database, paid=40, external_id=name)
    with session(shop.database, "t_dba") as dba:
        account_id = dba.value("find_account", account=f"oauth:google:{name}")
        charge_all(dba, [who] * 12)
        dba.row("reset_free_uses", account_id=account_id, reason="a new start")
        charge_id = dba.row("create_charge", **who, description="summary of a long talk")[
            "charge_id"
        ]
        dba.row("reverse_charge", charge_id=charge_id, reason="the job failed")
    return str(account_id)


def test_a_statement_is_read_printed_on_one_sheet_and_taken_along(
    admin: Person, ada: str, looked_at: Look
) -> None:
    admin.goes(f"/admin/accounts/{ada}")
    admin.page.get_by_role("link", name="Statement of a month").click()
    assert admin.heading.startswith("Statement ")
    looked_at(admin.page, "statement")
    rows = admin.page.locator("table.statement tbody tr")
    assert rows.count() == 18
    assert rows.first.locator("td").nth(1).inner_text() == "Opening"
    assert rows.last.locator("td").nth(1).inner_text() == "Closing"
    assert [rows.last.locator("td").nth(place).inner_text() for place in (5, 7)] == ["31", "3"]
    assert re.search("Reversal of the charge of 1 on [0-9: -]{16}: ", rows.nth(16).inner_text())
    paper = admin.page.pdf(path=ARTEFACTS / "statement.pdf", format="A4", prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", paper)) == 1
    admin.page.emulate_media(media="print")
    admin.page.set_viewport_size({"width": 688, "height": 1017})
    admin.page.screenshot(path=ARTEFACTS / "statement-print.png")
    assert not admin.page.get_by_role("button", name="Show").is_visible()
    admin.page.emulate_media(media="screen")
    with admin.page.expect_download() as download:
        admin.page.get_by_role("link", name="CSV").click()
    lines = download.value.path().read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("kind,at,ledger_version")
    assert len(lines) == 19


def test_a_period_is_chosen_and_a_wrong_one_says_what_is_wrong(admin: Person, ada: str) -> None:
    running = "This period is not over yet."
    admin.goes(f"/admin/accounts/{ada}/statement")
    assert running in admin.page.locator("main").inner_text()
    admin.page.get_by_label("First day").fill("2020-02-01")
    admin.page.get_by_label("Last day").fill("2020-02-02")
    admin.page.get_by_role("button", name="Show").click()
    assert admin.heading == "Statement 2020-02-01 to 2020-02-02"
    assert "The account did not exist yet" in admin.page.locator("table.statement").inner_text()
    assert running not in admin.page.locator("main").inner_text()
    for days, heading in (
        ("from=2020-02-01&to=2020-02-03", "Statement 2020-02-01 to 2020-02-02"),  # an old link
        ("from=2020-02-03&last=2020-02-03", "Statement 2020-02-03 to 2020-02-03"),
    ):
        assert admin.goes(f"/admin/accounts/{ada}/statement?{days}").status == 200
        assert admin.heading == heading
    admin.page.set_viewport_size({"width": 390, "height": 844})
    lines = "e => e.getClientRects().length"
    for day in admin.page.locator("h1 .whole").all():
        assert day.evaluate(lines) == 1  # a date is not broken on a phone
    for wrong, fault in (
        ("from=2020-02-03&to=2020-02-03", "Give the first day or a later one"),
        ("from=2020-02-03&last=2020-02-02", "Give the first day or a later one"),
        ("from=2020-02-03&last=2021-02-04", "at most 366 days in all"),
        ("from=yesterday", "Give a day as 2026-11-22."),
        ("from=0001-01-01", "Give a day of the years"),
    ):
        response = admin.goes(f"/admin/accounts/{ada}/statement?{wrong}")
        assert response.status == 422
        assert fault in admin.page.locator(".fault").inner_text()


def test_a_long_statement_is_paged_without_scripts(plain: Person, shop: Shop, ada: str) -> None:
    with session(shop.database, "t_dba") as dba:
        who = dba.row("get_account_by_id", account_id=ada)
        given = {name: who[name] for name in ("oauth_provider", "external_id")}
        dba.row("create_credit", **given, amount_minor=2000)
        charge_all(dba, [given] * 600)
    plain.goes(f"/admin/accounts/{ada}/statement")
    rows = plain.page.locator("table.statement tbody tr")
    seen = rows.count()
    plain.page.get_by_role("link", name="Later entries").click()
    assert rows.last.locator("td").nth(1).inner_text() == "Closing"
    assert seen + rows.count() == 18 + 601
    plain.page.get_by_role("link", name="From the beginning").click()
    assert rows.first.locator("td").nth(1).inner_text() == "Opening"


def test_top_consumers_of_a_month_lead_to_their_statements(
    viewer: Person, ada: str, looked_at: Look
) -> None:
    viewer.goes("/admin")
    viewer.page.get_by_role("link", name="Top consumers of ").click()
    looked_at(viewer.page, "consumers")
    assert viewer.page.locator("tbody tr").count() >= 1
    head = viewer.page.get_by_role("columnheader", name="Credits used")
    head.get_by_role("link").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert head.get_by_role("link").count() == 0, "the order of the top is never the other way"
    viewer.page.locator("tbody tr").first.get_by_role("link", name="of this month").click()
    assert viewer.heading.startswith("Statement ")
    viewer.goes("/admin/consumers?month=2020-01")
    assert "Nobody was charged" in viewer.page.locator(".empty").inner_text()
