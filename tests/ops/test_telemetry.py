"""Traces as a collector receives them: which spans belong together, what they tell, and what they
never tell."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import psutil
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import StatusCode

from server.observe.span_filter import ListedOnly
from tests.http.contract import ACCOUNTS, BATCH, CHARGES, CHECK, TRANSACTIONS
from tests.otlp import Collector, ReceivedSpan, running_collector
from tests.support import (
    Database,
    Service,
    charge_body,
    free_port,
    held_account,
    identity,
    running_service,
    unique,
    worker_pids,
)

EMAIL = "grace.hopper@example.com"
SERVER, CLIENT = 2, 3  # the kinds of spans, by their numbers in OTLP


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(module_database: Database, collector: Collector) -> Iterator[Service]:
    with running_service(module_database, **collector.environment) as service:
        yield service


def post(service: Service, path: str, body: object, **headers: str) -> tuple[httpx2.Response, str]:
    """The answer, and the request's id."""
    request_id = secrets.token_hex(16)
    with service.client() as client:
        answer = client.post(path, json=body, headers={"X-Request-ID": request_id, **headers})
    return answer, request_id


def charge(service: Service, user: str, **headers: str) -> tuple[httpx2.Response, str]:
    return post(service, CHARGES, charge_body(user), **headers)


def known_user(service: Service) -> str:
    user = unique()
    assert post(service, CHECK, identity(user))[0].status_code == 200
    return user


def test_a_charge_is_one_trace_of_the_servers_span_and_the_databases(
    traced: Service, collector: Collector
) -> None:
    answer, request_id = charge(traced, known_user(traced))
    assert answer.status_code == 201
    server, database = collector.trace_of(request_id)
    assert len([s for s in collector.spans if s.trace_id == server.trace_id]) == 2

    assert server.name == f"POST {CHARGES}"
    assert server.kind == SERVER
    assert server.parent_id == ""
    assert not server.is_error
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": CHARGES,
        "url.scheme": "http",
        "request_id": request_id,
        "http.response.status_code": 201,
    }
    assert server.resource["service.name"] == "ciris-billing"

    assert database.name == "billing.create_charges"
    assert database.kind == CLIENT
    assert (database.trace_id, database.parent_id) == (server.trace_id, server.span_id)
    assert not database.is_error
    ((event, sent),) = database.events
    assert event == "sent"
    assert sent["db.operation.batch.size"] == 1
    assert database.attributes == {
        "db.system.name": "postgresql",
        "db.stored_procedure.name": "billing.create_charges",
        "billing.outcome": "created",
        **sent,
    }
    told, flags = answer.headers["traceresponse"].rsplit("-", 1)
    assert told == f"00-{server.trace_id}-{server.span_id}"
    assert int(flags, 16) & 1, "sampled"


def test_the_callers_span_is_the_parent(traced: Service, collector: Collector) -> None:
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    answer, request_id = charge(
        traced, known_user(traced), traceparent=f"00-{trace_id}-{span_id}-01"
    )
    assert answer.status_code == 201
    server, database = collector.trace_of(request_id)
    assert (server.trace_id, server.parent_id) == (trace_id, span_id)
    assert (database.trace_id, database.parent_id) == (trace_id, server.span_id)
    assert answer.headers["traceresponse"].split("-")[1] == trace_id


def test_a_caller_that_does_not_sample_is_not_traced(traced: Service, collector: Collector) -> None:
    trace_id = secrets.token_hex(16)
    user = known_user(traced)
    parent = f"00-{trace_id}-{secrets.token_hex(8)}-00"
    assert charge(traced, user, traceparent=parent)[0].status_code == 201
    collector.trace_of(charge(traced, user)[1])  # this one was sent later and has arrived already
    assert [span for span in collector.spans if span.trace_id == trace_id] == []


def test_a_malformed_traceparent_is_passed_over(traced: Service, collector: Collector) -> None:
    answer, request_id = charge(traced, known_user(traced), traceparent="00-nonsense")
    assert answer.status_code == 201
    assert collector.trace_of(request_id)[0].parent_id == ""


