"""Debian's Chromium, driven by playwright, with a running console whose staff sign in through a
real OpenID provider and whose payments go through the Stripe double. Screenshots of every page are
kept in tests/artefacts."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Locator,
    Page,
    Response,
    ViewportSize,
    sync_playwright,
)

from tests.identity_provider import FOUNDER, Console, GoodProvider, good_provider, running_console
from tests.payments import configure_stripe, payment_environment
from tests.stripe_double import StripeDouble, running_stripe
from tests.support import Database, Service, unique

CHROMIUM = shutil.which("chromium")
ARTEFACTS = Path(__file__).resolve().parent.parent / "artefacts"
WIDE = ViewportSize(width=1440, height=900)
NARROW = ViewportSize(width=360, height=740)
VIEWER = "grace@ciris.ai"


def want_chromium() -> None:
    """Skips the test where Chromium is not installed; in CI nothing may be missing."""
    if CHROMIUM is None and os.environ.get("CI") != "true":
        pytest.skip("Debian's chromium is not installed")


@dataclass
class Shop:
    """The console with everything around it."""

    console: Console
    provider: GoodProvider
    double: StripeDouble
    database: Database

    @property
    def url(self) -> str:
        return self.console.base_url

    @property
    def service(self) -> Service:
        """The console's server, as agents see it."""
        key = self.database.create_key()
        return Service(self.database, self.console.process, self.url, key)

    def account_of(self, external_id: str) -> str:
        """The id of a user's account."""
        return str(
            self.database.value(
                "SELECT id FROM billing_data.accounts WHERE external_id = %s", external_id
            )
        )

    def buy(self, *, paid: bool = True) -> str:
        """A user buys a pack; returns the payment's id."""
        answer = httpx2.post(
            f"{self.url}/v1/billing/purchases",
            headers={"X-API-Key": self.database.create_key().secret},
            json={
                "oauth_provider": "oauth:google",
                "external_id": unique("buyer"),
                "customer_email": "buyer@example.com",
            },
            timeout=30,
            verify=False,
        )
        assert answer.status_code == 201
        payment_id = str(answer.json()["payment_id"])
        if paid:
            self.double.pay(payment_id)
            assert self.double.deliver(self.url, self.double.succeeded_event(payment_id)).is_success
        return payment_id


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the tests of one module. It is not shared by the whole run: playwright's
    event loop counts as running until it is closed, and asynchronous tests could not start theirs.
    """
    want_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shop(module_database: Database) -> Iterator[Shop]:
    """A console for the tests of one module."""
    with good_provider() as provider, running_stripe() as double:
        configure_stripe(module_database, double)
        provider.knows(FOUNDER, name="Ada Founder")
        provider.knows(VIEWER, name="Grace Viewer")
        with running_console(
            module_database,
            provider.discovery_url,
            **payment_environment(double, WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8"),
        ) as console:
            yield Shop(console, provider, double, module_database)


_FOCUSED = """(() => {
    const focused = document.activeElement;
    const name = focused.getAttribute("aria-label") ?? (focused.labels?.[0] ?? focused).textContent;
    const { outlineStyle, outlineWidth } = getComputedStyle(focused);
    return { name: name.replace(/\\s+/g, " ").trim(),
        is_outlined: outlineStyle !== "none" && parseFloat(outlineWidth) > 0 };
})()"""


class Person:
    """A person with a browser of their own."""

    def __init__(self, shop: Shop, context: BrowserContext) -> None:
        self.shop = shop
        self.context = context
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.clicks = 0  # of `clicks_on`
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _listen(self, message: Any) -> None:
        # Chromium also reports a page with status 4xx as an error; tests look at the page itself.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def goes(self, path: str) -> Response:
        """Opens a page of the console."""
        response = self.page.goto(self.shop.url + path)
        assert response is not None
        return response

    def signs_in(self, email: str) -> None:
        """Signs in through the identity provider, as a person does."""
        self.goes("/admin")
        self.page.get_by_role("link", name="Sign in with Google").click()
        self.page.locator("input[name=sub]").fill(email)
        self.page.locator("input[name=sub]").press("Enter")
        self.page.wait_for_url(re.compile(re.escape(self.shop.url)))

    def clicks_on(self, target: Locator) -> None:
        """Clicks, and counts it."""
        target.click()
        self.clicks += 1

    def tabs_to(self, name: str) -> None:
        """Presses Tab until the focus is on the field, link or button whose name begins so. It must
        be visible there."""
        reached = []
        for _ in range(100):
            self.page.keyboard.press("Tab")
            reached.append(self.page.evaluate(_FOCUSED))
            if reached[-1]["name"].startswith(name):
                assert reached[-1]["is_outlined"], reached[-1]
                return
        raise AssertionError(f"Tab does not lead to {name}, but to {reached}")

    @property
    def heading(self) -> str:
        return self.page.locator("h1").inner_text()

    @property
    def message(self) -> str:
        """The message that is shown once."""
        return self.page.get_by_role("status").inner_text()


@pytest.fixture(scope="module")
def _staff(shop: Shop, browser: Browser) -> dict[str, Any]:
    """Cookies of an administrator and a viewer who signed in."""
    states = {}
    for email in (FOUNDER, VIEWER):
        context = browser.new_context(viewport=WIDE)
        Person(shop, context).signs_in(email)
        states[email] = context.storage_state()
        context.close()
    return states


def _somebody(shop: Shop, browser: Browser, state: Any = None, **options: Any) -> Iterator[Person]:
    context = browser.new_context(
        viewport=options.pop("viewport", WIDE), storage_state=state, **options
    )
    context.set_default_timeout(15_000)
    person = Person(shop, context)
    yield person
    assert person.complaints == []
    context.close()


@pytest.fixture
def admin(shop: Shop, browser: Browser, _staff: dict[str, Any]) -> Iterator[Person]:
    """An administrator who is signed in."""
    yield from _somebody(shop, browser, _staff[FOUNDER])


@pytest.fixture
def viewer(shop: Shop, browser: Browser, _staff: dict[str, Any]) -> Iterator[Person]:
    """A viewer who is signed in."""
    yield from _somebody(shop, browser, _staff[VIEWER])


@pytest.fixture
def plain(shop: Shop, browser: Browser, _staff: dict[str, Any]) -> Iterator[Person]:
    """An administrator whose browser runs no scripts."""
    yield from _somebody(shop, browser, _staff[FOUNDER], java_script_enabled=False)


@pytest.fixture(params=[True, False], ids=["with scripts", "without scripts"])
def clerk(
    request: pytest.FixtureRequest, shop: Shop, browser: Browser, _staff: dict[str, Any]
) -> Iterator[Person]:
    """An administrator, once in a browser that runs scripts and once in one that runs none."""
    yield from _somebody(shop, browser, _staff[FOUNDER], java_script_enabled=request.param)


@pytest.fixture
def stranger(shop: Shop, browser: Browser) -> Iterator[Person]:
    """A person who is not signed in."""
    yield from _somebody(shop, browser)


@pytest.fixture
def looked_at() -> Callable[[Page, str], None]:
    """Keeps screenshots of a page at both widths and in both colour schemes. Checks that the page
    fits each width and has no serious accessibility violation in any of them; where no scripts
    run, axe does not either."""

    def look(page: Page, name: str) -> None:
        ARTEFACTS.mkdir(exist_ok=True)
        runs_scripts = not page.evaluate("matchMedia('(scripting: none)').matches")
        name = name if runs_scripts else f"{name}-plain"
        axe = Path(AXE_FILE_PATH).read_text(encoding="utf-8")
        found = []
        for size, width in (("wide", WIDE), ("narrow", NARROW)):
            page.set_viewport_size(width)
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                page.screenshot(path=ARTEFACTS / f"{name}-{size}-{scheme}.png", full_page=True)
                if not runs_scripts:
                    continue
                # Runs through the debugger, because the page's own policy forbids foreign scripts.
                page.evaluate(axe)
                # Of its rules, only those of contrast depend on the colours. What passes is not
                # told, because telling it takes most of the time on a long page.
                rules = "" if scheme == "light" else ", runOnly: ['color-contrast']"
                faults = page.evaluate(
                    f"axe.run({{resultTypes: ['violations']{rules}}})"
                    ".then((result) => result.violations)"
                )
                found += [
                    (size, scheme, fault["id"], [node["html"][:120] for node in fault["nodes"][:3]])
                    for fault in faults
                    if fault["impact"] in ("serious", "critical")
                ]
            overflow = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert overflow <= 0, f"{name} is {overflow} pixels too wide when {size}"
        page.set_viewport_size(WIDE)
        page.emulate_media(color_scheme="light")
        assert found == []

    return look
