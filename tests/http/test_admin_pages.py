"""Every page of the console, without sign-in, as a viewer and as an administrator: who sees what,
who may change what, and what protects all pages."""

from __future__ import annotations

import html
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from server.http.route import PAGE
from server.routes import ROUTES
from tests.identity_provider import FOUNDER, Browser, Console, good_provider, running_console
from tests.payments import ENCRYPTION_KEY
from tests.sql.alerts import alerted, failed_delivery, forget_endpoints, switch_on
from tests.sql.payments import bought, configure_provider
from tests.sql.top_ups import agreed
from tests.support import Database, unique, wait_for

PAGES = [(route.method, route.path) for route in ROUTES if route.guard == PAGE]
VIEWER = "grace@ciris.ai"


@pytest.fixture(scope="module")
def console(module_database: Database) -> Iterator[tuple[Console, dict[str, Browser]]]:
    """A console, and browsers in which nobody, a viewer and an administrator are signed in."""
    with (
        good_provider() as provider,
        running_console(
            module_database, provider.discovery_url, ENCRYPTION_KEY=ENCRYPTION_KEY
        ) as running,
    ):
        browsers = {name: running.browser() for name in ("nobody", "viewer", "admin")}
        provider.sign_in(browsers["viewer"], VIEWER)
        provider.sign_in(browsers["admin"], FOUNDER)
        yield running, browsers


def _account(database: Database) -> str:
    name = unique("ada")
    for call in (
        "check_credit(p_oauth_provider => 'oauth:google', p_external_id => %s)",
        "create_credit(p_oauth_provider => 'oauth:google', p_external_id => %s,"
        " p_amount_minor => 10)",
    ):
        database.execute(f"SELECT billing.{call}", name, user="t_dba")
    return str(database.value("SELECT id FROM billing_data.accounts WHERE external_id = %s", name))


def _name_of(database: Database, account: str) -> str:
    """The external id of an account."""
    return str(
        database.value("SELECT external_id FROM billing_data.accounts WHERE id = %s", account)
    )


def _event(database: Database) -> str:
    name = unique("evt")
    database.execute(
        "SELECT billing.process_payment_event(p_event_id => %s, p_event_type => 'x',"
        " p_payload => '{}', p_action => 'settle', p_payment_id => %s, p_amount_minor => 1,"
        " p_currency => 'USD')",
        name,
        unique("pi"),
        user="t_web",
    )
    return name


def _member(database: Database) -> str:
    email = f"{unique('mary')}@ciris.ai"
    database.execute("SELECT billing.add_admin(p_email => %s)", email, user="t_dba")
    return email


def _note(database: Database, account: str) -> str:
    return str(
        database.value(
            "SELECT n.note_id FROM billing.add_note(%s, 'likes letters') AS n",
            account,
            user="t_dba",
        )
    )


def _hold(database: Database, account: str) -> str:
    return str(
        database.value(
            "SELECT h.hold_id FROM billing.create_hold(p_oauth_provider => 'oauth:google',"
            " p_external_id => %s, p_amount_minor => 5) AS h",
            _name_of(database, account),
            user="t_dba",
        )
    )


def _schedule(database: Database, account: str) -> str:
    return str(
        database.value(
            "SELECT s.schedule_id FROM billing.set_grant_schedule(p_account_id => %s,"
            " p_amount => 20, p_reason => 'a plan') AS s",
            account,
            user="t_dba",
        )
    )


def _cap(database: Database) -> str:
    return str(
        database.value(
            "SELECT c.cap_id FROM billing.set_cap(p_scope => 'agent', p_subject => %s,"
            " p_period => 'day', p_limit_minor => 9, p_reason => 'a test') AS c",
            unique("scout"),
            user="t_dba",
        )
    )


def _give_another(database: Database, account: str, path: str) -> None:
    """Another account for the account to give credits to or to be merged into, or from."""
    other = database.value(
        "SELECT c.account_id FROM billing.create_account(p_oauth_provider => 'oauth:google',"
        " p_external_id => 'the-other-one') AS c",
        user="t_dba",
    )
    if path.endswith("/undo-merge"):
        database.execute(
            "SELECT billing.merge_accounts(p_account_id => %s, p_into_account_id => %s,"
            " p_reason => 'a test')",
            account,
            other,
            user="t_dba",
        )


