"""Invalid input (contract 8.10 and beyond): a clear 4xx, nothing is written, and the server goes
on."""

from __future__ import annotations

import gzip
import json
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
    PATHS,
    TRANSACTIONS,
    account_path,
    assert_error,
    assert_error_shape,
    body_for,
    exchange,
    faults_of,
    make_account,
    raw_request,
    row_counts,
)
from tests.support import (
    Service,
    charge_body,
    identity,
    unique,
)

JSON = {"Content-Type": "application/json"}
POSTS = (CHECK, CHARGES, BATCH, CREDITS, ACCOUNTS)
STRINGS = {
    "check": [],
    "charges": ["currency", "description", "idempotency_key"],
    "credits": ["currency", "description", "idempotency_key", "external_transaction_id"],
    "accounts": ["currency", "plan_name"],
}
COMMON = [
    "oauth_provider",
    "external_id",
    "wa_id",
    "tenant_id",
    "customer_email",
    "user_role",
    "agent_id",
    "marketing_opt_in_source",
]


@pytest.fixture(autouse=True)
def _nothing_is_written_and_the_server_goes_on(
    service: Service, client: httpx2.Client
) -> Iterator[None]:
    before = row_counts(service)
    yield
    assert row_counts(service) == before
    assert client.get("/health").status_code == 200


@pytest.fixture(scope="module")
def user(service: Service) -> str:
    """An account that could pay for a request that is accepted by mistake."""
    return make_account(service, free=3, paid=1000)


def post(client: httpx2.Client, path: str, content: Any, **headers: str) -> httpx2.Response:
    return client.post(path, content=content, headers={**JSON, **headers})


@pytest.mark.parametrize(
    ("endpoint", "field"), [(e, field) for e in BODIES for field in [*COMMON, *STRINGS[e]]]
)
def test_a_nul_character_is_refused_wherever_it_stands(
    client: httpx2.Client, user: str, endpoint: str, field: str
) -> None:
    body = body_for(endpoint, user)
    text = {"oauth_provider": "oauth:google", "currency": "US"}.get(field, "text")
    for given in (f"{text}\0", f"\0{text}", f"{text[:1]}\0{text[1:]}", "\0"):
        response = client.post(PATHS[endpoint], json={**body, field: given})
        assert [entry["loc"] for entry in faults_of(response)] == [["body", field]]


@pytest.mark.parametrize(
    ("endpoint", "block", "field"),
    [
        *(("check", "context", f) for f in ("agent_id", "channel_id", "request_id")),
        *(
            ("charges", "metadata", f)
            for f in ("message_id", "agent_id", "channel_id", "request_id")
        ),
    ],
)
def test_a_nul_character_is_refused_in_context_and_metadata(
    client: httpx2.Client, user: str, endpoint: str, block: str, field: str
) -> None:
    response = client.post(
        PATHS[endpoint], json=body_for(endpoint, user, **{block: {field: "a\0b"}})
    )
    assert [entry["loc"] for entry in faults_of(response)] == [["body", block, field]]


def test_a_nul_character_is_refused_in_path_and_query(client: httpx2.Client, user: str) -> None:
    (entry,) = faults_of(client.get(account_path(f"{user}\0")))
    assert entry["loc"] == ["path", "external_id"]
    (entry,) = faults_of(client.get(account_path(user, "oauth:\0")))
    assert entry["loc"] == ["path", "oauth_provider"]
    (entry,) = faults_of(client.get(account_path(user), params={"wa_id": "\0"}))
    assert entry["loc"] == ["query", "wa_id"]
    for field in ("oauth_provider", "external_id", "wa_id", "tenant_id"):
        params = {**identity(user), field: "oauth:\0"}
        (entry,) = faults_of(client.get(TRANSACTIONS, params=params))
        assert entry["loc"] == ["query", field]


@pytest.mark.parametrize("path", POSTS)
def test_a_hundred_thousand_nested_arrays_are_refused(client: httpx2.Client, path: str) -> None:
    for text in (b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000):
        assert [e["type"] for e in faults_of(post(client, path, text))] == ["json_invalid"]


