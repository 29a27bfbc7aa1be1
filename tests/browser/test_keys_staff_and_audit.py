"""Staff create and revoke API keys, manage staff, and read what was done."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
from playwright.sync_api import Page, expect

from tests.browser.conftest import VIEWER, Person
from tests.identity_provider import FOUNDER
from tests.support import unique

Look = Callable[[Page, str], None]


def _check(person: Person, secret: str) -> int:
    answer = httpx2.post(
        f"{person.shop.url}/v1/billing/credits/check",
        headers={"X-API-Key": secret},
        json={"oauth_provider": "oauth:google", "external_id": "ada"},
        timeout=30,
        verify=False,
    )
    return answer.status_code


def _create_key(person: Person, name: str) -> str:
    """Creates a key by the form; returns its secret."""
    person.goes("/admin/keys")
    form = person.page.locator("section", has=person.page.locator("#create"))
    form.get_by_label("Name").fill(name)
    form.get_by_label("What it is for").fill("answers messages")
    form.get_by_label("Expires in days").fill("30")
    form.get_by_role("button", name="Create key").click()
    assert person.heading == "Copy the new key now"
    return person.page.get_by_label("Secret key").input_value()


def test_a_key_is_created_its_secret_shown_once_and_copied(admin: Person, looked_at: Look) -> None:
    admin.context.grant_permissions(["clipboard-read", "clipboard-write"])
    secret = _create_key(admin, unique("agent"))
    looked_at(admin.page, "key-secret")
    assert _check(admin, secret) == 200
    admin.page.get_by_role("button", name="Copy").click()
    expect(admin.page.get_by_role("button", name="Copied")).to_be_visible()
    assert admin.page.evaluate("navigator.clipboard.readText()") == secret
    admin.goes("/admin/keys")
    assert secret not in admin.page.content()
    looked_at(admin.page, "keys")


def test_the_questions_before_a_key_is_rotated_or_revoked(admin: Person, looked_at: Look) -> None:
    name = unique("agent")
    _create_key(admin, name)
    for action in ("Rotate", "Revoke"):
        admin.goes("/admin/keys")
        admin.page.get_by_role("link", name=f"{action} {name}").click()
        looked_at(admin.page, f"key-{action.lower()}")
        admin.page.get_by_role("button", name=f"{action} key").click()
        assert "Give a reason" in admin.page.locator("main").inner_text()
        looked_at(admin.page, f"key-{action.lower()}-without-reason")


def test_a_key_is_rotated_and_revoked_after_a_question(plain: Person) -> None:
    name = unique("agent")
    old = _create_key(plain, name)
    plain.goes("/admin/keys")
    plain.page.get_by_role("link", name=f"Rotate {name}").click()
    assert "24 hours" in plain.page.locator("main").inner_text()
    plain.page.get_by_label("Reason").fill("it is a year old")
    plain.page.get_by_role("button", name="Rotate key").click()
    assert "works until" in plain.page.locator("main").inner_text()
    new = plain.page.get_by_label("Secret key").input_value()
    assert [_check(plain, secret) for secret in (old, new)] == [200, 200]
    plain.goes("/admin/keys?status=rotating")
    assert "works until" in plain.page.locator("main").inner_text()
    plain.goes("/admin/keys?status=active")
    plain.page.get_by_role("link", name=f"Revoke {name}").click()
    plain.page.get_by_label("Reason").fill("it leaked")
    plain.page.get_by_role("button", name="Revoke key").click()
    assert plain.page.get_by_role("status").is_visible()
    assert _check(plain, new) == 401


def test_a_viewer_sees_keys_staff_and_audit_and_no_form(viewer: Person) -> None:
    for path in ("/admin/keys", "/admin/staff", "/admin/audit"):
        assert viewer.goes(path).ok
        assert viewer.page.locator("main form[method=post]").count() == 0


def test_staff_are_added_promoted_deactivated_and_let_in_again(
    admin: Person, looked_at: Look
) -> None:
    email = f"{unique('mary')}@ciris.ai"
    admin.goes("/admin/staff")
    form = admin.page.locator("section", has=admin.page.locator("#add"))
    form.get_by_label("E-mail address").fill(email)
    form.get_by_label("Reason").fill("a new colleague")
    form.get_by_role("button", name="Add").click()
    assert email in admin.page.locator("main").inner_text()
    looked_at(admin.page, "staff")
    admin.page.get_by_role("link", name=f"Change role of {email}").click()
    looked_at(admin.page, "staff-role")
    admin.page.get_by_label("Role").select_option("admin")
    admin.page.get_by_label("Reason").fill("looks after payments")
    admin.page.locator("main form[method=post] button").last.click()
    for action in ("Deactivate", "Reactivate"):
        admin.page.get_by_role("link", name=f"{action} {email}").click()
        looked_at(admin.page, f"staff-{action.lower()}")
        admin.page.get_by_label("Reason").fill("a test")
        admin.page.locator("main form[method=post] button").last.click()
        assert admin.page.get_by_role("status").is_visible()
    row = admin.shop.database.execute(
        "SELECT role, is_active FROM billing_data.admin_users WHERE email = %s", email
    )
    assert row == [("admin", True)]
    # Leave only one administrator.
    admin.goes(f"/admin/staff?deactivate={email}")
    admin.page.get_by_label("Reason").fill("left")
    admin.page.locator("main form[method=post] button").last.click()


def test_the_last_administrator_cannot_lock_everybody_out(admin: Person, looked_at: Look) -> None:
    admin.shop.database.execute(
        "UPDATE billing_data.admin_users SET is_active = false"
        " WHERE role = 'admin' AND email <> %s",
        FOUNDER,
    )
    admin.goes(f"/admin/staff?deactivate={FOUNDER}")
    admin.page.get_by_label("Reason").fill("a mistake")
    admin.page.locator("main form[method=post] button").last.click()
    assert "This would leave nobody with the role admin" in admin.page.locator("main").inner_text()
    assert admin.page.get_by_label("Reason").input_value() == "a mistake"
    looked_at(admin.page, "staff-last-admin")


def test_somebody_who_is_deactivated_is_out_at_once(admin: Person, viewer: Person) -> None:
    viewer.goes("/admin")
    assert viewer.heading == "Dashboard"
    for action in ("deactivate", "reactivate"):
        admin.goes(f"/admin/staff?{action}={VIEWER}")
        admin.page.get_by_label("Reason").fill("a test")
        admin.page.locator("main form[method=post] button").last.click()
        viewer.goes("/admin")
        assert viewer.heading == "Sign in"
    viewer.page.get_by_role("link", name="Sign in with Google").click()
    viewer.page.locator("input[name=sub]").fill(VIEWER)
    viewer.page.locator("input[name=sub]").press("Enter")
    viewer.page.wait_for_url("**/admin")
    assert viewer.heading == "Dashboard"


def test_the_audit_log_is_filtered_and_exported(admin: Person, looked_at: Look) -> None:
    name = unique("audited")
    _create_key(admin, name)
    admin.goes("/admin/audit")
    looked_at(admin.page, "audit")
    admin.page.get_by_label("Person, database role or login").fill(FOUNDER)
    admin.page.get_by_label("Action").fill("api_key")
    admin.page.get_by_role("button", name="Filter").click()
    rows = admin.page.locator("main").inner_text()
    assert "api_key.create" in rows
    assert "by the login t_web" in rows
    assert "admin.sign_in" not in rows
    with admin.page.expect_download() as download:
        admin.page.get_by_role("link", name="Export as CSV").click()
    text = download.value.path().read_text(encoding="utf-8")
    assert name in text
    assert "admin.sign_in" not in text
    admin.goes("/admin/audit?who=nobody@ciris.ai")
    assert admin.page.locator(".empty").is_visible()
