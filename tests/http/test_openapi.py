"""The API's description against the running server: what it promises is what is answered, and the
page that shows it works."""

from __future__ import annotations

import http.client
import json
import shlex
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import psycopg
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from server.http.route import INTERNAL, OPEN_PAGE, PAGE
from server.http.route import SIGNED as SIGNED_GUARD
from server.limits import INT64_MAX
from server.routes import ROUTES
from tests.http.descriptions import (
    CODES,
    DOCUMENT,
    EVERY_OPERATION,
    Json,
    validate,
    validate_answer,
)
from tests.payments import (
    forget_faults,
    paying_service,
    purchase_body,
    set_provider,
)
from tests.stripe_double import WEBHOOK_PATH, Drop, StripeDouble
from tests.support import (
    Database,
    Key,
    Service,
    charge_body,
    credit_body,
    identity,
    running_service,
    unique,
)

# What staff do is sent to a server in test_admin_api.py.
OPERATIONS = {
    name: operation
    for name, operation in EVERY_OPERATION.items()
    if not operation["tags"][0].startswith("Staff: ")
}


AGENTS = [
    name
    for name, operation in OPERATIONS.items()
    if any("ApiKeyAuth" in scheme for scheme in operation["security"])
]


SIGNED = "receiveStripeEvent"  # not by an agent's key but by Stripe


PURCHASES = "/v1/billing/purchases"


# What the service says of itself, and what of billing.errors no agent can be told.
OWN_CODES = {
    "api_key_format",
    "api_key_unknown",
    "body_too_large",
    "console_closed",
    "cross_origin",
    "internal_error",
    "invalid_redirect",
    "malformed_request",
    "method_not_allowed",
    "not_authenticated",
    "not_authorized",
    "not_found",
    "payment_provider_unavailable",
    "sign_in_failed",
    "sign_in_not_configured",
    "sign_in_unavailable",
    "too_many_attempts",
    "unavailable",
    "unsupported_content_encoding",
    "user_not_found",
    "validation_error",
    "webhook_failed",
    "webhook_metadata_missing",
    "webhook_signature_invalid",
}


NOT_FOR_AGENTS = {
    "actor_not_allowed",
    "actor_required",
    "admin_domain_refused",  # a reason of sign_in_failed
    "admin_not_invited",  # likewise
    "busy",  # an agent is told `unavailable`
    "login_name_reserved",  # of logins in psql
    "payment_attached",
    "provider_config_changed",
    "session_over",  # staff are told `not_authenticated`
}


STRIPE = StripeDouble()


@pytest.fixture(scope="module")
def double() -> Iterator[StripeDouble]:
    """The Stripe that the examples are bought from."""
    with STRIPE:
        yield STRIPE


@pytest.fixture(scope="module")
def service(module_database: Database, double: StripeDouble) -> Iterator[Service]:
    """A server whose payments go through it."""
    with paying_service(module_database, double) as service:
        yield service


def send(service: Service, name: str, key: Key | str | None = None, **changes: Any) -> Any:
    """Sends an operation's example request, with another `key`, or with a `body`, `path`, `query`
    or `headers` in the example's place."""
    operation = OPERATIONS[name]
    headers: dict[str, str] = {}
    query: Json = {}
    path = operation["path"]
    for parameter in operation.get("parameters", ()):
        if "example" not in parameter:
            continue
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", parameter["example"])
        else:
            place = query if parameter["in"] == "query" else headers
            place[parameter["name"]] = parameter["example"]
    headers = changes.get("headers", headers)
    if name in AGENTS:
        secret = key if isinstance(key, str) else (key or service.key).secret
        headers = {"X-API-Key": secret, **headers}
    body = None
    if "requestBody" in operation:
        body = operation["requestBody"]["content"]["application/json"]["example"]
    if "body" in changes:
        body = changes["body"]
    content = None if body is None else json.dumps(body).encode()
    if content is not None:
        headers = {"Content-Type": "application/json", **headers}
    if name == SIGNED:
        assert content is not None
        headers = {"Stripe-Signature": STRIPE.sign(content), **headers}
    return httpx2.request(
        operation["method"],
        service.base_url + (changes.get("path") or known_payment(service, path)),
        params=changes.get("query", query) or None,
        headers=headers,
        content=content,
        timeout=30,
        verify=False,
    )


def payment_example() -> str:
    """The payment that the examples read."""
    parameters = OPERATIONS["getPurchase"]["parameters"]
    (example,) = [one["example"] for one in parameters if one["name"] == "payment_id"]
    return str(example)


