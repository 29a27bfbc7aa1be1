"""Prometheus' configuration, its rules and Grafana's dashboards: promtool accepts them, each alert
fires and ends, and on a real Prometheus with two servers every query returns data."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server.observe import certificate, metrics
from tests.http.contract import ACCOUNTS, CHARGES, CHECK, CREDITS
from tests.payments import (
    PURCHASES,
    credited,
    paying_service,
    payment_environment,
    purchase_body,
)
from tests.stripe_double import running_stripe
from tests.support import (
    Database,
    Process,
    Service,
    charge_body,
    credit_body,
    free_port,
    identity,
    running_service,
    unique,
    wait_for,
)

TREE = Path(__file__).parents[2]
OPS = TREE / "ops"
DOCS = TREE / "docs"
RULES = OPS / "prometheus" / "rules"
UNITS = {"short", "s", "percentunit", "reqps", "ops"}
METRIC = re.compile(r"\b(?:billing[_:][a-z0-9_:]+|up|ALERTS)\b(?:\{[^}]*\})?")


def program(name: str) -> str:
    """The path of a program. Skips the test where it is not installed, which is not allowed in
    CI."""
    path = shutil.which(name)
    if path is None:
        assert os.environ.get("CI") != "true", f"{name} is not installed"
        pytest.skip(f"{name} is not installed")
    return path


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in load(RULES / f"{name}.yml")["groups"] for rule in group["rules"]]


def dashboards() -> dict[str, dict[str, Any]]:
    return {
        path.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((OPS / "grafana" / "dashboards").glob("*.json"))
    }


def dashboard_queries() -> set[str]:
    """The queries of the dashboards, with Grafana's variables filled in."""
    found = set()
    for board in dashboards().values():
        asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
        asked += [note["expr"] for note in board["annotations"]["list"] if "expr" in note]
        for query in asked:
            filled = query.replace("$__rate_interval", "30s").replace("$instance", ".*")
            assert "$" not in filled
            found.add(filled)
    return found


def known_metrics() -> dict[str, set[str]]:
    """Every series that a server can have, with its labels."""
    found = {}
    for family in metrics.REGISTRY.collect():
        collector: Any = metrics.REGISTRY._names_to_collectors[family.name]
        labels = set(collector._labelnames)
        kind = family.type
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        for suffix in suffixes.get(kind, ("",)):
            found[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


# What promtool says


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "rules/recording.yml", "rules/alerts.yml"],
        ["test", "rules", *[f"tests/{path.name}" for path in OPS.glob("prometheus/tests/*.yml")]],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_accepts_configuration_and_rules_and_each_alert_fires_and_ends(
    arguments: list[str],
) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments],
        cwd=OPS / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_test_in_which_it_fires_and_ends() -> None:
    fires: dict[str, list[bool]] = {}
    for path in OPS.glob("prometheus/tests/*.yml"):
        for case in load(path)["tests"]:
            for step in sorted(
                case["promql_expr_test"], key=lambda step: int(step["eval_time"].rstrip("m"))
            ):
                assert f'alertname="{case["name"]}",alertstate="firing"' in step["expr"]
                fires.setdefault(case["name"], []).append(bool(step["exp_samples"]))
    assert set(fires) == {rule["alert"] for rule in rules("alerts")}
    for name, states in fires.items():
        assert states[0] is False, name
        assert states[-2:] == [True, False], name


# Checks that need no running program


def test_each_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    headings = set(re.findall(r"^## (\w+)$", (DOCS / "alerts.md").read_text(), re.MULTILINE))
    alerts = rules("alerts")
    assert {rule["alert"] for rule in alerts} == headings
    for rule in alerts:
        assert rule["labels"] == {"severity": rule["labels"]["severity"]}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"


def test_every_metric_and_label_that_is_asked_for_exists() -> None:
    known = known_metrics()
    recorded = {rule["record"] for rule in rules("recording")}
    target = {"job", "instance"}
    asked = dashboard_queries() | {rule["expr"] for rule in rules("alerts") + rules("recording")}
    for query in asked:
        names = METRIC.findall(query)
        assert names, query
        for selector in names:
            name, _, matchers = selector.rstrip("}").partition("{")
            if name in recorded:
                continue
            labels = {
                "up": target,
                "ALERTS": target | {"alertname", "alertstate"},
            }.get(name) or known[name] | target
            assert set(re.findall(r"(\w+)(?:=|!)~?\"", matchers)) <= labels, query
        everywhere = set().union(*known.values()) | target | {"alertname", "kind"}
        for grouping in re.findall(r"\bby \(([^)]*)\)", query):
            assert set(re.findall(r"\w+", grouping)) <= everywhere, query