def _address(database: Database, path: str) -> str:
    """The page's path, after creating what the page is about."""
    account = _account(database)
    credit = database.value(
        "SELECT c.id FROM billing_data.credits AS c WHERE c.account_id = %s", account
    )
    if path.endswith(("/transfer", "merge")):
        _give_another(database, account, path)
    endpoint = delivery = None
    if "{endpoint_id}" in path or "{delivery_id}" in path:
        forget_endpoints(database)
        endpoint = alerted(database)
        switch_on(database, endpoint)
        delivery = failed_delivery(database, endpoint)
    if "{payment_id}" in path:
        configure_provider(database)
        path = path.replace("{payment_id}", bought(database)[1])
    if path.endswith("/end-top-up"):
        agreed(database, _name_of(database, account))
    if "{hold_id}" in path:
        path = path.replace("{hold_id}", _hold(database, account))
    if "{schedule_id}" in path:
        path = path.replace("{schedule_id}", _schedule(database, account))
    return (
        path.replace("{account_id}", account)
        .replace("{kind}/{entry_id}", f"credit/{credit}")
        .replace("{api_key_id}", database.create_key().id)
        .replace("{event_id}", _event(database))
        .replace("{endpoint_id}", str(endpoint))
        .replace("{delivery_id}", str(delivery))
        .replace("{email}", _member(database))
        .replace("{note_id}", _note(database, account))
        .replace("{cap_id}", _cap(database))
    )


# What an administrator sends to each form; the hidden fields are added without a page.
FORMS: dict[str, dict[str, Any]] = {
    "/admin/sign-out": {},
    "/admin/accounts/{account_id}/credits": {"amount": "5", "reason": "a gift"},
    "/admin/accounts/{account_id}/grant": {"amount": "5", "reason": "a gift"},
    "/admin/accounts/{account_id}/notes": {"note": "prefers letters"},
    "/admin/accounts/{account_id}/notes/{note_id}/remove": {},
    "/admin/accounts/{account_id}/reverse/{kind}/{entry_id}": {
        "amount": "5",
        "reason": "granted by mistake",
        "confirm": "yes",
    },
    "/admin/accounts/{account_id}/grant-schedules": {
        "amount": "20",
        "repeat": "monthly",
        "day": "1",
        "rollover": "no",
        "reason": "a plan",
    },
    "/admin/accounts/{account_id}/grant-schedules/{schedule_id}": {
        "do": "pause",
        "reason": "asked for",
    },
    "/admin/accounts/{account_id}/holds/{hold_id}/release": {
        "reason": "the agent is gone",
        "confirm": "yes",
    },
    "/admin/accounts/{account_id}/free-uses": {"free_uses": "9", "reason": "a new start"},
    "/admin/accounts/{account_id}/status": {"status": "suspended", "reason": "a test"},
    "/admin/accounts/{account_id}/transfer": {
        "other": "the-other-one",
        "amount": "5",
        "reason": "the wrong sign-in",
        "confirm": "yes",
    },
    "/admin/accounts/{account_id}/merge": {
        "other": "the-other-one",
        "reason": "one person",
        "confirm": "yes",
    },
    "/admin/accounts/{account_id}/undo-merge": {"reason": "two people", "confirm": "yes"},
    "/admin/accounts/{account_id}/export": {},
    "/admin/accounts/{account_id}/erase": {"reason": "asked for"},
    "/admin/accounts/{account_id}/withdraw-consent": {"reason": "asked for"},
    "/admin/accounts/{account_id}/end-top-up": {"reason": "asked for"},
    "/admin/payments/{payment_id}/refund": {"reason": "bought by mistake", "confirm": "yes"},
    "/admin/payments/problems/{event_id}": {"reason": "granted by hand"},
    "/admin/keys": {
        "name": "k",
        "environment": "test",
        "permissions": "billing:read",
        "description": "for a test",
    },
    "/admin/keys/{api_key_id}/rotate": {"reason": "it is a year old"},
    "/admin/keys/{api_key_id}/revoke": {"reason": "it leaked"},
    "/admin/caps": {
        "scope": "agent",
        "subject": "scout",
        "period": "day",
        "limit": "1,000",
        "mode": "hard",
        "reason": "a budget",
    },
    "/admin/caps/{cap_id}/delete": {"reason": "no longer needed"},
    "/admin/settings/pricing": {"pack_uses": "21", "reason": "a test", "confirm": "yes"},
    "/admin/settings/stripe": {"publishable_key": "pk_test_123", "reason": "a test"},
    "/admin/settings/stripe/test": {},
    "/admin/webhooks": {
        "name": "shop",
        "url": "https://93.184.215.14/",
        "kinds": "balance.low",
        "reason": "a test",
    },
    "/admin/webhooks/low-balance": {"threshold": "7", "reason": "a test"},
    "/admin/webhooks/deliveries/{delivery_id}": {"reason": "it is mended"},
    "/admin/webhooks/{endpoint_id}": {"action": "paused", "reason": "a test"},
    "/admin/staff": {"role": "viewer", "reason": "a new colleague"},
    "/admin/staff/{email}": {"action": "role", "role": "admin", "reason": "a test"},
}