def known_payment(service: Service, text: str) -> str:
    """`text` with the payment that the example purchase really makes in place of the examples',
    which Stripe never made."""
    if payment_example() not in text:
        return text
    bought = send(service, "createPurchase")
    payment_id = bought.json()["payment_id"] if bought.is_success else payment_example()
    return text.replace(payment_example(), payment_id)


def make_known(service: Service, external_id: str) -> str:
    """Makes the user's account the way agents do: by a check."""
    with service.client() as client:
        answer = client.post("/v1/billing/credits/check", json=identity(external_id))
    assert answer.status_code == 200
    return external_id


def example_account(service: Service) -> None:
    """The account that the examples speak of; a check first, as the introduction says."""
    assert send(service, "checkCredit").status_code == 200


# The document


def test_the_document_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_the_server_serves_the_document(service: Service) -> None:
    answer = httpx2.get(f"{service.base_url}/openapi.json", verify=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == DOCUMENT


def test_every_route_but_the_internal_ones_is_described_and_nothing_else() -> None:
    silent = (INTERNAL, PAGE, OPEN_PAGE)
    routed = {(route.method, route.path) for route in ROUTES if route.guard not in silent}
    described = [(operation["method"], operation["path"]) for operation in EVERY_OPERATION.values()]
    assert ("GET", "/metrics") not in described
    assert sorted(described) == sorted(routed)


def test_every_permission_is_the_route_tables() -> None:
    for route in ROUTES:
        if route.guard.startswith("billing:"):
            operation = DOCUMENT["paths"][route.path][route.method.lower()]
            assert operation["security"] == [{"ApiKeyAuth": [route.guard]}]
            assert f"`{route.guard}`" in operation["description"]


def test_what_stripe_signs_is_described_as_signed_and_needs_no_key() -> None:
    signed = [route for route in ROUTES if route.guard == SIGNED_GUARD]
    assert [(route.method, route.path) for route in signed] == [("POST", WEBHOOK_PATH)]
    operation = DOCUMENT["paths"][WEBHOOK_PATH]["post"]
    assert operation["operationId"] == SIGNED
    assert operation["security"] == [{"StripeSignature": []}]
    scheme = DOCUMENT["components"]["securitySchemes"]["StripeSignature"]
    assert (scheme["in"], scheme["name"]) == ("header", "Stripe-Signature")
    assert "429" not in operation["responses"]


def test_every_field_parameter_and_operation_says_what_it_means() -> None:
    silent = []

    def look(where: str, node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                look(where, item)
        elif isinstance(node, dict):
            for name, field in node.get("properties", {}).items():
                if not field.get("description"):
                    silent.append(f"{where}.{name}")
            for item in node.values():
                look(where, item)

    for name, schema in DOCUMENT["components"]["schemas"].items():
        if not schema.get("description"):
            silent.append(name)
        look(name, schema)
    for name, operation in EVERY_OPERATION.items():
        for part in (operation, *operation.get("parameters", ())):
            if not part.get("description"):
                silent.append(name)
    assert silent == []


@pytest.mark.parametrize("name", [name for name in EVERY_OPERATION if name != "getOpenapi"])
def test_every_json_message_has_examples_that_its_schema_allows(name: str) -> None:
    operation = EVERY_OPERATION[name]
    messages = [operation.get("requestBody", {}), *operation["responses"].values()]
    for message in messages:
        for content_type, content in message.get("content", {}).items():
            values = [example["value"] for example in content.get("examples", {}).values()]
            values += [content["example"]] if "example" in content else []
            assert values or content_type != "application/json"
            for value in values:
                validate(value, content["schema"])
    for parameter in operation.get("parameters", ()):
        if "example" in parameter:
            validate(parameter["example"], parameter["schema"])


def test_a_batch_is_described_as_a_list_of_charges() -> None:
    charges = DOCUMENT["components"]["schemas"]["ChargeBatchRequest"]["properties"]["charges"]
    assert charges["items"] == {"$ref": "#/components/schemas/ChargeRequest"}
    assert charges["maxItems"] == 1000


def test_the_error_codes_are_those_of_the_database_and_of_the_service(service: Service) -> None:
    rows = service.database.execute("SELECT slug, http_status, message FROM billing.errors")
    catalogue = {slug: (status, message) for slug, status, message in rows}
    assert CODES.keys() - catalogue.keys() == OWN_CODES
    assert catalogue.keys() - CODES.keys() == NOT_FOR_AGENTS
    # The guard of the staff's calls words it without the address.
    for slug in (CODES.keys() & catalogue.keys()) - {"admin_deactivated"}:
        assert (CODES[slug]["status"], CODES[slug]["detail"]) == catalogue[slug]


def test_every_error_of_an_operation_is_in_the_table_of_codes() -> None:
    for operation in EVERY_OPERATION.values():
        for status, response in operation["responses"].items():
            content = response.get("content", {}).get("application/json", {})
            for code, example in content.get("examples", {}).items():
                assert str(CODES[code]["status"]) == status
                assert example["value"]["code"] == code


# What the server answers


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_example_request_is_accepted_and_answered_as_described(
    service: Service, name: str
) -> None:
    example_account(service)
    answer = send(service, name)
    assert str(answer.status_code) == next(iter(OPERATIONS[name]["responses"]))
    validate_answer(name, answer)


def test_the_example_batch_ends_as_its_example_shows(service: Service) -> None:
    example_account(service)
    answer = send(service, "createCharges").json()
    content = OPERATIONS["createCharges"]["responses"]["200"]["content"]["application/json"]
    shown = [result["status"] for result in content["example"]["results"]]
    assert [result["status"] for result in answer["results"]] == shown == [201, 404]


@pytest.mark.parametrize(
    "name", ["createCharge", "createCredit", "createAccount", "createPurchase"]
)
def test_a_repeated_example_is_answered_with_its_first_answer(service: Service, name: str) -> None:
    example_account(service)
    first, again = send(service, name), send(service, name)
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    validate_answer(name, again)


def test_a_batch_with_every_kind_of_result_is_as_described(service: Service) -> None:
    user = make_known(service, unique())
    charges = [charge_body(user, idempotency_key=f"k{place}") for place in range(3)]
    body = {"charges": [*charges, charges[0], charge_body(user), {"amount_minor": "x"}]}
    answer = send(service, "createCharges", body=body, headers={})
    statuses = [result["status"] for result in answer.json()["results"]]
    assert statuses == [201, 201, 201, 409, 402, 422]
    validate_answer("createCharges", answer)
    with_header = {"Idempotency-Key": unique("batch")}
    user = make_known(service, unique())
    for replayed in (False, True):
        answer = send(
            service, "createCharges", body={"charges": [charge_body(user)]}, headers=with_header
        )
        assert answer.json()["results"][0]["status"] == 201
        assert ("idempotent-replayed" in answer.headers) is replayed
        validate_answer("createCharges", answer)


def test_a_denied_check_is_as_described(service: Service) -> None:
    user = make_known(service, unique())
    with service.client() as client:
        for _ in range(3):
            client.post("/v1/billing/charges", json=charge_body(user))
    answer = send(service, "checkCredit", body=identity(user))
    assert answer.json()["purchase_required"] is True
    validate_answer("checkCredit", answer)


# Errors: how to be told each code


def _wrong_shape(service: Service, name: str) -> httpx2.Response:
    if name == "getAccount":
        answer = send(service, name, path="/v1/billing/accounts/google/user-1042")
    elif name.startswith("getPurchase"):
        answer = send(service, name, path=_payment_path(name, "pi_%00"))
    else:
        answer = send(service, name, body={}, query={})
    assert isinstance(answer, httpx2.Response)
    return answer


def _payment_path(name: str, payment_id: str) -> str | None:
    """The operation's path with this payment in it; None where none belongs."""
    path: str = OPERATIONS[name]["path"]
    return path.replace("{payment_id}", payment_id) if "{payment_id}" in path else None


def _expired(service: Service, name: str) -> Any:
    key = service.database.create_key()
    service.database.execute(
        "UPDATE billing_data.api_keys SET expires_at = now() - interval '1 day' WHERE id = %s",
        key.id,
    )
    return send(service, name, key=key)


def _other_permission(service: Service, name: str) -> Any:
    has = OPERATIONS[name]["security"][0]["ApiKeyAuth"]
    other = {"billing:read", "billing:write"} - set(has)
    return send(service, name, key=service.database.create_key(sorted(other)))


def _empty_account(service: Service, name: str) -> Any:
    body = _body(name, make_known(service, unique()))
    for _ in range(3):
        assert send(service, name, body=body, headers={}).is_success
    return send(service, name, body=body, headers={})


def _stopped(status: str) -> Callable[[Service, str], Any]:
    def provoke(service: Service, name: str) -> Any:
        user = make_known(service, unique())
        service.database.execute(
            "SELECT billing.set_account_status(p_oauth_provider => 'oauth:google',"
            " p_external_id => %s, p_status => %s, p_reason => 'a test')",
            user,
            status,
            user="t_dba",
        )
        return send(service, name, body=_body(name, user), headers={})

    return provoke


def _body(name: str, user: str, **fields: Any) -> Json:
    if name == "createCharges":
        return {"charges": [charge_body(user, **fields)]}
    if name == "createPurchase":
        return purchase_body(user, **fields)
    make = {"createCharge": charge_body, "createCredit": credit_body}.get(name)
    return make(user, **fields) if make else {**identity(user), **fields}


def _unknown_user(service: Service, name: str) -> Any:
    if name == "getAccount":
        return send(service, name, path=f"/v1/billing/accounts/oauth:google/{unique()}")
    return send(service, name, body=_body(name, unique()), headers={})


def _used_key(service: Service, name: str) -> Any:
    body = _body(name, make_known(service, unique()), idempotency_key="once")
    assert send(service, name, body=body, headers={}).is_success
    return send(service, name, body=body, headers={})


def _reused_header(service: Service, name: str) -> Any:
    user, headers = make_known(service, unique()), {"Idempotency-Key": unique("once")}
    assert send(service, name, body=_body(name, user), headers=headers).is_success
    return send(service, name, body=_body(name, user, user_role="other"), headers=headers)


def _other_currency(service: Service, name: str) -> Any:
    body = _body(name, make_known(service, unique()), currency="EUR")
    return send(service, name, body=body, headers={})


def _too_many_credits(service: Service, name: str) -> Any:
    user = make_known(service, unique())
    assert send(service, name, body=_body(name, user, amount=20), headers={}).is_success
    return send(service, name, body=_body(name, user, amount=INT64_MAX), headers={})


def _paid_before(service: Service, name: str) -> Any:
    user, payment_id = make_known(service, unique()), unique("pi")
    service.database.execute(
        "SELECT billing.resolve_payment(p_payment_id => %s, p_how => 'other', p_reason => 'x')",
        payment_id,
        user="t_dba",
    )
    body = _body(name, user, external_transaction_id=payment_id)
    return send(service, name, body=body, headers={})


def _sold_to_another(service: Service, name: str) -> Any:
    body = _body(
        name,
        make_known(service, unique()),
        external_transaction_id=known_payment(service, payment_example()),
    )
    return send(service, name, body=body, headers={})


def _unknown_payment(service: Service, name: str) -> Any:
    return send(service, name, path=_payment_path(name, "pi_unknown"))


def _no_provider(service: Service, name: str) -> Any:
    set_provider(service.database, {}, is_active=False)
    try:
        return send(service, name)
    finally:
        set_provider(service.database, {})


def _stripe_is_down(service: Service, name: str) -> Any:
    path = _payment_path(name, known_payment(service, payment_example()))
    for method in ("GET", "POST"):
        STRIPE.on(method, "/v1/payment_intents", Drop(), times=9)
    try:
        return send(service, name, path=path, body=_body(name, unique()), headers={})
    finally:
        forget_faults(STRIPE)


def _event(**metadata: str) -> Json:
    """A payment that succeeded, for somebody unknown."""
    return STRIPE.event(
        "payment_intent.succeeded",
        {
            "id": unique("pi"),
            "object": "payment_intent",
            "amount": 500,
            "amount_received": 500,
            "currency": "usd",
            "status": "succeeded",
            "metadata": metadata,
        },
    )


def _nobodys_payment(service: Service, name: str) -> Any:
    return send(service, name, body=_event(account_id=str(uuid4()), **identity()))


def _nameless_payment(service: Service, name: str) -> Any:
    return send(service, name, body=_event(account_id=str(uuid4())))


PROVOKE: dict[str, Callable[[Service, str], Any]] = {
    "account_closed": _stopped("closed"),
    "account_not_found": _unknown_user,
    "account_suspended": _stopped("suspended"),
    "api_key_expired": _expired,
    "api_key_format": lambda service, name: send(service, name, key="a-password"),
    "api_key_invalid": lambda service, name: send(service, name, key=f"cbk_test_{'x' * 43}"),
    "balance_overflow": _too_many_credits,
    "body_too_large": lambda service, name: send(service, name, body={"filler": "x" * 1_200_000}),
    "charge_already_exists": _used_key,
    "charge_currency_mismatch": _other_currency,
    "credit_already_exists": _used_key,
    "credit_currency_mismatch": _other_currency,
    "idempotency_key_reused": _reused_header,
    "insufficient_credits": _empty_account,
    "not_found": lambda service, name: send(service, name, path="/static/nothing.css"),
    "payment_already_credited": _paid_before,
    "payment_not_found": _unknown_payment,
    "payment_of_another_account": _sold_to_another,
    "payment_provider_not_configured": _no_provider,
    "payment_provider_unavailable": _stripe_is_down,
    "permission_missing": _other_permission,
    "unsupported_content_encoding": lambda service, name: send(
        service, name, headers={"Content-Encoding": "gzip"}
    ),
    "validation_error": _wrong_shape,
    "webhook_failed": _nobodys_payment,
    "webhook_metadata_missing": _nameless_payment,
    "webhook_signature_invalid": lambda service, name: send(
        service, name, headers={"Stripe-Signature": "t=1,v1=0"}
    ),
}


WEBHOOKS = {code for code in PROVOKE if code.startswith("webhook_")}


# 500 is a defect wherever it appears; 503 has a test of its own below.
NOT_HERE = {"internal_error", "unavailable"}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (name, code)
        for name, operation in OPERATIONS.items()
        for response in operation["responses"].values()
        for code in response.get("content", {}).get("application/json", {}).get("examples", {})
        if code not in NOT_HERE
    ],
)
def test_every_error_that_is_described_is_answered_as_described(
    service: Service, name: str, code: str
) -> None:
    answer = PROVOKE[code](service, name)
    described = CODES[code]
    assert (answer.status_code, answer.json()["code"]) == (described["status"], code)
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    validate_answer(name, answer)
    if code != "validation_error" and "{" not in described["detail"]:
        assert answer.json()["detail"] == described["detail"]