async def test_requests_that_share_a_call_have_a_span_each_that_names_it(
    traced: Service, collector: Collector
) -> None:
    users = [known_user(traced) for _ in range(30)]
    ids = {secrets.token_hex(16): user for user in users}
    with held_account(traced.database, users[0]):
        async with traced.async_client() as client:
            answers = [
                asyncio.create_task(
                    client.post(
                        CHARGES, json=charge_body(user), headers={"X-Request-ID": request_id}
                    )
                )
                for request_id, user in ids.items()
            ]
            # All requests but the one whose account is held.
            await asyncio.wait_for(asyncio.gather(*answers[1:]), 20)
            assert not answers[0].done()
            held = await answers[0]
    assert held.status_code == 503
    calls: dict[str, set[str]] = {}
    sizes = {}
    for request_id in list(ids)[1:]:
        server, database = await asyncio.to_thread(collector.trace_of, request_id)
        assert database.parent_id == server.span_id
        call = database.attributes["billing.shared_call"]
        calls.setdefault(call, set()).add(database.trace_id)
        sizes[call] = database.attributes["db.operation.batch.size"]
    assert len(calls) < len(ids) - 1, "no call was shared: the test shows nothing"
    assert all(len(traces) <= sizes[call] for call, traces in calls.items())
    # A shared call has no span in the trace of the request that began it.
    waited = {s.span_id for s in collector.spans if s.name == "billing.create_charges"}
    assert [s for s in collector.spans if s.parent_id in waited] == []
    # The held request was sent again and again, and its trace shows that.
    server, database = await asyncio.to_thread(collector.trace_of, next(iter(ids)))
    assert server.is_error
    assert len([name for name, _ in database.events if name == "sent"]) > 1
    assert database.attributes["error.type"] == "Busy"


def test_a_list_of_charges_has_one_span_for_its_call(traced: Service, collector: Collector) -> None:
    user = known_user(traced)
    answer, request_id = post(traced, BATCH, {"charges": [charge_body(user)] * 3})
    assert answer.status_code == 200
    _, database = collector.trace_of(request_id)
    assert database.attributes["db.operation.batch.size"] == 3


def test_other_calls_have_a_span_too_and_a_refusal_is_no_error(
    traced: Service, collector: Collector
) -> None:
    request_id = secrets.token_hex(16)
    with traced.client() as client:
        answer = client.get(
            f"{ACCOUNTS}/oauth:google/{unique('nobody')}", headers={"X-Request-ID": request_id}
        )
    assert answer.status_code == 404
    server, database = collector.trace_of(request_id)
    assert server.name == f"GET {ACCOUNTS}/{{oauth_provider}}/{{external_id}}"
    assert database.name == "billing.get_account"
    assert database.attributes["billing.outcome"] == "account_not_found"
    assert not server.is_error
    assert not database.is_error
    assert server.attributes["billing.error_code"] == "account_not_found"


def test_addresses_that_do_not_exist_share_one_name(traced: Service, collector: Collector) -> None:
    request_id = secrets.token_hex(16)
    with traced.client() as client:
        client.get(f"/nothing/{EMAIL}", headers={"X-Request-ID": request_id})
    (server,) = collector.trace_of(request_id, 1)
    assert server.name == "GET"
    assert server.attributes["http.response.status_code"] == 404


def test_no_identity_key_or_address_is_in_what_is_sent(
    traced: Service, collector: Collector
) -> None:
    user = unique("secretive")
    body = {"customer_email": EMAIL, "wa_id": "wa-15550100", "tenant_id": "tenant-blue"}
    post(traced, CHECK, {**identity(user), **body})
    charge(traced, user)
    with traced.client() as client:
        client.get(f"{ACCOUNTS}/oauth:google/{user}")
        client.get(TRANSACTIONS, params=identity(user))
        client.get(f"/nothing/{EMAIL}?user={user}")
    with httpx2.Client(base_url=traced.base_url, verify=False) as client:
        client.post(CHARGES, json=charge_body(user), headers={"X-API-Key": "cbk_test_" + "x" * 40})
    collector.trace_of(charge(traced, user, baggage=f"user={user}")[1])
    sent = b"".join(collector.bodies)
    for secret in (
        user,
        EMAIL,
        "wa-15550100",
        "tenant-blue",
        traced.key.secret,
        traced.key.prefix,
        traced.key.id,
        "x" * 40,
        "oauth:google",
    ):
        assert secret.encode() not in sent