# Signing out and trying Stripe's keys change no stored data. Exporting and notes have no reason,
# and erasing is confirmed by what only the account's page tells; test_admin_account.py has these.
CHANGES = sorted(
    FORMS.keys()
    - {
        "/admin/sign-out",
        "/admin/settings/stripe/test",
        "/admin/accounts/{account_id}/export",
        "/admin/accounts/{account_id}/erase",
        "/admin/accounts/{account_id}/notes",
        "/admin/accounts/{account_id}/notes/{note_id}/remove",
    }
)


def _reason_field(path: str) -> str:
    """The field of a form's reason; for a new key it is the description."""
    return "description" if path == "/admin/keys" else "reason"


def _form(path: str) -> dict[str, Any]:
    form = {"idempotency_key": secrets.token_hex(8), **FORMS[path]}
    return form | ({"email": f"{unique('new')}@ciris.ai"} if path == "/admin/staff" else {})


def _everything(database: Database) -> str:
    """Text that changes when anything in the database changes."""
    return str(
        database.value(
            "SELECT md5(string_agg(t.row, '' ORDER BY t.row)) FROM ("
            " SELECT a::text FROM billing_data.accounts AS a"
            " UNION ALL SELECT k::text FROM billing_data.api_keys AS k"
            " UNION ALL SELECT u::text FROM billing_data.admin_users AS u"
            " UNION ALL SELECT s::text FROM billing_data.settings AS s"
            " UNION ALL SELECT p::text FROM billing_data.provider_configs AS p"
            " UNION ALL SELECT e::text FROM billing_data.payment_events AS e"
            " UNION ALL SELECT w::text FROM billing_data.webhook_endpoints AS w"
            " UNION ALL SELECT f::text FROM billing_data.payment_refunds AS f"
            " UNION ALL SELECT l::text FROM billing_data.admin_audit_logs AS l) AS t (row)"
        )
    )


def _token(browser: Browser) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', browser.get("/admin").text)
    assert found
    return found[1]


def test_every_form_is_tried() -> None:
    assert {path for method, path in PAGES if method == "POST"} == FORMS.keys()
    assert {method for method, _ in PAGES} == {"GET", "POST"}


@pytest.mark.parametrize(("method", "path"), PAGES, ids=" ".join)
def test_somebody_who_is_not_signed_in_is_led_to_the_sign_in_page(
    console: tuple[Console, dict[str, Browser]], method: str, path: str
) -> None:
    running, browsers = console
    address = _address(running.database, path)
    before = _everything(running.database)
    options = {"data": _form(path)} if method == "POST" else {}
    answer = browsers["nobody"].request(method, address, **options)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/admin/sign-in?next=")
    assert _everything(running.database) == before


@pytest.mark.parametrize("path", [path for method, path in PAGES if method == "GET"])
@pytest.mark.parametrize("who", ["viewer", "admin"])
def test_staff_see_every_page_and_it_is_kept_to_itself(
    console: tuple[Console, dict[str, Browser]], who: str, path: str
) -> None:
    running, browsers = console
    answer = browsers[who].get(_address(running.database, path))
    assert answer.status_code == 200
    headers = answer.headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    if path.endswith(".csv"):
        return
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] in ("same-origin", "no-referrer")
    assert not re.search(r"<[^>]+\s(style|on\w+)=", answer.text)
    assert not re.search(r"<script(?![^>]*\ssrc=)", answer.text)
    assert answer.text.count("<h1") == 1
    forms = re.findall(r'<form[^>]*method="post"[^>]*action="([^"]+)"', answer.text)
    if who == "viewer":
        assert set(forms) == {"/admin/sign-out"}


