"""The page of one account: why it was denied, and what concerns the person's data."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime
from typing import Any

from tests.identity_provider import Browser
from tests.sql.holds import SECOND, stopped_clock
from tests.sql.payments import bought, configure_provider
from tests.sql.top_ups import agreed
from tests.support import Database, unique


def _call(database: Database, call: str, *arguments: Any) -> None:
    database.execute(f"SELECT billing.{call}", *arguments, user="t_dba")


def _account(database: Database) -> tuple[str, str]:
    """A new account without free uses: its external id and its page."""
    name = unique("ada")
    _call(
        database,
        "check_credit(p_oauth_provider => 'oauth:google', p_external_id => %s,"
        " p_customer_email => %s, p_marketing_opt_in => true)",
        name,
        f"{name}@example.com",
    )
    for _ in range(3):
        _call(
            database,
            "create_charge(p_oauth_provider => 'oauth:google', p_external_id => %s)",
            name,
        )
    account_id = database.value("SELECT id FROM billing_data.accounts WHERE external_id = %s", name)
    return name, f"/admin/accounts/{account_id}"


def _text(browser: Browser, address: str) -> str:
    answer = browser.get(address)
    assert answer.status_code == 200
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text)))


def test_the_page_says_why_the_account_was_denied_and_what_to_do_next(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    name, address = _account(module_database)
    assert "Why denied" not in _text(browsers["viewer"], address)
    _call(
        module_database,
        "check_credit(p_oauth_provider => 'oauth:google', p_external_id => %s)",
        name,
    )
    told = _text(browsers["viewer"], address)
    assert "It was refused because the account had no free uses and no paid credits." in told
    assert "Grant at least 1 credit or set free uses anew; or the user buys a pack." in told
    # Each denied check leads to its own explanation.
    checks = browsers["viewer"].get(f"{address}?tab=checks").text
    links = re.findall(r'href="([^"]+#why)">No free uses or credits remaining', checks)
    assert len(links) == 1
    assert "It was refused because" in _text(browsers["viewer"], html.unescape(links[0]))
    for at in (
        "2020-01-01",
        "nonsense",
        "9999-12-31T23:59:59-14:00",
        "0001-01-01T00:00:00%2B14:00",
    ):
        shown = _text(browsers["viewer"], f"{address}?at={at}")
        assert ("Why denied" in shown) == (at != "2020-01-01")


def _filled(browser: Browser, address: str, **fields: str) -> Any:
    return browser.post(address, {"csrf_token": browser.csrf_token(), **fields})


def _confirmed(browser: Browser, answer: Any) -> Any:
    """Sends the form by which a page asks for a confirmation, as it is."""
    assert answer.status_code == 200, answer.text
    assert "Nothing was changed yet." in answer.text
    form = answer.text[answer.text.rindex("<form") :]
    fields = re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form)
    (action,) = re.findall(r'action="([^"]+)"', form)
    return browser.post(action, {name: html.unescape(value) for name, value in fields})


def test_credits_are_moved_and_accounts_merged_after_a_preview_and_the_merge_is_undone(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    admin, viewer = browsers["admin"], browsers["viewer"]
    (name, page), (other, other_page) = _account(module_database), _account(module_database)
    _call(
        module_database,
        "create_credit(p_oauth_provider => 'oauth:google', p_external_id => %s,"
        " p_amount_minor => 9)",
        name,
    )
    fields = {"other": other, "amount": "4", "reason": "the wrong sign-in"}
    for wrong, words in (
        ({"other": "nobody"}, "No account has this id"),
        ({"other": name}, "This is the same account."),
        ({"amount": "10"}, "The account has only 9 credits."),
        ({"amount": "x"}, "Give a whole number."),
        ({"reason": ""}, "Give a reason"),
    ):
        answer = _filled(admin, f"{page}/transfer", **{**fields, **wrong})
        assert answer.status_code == 422
        assert words in html.unescape(answer.text)
    asked = _filled(admin, f"{page}/transfer", **fields)
    ids = {told: address.rsplit("/", 1)[1] for told, address in ((name, page), (other, other_page))}
    # People see by its name whether it is the right account.
    for heading, told in (("From", name), ("To", other)):
        shown = f"<dt>{heading} account</dt><dd>{told}@example.com ({ids[told]})</dd>"
        assert shown in asked.text
    answer = _confirmed(admin, asked)
    assert answer.status_code == 303
    assert "4 credits were moved to account" in _text(admin, page)
    for whose, words in ((page, f"Transfer to {other}"), (other_page, f"Transfer from {name}")):
        link = rf'<a href="{other_page if whose == page else page}">{words}@example.com</a>'
        assert re.search(link, viewer.get(whose).text)
        for place in (f"{whose}?tab=ledger", f"{whose}/statement"):
            assert re.search(link, viewer.get(place).text), place
        assert f",{words}@example.com" in viewer.get(f"{whose}/statement.csv").text
    moved = (
        rf'moved 4 credits from <a href="{page}">{name}@example.com</a>'
        rf' to <a href="{other_page}">{other}@example.com</a>'
    )
    for place in ("/admin", "/admin/audit?action=account.transfer_credits"):
        assert len(re.findall(moved, viewer.get(place).text)) == 2, place  # an entry of each
    acts = _text(viewer, f"{other_page}?kind=staff")
    assert f"Credits moved from {name}@example.com" in acts
    assert f",{name}@example.com,{other}@example.com," in viewer.get("/admin/audit.csv").text
    # The e-mail address names the account too.
    asked = _filled(admin, f"{page}/merge", other=f"{other}@example.com", reason="one person")
    assert _confirmed(admin, asked).headers["location"] == other_page
    led = viewer.get(page)
    assert (led.status_code, led.headers["location"]) == (303, other_page)
    told = _text(viewer, other_page)
    assert f"Account {page.rsplit('/', 1)[1]} was merged into this one." in told
    assert "Merged accounts" in told
    # No two regions have one name: screen readers list them.
    regions = re.findall(r'role="region" aria-label="([^"]+)"', viewer.get(other_page).text)
    assert "Merged accounts" not in regions
    assert f"Merge with {name}@example.com" in told
    assert "one person" in told
    for place in ("/admin", "/admin/audit?action=account.merge"):
        merged = f"merged {name}@example.com into {other}@example.com"
        assert _text(viewer, place).count(merged) == 2, place
    assert f"Accounts merged: {name}@example.com" in told
    # What one had of the other stays between them, though both are one account now.
    assert f"Transfer from {name}@example.com" in told
    assert f"Transfer from {name}@example.com" in _text(viewer, f"{other_page}?tab=ledger")
    assert f"{page}/undo-merge" not in viewer.get(other_page).text
    assert f"{page}/undo-merge" in admin.get(other_page).text
    asked = _filled(admin, f"{page}/undo-merge", reason="two people")
    assert f"its own again</dt><dd>{name}@example.com ({ids[name]})</dd>" in asked.text
    undone = _confirmed(admin, asked)
    assert (undone.status_code, undone.headers["location"]) == (303, page)
    undid = f"undid the merge of {name}@example.com into {other}@example.com"
    assert _text(viewer, "/admin").count(undid) == 2
    assert "The merge was undone." in _text(admin, page)
    assert f"Merge undone: {other}@example.com" in _text(admin, page)
    balances = module_database.execute(
        "SELECT a.external_id, a.paid_credits FROM billing_data.accounts AS a"
        " WHERE a.external_id = ANY (%s)",
        [name, other],
    )
    assert dict(balances) == {name: 5, other: 4}
    answer = _filled(admin, f"{page}/undo-merge", reason="again")
    assert answer.status_code == 422
    assert "is not merged any more" in answer.text


def _send(browser: Browser, address: str, **form: str) -> Any:
    token = re.search(r'name="csrf_token" value="([^"]+)"', browser.get("/admin").text)
    assert token
    return browser.post(address, {"csrf_token": token[1], **form})


def _customer(database: Database, address: str) -> str | None:
    email: str | None = database.value(
        "SELECT customer_email FROM billing_data.accounts WHERE id::text = %s", address[-36:]
    )
    return email


def test_a_persons_data_is_exported_as_a_file_and_the_export_is_audited(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    name, address = _account(module_database)
    assert _send(browsers["viewer"], f"{address}/export").status_code == 403
    file = _send(browsers["admin"], f"{address}/export")
    assert file.headers["Content-Disposition"].startswith("attachment; filename=")
    document = json.loads(file.text)
    assert document["tables"]["accounts"][0]["external_id"] == name
    assert len(document["tables"]["charges"]) == 3
    logged = module_database.value(
        "SELECT count(*) FROM billing_data.admin_audit_logs"
        " WHERE action = 'account.export' AND resource_id = %s AND admin_user_id IS NOT NULL",
        address[-36:],
    )
    assert logged == 1


def test_a_person_is_erased_after_the_external_id_was_typed(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    name, address = _account(module_database)
    _call(
        module_database,
        "create_credit(p_oauth_provider => 'oauth:google', p_external_id => %s,"
        " p_amount_minor => 7)",
        name,
    )
    admin, asked = browsers["admin"], {"reason": "asked for"}
    assert _send(browsers["viewer"], f"{address}/erase", **asked).status_code == 403
    assert _send(admin, f"{address}/erase", reason="").status_code == 422
    asking = _send(admin, f"{address}/erase", **asked)
    assert asking.status_code == 200
    assert "The account still has 7 paid credits." in asking.text
    wrong = _send(admin, f"{address}/erase", **asked, confirm="somebody", force="yes")
    assert wrong.status_code == 422
    assert "Type the external id as it is shown above." in wrong.text
    kept = _send(admin, f"{address}/erase", **asked, confirm=name, force="")
    assert kept.status_code == 422
    assert "Say that they are to be given up" in kept.text
    named = _send(admin, f"{address}/erase", reason=f"ask {name}")
    assert named.status_code == 422
    assert "It must not name the person" in named.text
    assert _customer(module_database, address) == f"{name}@example.com"
    done = _send(admin, f"{address}/erase", **asked, confirm=name, force="yes")
    assert done.status_code == 303
    assert _customer(module_database, address) is None
    assert name not in admin.get(address).text
    # Its page offers nothing that is refused of an erased account.
    offered = re.findall(rf'action="{address}/([^"]+)"', admin.get(address).text)
    assert offered == ["export", "withdraw-consent", "erase"]
    assert f"{address}/reverse/" not in admin.get(address).text
    late = _send(admin, f"{address}/notes", note="too late")
    assert (
        late.status_code,
        'class="fault"' in late.text or "Nothing was changed" in late.text,
    ) == (422, True)


def test_consent_is_withdrawn_on_the_page(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    _, address = _account(module_database)
    assert "agreed" in _text(browsers["admin"], address)
    assert _send(browsers["admin"], f"{address}/withdraw-consent", reason="").status_code == 422
    _send(browsers["admin"], f"{address}/withdraw-consent", reason="asked for")
    assert "has not agreed" in _text(browsers["admin"], address)


def test_a_top_up_is_shown_with_what_was_agreed_to_and_ended_with_a_reason(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    name, address = _account(module_database)
    assert "Top-up" not in _text(browsers["admin"], address)
    agreed(module_database, name)
    seen = _text(browsers["viewer"], address)
    assert "When 2 paid credits or fewer are left, visa 4242 is charged up to $5.00" in seen
    assert "$0.00 of at most $20.00 this month" in seen
    assert "Charge my card $5.00 when 2 credits are left." in seen
    assert "End the top-up" not in seen
    wrong = _send(browsers["admin"], f"{address}/end-top-up", reason="")
    assert wrong.status_code == 422
    assert 'href="#top-up-reason"' in wrong.text
    for _ in range(2):
        done = _send(browsers["admin"], f"{address}/end-top-up", reason="asked for")
        assert done.status_code == 303
    ended = _text(browsers["admin"], address)
    assert "staff ended it" in ended
    assert "It begins again when the person agrees again" in ended


def test_credits_are_granted_in_one_step_after_a_look_at_what_it_would_do(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    _, address = _account(module_database)
    admin = browsers["admin"]

    def balance() -> int:
        return int(
            module_database.value(
                "SELECT paid_credits FROM billing_data.accounts WHERE id::text = %s", address[-36:]
            )
        )

    assert _send(browsers["viewer"], f"{address}/grant", amount="5", reason="x").status_code == 403
    for wrong in ({"amount": "0"}, {"other": "-3"}, {"reason": ""}, {"amount": ""}):
        answer = _send(admin, f"{address}/grant", **{"amount": "5", "reason": "x", **wrong})
        assert (answer.status_code, 'class="fault"' in answer.text) == (422, True), wrong
    asked = {"amount": "5", "other": "12", "reason": "goodwill", "idempotency_key": unique("key")}
    looked = _send(admin, f"{address}/grant", **asked, preview="yes")
    assert looked.status_code == 200
    assert "The balance is 0 and would be 12." in looked.text
    assert f'value="{asked["idempotency_key"]}"' in looked.text
    assert balance() == 0
    for told in ("The balance was 0 and is 12 now.", "was not done again"):
        assert _send(admin, f"{address}/grant", **asked).status_code == 303
        assert told in _text(admin, address)
    assert balance() == 12
    # The grant is undone from its row of the timeline.
    undo = re.findall(rf'href="({address}/reverse/credit/[^"]+)"', admin.get(address).text)
    assert len(undo) == 1
    assert admin.get(undo[0]).status_code == 200


def test_the_timeline_is_filtered_by_kind_and_days_in_the_address_and_leads_to_the_audit_log(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    name, address = _account(module_database)
    _call(
        module_database,
        "set_account_status(p_oauth_provider => 'oauth:google', p_external_id => %s,"
        " p_status => 'suspended', p_reason => 'a look at it')",
        name,
    )
    viewer = browsers["viewer"]
    assert "The account is suspended since" in _text(viewer, address)
    rows = '<td data-label="When">'
    assert viewer.get(address).text.count(rows) == 5
    assert viewer.get(f"{address}?kind=charge").text.count(rows) == 3
    acts = viewer.get(f"{address}?kind=staff").text
    assert acts.count(rows) == 1
    assert "Status changed: from active to suspended" in acts
    (entry,) = re.findall(r'<a href="([^"]+)">audit entry</a>', acts)
    path, _, anchor = html.unescape(entry).partition("#")
    log = viewer.get(path).text
    assert f'id="{anchor}"' in log
    assert log.count('<td data-label="Who">') == 1
    assert path == f"/admin/audit?entry={anchor}"
    # A search for a charge leads to its row, and the list begins there.
    charges = re.findall(r'<tr id="row-([^"]+)"', viewer.get(f"{address}?kind=charge").text)
    found = viewer.get(f"/admin/search?q={charges[1]}")
    assert found.headers["Location"] == f"{address}?row={charges[1]}#row-{charges[1]}"
    told = viewer.get(found.headers["Location"]).text
    assert re.findall(r'<tr id="row-([^"]+)"', told)[:2] == charges[1:]
    assert ">Newest<" in told
    for unknown in ("x", "00000000-0000-7000-8000-000000000000"):
        assert viewer.get(f"{address}?row={unknown}").text.count(rows) == 5
    assert viewer.get(f"{address}?from=2020-01-01&to=2020-12-31").text.count(rows) == 0
    for days, fault in (
        ("from=x", "Give a day as 2026-11-22."),
        ("from=2026-01-02&to=2026-01-01", "The last day is before the first."),
    ):
        wrong = viewer.get(f"{address}?{days}")
        assert (wrong.status_code, fault in wrong.text) == (422, True)


def test_notes_are_written_and_removed_on_the_page(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    _, address = _account(module_database)
    admin, viewer = browsers["admin"], browsers["viewer"]
    assert _send(viewer, f"{address}/notes", note="x").status_code == 403
    for wrong in ("", "x" * 2001):
        assert _send(admin, f"{address}/notes", note=wrong).status_code == 422
    note = "prefers <letters>\r\n" + "y" * 1980
    assert _send(admin, f"{address}/notes", note=note).status_code == 303
    told = viewer.get(address).text
    assert "prefers &lt;letters&gt;<br>yyy" in told
    # It is folded; its beginning tells what it is about.
    (summary,) = re.findall(r"<summary>(prefers .*)</summary><p>prefers", told)
    assert len(html.unescape(summary)) == 120
    assert "/remove" not in told
    (remove,) = re.findall(r'action="([^"]+/remove)"', admin.get(address).text)
    assert _send(viewer, remove).status_code == 403
    for told in ("The note was removed.", "There is no such note any more."):
        assert _send(admin, remove).status_code == 303
        assert told in _text(admin, address)
    assert "Note removed" in _text(viewer, f"{address}?kind=staff")


def test_holds_are_listed_with_what_they_keep_and_released_after_a_confirmation(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    name, address = _account(module_database)
    admin, viewer = browsers["admin"], browsers["viewer"]
    assert 'id="holds"' not in viewer.get(address).text
    _call(
        module_database,
        "create_credit(p_oauth_provider => 'oauth:google', p_external_id => %s,"
        " p_amount_minor => 20)",
        name,
    )

    def hold(amount: int) -> str:
        return str(
            module_database.value(
                "SELECT h.hold_id FROM billing.create_hold(p_oauth_provider => 'oauth:google',"
                " p_external_id => %s, p_amount_minor => %s, p_metadata_agent_id => 'scout <b>')"
                " AS h",
                name,
                amount,
                user="t_dba",
            )
        )

    captured, released = hold(3), hold(4)
    _call(module_database, "capture_hold(p_hold_id => %s, p_amount_minor => 2)", captured)
    told = _text(viewer, address)
    assert "Held 4" in told
    assert "Available 14" in told
    opened, ended = told.split("Open holds", 1)[1].split("Holds that ended", 1)
    assert re.search(r"4 paid credits open .* scout <b>", opened)
    assert re.search(r"3 2 captured paid credits captured .* scout <b>", ended)
    assert "/release" not in viewer.get(address).text

    release = f"{address}/holds/{released}/release"
    assert admin.get(address).text.count(f'action="{release}"') == 1
    assert f"{captured}/release" not in admin.get(address).text
    assert _send(viewer, release, reason="x", confirm="yes").status_code == 403
    wrong = _send(admin, release, reason="")
    assert wrong.status_code == 422
    assert f'href="#hold-{released}-reason"' in wrong.text
    asked = _send(admin, release, reason="the agent is gone")
    assert "Release this hold?" in asked.text
    assert "Held 4" in _text(viewer, address)
    assert _confirmed(admin, asked).headers["location"] == f"{address}#holds"
    told = _text(admin, address)
    assert "The account has 18 paid credits and 0 free uses available now." in told
    assert "Held 4" not in told
    assert "Open holds" not in told
    assert re.search(r"4 paid credits released .* scout <b>", told)
    assert _send(admin, release, reason="again", confirm="yes").status_code == 303
    assert "The hold was released before. Nothing was changed." in _text(admin, address)
    gone = _send(admin, f"{address}/holds/{captured}/release", reason="too late", confirm="yes")
    assert gone.status_code == 422
    assert "The hold was captured before." in gone.text


def test_a_held_free_use_and_a_hold_that_is_over_are_shown_as_what_they_are(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    name = unique("ada")
    who = "p_oauth_provider => 'oauth:google', p_external_id => %s"
    _call(module_database, f"check_credit({who})", name)
    account_id = module_database.value(
        "SELECT id FROM billing_data.accounts WHERE external_id = %s", name
    )
    address = f"/admin/accounts/{account_id}"
    _call(module_database, f"create_hold({who}, p_amount_minor => 9)", name)
    admin = browsers["admin"]
    told = _text(admin, address)
    assert "9 one free use open" in told
    assert "Free uses available 2" in told
    with stopped_clock(module_database, 3600 * SECOND, datetime.now(UTC)):
        told = _text(admin, address)
        assert "9 one free use expired" in told
        assert "Free uses available" not in told
        (release,) = re.findall(r'action="([^"]+/release)"', admin.get(address).text)
        done = _confirmed(admin, _send(admin, release, reason="it must not be captured late"))
        assert done.status_code == 303
        assert "9 one free use released" in _text(admin, address)


def test_a_refused_form_calls_each_faulty_field_as_its_label_does(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    _, address = _account(module_database)
    for form in ("grant", "credits", "free-uses", "status", "transfer", "merge", "grant-schedules"):
        wrong = dict.fromkeys(("amount", "other", "free_uses", "day", "lasts_days", "ends_on"), "x")
        answer = _send(browsers["admin"], f"{address}/{form}", **wrong)
        assert answer.status_code == 422, form
        told = re.findall(r'<li><a href="#([^"]+)">([^<]+)</a>: ', answer.text)
        assert told, form
        for field, name in told:
            label = re.search(
                rf'<label for="{field}">([^<]+?) ?<|<legend>({name})</legend>', answer.text
            )
            assert label is not None, (form, field, name)
            assert name in label.groups(), (form, field, name)


def test_a_statement_writes_what_was_paid_as_money(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    configure_provider(module_database)
    who, payment_id = bought(module_database)
    account_id = module_database.value(
        "SELECT id FROM billing_data.accounts WHERE external_id = %s", who["external_id"]
    )
    [price] = module_database.value(
        "SELECT array_agg(billing.describe_money(p_amount_minor => p.price_minor,"
        " p_currency => p.currency)) FROM billing.list_purchases() AS p WHERE p.payment_id = %s",
        payment_id,
    )
    told = _text(browsers["viewer"], f"/admin/accounts/{account_id}/statement")
    assert f"Paid, USD {price}" in told
    assert "minor units" not in told


def test_an_accounts_ledger_goes_on_by_cursor_while_entries_are_added(
    module_database: Database, browsers: dict[str, Browser]
) -> None:
    _, page = _account(module_database)
    account = page.rpartition("/")[2]

    def add(first: int, last: int) -> None:
        module_database.execute(
            "SELECT billing.adjust_credits(p_account_id => %s, p_amount => 1,"
            " p_reason => 'entry ' || n) FROM generate_series(%s::int, %s::int) AS n",
            account,
            first,
            last,
            user="t_dba",
        )

    def entries(text: str) -> list[int]:
        return [int(number) for number in re.findall(r"entry (\d+)", text)]

    add(1, 60)
    first = browsers["viewer"].get(page).text
    assert entries(first) == list(range(60, 10, -1))
    add(61, 65)
    (older,) = re.findall(r'<a href="([^"]+)" rel="next">', first)
    second = browsers["viewer"].get(html.unescape(older)).text
    assert entries(second) == list(range(10, 0, -1))
    # Another account's cursor, or none: the page is shown by its number.
    _, other = _account(module_database)
    strange = html.unescape(older).replace(page, other)
    assert browsers["viewer"].get(strange).status_code == 200
    assert browsers["viewer"].get(f"{page}?cursor=x").status_code == 200