def test_every_metric_is_described_for_operators() -> None:
    text = (DOCS / "telemetry.md").read_text(encoding="utf-8")
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known_metrics()}
    assert {name for name in names if f"`{name}`" not in text} == set()


@pytest.mark.parametrize("name", ["business.json", "database.json", "service.json"])
def test_a_dashboard_is_what_grafana_takes(name: str) -> None:
    """As far as can be checked without Grafana: the rules of its schema, and a tidy layout."""
    board = dashboards()[name]
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time", "tags"} <= set(board)
    assert board["uid"] == f"ciris-billing-{name.removesuffix('.json')}"
    assert board.get("id") is None
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("timeseries", "stat")
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert [target["refId"] for target in panel["targets"]] == list("ABC")[
            : len(panel["targets"])
        ]
        for target in panel["targets"]:
            assert target["legendFormat"]
            assert target["datasource"] == panel["datasource"]


def test_grafana_is_given_the_dashboards_and_where_their_data_is() -> None:
    folder = OPS / "grafana" / "provisioning"
    sources = load(folder / "datasources" / "datasources.yml")["datasources"]
    assert {source["type"]: source["url"] for source in sources} == {
        "prometheus": "http://prometheus:9090",
        "jaeger": "http://jaeger:16686",
    }
    (provider,) = load(folder / "dashboards" / "dashboards.yml")["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
    assert set(dashboards()) == {"business.json", "database.json", "service.json"}
    uids = {source["uid"] for source in sources}
    for board in dashboards().values():
        assert board["templating"]["list"][0]["current"]["value"] in uids


# A real Prometheus beside real servers


class Prometheus:
    """A running Prometheus, by its HTTP interface."""

    def __init__(self, port: int) -> None:
        self._client = httpx2.Client(
            base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10, verify=False
        )

    def ready(self) -> bool:
        try:
            return self._client.get("/query", params={"query": "vector(1)"}).status_code == 200
        except httpx2.TransportError:
            return False

    def query(self, query: str) -> list[dict[str, Any]]:
        """The series of a query whose value is a number; an error when there is none."""
        answer = self._client.get("/query", params={"query": query}).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        result: list[dict[str, Any]] = answer["data"]["result"]
        return [series for series in result if not math.isnan(float(series["value"][1]))]

    def rules(self) -> list[dict[str, Any]]:
        groups = self._client.get("/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def close(self) -> None:
        self._client.close()


def write_certificate(path: Path, days: int) -> None:
    """A self-signed certificate that is valid for this many days."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "billing.example.com")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


async def test_a_certificate_that_cannot_be_read_counts_as_expired(tmp_path: Path) -> None:
    def told() -> float | None:
        return metrics.REGISTRY.get_sample_value(
            "billing_tls_certificate_expiry_timestamp_seconds", {"certificate": "public"}
        )

    path = tmp_path / "certificate.pem"
    write_certificate(path, 30)
    for expected in (datetime.now(UTC).timestamp() + 30 * 86400, 0):
        watch = asyncio.create_task(certificate.watch(path))
        async with asyncio.timeout(10):
            while told() != pytest.approx(expected, abs=3600):
                await asyncio.sleep(0.01)
        watch.cancel()
        path.write_bytes(b"not a certificate")


@contextmanager
def running_prometheus(folder: Path, targets: list[str]) -> Iterator[Prometheus]:
    """Prometheus with the project's configuration; only targets and intervals are changed."""
    port = free_port()
    config = load(OPS / "prometheus" / "prometheus.yml")
    config["global"] = dict.fromkeys(
        ("scrape_interval", "scrape_timeout", "evaluation_interval"), "500ms"
    )
    config["rule_files"] = [str(OPS / "prometheus" / path) for path in config["rule_files"]]
    own, service = config["scrape_configs"]
    assert own["job_name"] == "prometheus"
    own["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (found,) = service.pop("dns_sd_configs")
    compose = load(TREE / "docker-compose.yml")["services"]
    servers = [name for name, one in compose.items() if one.get("command") == ["serve"]]
    assert (found["names"], found["type"], found["port"]) == (servers, "A", 8000)
    service["static_configs"] = [{"targets": targets}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    process = Process(
        [
            program("prometheus"),
            f"--config.file={path}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ],
        cwd=folder,
    ).start()
    prometheus = Prometheus(port)
    try:
        wait_for(prometheus.ready, "Prometheus")
        yield prometheus
    finally:
        prometheus.close()
        process.stop()


def use(service: Service) -> None:
    """Makes a few requests of every kind that a server counts."""
    user = unique()
    with service.client() as client:
        for _ in range(4):
            client.post(CHECK, json=identity(user))
            client.post(CHARGES, json=charge_body(user, idempotency_key=unique()))
        client.post(CHECK, json=identity(user))  # denied
        client.post(CREDITS, json=credit_body(user, 5))
        client.post("/v1/billing/holds", json=identity(user) | {"amount_minor": 1})
        key = unique()
        for amount in (1, 1, 2):  # created, replayed, and a conflict under the same key
            client.post(CHARGES, json=charge_body(user, amount, idempotency_key=key))
        client.post(CHARGES, json={"amount_minor": "much"})
        client.get(f"{ACCOUNTS}/oauth:google/{unique('nobody')}")
        client.get("/nothing/here")
        client.post(CHECK, json=identity(unique("broken")))  # this fails, see below
        client.post("/v1/billing/webhooks/stripe", content=b"{}")
        client.post(PURCHASES, json=purchase_body(unique("buyer")))


def test_two_servers_are_scraped_and_every_query_of_dashboards_and_rules_has_data(
    database: Database, tmp_path: Path
) -> None:
    program("prometheus")
    write_certificate(tmp_path / "certificate.pem", 30)
    environment: dict[str, Any] = {
        "WATCH_INTERVAL": "1",
        "TLS_CERTIFICATE_FILE": str(tmp_path / "certificate.pem"),
    }
    with ExitStack() as stack:
        double = stack.enter_context(running_stripe())
        one = stack.enter_context(paying_service(database, double, workers=2, **environment))
        two = stack.enter_context(
            running_service(database, **payment_environment(double, **environment))
        )
        prometheus = stack.enter_context(
            running_prometheus(
                tmp_path, [url.split("//")[1] for url in (one.base_url, two.base_url)]
            )
        )
        database.execute(
            "CREATE FUNCTION public.break() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE EXCEPTION 'broken'; END$$"
        )
        database.execute(
            "CREATE TRIGGER break BEFORE INSERT ON billing_data.accounts FOR EACH ROW"
            " WHEN (NEW.external_id LIKE 'broken-%') EXECUTE FUNCTION public.break()"
        )
        credited(one, double, unique("payer"))
        ended = threading.Event()

        def keep_using() -> None:
            while not ended.is_set():
                use(one)
                use(two)

        users = threading.Thread(target=keep_using)
        users.start()
        stack.callback(users.join)
        stack.callback(ended.set)

        queries = dashboard_queries() | {rule["record"] for rule in rules("recording")}
        for rule in rules("alerts"):
            # An alert's expression has data only while it fires; the metrics in it always have
            # data.
            queries |= set(METRIC.findall(rule["expr"]))
        while_an_alert_fires = {query for query in queries if "ALERTS{" in query}
        assert len(while_an_alert_fires) == 2
        missing = queries - while_an_alert_fires

        def all_have_data() -> bool:
            nonlocal missing
            missing = {query for query in missing if not prometheus.query(query)}
            return not missing

        try:
            wait_for(all_have_data, "data", timeout=60)
        except AssertionError:
            raise AssertionError(f"these queries have no data: {missing}") from None

        # The figures are right, not merely present.
        assert prometheus.query('sum(up{job="ciris-billing"})')[0]["value"][1] == "2"
        assert prometheus.query("sum(billing_db_connections_max)")[0]["value"][1] == str(3 * 35)
        left = float(
            prometheus.query("min(billing_tls_certificate_expiry_timestamp_seconds) - time()")[0][
                "value"
            ][1]
        )
        assert left == pytest.approx(30 * 86400, abs=3600)
        for rule in rules("alerts"):
            prometheus.query(rule["expr"])  # raises if the expression is in error

        def alert(name: str) -> str:
            (state,) = [rule["state"] for rule in prometheus.rules() if rule["name"] == name]
            return str(state)

        # And the worst alert fires and ends.
        assert alert("BillingLedgerMismatch") == "inactive"
        spoil = (
            "UPDATE billing_data.accounts SET paid_credits = paid_credits + %s"
            " WHERE external_id LIKE 'payer-%%'"
        )
        # The watch looks at the newest entries, which users go on writing.
        credited(one, double, unique("payer"))
        database.execute(spoil, 1)
        wait_for(lambda: alert("BillingLedgerMismatch") == "firing", "the alert", timeout=90)
        for query in while_an_alert_fires:
            wait_for(partial(prometheus.query, query), query)
        database.execute(spoil, -1)
        wait_for(lambda: alert("BillingLedgerMismatch") == "inactive", "the alert's end")
        evaluated = [rule for rule in prometheus.rules() if rule["health"] != "ok"]
        assert evaluated == []
        ended.set()
        users.join()
        two.process.stop()
        wait_for(lambda: alert("BillingInstanceDown") == "pending", "the server to be missed")
        assert alert("BillingDown") == "inactive"