def test_the_last_30_days_are_30_and_a_user_of_two_days_is_one(
    console: tuple[Console, dict[str, Browser]], module_database: Database
) -> None:
    account = _account(module_database)
    for version, days_ago in ((2, 0), (3, 1), (4, 29), (5, 30)):
        module_database.execute(
            "INSERT INTO billing_data.charges (id, account_id, amount_minor, currency,"
            " balance_before, balance_after, description, ledger_version, paid_with,"
            " database_role, created_at) SELECT (replace(substr(i.id::text, 1, 18), '-', '')"
            " || substr(md5(random()::text), 1, 16))::uuid, %s, 1, 'USD', 10, 10, 'd', %s, 'free',"
            " 'test', now() - make_interval(days => %s)"
            " FROM (SELECT billing_data.new_id() AS id) AS i",
            account,
            version,
            days_ago,
        )
    module_database.execute("SELECT billing.rebuild_figures()", user="t_dba")
    page = console[1]["viewer"].get("/admin").text
    charts = re.findall(r'<figure class="chart">(.*?)</figure>', page, re.DOTALL)
    assert [chart.count("<rect") for chart in charts] == [30] * 4
    totals = [re.search(r'class="total">([^<]*)<', chart) for chart in charts]
    charged = module_database.value(
        "SELECT count(*) FROM billing_data.charges AS c"
        " WHERE (c.created_at AT TIME ZONE 'UTC')::date > (now() AT TIME ZONE 'UTC')::date - 30"
    )
    users = module_database.value(
        "SELECT count(DISTINCT c.account_id) FROM billing_data.charges AS c"
        " WHERE (c.created_at AT TIME ZONE 'UTC')::date > (now() AT TIME ZONE 'UTC')::date - 30"
    )
    assert charged >= users + 2
    assert [total and total[1] for total in totals][1::2] == [
        f"{charged} in 30 days",
        f"{users} in 30 days",
    ]
    today = console[1]["viewer"].get("/admin?range=today").text
    hours = re.findall(r'<figure class="chart">(.*?)</figure>', today, re.DOTALL)
    assert [chart.count("<rect") for chart in hours] == [24] * 4
    charged = module_database.value(
        "SELECT count(*) FROM billing_data.charges AS c"
        " WHERE (c.created_at AT TIME ZONE 'UTC')::date = (now() AT TIME ZONE 'UTC')::date"
    )
    assert charged
    assert f">{charged} in 24 hours<" in hours[1]
    lines = console[1]["viewer"].get("/admin/figures.csv?range=today").text.splitlines()
    assert lines[0].startswith("hour,checks,")
    assert len(lines) == 25


@pytest.mark.parametrize("path", sorted(FORMS.keys() - {"/admin/sign-out"}))
def test_a_viewer_changes_nothing(console: tuple[Console, dict[str, Browser]], path: str) -> None:
    running, browsers = console
    address = _address(running.database, path)
    data = {**_form(path), "csrf_token": _token(browsers["viewer"])}
    before = _everything(running.database)
    answer = browsers["viewer"].request("POST", address, data=data)
    assert answer.status_code == 403
    assert "Only administrators can change this" in answer.text
    assert "Nothing was changed." in answer.text
    assert _everything(running.database) == before


@pytest.mark.parametrize("path", sorted(FORMS))
def test_a_form_without_its_token_changes_nothing(
    console: tuple[Console, dict[str, Browser]], path: str
) -> None:
    running, browsers = console
    address = _address(running.database, path)
    before = _everything(running.database)
    for token in ({}, {"csrf_token": ""}, {"csrf_token": _token(browsers["viewer"])}):
        answer = browsers["admin"].request("POST", address, data={**_form(path), **token})
        assert answer.status_code == 403
    assert _everything(running.database) == before


@pytest.mark.parametrize("path", sorted(FORMS.keys() - {"/admin/sign-out"}))
def test_a_form_without_its_session_is_shown_again_and_changes_nothing(
    console: tuple[Console, dict[str, Browser]], path: str
) -> None:
    running, browsers = console
    address = _address(running.database, path)
    ours = {"Origin": running.base_url}
    secret = {"api_key": "sk_test_a_secret"} if path == "/admin/settings/stripe" else {}
    data = {**_form(path), "confirm": "yes", "csrf_token": "an old one", **secret}
    before = _everything(running.database)
    for who, question in (("nobody", "Your session has ended"), ("admin", "Send this again?")):
        answer = browsers[who].request("POST", address, data=data, headers=ours)
        assert answer.status_code == 403
        assert question in answer.text
        assert "Nothing was changed." in answer.text
        for name, value in FORMS[path].items():
            assert name == "confirm" or html.escape(value) in answer.text
        for word in ('name="confirm"', "an old one", "sk_test_a_secret"):
            assert word not in answer.text
    assert _everything(running.database) == before