@pytest.mark.parametrize(
    "code",
    sorted(
        PROVOKE.keys() - {"not_found", "permission_missing", "api_key_expired"} - WEBHOOKS,
    ),
)
@pytest.mark.parametrize(
    "name",
    [
        *("checkCredit", "createCharge", "createCredit", "createAccount", "getAccount"),
        *("createPurchase", "getPurchase"),
    ],
)
def test_no_operation_answers_an_error_that_it_does_not_describe(
    service: Service, name: str, code: str
) -> None:
    example_account(service)
    answer = PROVOKE[code](service, name)
    validate_answer(name, answer)
    if not answer.is_success:
        described = OPERATIONS[name]["responses"][str(answer.status_code)]
        assert answer.json()["code"] in described["content"]["application/json"]["examples"]


def test_a_402_names_the_shop_when_there_is_one(database: Database) -> None:
    with running_service(database, PURCHASE_URL="https://example.com/buy") as service:
        answer = _empty_account(service, "createCharge")
    assert answer.json()["purchase_url"] == "https://example.com/buy"
    validate_answer("createCharge", answer)


def test_without_a_database_every_operation_answers_503_as_described(database: Database) -> None:
    with running_service(database) as service:
        with psycopg.connect(database.cluster.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false')
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [database.name],
            )
        for name in [*AGENTS, "getHealth"]:
            answer = send(service, name)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            validate_answer(name, answer)
            if name != "getHealth":
                assert answer.json()["code"] == "unavailable"
        # Stripe takes any 5xx for "send it again"; the contract names this one.
        answer = send(service, SIGNED)
        assert (answer.status_code, answer.json()["code"]) == (500, "webhook_failed")
        validate_answer(SIGNED, answer)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [("GET", "/v2", "not_found"), ("DELETE", "/health", "method_not_allowed")],
)
def test_what_is_not_served_is_answered_with_the_described_error(
    service: Service, method: str, path: str, code: str
) -> None:
    answer = httpx2.request(method, service.base_url + path, verify=False)
    assert (answer.status_code, answer.json()["code"]) == (CODES[code]["status"], code)
    assert answer.json()["detail"] == CODES[code]["detail"]
    validate(answer.json(), {"$ref": "#/components/schemas/Error"})