def test_what_callers_send_does_not_reach_the_collector_wherever_they_put_it(
    database: Database,
) -> None:
    """This holds even where OpenTelemetry is told to record headers, and where an error quotes a
    row."""
    planted = [unique(f"planted-{place}") for place in ("path", "query", "header", "body", "state")]
    in_path, in_query, in_header, in_body, in_state = planted
    everything: dict[str, Any] = dict.fromkeys(
        (
            "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST",
            "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE",
        ),
        ".*",
    )
    database.execute(
        "CREATE FUNCTION public.break() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'no room for %', NEW; END$$"
    )
    database.execute(
        "CREATE TRIGGER break BEFORE INSERT OR UPDATE ON billing_data.accounts FOR EACH ROW"
        f" WHEN (NEW.external_id LIKE '{in_body}%') EXECUTE FUNCTION public.break()"
    )
    headers = {
        "X-API-Key": "",
        "User-Agent": in_header,
        "Authorization": f"Bearer {in_header}",
        "Cookie": f"session={in_header}",
        "X-Anything": in_header,
        "baggage": f"user={in_header}",
        "traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
        "tracestate": f"vendor={in_state}",
    }
    with (
        running_collector() as own,
        running_service(database, **own.environment, **everything) as service,
    ):
        headers["X-API-Key"] = service.key.secret
        with service.client() as client:
            for path in (
                f"{ACCOUNTS}/oauth:google/{in_path}",
                f"/{in_path}",
                f"/docs/{in_path}",
            ):
                client.get(f"{path}?user={in_query}&{in_query}=1", headers=headers)
            client.request(in_header.upper(), f"/{in_path}", headers=headers)
            for path in (CHECK, CHARGES, ACCOUNTS, TRANSACTIONS):
                client.post(f"{path}?{in_query}", json=charge_body(in_body), headers=headers)
            failed = client.post(CHECK, json=identity(in_body), headers=headers)
        assert failed.status_code == 500
        assert service.process.stop() == 0
    assert len(own.spans) >= 9
    errors = [span for span in own.spans if span.is_error]
    assert any(name == "exception" for span in errors for name, _ in span.events)
    sent = b"".join(own.bodies).lower()
    for text in (*planted, "no room for", service.key.prefix, service.key.id):
        assert text.lower().encode() not in sent


def test_an_exception_that_opentelemetry_records_itself_is_sent_without_its_words() -> None:
    secret = unique("planted")
    with running_collector() as own:
        exporter = OTLPSpanExporter(f"http://127.0.0.1:{own.port}/v1/traces")
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(ListedOnly(exporter)))
        attributes = {"url.path": f"/{secret}", "user_agent.original": secret}
        span = provider.get_tracer("test").start_span("GET /x", attributes=attributes)
        span.add_link(span.get_span_context(), {"who": secret})
        span.add_event(secret, {"who": secret})
        span.record_exception(ValueError(secret))
        span.set_status(StatusCode.ERROR, secret)
        span.end()
        provider.shutdown()
    (received,) = own.spans
    assert received.is_error
    assert received.attributes == {}
    assert received.events == [("exception", {"exception.type": "ValueError"})]
    assert secret.encode() not in b"".join(own.bodies)


def test_health_and_metrics_are_not_traced(traced: Service, collector: Collector) -> None:
    for path in ("/health", "/metrics"):
        assert httpx2.get(f"{traced.base_url}{path}", verify=False).status_code == 200
    collector.trace_of(charge(traced, known_user(traced))[1])
    assert not {s.attributes.get("http.route") for s in collector.spans} & {"/health", "/metrics"}


