"""Routes that need no key: /, /health, /metrics, /openapi.json, /docs (contract 6, 8.20, 10)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.http.contract import (
    ACCOUNTS,
    BATCH,
    CHARGES,
    CHECK,
    CREDITS,
    TIME,
    TRANSACTIONS,
    account_path,
    assert_error,
    assert_error_shape,
    exchange,
    raw_request,
)
from tests.payments import PURCHASES
from tests.stripe_double import WEBHOOK_PATH
from tests.support import (
    Service,
    TestCluster,
    charge_body,
    credit_body,
    identity,
    running_service,
    unique,
)

METRICS = {
    "billing_service_info",
    "billing_http_requests_total",
    "billing_http_request_duration_seconds",
    "billing_http_requests_in_progress",
    "billing_credit_checks_total",
    "billing_credit_check_duration_seconds",
    "billing_charges_total",
    "billing_charge_amount_minor",
    "billing_charge_duration_seconds",
    "billing_credits_added_total",
    "billing_credit_amount_minor",
    "billing_accounts_created_total",
    "billing_account_balance_minor",
    "billing_payment_provider_duration_seconds",
    "billing_db_connections_active",
    "billing_db_queries_total",
    "billing_db_write_verifications_total",
    "billing_errors_total",
}


@pytest.fixture(scope="module")
def cut_off(cluster: TestCluster) -> Iterator[Service]:
    """A server whose database is away."""
    with cluster.database() as database, running_service(database) as service:
        allow = f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS"
        cluster._execute("postgres", f"{allow} false")
        cluster._execute(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{database.name}'",
        )
        yield service
        cluster._execute("postgres", f"{allow} true")


def test_the_root_says_what_answers_here(stranger: httpx2.Client) -> None:
    response = stranger.get("/")
    assert response.status_code == 200
    assert response.json() == {
        "service": "CIRIS Billing API",
        "version": "0.1.0",
        "status": "running",
    }


def test_health_says_healthy_in_under_a_second(stranger: httpx2.Client) -> None:
    started = time.monotonic()
    response = stranger.get("/health")
    assert time.monotonic() - started < 1
    assert response.status_code == 200
    body = response.json()
    assert body == {"status": "healthy", "database": "connected", "timestamp": body["timestamp"]}
    assert re.fullmatch(TIME, body["timestamp"])
    assert abs(datetime.now(UTC) - datetime.fromisoformat(body["timestamp"])) < timedelta(minutes=1)


def test_without_a_database_health_is_503_and_calls_are_to_be_retried(cut_off: Service) -> None:
    with cut_off.client() as client:
        started = time.monotonic()
        response = client.get("/health")
        assert time.monotonic() - started < 1.5
        assert response.status_code == 503
        assert set(response.json()) >= {"detail"}
        detail = response.json()["detail"]
        assert detail == {
            "status": "unhealthy",
            "database": "disconnected",
            "error": detail["error"],
            "timestamp": detail["timestamp"],
        }
        assert isinstance(detail["error"], str)
        assert re.fullmatch(TIME, detail["timestamp"])
        # None of the database's own details: host, role, database name.
        assert cut_off.database.name not in response.text
        assert "t_web" not in response.text
        for path, body in ((CHECK, identity()), (CHARGES, charge_body(unique()))):
            refused = client.post(path, json=body)
            assert_error_shape(refused, 503)
            assert isinstance(refused.json()["detail"], str)
            assert int(refused.headers["retry-after"]) >= 1
            assert cut_off.database.name not in refused.text


def test_an_unhealthy_answer_has_a_code_and_a_request_id_too(cut_off: Service) -> None:
    with cut_off.client() as client:
        assert_error_shape(client.get("/health"), 503)


def test_metrics_can_be_parsed_and_have_their_names(
    service: Service, client: httpx2.Client
) -> None:
    user = unique()
    client.post(CHECK, json=identity(user))
    client.post(CHARGES, json=charge_body(user))
    client.post(CREDITS, json=credit_body(user))
    client.post(CHARGES, json={})
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    names = {line.split()[2] for line in response.text.splitlines() if line.startswith("# TYPE ")}
    assert names >= METRICS
    assert list(text_string_to_metric_families(response.text))


def test_metrics_count_what_happens(service: Service, client: httpx2.Client) -> None:
    def read() -> dict[str, float]:
        totals: dict[str, float] = {}
        for family in text_string_to_metric_families(client.get("/metrics").text):
            for sample in family.samples:
                totals[sample.name] = totals.get(sample.name, 0) + sample.value
        return totals

    before = read()
    user = unique()
    client.post(CHECK, json=identity(user))
    client.post(CHARGES, json=charge_body(user))
    client.post(CREDITS, json=credit_body(user, 5))
    client.post(CHARGES, json={})
    after = read()
    for name, least in (
        ("billing_credit_checks_total", 1),
        ("billing_charges_total", 1),
        ("billing_credits_added_total", 1),
        ("billing_accounts_created_total", 1),
        ("billing_charge_amount_minor_count", 1),
        ("billing_credit_amount_minor_sum", 5),
        ("billing_credit_check_duration_seconds_count", 1),
        ("billing_http_requests_total", 4),
        ("billing_errors_total", 1),
        ("billing_db_queries_total", 3),
    ):
        assert after[name] - before.get(name, 0) >= least, name


def test_labels_are_route_templates_and_never_identities(
    service: Service, client: httpx2.Client
) -> None:
    secret = unique("somebody")
    client.get(account_path(secret))
    client.get(TRANSACTIONS, params=identity(secret))
    client.get(f"/{secret}")
    client.request(secret.upper().replace("-", ""), f"/{secret}")
    client.request("PROPFIND", f"/{secret}", headers={"X-Request-ID": secret})
    client.post(CHARGES, json=charge_body(secret, currency="ZZZ", description=secret))
    text = client.get("/metrics").text
    assert secret.lower() not in text.lower()
    endpoints = {
        sample.labels["endpoint"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "endpoint" in sample.labels
    }
    assert "/v1/billing/accounts/{oauth_provider}/{external_id}" in endpoints


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_metrics_are_not_told_to_what_came_through_a_proxy(
    stranger: httpx2.Client, header: str
) -> None:
    response = stranger.get("/metrics", headers={header: "for=203.0.113.7"})
    assert_error(response, 404, "Not Found")


def test_the_description_covers_every_endpoint(stranger: httpx2.Client) -> None:
    response = stranger.get("/openapi.json")
    assert response.status_code == 200
    document = response.json()
    assert document["openapi"].startswith("3.1")
    for path, method in (
        (CHECK, "post"),
        (CHARGES, "post"),
        (BATCH, "post"),
        (CREDITS, "post"),
        (ACCOUNTS, "post"),
        (ACCOUNTS + "/{oauth_provider}/{external_id}", "get"),
        (TRANSACTIONS, "get"),
        (PURCHASES, "post"),
        (PURCHASES + "/{payment_id}", "get"),
        (PURCHASES + "/{payment_id}/status", "get"),
        (WEBHOOK_PATH, "post"),
        ("/health", "get"),
    ):
        operation = document["paths"][path][method]
        assert operation["summary"]
        assert operation["responses"]
    assert "Idempotency-Key" in response.text
    assert "X-Existing-Charge-ID" in response.text


def test_the_description_can_be_browsed(stranger: httpx2.Client) -> None:
    response = stranger.get("/docs")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert CHARGES in response.text
    assert "script-src" not in response.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/nothing.css",
        "/static/",
        "/static/..%2fsetup.cfg",
        "/static/%2e%2e/setup.cfg",
        "/static/../setup.cfg",
        "/static/%2Fetc%2Fpasswd",
        "/static/docs.css%00",
    ],
)
def test_static_files_are_only_those_in_their_folder(service: Service, path: str) -> None:
    status, _, _ = exchange(service, raw_request(target=path.encode()))
    assert status in (307, 400, 404)