def test_a_form_of_another_site_is_not_shown_again(
    console: tuple[Console, dict[str, Browser]],
) -> None:
    running, browsers = console
    address = _address(running.database, "/admin/accounts/{account_id}/grant")
    data = {"amount": "5", "reason": "call 555-0100"}
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {}):
        for who, status in (("nobody", 303), ("admin", 403)):
            answer = browsers[who].request("POST", address, data=data, headers=headers)
            assert answer.status_code == status
            assert "call 555-0100" not in answer.text
            assert "csrf_token" not in answer.text


@pytest.mark.parametrize("path", CHANGES)
def test_nothing_is_changed_without_a_reason(
    console: tuple[Console, dict[str, Browser]], path: str
) -> None:
    running, browsers = console
    address = _address(running.database, path)
    token = _token(browsers["admin"])
    before = _everything(running.database)
    data = {**_form(path), "csrf_token": token, _reason_field(path): " "}
    answer = browsers["admin"].request("POST", address, data=data)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text or 'class="fault"' in answer.text
    assert _everything(running.database) == before


@pytest.mark.parametrize("path", CHANGES)
def test_what_an_administrator_changes_is_audited_with_who_why_and_where_from(
    console: tuple[Console, dict[str, Browser]], path: str
) -> None:
    running, browsers = console
    address = _address(running.database, path)
    data = {**_form(path), "csrf_token": _token(browsers["admin"])}
    newest = "SELECT max(created_at) FROM billing_data.admin_audit_logs"
    before = running.database.value(newest)
    answer = browsers["admin"].request("POST", address, data=data)
    assert answer.status_code in (201, 303), answer.text
    rows = running.database.execute(
        "SELECT u.email, host(l.ip_address), l.user_agent IS NOT NULL, l.reason"
        " FROM billing_data.admin_audit_logs AS l"
        " INNER JOIN billing_data.admin_users AS u ON u.id = l.admin_user_id"
        " WHERE l.created_at > %s",
        before,
    )
    assert rows
    for who, address_of, has_agent, reason in rows:
        assert (who, address_of, has_agent) == (FOUNDER, browsers["admin"].address, True)
        assert reason == FORMS[path][_reason_field(path)]


def test_after_a_broken_connection_nobody_is_told_that_nothing_was_changed(
    console: tuple[Console, dict[str, Browser]],
) -> None:
    running, browsers = console
    account = _account(running.database)
    data = {"status": "suspended", "reason": "a test", "csrf_token": _token(browsers["admin"])}
    with (
        psycopg.connect(running.database.dsn()) as holder,
        ThreadPoolExecutor(1) as background,
    ):
        holder.execute("SELECT FROM billing_data.accounts WHERE id = %s FOR UPDATE", (account,))
        posted = background.submit(
            browsers["admin"].request, "POST", f"/admin/accounts/{account}/status", data=data
        )
        waiting = (
            "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity AS a"
            " WHERE a.datname = current_database() AND a.wait_event_type = 'Lock'"
        )
        wait_for(lambda: running.database.execute(waiting), "the change to wait for the account")
        answer = posted.result(timeout=20)
    assert answer.status_code == 503
    assert "It is not known whether the change was made" in answer.text
    assert "Nothing was changed" not in answer.text