@pytest.mark.parametrize("depth", [100, 250, 260, 500, 1000, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize(
    ("path", "field"), [(CHECK, "wa_id"), (CHARGES, "amount_minor"), (CREDITS, "description")]
)
def test_nested_arrays_are_refused_at_every_depth(
    client: httpx2.Client, user: str, path: str, field: str, depth: int
) -> None:
    body = json.dumps({**charge_body(user), "transaction_type": "grant", field: "HERE"})
    text = body.replace('"HERE"', "[" * depth + "]" * depth)
    assert_error_shape(post(client, path, text), 422)


def test_a_deeply_nested_charge_in_a_batch_is_refused(client: httpx2.Client) -> None:
    text = '{"charges":[' + "[" * 500 + "]" * 500 + "]}"
    response = post(client, BATCH, text)
    assert response.status_code in (200, 422)
    if response.status_code == 200:
        assert [result["status"] for result in response.json()["results"]] == [422]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "0x10", "01", "1.", ".5", "+1"]
)
def test_what_json_does_not_call_a_number_is_refused(
    client: httpx2.Client, path: str, value: str
) -> None:
    response = post(client, path, f'{{"amount_minor": {value}}}')
    assert [entry["type"] for entry in faults_of(response)] == ["json_invalid"]


@pytest.mark.parametrize("path", POSTS)
def test_a_number_of_five_thousand_digits_is_refused(client: httpx2.Client, path: str) -> None:
    for text in ('{"amount_minor": %s}', "[%s]", "%s", '{"x": -%s}', '{"x": %s.5}'):
        assert_error_shape(post(client, path, text % ("9" * 5000)), 422)


@pytest.mark.parametrize(
    "text", [r'"\ud800"', r'"\udc00"', r'"a\ud800b"', r'"\udc00\ud800"', r'"\ud83d\u0041"']
)
@pytest.mark.parametrize("field", ["external_id", "description", "idempotency_key"])
def test_a_lone_surrogate_is_refused(
    client: httpx2.Client, user: str, field: str, text: str
) -> None:
    body = json.dumps({**charge_body(user), field: "HERE"}).replace('"HERE"', text)
    assert_error_shape(post(client, CHARGES, body), 422)


@pytest.mark.parametrize(
    "content",
    [
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xc0\x80"}',
        b"\xff\xfe",
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-32"),
        b"\x00",
        b"\xef\xbb\xbf{}",
        bytes(range(256)),
    ],
)
def test_bytes_that_are_not_utf_8_are_refused(client: httpx2.Client, content: bytes) -> None:
    for path in POSTS:
        assert_error_shape(post(client, path, content), 422)


def test_the_last_of_two_equal_keys_counts_and_is_checked(client: httpx2.Client, user: str) -> None:
    body = json.dumps(charge_body(user))[:-1]
    (entry,) = faults_of(post(client, CHARGES, body + ', "amount_minor": -5}'))
    assert (entry["loc"], entry["input"]) == (["body", "amount_minor"], -5)
    (entry,) = faults_of(post(client, CHARGES, body + ', "oauth_provider": "google"}'))
    assert (entry["loc"], entry["input"]) == (["body", "oauth_provider"], "google")


def test_bytes_under_a_content_type_that_is_not_json_are_refused(client: httpx2.Client) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    for path in POSTS:
        response = client.post(path, content=bytes(range(256)), headers=headers)
        assert [e["type"] for e in faults_of(response)] == ["model_attributes_type"]


@pytest.mark.parametrize(
    "content_type", ["", ";", "application/json\t; x", "a/b;" * 500, "multipart/form-data", "\xff"]
)
def test_an_odd_content_type_is_no_server_error(client: httpx2.Client, content_type: str) -> None:
    headers: Any = {"Content-Type": content_type.encode("latin-1")}
    response = client.post(CHARGES, content=b"{}", headers=headers)
    assert_error_shape(response, 422)


LIMIT = 1024 * 1024
TOO_LARGE = f"Request body too large: at most {LIMIT} bytes are accepted"


def padded(length: int) -> bytes:
    text = json.dumps({"oauth_provider": "google", "padding": ""}).encode()
    return text[:-2] + b"x" * (length - len(text)) + text[-2:]


@pytest.mark.parametrize("path", POSTS)
def test_a_body_over_the_limit_is_told_so_with_or_without_a_key(
    client: httpx2.Client, stranger: httpx2.Client, path: str
) -> None:
    assert_error_shape(post(client, path, padded(LIMIT)), 422)
    for length in (LIMIT + 1, 3 * LIMIT):
        for caller in (client, stranger):
            response = post(caller, path, padded(length))
            assert_error(response, 413, TOO_LARGE)
            assert response.json()["code"] == "body_too_large"


