"""Statements, balances at a time, usage and top consumers, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx2
import psutil
import pytest

from server.http.statements import month_after
from tests.http.admin_api.helpers import NOBODYS_ID, Json, Person, account_id, new_account
from tests.http.contract import make_account
from tests.support import Service, identity

ROWS = 50_000
FORMULA = '=HYPERLINK("http://example.com","free")'


def _spend(service: Service, external_id: str, *descriptions: str) -> None:
    with service.client() as client:
        for description in descriptions:
            body = {**identity(external_id), "amount_minor": 1, "currency": "USD"}
            answer = client.post("/v1/billing/charges", json={**body, "description": description})
            assert answer.status_code == 201, answer.text


@pytest.fixture(scope="module")
def user(service: Service) -> str:
    """The id of an account that was charged with texts which a spreadsheet would run."""
    external_id = make_account(service, paid=5)
    _spend(service, external_id, FORMULA, 'two "lines",\r\none é', "-1", " @SUM(A1)")
    return account_id(service, external_id)


@pytest.fixture(scope="module")
def busy(service: Service) -> str:
    """The id of an account with 50,000 entries of 2025."""
    account = new_account(service)
    service.database.execute(
        """
        INSERT INTO billing_data.charges (account_id, ledger_version, id, amount_minor, currency,
            balance_before, balance_after, free_uses_after, paid_with, description, database_role,
            created_at)
        SELECT %s, n, gen_random_uuid(), 1, 'USD', 60000 - n, 59999 - n, 0, 'paid',
            'a description of some length, as agents write them', 'x',
            '2025-01-01 00:00Z'::timestamptz + n * interval '5 minutes'
        FROM generate_series(1, %s) AS n
        """,
        account,
        ROWS,
    )
    service.database.execute(
        "UPDATE billing_data.accounts SET ledger_version = %s, created_at = '2025-01-01'"
        " WHERE id = %s",
        ROWS,
        account,
    )
    return account


def test_a_statement_says_what_was_before_what_happened_and_what_is_left(
    admin: Person, user: str
) -> None:
    statement = admin.get(f"/users/{user}/statement")
    now = datetime.now(UTC)
    assert statement["period_start"] == f"{now:%Y-%m}-01T00:00:00Z"
    rows = statement["rows"]
    assert [row["kind"] for row in rows] == ["opening", *["entry"] * 5, "closing"]
    assert statement["entry_count"] == 5
    opening, *entries, closing = rows
    for left, change in (("balance_after", "credits_change"), ("free_uses_after",
                          "free_uses_change")):  # fmt: skip
        assert closing[left] == opening[left] + sum(row[change] for row in entries)
    assert entries[1]["reason"] == FORMULA
    assert entries[1]["writer_kind"] == "api_key"
    assert "(" in entries[1]["writer"]


def test_a_statement_of_a_time_without_entries_has_two_rows(admin: Person, user: str) -> None:
    statement = admin.get(f"/users/{user}/statement", **{"from": "2024-02-01", "to": "2024-03-01"})
    assert [row["kind"] for row in statement["rows"]] == ["opening", "closing"]
    assert statement["rows"][0]["balance_after"] is None
    assert statement["period_end"] == "2024-03-01T00:00:00Z"


def test_a_csv_statement_opens_in_a_spreadsheet_as_it_is_meant(admin: Person, user: str) -> None:
    answer = admin.call("GET", f"/admin/api/users/{user}/statement.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["x-entry-count"] == "5"
    assert answer.headers["content-disposition"].startswith('attachment; filename="statement-')
    text = answer.content.decode()
    assert text.count("\r\n") == 9  # a header, seven rows, one within a text
    lines = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    reasons = [line["reason"] for line in lines if line["type"] == "charge"]
    assert reasons == [f"'{FORMULA}", 'two "lines",\r\none é', "'-1", "' @SUM(A1)"]
    charge = next(line for line in lines if line["type"] == "charge")
    assert (charge["amount_minor"], charge["free_uses_change"]) == ("-1", "-1")
    assert lines[-1]["kind"] == "closing"
    assert charge["at"].endswith("Z")


@pytest.mark.parametrize("path", ["statement", "statement.csv"])
def test_a_long_statement_takes_no_more_memory_than_a_short_one(
    service: Service, admin: Person, busy: str, path: str
) -> None:
    """The short one comes first: a server keeps the memory that it once needed."""
    url = f"{service.base_url}/admin/api/users/{busy}/{path}?from=2025-01-01&to="
    rows, _, before = _read(service, admin, f"{url}2025-02-01")
    assert ROWS / 10 < rows < ROWS / 5
    rows, size, most = _read(service, admin, f"{url}2026-01-01")
    assert (rows, size > 8_000_000) == (ROWS, True)
    assert most - before < 20_000_000


def _read(service: Service, admin: Person, url: str) -> tuple[int, int, int]:
    """How many entries and bytes came, and the most memory that the server had meanwhile."""
    process = psutil.Process(service.process.process.pid)
    headers = {"Authorization": f"Bearer {admin.token}"}
    size, most = 0, 0
    with httpx2.stream("GET", url, headers=headers, timeout=60, verify=False) as answer:
        assert answer.status_code == 200
        for part in answer.iter_raw():
            size += len(part)
            most = max(most, _memory(process))
        return int(answer.headers["x-entry-count"]), size, most


def _memory(process: psutil.Process) -> int:
    everyone = (process, *process.children(recursive=True))
    return sum(int(one.memory_info().rss) for one in everyone)


def test_every_entry_of_a_long_statement_is_there_once(admin: Person, busy: str) -> None:
    period = {"from": "2025-01-05", "to": "2025-01-25"}
    statement = admin.get(f"/users/{busy}/statement", **period)
    versions = [row["ledger_version"] for row in statement["rows"] if row["kind"] == "entry"]
    assert statement["entry_count"] == len(versions) == 20 * 288
    assert versions == list(range(versions[0], versions[0] + len(versions)))
    assert statement["rows"][-1]["balance_after"] == 60000 - 1 - versions[-1]


def test_a_statement_that_breaks_off_does_not_look_whole(
    service: Service, admin: Person, busy: str
) -> None:
    url = f"{service.base_url}/admin/api/users/{busy}/statement?from=2025-01-01&to=2026-01-01"
    headers = {"Authorization": f"Bearer {admin.token}"}
    rename = "ALTER TABLE billing_data.{} RENAME TO {}"
    with httpx2.stream("GET", url, headers=headers, timeout=60, verify=False) as answer:
        parts = answer.iter_raw()
        next(parts)
        service.database.execute(rename.format("credits", "credits_away"))
        with pytest.raises(httpx2.RemoteProtocolError):
            list(parts)
    service.database.execute(rename.format("credits_away", "credits"))


def test_a_balance_at_a_time_is_told_with_the_entry_that_left_it_so(
    admin: Person, user: str
) -> None:
    now = admin.get(f"/users/{user}/balance", at=datetime.now(UTC).isoformat())
    assert (now["state"], now["paid_credits"], now["free_uses"]) == ("known", 4, 0)
    assert (now["type"], now["amount_minor"], now["reason"]) == ("charge", -1, " @SUM(A1)")
    before = admin.get(f"/users/{user}/balance", at="2020-01-01")
    assert (before["state"], before["paid_credits"]) == ("before_account", None)
    assert before["at"] == "2020-01-01T00:00:00Z"


def test_usage_and_top_consumers_of_a_period(admin: Person, user: str, busy: str) -> None:
    days = admin.get(f"/users/{busy}/usage", **{"from": "2025-01-02", "to": "2025-01-04"})
    assert [(day["day"], day["charges"]) for day in days] == [
        ("2025-01-02", 288), ("2025-01-03", 288)
    ]  # fmt: skip
    assert len(admin.get("/analytics/usage")) == _days_of_this_month()
    period = {"from": "2025-01-01", "to": "2026-01-01"}
    (top,) = admin.get("/analytics/top-consumers", **period)
    assert (top["account_id"], top["charges"], top["place"]) == (busy, ROWS, 1)
    this_month = admin.get("/analytics/top-consumers", sort="credits")
    assert user in [row["account_id"] for row in this_month]


def _days_of_this_month() -> int:
    first = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (month_after(first) - first).days


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        (f"/users/{NOBODYS_ID}/statement", {}, 404),
        (f"/users/{NOBODYS_ID}/statement.csv", {}, 404),
        (f"/users/{NOBODYS_ID}/balance", {"at": "2026-01-01"}, 404),
        (f"/users/{NOBODYS_ID}/usage", {}, 404),
        ("/users/{user}/statement", {"from": "2026-02-01", "to": "2026-01-01"}, 422),
        ("/users/{user}/statement", {"from": "0001-01-01"}, 422),
        ("/users/{user}/statement", {"to": "9999-12-31"}, 422),
        ("/users/{user}/statement", {"from": "yesterday"}, 422),
        ("/users/{user}/balance", {}, 422),
        ("/users/{user}/usage", {"from": "2026-02-01", "to": "2026-01-01"}, 422),
        ("/analytics/top-consumers", {"sort": "fame"}, 422),
        ("/analytics/usage", {"from": "1000-01-01", "to": "2026-01-01"}, 422),
    ],
    ids=str,
)
def test_what_cannot_be_told_is_refused(
    admin: Person, user: str, path: str, query: dict[str, str], status: int
) -> None:
    answer = admin.call("GET", f"/admin/api{path.format(user=user)}", params=query)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("first", "beyond"),
    [("2026-01-31", "2026-02-28"), ("2026-12-01", "2027-01-01"), ("2024-01-30", "2024-02-29"),
     ("2026-11-15", "2026-12-15")],
)  # fmt: skip
def test_a_month_later_is_the_same_day_or_the_months_last(first: str, beyond: str) -> None:
    assert month_after(datetime.fromisoformat(first)) == datetime.fromisoformat(beyond)


# --- agents --------------------------------------------------------------------------------------


@pytest.fixture
def agent(service: Service) -> Iterator[httpx2.Client]:
    with service.client() as client:
        yield client


def _of_agent(agent: httpx2.Client, external_id: str, what: str, **query: str) -> httpx2.Response:
    return agent.get(f"/v1/billing/accounts/oauth:google/{external_id}/{what}", params=query)


def test_an_agent_reads_the_same_statement_and_is_not_told_who_wrote(
    service: Service, admin: Person, agent: httpx2.Client
) -> None:
    external_id = make_account(service, paid=5)
    _spend(service, external_id, "one", "two")
    answer = _of_agent(agent, external_id, "statement")
    told: Json = answer.json()
    for_staff = admin.get(f"/users/{account_id(service, external_id)}/statement")
    assert answer.headers["x-entry-count"] == "3"
    assert len(told["rows"]) == len(for_staff["rows"]) == 5
    assert all("writer" not in row for row in told["rows"])
    assert [row["reason"] for row in told["rows"]] == [row["reason"] for row in for_staff["rows"]]
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    balance = _of_agent(agent, external_id, "balance", at=later).json()
    assert (balance["paid_credits"], balance["state"]) == (5, "known")
    assert balance["transaction_id"] == told["rows"][-2]["transaction_id"]
    for what in ("statement", "balance"):
        missing = _of_agent(agent, "nobody at all", what, at=later)
        assert (missing.status_code, missing.json()["code"]) == (404, "account_not_found")
    turned = _of_agent(agent, external_id, "statement", **{"from": "2026-02-01",
                       "to": "2026-01-01"})  # fmt: skip
    assert turned.status_code == 422
    assert turned.json()["detail"][0]["loc"] == ["query", "to"]


def test_asking_for_the_headers_alone_gets_no_body(
    service: Service, admin: Person, user: str
) -> None:
    url = f"{service.base_url}/admin/api/users/{user}/statement.csv"
    headers = {"Authorization": f"Bearer {admin.token}", "X-Request-ID": "head-1"}
    with httpx2.Client(verify=False, headers=headers) as client:
        head = client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["x-entry-count"] == "5"
        assert head.headers["x-request-id"] == "head-1"
        assert client.get(url).status_code == 200  # on the same connection