def test_a_charge_is_reversed_on_its_accounts_page_after_a_preview(
    console: tuple[Console, dict[str, Browser]],
) -> None:
    running, browsers = console
    admin, account = browsers["admin"], _account(running.database)
    charge = running.database.value(
        "SELECT c.charge_id FROM billing_data.accounts AS a, billing.create_charge("
        "p_oauth_provider => a.oauth_provider, p_external_id => a.external_id) AS c"
        " WHERE a.id = %s",
        account,
        user="postgres",
    )
    page, path = f"/admin/accounts/{account}", f"/admin/accounts/{account}/reverse/charge/{charge}"
    assert path in admin.get(page).text
    assert path not in browsers["viewer"].get(page).text
    assert "one free use" in admin.get(path).text
    form = {"csrf_token": _token(admin), "reason": "the job failed", "idempotency_key": "once"}
    for wrong in ({"amount": "0"}, {"amount": "x"}, {"amount": "2"}, {"reason": ""}):
        answer = admin.request("POST", path, data={**form, **wrong})
        assert (answer.status_code, 'class="fault"' in answer.text) == (422, True), wrong
    before = _everything(running.database)
    preview = admin.request("POST", path, data=form)
    assert (preview.status_code, "Nothing was changed yet" in preview.text) == (200, True)
    assert _everything(running.database) == before
    for told in ("a free use is back, and 3 are left", "This was done before"):
        answer = admin.request("POST", path, data={**form, "confirm": "yes"})
        assert (answer.status_code, answer.headers["location"]) == (303, page)
        shown = admin.get(page).text
        assert told in shown
    assert path not in shown
    link = (
        rf'"{page}\?row={charge}#row-{charge}">Reversal of the charge of 1 on [0-9: -]+: one use<'
    )
    assert re.search(link, shown)
    for place in (f"{page}?tab=ledger", f"{page}/statement"):
        assert re.search(link, admin.get(place).text), place
    assert ",Reversal of the charge of 1 on" in admin.get(f"{page}/statement.csv").text
    again = admin.get(path)
    assert (again.status_code, "already reversed as a whole" in again.text) == (200, True)
    # What is no entry is on no page, and an entry only on its own account's.
    credit = running.database.value(
        "SELECT c.id FROM billing_data.credits AS c WHERE c.account_id = %s LIMIT 1",
        _account(running.database),
    )
    for missing in (f"grant/{charge}", f"charge/{uuid4()}", "charge/x", f"credit/{credit}"):
        assert admin.get(f"{page}/reverse/{missing}").status_code == 404, missing


def test_a_payment_is_resolved_on_its_page_with_the_credit_given_for_it(
    console: tuple[Console, dict[str, Browser]],
) -> None:
    running, browsers = console
    admin, event = browsers["admin"], _event(running.database)
    token, path = _token(admin), f"/admin/payments/problems/{event}"
    form = {"csrf_token": token, "reason": "by hand", "how": "credited"}
    for credit_id in ("", "7", str(uuid4())):
        answer = admin.request("POST", path, data={**form, "credit_id": credit_id})
        assert answer.status_code == 422, credit_id
    account = _account(running.database)
    # As many credits as a pack has; another test may have changed that number.
    credit_id = running.database.value(
        "SELECT c.credit_id FROM billing.get_settings() AS s, billing.get_account_by_id("
        "p_account_id => %s) AS a, billing.create_credit(p_oauth_provider => a.oauth_provider,"
        " p_external_id => a.external_id, p_amount_minor => s.pack_uses) AS c",
        account,
        user="t_dba",
    )
    assert str(credit_id) in admin.get(f"/admin/accounts/{account}").text
    answer = admin.request("POST", path, data={**form, "credit_id": str(credit_id)})
    assert answer.status_code == 303
    effect = running.database.execute(
        "SELECT x.effect, x.credit_id FROM billing_data.payment_effects AS x INNER JOIN"
        " billing_data.payment_events AS e USING (payment_id) WHERE e.event_id = %s",
        event,
    )
    assert effect == [("credited", credit_id)]


def test_a_webhook_endpoint_is_added_switched_and_tried_on_its_page(
    console: tuple[Console, dict[str, Browser]],
) -> None:
    running, browsers = console
    forget_endpoints(running.database)
    admin, token = browsers["admin"], {"csrf_token": _token(browsers["admin"])}

    def send(path: str, **fields: str) -> Any:
        return admin.request("POST", f"/admin/webhooks{path}", data={**token, **fields})

    new = {"name": "shop", "url": "https://93.184.215.14/", "reason": "a test"}
    private = send("", **{**new, "url": "https://10.0.0.7/"})
    assert private.status_code == 422
    assert "It leads to a private or special address" in private.text
    assert 'value="shop"' in private.text
    added = send("", **new)
    assert added.status_code == 201
    secret = re.search(r"whsec_[A-Za-z0-9+/=]+", html.unescape(added.text))
    assert secret
    assert secret[0] not in admin.get("/admin/webhooks").text
    endpoint = running.database.value("SELECT e.id FROM billing_data.webhook_endpoints AS e")
    early = send(f"/{endpoint}", action="on", reason="a test")
    assert early.status_code == 422
    assert "must accept a test event at this address" in early.text
    assert send(f"/{endpoint}", action="set", **{**new, "name": "bazaar"}).status_code == 303
    assert "bazaar" in admin.get("/admin/webhooks").text
    assert send(f"/{endpoint}", action="delete", reason="a test").status_code == 303
    assert "There are no endpoints yet" in admin.get("/admin/webhooks").text