def test_a_body_over_the_limit_is_told_so_when_it_comes_in_chunks(client: httpx2.Client) -> None:
    text = padded(2 * LIMIT)
    pieces = (text[start : start + 65536] for start in range(0, len(text), 65536))
    assert_error(post(client, CHARGES, pieces), 413, TOO_LARGE)


def test_a_packed_body_is_refused_and_never_unpacked(
    service: Service, stranger: httpx2.Client
) -> None:
    headers = {**JSON, "Content-Encoding": "gzip"}
    with service.client() as client:
        bomb = gzip.compress(b" " * 20_000_000)
        response = client.post(CHARGES, content=bomb, headers=headers)
    refused = "Unsupported Content-Encoding: send the body as it is"
    assert_error(response, 415, refused)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("content", [b'{"a":1}', b"\x78\x9c\xff\xff\xff"])
@pytest.mark.parametrize("arrives", ["with the head", "after the head"])
def test_a_body_that_cannot_be_unpacked_is_the_clients_fault(
    service: Service, encoding: str, content: bytes, arrives: str
) -> None:
    later = arrives == "after the head"
    head = b"Content-Type: application/json\r\nContent-Encoding: %b\r\n" % encoding.encode()
    head += b"Expect: 100-continue\r\n" if later else b""
    request = raw_request(b"POST", CHARGES.encode(), head, content)
    status, _, body = exchange(service, request, wait_before=content if later else None, patience=2)
    assert 400 <= status < 500, body


@pytest.mark.parametrize(
    "tail", [b"\xff", b"\xc3\xa9", b"\xff\xfe\xfd", b"\t", b"\x80" * 100, b"a" * 4000]
)
@pytest.mark.parametrize("length", [0, 4, 19, 20, 21, 52])
def test_an_api_key_with_odd_bytes_is_an_invalid_key(
    service: Service, length: int, tail: bytes
) -> None:
    presented = service.key.secret.encode()[:length] + tail + b"x"
    for target in (account_path("1").encode(), TRANSACTIONS.encode()):
        request = raw_request(target=target, headers=b"X-API-Key: " + presented + b"\r\n")
        status, headers, body = exchange(service, request)
        assert status == 401, body
        assert headers["www-authenticate"] == "ApiKey"
        assert json.loads(body)["detail"].startswith("Authentication failed: Invalid API key")


def test_a_key_sent_twice_opens_no_door_that_one_would_not(service: Service) -> None:
    good = b"X-API-Key: " + service.key.secret.encode() + b"\r\n"
    for headers in (b"X-API-Key: nope\r\n" + good, b"X-API-Key: cbk_nope\r\n" + good):
        status, _, _ = exchange(service, raw_request(target=TRANSACTIONS.encode(), headers=headers))
        assert status in (400, 401)


@pytest.mark.parametrize("key", [b"\xff", b"a\xff", b"\xed\xa0\x80", b"\xff" * 300])
@pytest.mark.parametrize("endpoint", ["charges", "batch", "credits", "accounts"])
def test_an_idempotency_key_that_is_not_utf_8_is_refused(
    service: Service, user: str, endpoint: str, key: bytes
) -> None:
    before = row_counts(service)
    request = raw_request(
        b"POST",
        PATHS[endpoint].encode(),
        b"X-API-Key: %b\r\nContent-Type: application/json\r\nIdempotency-Key: %b\r\n"
        % (service.key.secret.encode(), key),
        json.dumps(body_for(endpoint, user)).encode(),
    )
    status, _, body = exchange(service, request)
    assert 400 <= status < 500, body
    assert json.loads(body)["code"]
    assert row_counts(service) == before


