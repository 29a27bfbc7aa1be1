"""docs/contributing.md: its examples are made on a copy of the tree. They take no more files than
the document says, and what they add works."""

from __future__ import annotations

import hmac
import json
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.contributing import EXAMPLES, Scratch
from tests.gateway_functions import MODULE, functions_module
from tests.identity_provider import browser_cookie
from tests.sql.helpers import set_staff_domain
from tests.support import (
    Database,
    Key,
    Process,
    charge_body,
    clean_environment,
    copy_tree,
    free_port,
    identity,
    make_environment,
    unique,
    wait_until_healthy,
)

STAFF = "ada@example.com"


@dataclass(frozen=True)
class Extended:
    """The project with one example added to it."""

    scratch: Scratch
    python: Path

    def run(self, *arguments: str, **environment: str) -> str:
        """Returns what a command of the extended project prints."""
        done = subprocess.run(
            [self.python, "-P", "-m", "server", *arguments],
            check=False,
            cwd="/",
            env={**clean_environment(), **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def serving(self, database: Database, **environment: str) -> Iterator[Site]:
        """Its server on a database that it has migrated, with a member of staff."""
        self.run("migrate", DATABASE_URL=database.dsn())
        tree = self.scratch.folder  # as `make golden` does:
        (tree / MODULE).write_text(functions_module(database, tree), encoding="utf-8")
        set_staff_domain(database)
        database.execute("SELECT billing.add_admin(p_email => %s)", STAFF, user="t_dba")
        url = f"http://127.0.0.1:{(port := free_port())}"
        staff = {"ADMIN_JWT_SECRET": secrets.token_hex(24), "PUBLIC_BASE_URL": url}
        server = Process(
            [str(self.python), "-P", "-m", "server", "serve", "--port", str(port)],
            {"DATABASE_URL": database.dsn("t_web"), **staff, **environment},
            cwd="/",
        ).start()
        try:
            wait_until_healthy(url, server)
            yield Site(self, database, url, staff)
        finally:
            server.stop()


@dataclass(frozen=True)
class Site:
    """A server of the extended project."""

    project: Extended
    database: Database
    url: str
    settings: dict[str, str]

    def token(self) -> str:
        """A bearer token of the member of staff."""
        environment = {"DATABASE_URL": self.database.dsn("t_dba"), **self.settings}
        return self.project.run("admins", "token", STAFF, **environment).split()[-1]

    def agent(self, key: Key) -> httpx2.Client:
        """An agent with this API key."""
        return httpx2.Client(base_url=self.url, headers={"X-API-Key": key.secret}, timeout=30)

    def browser(self) -> httpx2.Client:
        """A browser in which they are signed in."""
        secret = self.settings["ADMIN_JWT_SECRET"]
        cookie = browser_cookie(self.database, secret, STAFF, "ada")
        return httpx2.Client(base_url=self.url, headers={"Cookie": cookie})


def extended(tree: Path, folder: Path, name: str) -> Extended:
    """The project with the example of this name."""
    scratch = Scratch(copy_tree(tree, folder / "tree"))
    EXAMPLES[name].make(scratch)
    return Extended(scratch, make_environment(folder / "environment", scratch.folder) / "python")


@pytest.fixture
def project(tree: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Extended:
    return extended(tree, tmp_path, request.param)


def _files_of(tree: Path, heading: str) -> list[str]:
    """The files that the document lists under a heading."""
    text = (tree / "docs" / "contributing.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return re.findall(r"^\d+\. `([^`]+)`", section, re.MULTILINE)


def _matches(pattern: str, file: str) -> bool:
    """Whether the document's `pattern`, in which <words> stand for names, matches a file."""
    return re.fullmatch(re.sub(r"<\w+>", "[^/]+", pattern), file) is not None


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_changes_the_files_that_the_document_lists(
    tree: Path, tmp_path: Path, name: str
) -> None:
    scratch = Scratch(copy_tree(tree, tmp_path / "tree"))
    EXAMPLES[name].make(scratch)
    changed = {
        str(file.relative_to(scratch.folder))
        for file in scratch.folder.rglob("*")
        if file.is_file() and not _is_same(file, tree / file.relative_to(scratch.folder))
    }
    assert changed == scratch.changed
    listed = _files_of(tree, name)
    assert len(changed) == len(listed) <= EXAMPLES[name].most_files
    for pattern in listed:
        assert [file for file in changed if _matches(pattern, file)], pattern


def _is_same(file: Path, other: Path) -> bool:
    return other.is_file() and file.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_clean(tree: Path, tmp_path: Path, name: str) -> None:
    scratch = Scratch(copy_tree(tree, tmp_path / "tree"))
    EXAMPLES[name].make(scratch)
    python = [file for file in scratch.changed if file.endswith(".py")]
    sql = [file for file in scratch.changed if file.endswith(".sql")]
    tools = [["ruff", "check", *python], ["ruff", "format", "--check", *python]]
    tools += [["sqlfluff", "lint", "--nocolor", *sql]] if sql else []
    for tool in tools:
        command = [str(Path(sys.executable).parent / tool[0]), *tool[1:]]
        done = subprocess.run(
            command, check=False, cwd=scratch.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("project", ["A new field of a charge"], indirect=True)
def test_the_new_field_is_accepted_stored_and_answered(
    database: Database, project: Extended
) -> None:
    with project.serving(database) as site, site.agent(database.create_key()) as agent:
        user = unique()
        assert agent.post("/v1/billing/credits/check", json=identity(user)).status_code == 200
        charges = "/v1/billing/charges"
        body = charge_body(user, thread_id="thread-7")
        key = {"Idempotency-Key": unique()}
        made = agent.post(charges, json=body, headers=key)
        assert (made.status_code, made.json()["thread_id"]) == (201, "thread-7"), made.text
        stored = "SELECT c.thread_id FROM billing_data.charges AS c WHERE c.id = %s"
        assert database.value(stored, made.json()["charge_id"]) == "thread-7"
        again = agent.post(charges, json=body, headers=key)
        assert (again.json(), again.headers["idempotent-replayed"]) == (made.json(), "true")
        other = agent.post(charges, json={**body, "thread_id": "thread-8"}, headers=key)
        assert other.json()["code"] == "idempotency_key_reused"
        assert agent.post(charges, json={**body, "thread_id": "x" * 256}).status_code == 422
        assert agent.post(charges, json=charge_body(user)).json()["thread_id"] is None
        batch = {"charges": [charge_body(user, thread_id="thread-9")]}
        (result,) = agent.post(f"{charges}:batch", json=batch).json()["results"]
        assert (result["status"], result["body"]["thread_id"]) == (201, "thread-9")
        schemas = agent.get("/openapi.json").json()["components"]["schemas"]
        for name in ("ChargeRequest", "Charge"):
            field = schemas[name]["properties"]["thread_id"]
            assert field["description"] == "The thread that the charge belongs to."
        assert database.execute("SELECT * FROM billing.verify_ledger()") == []


@pytest.mark.parametrize("project", ["A new endpoint"], indirect=True)
def test_the_new_endpoint_is_served_and_described(database: Database, project: Extended) -> None:
    with project.serving(database) as site:
        path = "/admin/api/plans"
        assert httpx2.get(site.url + path).status_code == 401
        database.execute(
            "SELECT billing.check_credit(p_oauth_provider => 'oauth:google',"
            " p_external_id => 'ada')",
            user="t_dba",
        )
        token = site.token()
        answer = httpx2.get(site.url + path, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        assert answer.json() == [{"plan_name": "free", "accounts": 1}]
        document = httpx2.get(f"{site.url}/openapi.json").json()
        operation = document["paths"][path]["get"]
        assert (operation["operationId"], operation["summary"]) == ("listPlans", "Count plans")
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema == {"type": "array", "items": {"$ref": "#/components/schemas/Plan"}}
        assert document["components"]["schemas"]["Plan"]["properties"]["accounts"] == {
            "type": "integer",
            "format": "int64",
            "minimum": 0,
            "description": "Accounts that have the plan.",
        }
        assert path in httpx2.get(f"{site.url}/docs/staff").text


@pytest.mark.parametrize("project", ["A new page"], indirect=True)
def test_the_new_page_is_shown_to_staff_alone_and_has_a_tab(
    database: Database, project: Extended
) -> None:
    with project.serving(database) as site, site.browser() as browser:
        asked = httpx2.get(f"{site.url}/admin/clock")
        assert asked.status_code == 303
        assert asked.headers["location"].startswith("/admin/sign-in")
        assert '<a href="/admin/clock">Clock</a>' in browser.get("/admin").text
        page = browser.get("/admin/clock")
        assert page.status_code == 200
        assert "<h1>Clock</h1>" in page.text
        assert 'aria-current="page">Clock</a>' in page.text


@pytest.mark.parametrize("project", ["A new payment provider"], indirect=True)
def test_the_new_provider_is_set_up_sells_and_settles(
    database: Database, project: Extended
) -> None:
    encryption_key, seal = secrets.token_hex(24), f"seal_{secrets.token_hex(12)}"
    with project.serving(database, ENCRYPTION_KEY=encryption_key) as site:
        as_dba = {"DATABASE_URL": database.dsn("t_dba"), "ENCRYPTION_KEY": encryption_key}
        box_key = f"box_{secrets.token_hex(12)}"
        project.run("providers", "set", "coinbox", COINBOX_BOX_KEY=box_key, **as_dba)
        webhook = f"{site.url}/v1/billing/webhooks/coinbox"
        assert httpx2.post(webhook, content=b"{}").status_code == 503  # it has no seal yet
        _store_in_the_console(site, seal=seal)
        shown = project.run("providers", "list", **as_dba)
        assert f"box_…{box_key[-4:]}" in shown
        assert f"seal_…{seal[-4:]}" in shown
        assert "Coinbox accepts the Box key." in project.run(
            "providers", "test", "coinbox", **as_dba
        )

        with site.agent(database.create_key()) as agent:
            user = unique()
            wanted = {**identity(user), "customer_email": "ada@example.com"}
            offer = agent.post("/v1/billing/purchases", json=wanted)
            assert offer.status_code == 201, offer.text
            payment_id = offer.json()["payment_id"]
            assert payment_id.startswith("coin-")
            assert (offer.json()["client_secret"], offer.json()["credits_added"]) == ("slot 7", 0)
            body = json.dumps(
                {"id": "coins-1", "payment": payment_id, "coins": offer.json()["amount_minor"]}
            ).encode()
            signed = {"Coinbox-Seal": hmac.digest(seal.encode(), body, "sha256").hex()}
            assert httpx2.post(webhook, content=body).status_code == 401
            for _ in range(2):
                told = httpx2.post(webhook, content=body, headers=signed)
                assert told.json() == {"status": "success", "event_id": "coins-1"}, told.text
            paid = agent.get(f"/v1/billing/purchases/{payment_id}").json()
            assert paid["credits_added"] == paid["uses_purchased"]
        rows = database.execute(
            "SELECT c.payment_provider, c.description FROM billing_data.credits AS c"
        )
        assert rows == [("coinbox", "Purchased $5.00 (20 uses) via Coinbox")]
        assert database.execute("SELECT * FROM billing.verify_ledger()") == []
        _look_for_the_payment_at_the_box(project, payment_id, as_dba)
        operation = httpx2.get(f"{site.url}/openapi.json").json()["paths"]
        assert operation["/v1/billing/webhooks/coinbox"]["post"]["security"] == [
            {"CoinboxSignature": []}
        ]


def _store_in_the_console(site: Site, **settings: str) -> None:
    """An administrator fills in the new provider's form on the settings page."""
    site.database.execute(
        "SELECT * FROM billing.set_admin(p_email => %s, p_reason => 'sets up', p_role => 'admin')",
        STAFF,
        user="t_dba",
    )
    with site.browser() as browser:
        page = browser.get("/admin/settings").text
        assert '<h2 id="coinbox">Coinbox' in page
        assert "There is no seal: payments cannot be credited." in page
        (token,) = set(re.findall(r'name="csrf_token" value="([^"]+)"', page))
        form = {**settings, "csrf_token": token, "reason": "the first box", "is_active": "yes"}
        stored = browser.post("/admin/settings/coinbox", data=form)
        assert stored.status_code == 303, stored.text


def _look_for_the_payment_at_the_box(
    project: Extended, payment_id: str, as_dba: dict[str, str]
) -> None:
    """Reconciles: the command's own box is empty, so it lacks the payment that was credited."""
    with pytest.raises(AssertionError, match="unknown_to_coinbox"):
        project.run("reconcile", "coinbox", "--since", "2026-01-01", **as_dba)
