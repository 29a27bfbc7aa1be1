"""Users' ids and names in the console: two that differ look different, and nothing in one hides or
changes the direction of its surroundings."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment
from markupsafe import Markup

from server.admin_pages.page import add_filters
from server.admin_pages.visible import exact, finalize, visible
from tests.identity_provider import FOUNDER, Browser, Console, good_provider, running_console
from tests.support import Database, unique

NASTY = {
    "zero width space": "ada\u200b",
    "right-to-left override": "ada\u202etxt.exe",
    "isolate": "\u2067ada\u2069",
    "soft hyphen": "a\u00adda",
    "byte order mark": "\ufeffada",
    "no-break space": "ada\u00a0lovelace",
    "Hangul filler": "ada\u3164",
    "empty Braille": "ada\u2800",
    "variation selector": "ada\ufe0f",
    "language tag": "ada\U000e0041",
    "line break": "ada\nlovelace",
    "escape": "ada\x1b[31m",
    "decomposed": unicodedata.normalize("NFD", "adé"),
    "only spaces": "   ",
    "two spaces": "ada  lovelace",
    "space behind": "ada ",
    "what looks like an escape": "ada⟨U+200B⟩␣",
    "private use": "ada\ue000",
    "unassigned": "ada\U000effff",
}
ORDINARY = ["ada@example.com", "Ada Lovelace", "Łucja Čapková", "أحمد", "李明", "a-b_c:d/e", "é"]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_names_are_shown_as_they_are(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_what_cannot_be_seen_is_shown(text: str) -> None:
    shown = visible(text)
    assert not _hidden_in(shown)
    assert shown != text
    assert shown.strip() == shown
    assert exact(shown) == text


# Every text that a database can hold.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(TEXT)
def test_no_two_texts_are_shown_alike(text: str) -> None:
    shown = visible(text)
    assert not _hidden_in(shown)
    assert unicodedata.is_normalized("NFC", shown) or not unicodedata.is_normalized("NFC", text)
    assert exact(shown) == text


@given(TEXT)
def test_a_page_s_own_spaces_stay(text: str) -> None:
    assert finalize(f" {text} ")[:1] == " "
    assert finalize(Markup(text)) == text


def test_an_escape_of_no_character_is_only_text() -> None:
    assert exact("⟨U+0000⟩⟨U+D800⟩⟨U+FFFFFF⟩") == "⟨U+0000⟩⟨U+D800⟩⟨U+FFFFFF⟩"


def test_a_time_to_come_is_not_said_to_be_now() -> None:
    environment = Environment(autoescape=True)
    add_filters(environment)
    ago, now = environment.filters["ago"], datetime.now(UTC)
    assert ago(now + timedelta(seconds=30)) == "in a moment"
    assert ago(now - timedelta(seconds=30)) == "just now"


def _hidden_in(text: str) -> list[str]:
    return [
        letter
        for letter in text
        if letter != " " and unicodedata.category(letter) in {"Cc", "Cf", "Zl", "Zp", "Zs", "Co"}
    ]


@pytest.fixture(scope="module")
def browser(module_database: Database) -> Iterator[Browser]:
    """An administrator's browser."""
    with (
        good_provider() as provider,
        running_console(module_database, provider.discovery_url) as running,
    ):
        assert isinstance(running, Console)
        browser = running.browser()
        provider.sign_in(browser, FOUNDER)
        yield browser


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_no_page_shows_what_cannot_be_seen(
    module_database: Database, browser: Browser, text: str
) -> None:
    account_id = _nasty_account(module_database, text)
    pages = [
        f"/admin/accounts?search={account_id}",
        f"/admin/accounts/{account_id}",
        f"/admin/accounts/{account_id}?tab=checks",
        f"/admin/accounts/{account_id}?tab=purchases",
        "/admin/payments",
        "/admin/keys",
        "/admin/staff",
        f"/admin/audit?thing={account_id}",
    ]
    for page in pages:
        answer = browser.get(page)
        assert answer.status_code == 200, page
        text_shown = html.unescape(re.sub(r"<[^>]*>", "", answer.text)).replace("\n", " ")
        assert _hidden_in(text_shown) == [], page
    assert visible(text) in html.unescape(browser.get(pages[1]).text)
    if text.strip():
        assert visible(text) in html.unescape(browser.get(pages[-1]).text)


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_what_a_page_shows_finds_the_account(
    module_database: Database, browser: Browser, text: str
) -> None:
    """A person copies the id from a page into the search."""
    account_id = _nasty_account(module_database, text)
    answer = browser.get("/admin/accounts", params={"search": visible(text)})
    assert f"/admin/accounts/{account_id}" in answer.text


def test_a_form_sends_back_what_was_typed(module_database: Database, browser: Browser) -> None:
    """A reason stays the same when the form is shown again."""
    account_id = _nasty_account(module_database, "ada")
    account = f"/admin/accounts/{account_id}"
    token = re.search(r'name="csrf_token" value="([^"]+)"', browser.get(account).text)
    assert token
    reason = "a\u200bb  c"
    answer = browser.request(
        "POST",
        f"{account}/credits",
        data={
            "csrf_token": token[1],
            "idempotency_key": unique(),
            "amount": "-1",
            "reason": reason,
        },
    )
    assert f'name="reason" value="{reason}"' in html.unescape(answer.text)
    assert "a⟨U+200B⟩b␣␣c" in answer.text


def _nasty_account(database: Database, text: str) -> str:
    """An account that has this text in every free-text field, and an external id of its own."""
    name = {"oauth_provider": f"oauth:{unique()}", "external_id": text}
    for function, arguments in (
        (
            "check_credit",
            {
                **name,
                "wa_id": text,
                "tenant_id": text,
                "context_agent_id": text,
                "context_channel_id": text,
                "customer_email": text,
                "user_role": text,
                "agent_id": text,
                "marketing_opt_in": True,
                "marketing_opt_in_source": text,
            },
        ),
        (
            "create_charge",
            {**name, "amount_minor": 1, "description": text, "metadata_message_id": text},
        ),
        (
            "create_credit",
            {**name, "amount_minor": 7, "description": text, "external_transaction_id": text},
        ),
        # Spaces alone are not a reason.
        (
            "set_account_status",
            {**name, "status": "suspended", "reason": text if text.strip() else f"{text}x"},
        ),
    ):
        given = ", ".join(f"p_{argument} => %s" for argument in arguments)
        database.execute(f"SELECT billing.{function}({given})", *arguments.values(), user="t_dba")
    database.create_key(name=text)
    return str(
        database.value(
            "SELECT id FROM billing_data.accounts WHERE oauth_provider = %s",
            name["oauth_provider"],
        )
    )