# Name -> a request that is hardly HTTP. None of them reaches a handler.
HARDLY_HTTP = {
    "unknown method": raw_request(b"FOO"),
    "lower case method": raw_request(b"get"),
    "raw bytes in the path": raw_request(target=b"/v1/billing/accounts/oauth:google/\xff"),
    "raw bytes in the query": raw_request(target=TRANSACTIONS.encode() + b"?external_id=\xff"),
    "very long path": raw_request(target=b"/" + b"x" * 100_000),
    "very long query": raw_request(target=TRANSACTIONS.encode() + b"?x=" + b"x" * 100_000),
    "very long header": raw_request(headers=b"X-Long: " + b"x" * 100_000 + b"\r\n"),
    "very many headers": raw_request(headers=b"".join(b"X-%d: 1\r\n" % n for n in range(5000))),
    "control character in a header": raw_request(headers=b"Idempotency-Key: a\x01b\r\n"),
    "length that is no number": raw_request(b"POST", headers=b"Content-Length: many\r\n"),
    "negative length": raw_request(b"POST", headers=b"Content-Length: -1\r\n"),
    "two lengths": raw_request(b"POST", headers=b"Content-Length: 1\r\nContent-Length: 2\r\n"),
    "length and chunks": raw_request(
        b"POST", headers=b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"
    ),
    "unknown version": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "unknown expectation": raw_request(b"POST", CHARGES.encode(), b"Expect: the best\r\n", b"{}"),
    "not HTTP at all": b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
}


@pytest.mark.parametrize("what", HARDLY_HTTP)
def test_what_is_hardly_http_is_a_clear_4xx(service: Service, what: str) -> None:
    status, _, body = exchange(service, HARDLY_HTTP[what])
    assert 400 <= status < 500
    assert len(body) < 2000
    assert b"Traceback" not in body


@pytest.mark.parametrize("what", HARDLY_HTTP)
def test_what_is_hardly_http_is_answered_in_the_one_shape_of_errors(
    service: Service, what: str
) -> None:
    _, headers, body = exchange(service, HARDLY_HTTP[what])
    assert headers["content-type"] == "application/json"
    answer = json.loads(body)
    assert answer["detail"]
    assert answer["code"]
    assert answer["request_id"] == headers["x-request-id"] != ""


def test_an_api_key_is_never_echoed_nor_logged(service: Service) -> None:
    secret = service.key.secret.encode()
    for presented in (secret + b"\0", secret + b"\x01", secret + b"a" * 70_000):
        request = raw_request(headers=b"X-API-Key: " + presented + b"\r\n")
        status, _, body = exchange(service, request)
        assert status in (400, 401, 431)
        assert secret not in body
    assert service.key.secret not in service.process.output


@pytest.mark.parametrize("length", [256, 1000, 7900])
def test_a_long_identity_in_the_url_is_refused_by_its_length(
    client: httpx2.Client, length: int
) -> None:
    (entry,) = faults_of(client.get(account_path("x" * length)))
    assert (entry["type"], entry["loc"]) == ("string_too_long", ["path", "external_id"])
    params = {**identity(), "external_id": "x" * length}
    (entry,) = faults_of(client.get(TRANSACTIONS, params=params))
    assert (entry["type"], entry["loc"]) == ("string_too_long", ["query", "external_id"])


@pytest.mark.parametrize("encoded", ["%ff", "%ed%a0%80", "%zz", "%", "%c3"])
def test_a_url_that_does_not_decode_finds_nobody(service: Service, encoded: str) -> None:
    key = b"X-API-Key: " + service.key.secret.encode() + b"\r\n"
    target = f"{ACCOUNTS}/oauth:google/{encoded}".encode()
    status, _, body = exchange(service, raw_request(target=target, headers=key))
    assert status in (400, 404, 422), body
    target = f"{TRANSACTIONS}?oauth_provider=oauth:google&external_id={encoded}".encode()
    status, _, body = exchange(service, raw_request(target=target, headers=key))
    assert status in (200, 400, 422), body
    if status == 200:
        assert json.loads(body)["transactions"] == []


def test_sql_in_every_string_is_only_text(service: Service, client: httpx2.Client) -> None:
    text = "'; DROP TABLE billing_data.accounts; --"
    assert client.get(account_path(text)).status_code == 404
    params = {"oauth_provider": f"oauth:{text}", "external_id": text, "limit": "1"}
    assert client.get(TRANSACTIONS, params=params).json()["total_count"] == 0
    response = client.post(CHARGES, json=charge_body(unique(text), description=text))
    assert response.status_code == 404


def test_a_body_on_a_get_is_ignored(service: Service, client: httpx2.Client, user: str) -> None:
    response = client.request("GET", account_path(user), content=b"{", headers=JSON)
    assert response.status_code == 200