# The page


class Page(HTMLParser):
    """What the tests want to know of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.sheets: set[str] = set()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.blocks: list[str] = []
        self._in_block = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes |= values.keys()
        self.ids += [values["id"]] if "id" in values else []
        if tag == "a":
            self.links.add(values["href"])
        if tag == "link":
            self.sheets.add(values["href"])
        if tag == "pre":
            self.blocks.append("")
            self._in_block = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._in_block = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_block:
            self.blocks[-1] += data


@pytest.fixture(scope="module")
def page(service: Service) -> Page:
    """The page at /docs."""
    return Page(httpx2.get(f"{service.base_url}/docs", verify=False).text)


def test_the_page_forbids_scripts_and_foreign_content(service: Service) -> None:
    answer = httpx2.get(f"{service.base_url}/docs", verify=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "style-src 'self'", "frame-ancestors 'none'"} <= set(policy)
    assert "unsafe-inline" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_obeys_its_own_policy(page: Page) -> None:
    assert not {"script", "style", "img", "iframe", "form"} & set(page.tags)
    assert "style" not in page.attributes
    assert not [name for name in page.attributes if name.startswith("on")]


def test_the_page_shows_every_path_and_every_error_code(page: Page) -> None:
    for path in DOCUMENT["paths"]:
        assert path in page.text
    for code in CODES:
        assert f"error-{code}" in page.ids
        assert code in page.text
    for name in EVERY_OPERATION:
        assert name in page.ids


def test_the_page_is_a_well_ordered_document(page: Page) -> None:
    assert page.tags.count("h1") == page.tags.count("main") == 1
    levels = [int(tag[1]) for tag in page.tags if tag in ("h1", "h2", "h3", "h4", "h5")]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.ids) == len(set(page.ids))


def test_every_link_of_the_page_leads_somewhere(service: Service, page: Page) -> None:
    anchors = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert len(anchors) > len(OPERATIONS)
    assert anchors <= set(page.ids)
    others = {link for link in page.links if not link.startswith("#")}
    assert others == {"/openapi.json"}
    for link in others | page.sheets:
        assert httpx2.get(service.base_url + link, verify=False).status_code == 200


def test_every_curl_line_of_the_page_works_as_it_stands(service: Service, page: Page) -> None:
    lines = [
        block.replace("$BILLING_URL", service.base_url).replace("$BILLING_KEY", service.key.secret)
        for block in page.blocks
        if block.startswith("curl ") and "/admin/" not in block
    ]
    # Nobody but Stripe can make a webhook's signature.
    assert len(lines) == len(OPERATIONS) - 1
    assert not [line for line in lines if WEBHOOK_PATH in line]
    assert len([line for line in lines if PURCHASES in line]) == 3
    example_account(service)
    for line in (known_payment(service, line) for line in lines):
        words = shlex.split(line.replace("\\\n", " "))
        assert words[:2] == ["curl", "-sS"]
        url, options = words[2], words[3:]
        headers, data = {}, None
        for option, value in zip(options[::2], options[1::2], strict=True):
            assert option in ("-H", "-d")
            if option == "-H":
                name, _, content = value.partition(": ")
                headers[name] = content
            else:
                data = value
        answer = httpx2.request(
            "POST" if data else "GET", url, headers=headers, content=data, verify=False
        )
        assert answer.status_code in (200, 201), line


# Static files


@pytest.mark.parametrize("name", ["base.css", "docs.css"])
def test_a_style_sheet_has_its_type_and_may_be_kept(
    service: Service, page: Page, name: str
) -> None:
    answer = httpx2.get(f"{service.base_url}/static/{name}", verify=False)
    assert f"/static/{name}" in page.sheets
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/css"
    assert answer.headers["cache-control"] == "public, max-age=3600"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "{" in answer.text
    kept = {"If-None-Match": answer.headers["etag"]}
    assert (
        httpx2.get(f"{service.base_url}/static/{name}", headers=kept, verify=False).status_code
        == 304
    )


@pytest.mark.parametrize(
    "path",
    [
        "/static/nothing.css",
        "/static/.",
        "/static/..",
        "/static/../setup.cfg",
        "/static/%2e%2e/setup.cfg",
        "/static/%2e%2e%2fsetup.cfg",
        "/static/..%2fsetup.cfg",
        "/static/..%5csetup.cfg",
        "/static/%252e%252e%252fsetup.cfg",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/base.css%00",
        "/static/docs.css/../../setup.cfg",
    ],
)
def test_nothing_but_the_style_sheets_can_be_had_by_way_of_static(
    service: Service, path: str
) -> None:
    # Not by httpx2, which would tidy the path up before it is sent.
    connection = http.client.HTTPConnection(urlsplit(service.base_url).netloc, timeout=30)
    connection.putrequest("GET", path, skip_host=False)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 404
    assert b'"code":"not_found"' in answer.read()
    connection.close()