def test_what_fails_in_the_database_makes_both_spans_errors_and_is_told_without_its_words(
    database: Database, collector: Collector
) -> None:
    with running_service(database, **collector.environment) as service:
        user = known_user(service)
        database.execute(
            "CREATE FUNCTION public.break() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE EXCEPTION 'no room for %', NEW.account_id; END$$"
        )
        database.execute(
            "CREATE TRIGGER break BEFORE INSERT ON billing_data.charges FOR EACH ROW"
            " EXECUTE FUNCTION public.break()"
        )
        answer, request_id = charge(service, user)
        assert answer.status_code == 500
        server, call = collector.trace_of(request_id)
        _assert_failed(server)
        _assert_failed(call)
        assert call.attributes["error.type"] == "DatabaseFault"

        # Now the database is away.
        name = database.name
        execute = database.cluster._execute
        execute("postgres", f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        execute(
            "postgres",
            "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity AS a"
            f" WHERE a.datname = '{name}'",
        )
        answer, request_id = charge(service, user)
        assert answer.status_code == 503
        server, call = collector.trace_of(request_id)
        _assert_failed(server)
        _assert_failed(call)
        assert server.attributes["http.response.status_code"] == 503
        assert b"no room for" not in b"".join(collector.bodies)


def _assert_failed(span: ReceivedSpan) -> None:
    assert span.is_error
    assert span.attributes["error.type"]
    exceptions = [attributes for name, attributes in span.events if name == "exception"]
    assert exceptions
    for attributes in exceptions:
        assert set(attributes) == {"exception.type", "exception.stacktrace"}
        assert "server/" in attributes["exception.stacktrace"]


def test_opentelemetrys_settings_hold_and_the_end_waits_for_what_was_collected(
    database: Database, collector: Collector
) -> None:
    environment = {
        **collector.environment,
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
        "OTEL_SERVICE_NAME": "billing-of-tests",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0",
    }
    with running_service(database, workers=2, **environment) as service:
        user = known_user(service)
        unsampled = [charge(service, user)[1] for _ in range(4)]
        sampled = [
            charge(
                service,
                user,
                traceparent=f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
            )[1]
            for _ in range(8)
        ]
        assert service.process.stop() == 0
    for request_id in sampled:
        span = collector.trace_of(request_id)[0]
        assert span.resource["service.name"] == "billing-of-tests"
    assert not [s for s in collector.spans if s.attributes.get("request_id") in unsampled]


def test_without_a_collector_opentelemetry_is_not_even_loaded(
    service: Service, traced: Service
) -> None:
    def loads_it(service: Service) -> list[bool]:
        return [
            any(
                "opentelemetry" in m.path or "_upb" in m.path
                for m in psutil.Process(pid).memory_maps()
            )
            for pid in worker_pids(service.process)
        ]

    answer, _ = charge(service, known_user(service))
    assert answer.status_code == 201
    assert "traceresponse" not in answer.headers
    # protobuf's compiled part shows in the process's memory.
    assert loads_it(traced) == [True]
    assert loads_it(service) == [False]


@pytest.mark.parametrize("kind", ["nobody listens", "it never answers", "nonsense is set"])
def test_a_dead_collector_hurts_no_request_and_does_not_delay_the_end(
    database: Database, kind: str
) -> None:
    with running_collector() as own:
        own.silent.set()
        environment = dict(own.environment)
        if kind == "nobody listens":
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
        environment["OTEL_BSP_MAX_QUEUE_SIZE"] = "-1" if kind == "nonsense is set" else "64"
        environment["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] = "32"
        with running_service(database, **environment) as service:
            user = known_user(service)
            with service.client() as client:
                for _ in range(80):  # more than the queue of spans holds
                    started = time.perf_counter()
                    answer = client.post(CHECK, json=identity(user))
                    assert answer.status_code == 200
                    assert time.perf_counter() - started < 3
            begun = time.perf_counter()
            assert service.process.stop() == 0
            assert time.perf_counter() - begun < 9
            assert user not in service.process.output
        own.ending.set()
