"""Rules for every request and answer (contract 1, 6, 10): content types, times, ids, request ids,
errors in one shape, methods, redirects, CORS."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    ACCOUNTS,
    BATCH,
    BODIES,
    CHARGES,
    CHECK,
    CREDITS,
    ENDPOINTS,
    NOT_AN_OBJECT,
    PATHS,
    TIME,
    TRANSACTIONS,
    UUID,
    account_path,
    account_row,
    assert_error,
    assert_error_shape,
    body_for,
    call,
    exchange,
    fault,
    faults_of,
    make_account,
    raw_request,
)
from tests.support import Service, charge_body, credit_body, identity, unique

ORIGIN = {"Origin": "https://app.example.com"}


def strings_in(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON value with the name of its field."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from strings_in(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_in(inner, name)
    elif isinstance(value, str):
        yield name, value


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_answers_are_json_without_a_charset(
    service: Service, client: httpx2.Client, endpoint: str
) -> None:
    user = make_account(service)
    response = call(client, endpoint, user)
    assert response.status_code in (200, 201)
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.content.decode("utf-8")) == response.json()


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if e != "check"])
def test_times_and_ids_have_one_format(
    service: Service, client: httpx2.Client, endpoint: str
) -> None:
    user = make_account(service, paid=1)
    named = list(strings_in(call(client, endpoint, user).json()))
    times = [text for name, text in named if name.endswith("_at")]
    ids = [text for name, text in named if name.endswith("_id") and name != "external_id"]
    assert times
    assert ids
    assert all(re.fullmatch(TIME, text) for text in times)
    assert all(re.fullmatch(UUID, text) for text in ids)


@pytest.mark.parametrize(
    ("stored", "sent"),
    [
        ("2026-11-22 10:24:00+00", "2026-11-22T10:24:00+00:00"),
        ("2026-11-22 10:24:00.948849+00", "2026-11-22T10:24:00.948849+00:00"),
        ("2026-11-22 10:24:00.1+00", "2026-11-22T10:24:00.100000+00:00"),
        ("2026-11-22 10:24:00.000001+00", "2026-11-22T10:24:00.000001+00:00"),
        ("2026-11-22 10:24:00.5+09", "2026-11-22T01:24:00.500000+00:00"),
    ],
)
def test_a_time_has_six_digits_of_a_second_or_none(
    service: Service, client: httpx2.Client, stored: str, sent: str
) -> None:
    user = make_account(service)
    service.database.execute(
        "UPDATE billing_data.accounts SET created_at = %s WHERE external_id = %s", stored, user
    )
    assert client.get(account_path(user)).json()["created_at"] == sent
    assert client.post(ACCOUNTS, json=identity(user)).json()["created_at"] == sent


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "Application/JSON",
    ],
)
def test_a_json_content_type_is_accepted_with_and_without_a_charset(
    client: httpx2.Client, content_type: str
) -> None:
    body = json.dumps(identity("Ünïcode 😀 " + unique()), ensure_ascii=False).encode()
    response = client.post(ACCOUNTS, content=body, headers={"Content-Type": content_type})
    assert response.status_code == 201
    assert response.json()["external_id"].startswith("Ünïcode 😀 ")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "text/json", "nonsense"]
)
@pytest.mark.parametrize("endpoint", [*BODIES, "batch"])
def test_a_body_of_another_content_type_is_not_parsed(
    client: httpx2.Client, endpoint: str, content_type: str
) -> None:
    for text in (json.dumps(body_for(endpoint)), "{", "Grüße"):
        headers = {"Content-Type": content_type}
        response = client.post(PATHS[endpoint], content=text.encode(), headers=headers)
        assert faults_of(response) == [
            fault("model_attributes_type", ["body"], NOT_AN_OBJECT, text)
        ]


def test_a_body_without_a_content_type_is_taken_as_json(client: httpx2.Client) -> None:
    assert client.post(CHECK, content=json.dumps(identity()).encode()).status_code == 200


def test_unknown_fields_are_ignored_at_every_level(service: Service, client: httpx2.Client) -> None:
    user = make_account(service)
    more: dict[str, Any] = {"unknown": [{"x": None}], "amount": 5, "": "", "idempotencyKey": "k"}
    check = body_for("check", user, context={"source": "purchase_status_check", **more}, **more)
    assert client.post(CHECK, json=check).status_code == 200
    charge = charge_body(user, metadata={"message_id": "m", **more}, **more)
    made = client.post(CHARGES, json=charge)
    assert made.status_code == 201
    assert made.json()["metadata"] == {
        "message_id": "m",
        "agent_id": None,
        "channel_id": None,
        "request_id": None,
    }
    batch = client.post(BATCH, json={"charges": [charge], **more})
    assert [result["status"] for result in batch.json()["results"]] == [201]
    assert client.post(CREDITS, json=credit_body(user, **more)).status_code == 201
    assert client.post(ACCOUNTS, json={**identity(user), **more}).status_code == 201
    assert client.get(account_path(user), params={"unknown": "x"}).status_code == 200
    history = client.get(TRANSACTIONS, params={**identity(user), "unknown": "x"})
    assert history.json()["total_count"] == 3


@pytest.mark.parametrize("presented", ["abc", "a" * 128, "01H.x_y:z/+=-", "7"])
def test_a_request_id_is_taken_from_the_caller(client: httpx2.Client, presented: str) -> None:
    for response in (
        client.get("/health", headers={"X-Request-ID": presented}),
        client.get("/nowhere", headers={"X-Request-ID": presented}),
        client.post(CHECK, json={}, headers={"X-Request-ID": presented}),
    ):
        assert response.headers["x-request-id"] == presented
        if response.status_code != 200:
            assert response.json()["request_id"] == presented


@pytest.mark.parametrize(
    "presented", ["", "a" * 129, "two words", "semi;colon", "<script>", "é", 'quote"d', "a,b"]
)
def test_a_malformed_request_id_is_replaced(client: httpx2.Client, presented: str) -> None:
    response = client.get("/nowhere", headers={b"X-Request-ID": presented.encode()})
    assert_error_shape(response, 404)
    assert response.headers["x-request-id"] != presented
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


def test_every_answer_has_a_request_id_of_its_own(
    service: Service, client: httpx2.Client, stranger: httpx2.Client
) -> None:
    user = make_account(service, free=0)
    answers = [call(client, endpoint, user) for endpoint in ENDPOINTS]
    answers += [call(stranger, endpoint, user) for endpoint in ENDPOINTS]
    answers += [client.get(path) for path in ("/", "/health", "/metrics", "/nowhere", "/health/")]
    answers += [client.options(CHARGES), client.head("/health"), client.put(CHARGES)]
    given = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(given)) == len(answers)
    assert all(given)


def test_every_error_body_carries_a_code_and_the_request_id(
    service: Service, client: httpx2.Client, stranger: httpx2.Client
) -> None:
    spent = make_account(service, free=0)
    suspended = make_account(service, status="suspended")
    used = make_account(service)
    keyed = charge_body(used, idempotency_key="k")
    assert client.post(CHARGES, json=keyed).status_code == 201
    reader = service.database.create_key(["billing:read"])
    for status, response in (
        (400, client.post(CHARGES, json=charge_body(used, currency="EUR"))),
        (401, stranger.post(CHARGES, json=keyed, headers={"X-API-Key": "nope"})),
        (402, client.post(CHARGES, json=charge_body(spent))),
        (403, client.post(CHARGES, json=charge_body(suspended))),
        (403, stranger.post(CHARGES, json=keyed, headers={"X-API-Key": reader.secret})),
        (404, client.get(account_path(unique()))),
        (404, client.get("/nowhere")),
        (405, client.delete(CHARGES)),
        (409, client.post(CHARGES, json=keyed)),
        (422, client.post(CHARGES, json={})),
        (422, client.post(CHARGES, content=b"{", headers={"Content-Type": "application/json"})),
    ):
        assert_error_shape(response, status)


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1", "/v1/billing", "/v1/billing/Charges", "/v1/billing/charges/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
def test_an_unknown_route_is_not_found_with_or_without_a_key(
    client: httpx2.Client, stranger: httpx2.Client, method: str, path: str
) -> None:
    assert_error(client.request(method, path), 404, "Not Found")
    assert_error(stranger.request(method, path), 404, "Not Found")


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        (CHECK, {"POST"}),
        (CHARGES, {"POST"}),
        (BATCH, {"POST"}),
        (CREDITS, {"POST"}),
        (ACCOUNTS, {"POST"}),
        (TRANSACTIONS, {"GET", "HEAD"}),
        (account_path("1"), {"GET", "HEAD"}),
        ("/health", {"GET", "HEAD"}),
        ("/", {"GET", "HEAD"}),
    ],
)
def test_a_known_route_tells_which_methods_it_allows(
    stranger: httpx2.Client, path: str, allow: set[str]
) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"} - allow:
        response = stranger.request(method, path)
        assert_error(response, 405, "Method Not Allowed")
        assert set(response.headers["allow"].split(", ")) == allow


def test_head_answers_what_get_answers_without_the_body(
    service: Service, client: httpx2.Client, stranger: httpx2.Client
) -> None:
    user = make_account(service)
    history = f"{TRANSACTIONS}?oauth_provider=oauth:google&external_id={user}"
    for path in (account_path(user), history, "/", "/health"):
        full, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (full.status_code, b"")
        assert head.headers["content-type"] == "application/json"
        assert head.headers["content-length"] == full.headers["content-length"] or path == "/health"
    assert client.head(account_path(unique())).status_code == 404
    assert stranger.head(account_path(user)).status_code == 422


@pytest.mark.parametrize(
    "path",
    [CHECK, CHARGES, BATCH, CREDITS, ACCOUNTS, TRANSACTIONS, "/health", account_path("a b%2F")],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_trailing_slash_is_redirected_with_method_and_query_kept(
    stranger: httpx2.Client, method: str, path: str
) -> None:
    response = stranger.request(method, f"{path}/", params={"a": "1&2", "b": "é"})
    assert response.status_code == 307
    target = httpx2.URL(stranger.base_url).join(response.headers["location"])
    assert target.raw_path.partition(b"?")[0].decode() == path
    assert dict(target.params) == {"a": "1&2", "b": "é"}
    assert target.host == stranger.base_url.host


def test_a_request_with_a_trailing_slash_works_when_redirects_are_followed(
    client: httpx2.Client,
) -> None:
    response = client.post(f"{CHECK}/", json=identity(), follow_redirects=True)
    assert (response.status_code, response.json()["has_credit"]) == (200, True)


@pytest.mark.parametrize(
    "path",
    [
        "//example.com/",
        "///example.com//",
        "/\\example.com/",
        "/\\/example.com/",
        "//example.com/%2e%2e/",
        "/%09/example.com/",
    ],
)
def test_a_redirect_never_leads_to_another_host(service: Service, path: str) -> None:
    status, headers, _ = exchange(service, raw_request(target=path.encode()))
    assert status in (307, 400, 404)
    # A browser takes both // and /\ for the start of another host's name.
    assert not headers.get("location", "/").replace("\\", "/").startswith("//")


@pytest.mark.parametrize("path", [CHECK, CHARGES, BATCH, CREDITS, ACCOUNTS, TRANSACTIONS])
def test_a_page_of_any_origin_may_ask_with_a_key_of_its_own(
    stranger: httpx2.Client, path: str
) -> None:
    method = "GET" if path == TRANSACTIONS else "POST"
    response = stranger.options(
        path,
        headers={
            **ORIGIN,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "x-api-key,content-type,idempotency-key",
        },
    )
    assert response.status_code == 200
    headers = response.headers
    assert headers["access-control-allow-origin"] in ("*", ORIGIN["Origin"])
    assert method in headers["access-control-allow-methods"].split(", ")
    allowed = {name.lower() for name in headers["access-control-allow-headers"].split(", ")}
    assert {"x-api-key", "content-type", "idempotency-key", "x-request-id"} <= allowed
    # Cookies together with any origin are forbidden: contract 8.25.
    assert "access-control-allow-credentials" not in headers


def test_answers_to_another_origin_may_be_read_there_errors_included(
    client: httpx2.Client, stranger: httpx2.Client
) -> None:
    for response in (
        client.post(CHECK, json=identity(), headers=ORIGIN),
        client.post(CHECK, json={}, headers=ORIGIN),
        stranger.post(CHARGES, json={}, headers={**ORIGIN, "X-API-Key": "nope"}),
        stranger.get("/nowhere", headers=ORIGIN),
    ):
        assert response.headers["access-control-allow-origin"] in ("*", ORIGIN["Origin"])
        exposed = response.headers["access-control-expose-headers"].lower().split(", ")
        assert {"x-existing-charge-id", "x-existing-credit-id", "x-request-id"} <= set(exposed)


def test_a_refused_validation_leaves_the_account_as_it_was(
    service: Service, client: httpx2.Client
) -> None:
    user = make_account(service)
    before = account_row(service, user)
    body = body_for("check", user, customer_email="new@example.com", marketing_opt_in=None)
    assert client.post(CHECK, json=body).status_code == 422
    assert account_row(service, user) == before
