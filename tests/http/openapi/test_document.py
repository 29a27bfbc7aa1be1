"""The API's description: valid, whole, and what the server serves."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from server.http.route import INTERNAL, OPEN_PAGE, PAGE
from server.http.route import SIGNED as SIGNED_GUARD
from server.routes import ROUTES
from tests.http.descriptions import (
    CODES,
    DOCUMENT,
    EVERY_OPERATION,
    validate,
)
from tests.http.openapi.helpers import (
    SIGNED,
)
from tests.stripe_double import WEBHOOK_PATH
from tests.support import (
    Service,
)

# The service's own codes, and the codes of billing.errors that no agent can get.
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
    "refund_refused",
    "reversal_exists",
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
    "busy",  # an agent gets `unavailable`
    "entry_not_found",
    "login_name_reserved",  # of logins in psql
    "payment_attached",
    "provider_config_changed",
    "refund_not_found",  # of the service itself
    "session_over",  # staff get `not_authenticated`
}


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


def test_a_batch_is_described_as_a_list_of_charges_and_captures() -> None:
    charges = DOCUMENT["components"]["schemas"]["ChargeBatchRequest"]["properties"]["charges"]
    kinds = ("ChargeRequest", "CaptureItem")
    assert charges["items"]["anyOf"] == [{"$ref": f"#/components/schemas/{kind}"} for kind in kinds]
    assert charges["maxItems"] == 1000


def test_the_error_codes_are_those_of_the_database_and_of_the_service(service: Service) -> None:
    rows = service.database.execute("SELECT slug, http_status, message FROM billing.errors")
    catalogue = {slug: (status, message) for slug, status, message in rows}
    assert CODES.keys() - catalogue.keys() == OWN_CODES
    assert catalogue.keys() - CODES.keys() == NOT_FOR_AGENTS
    # The guard of the staff's calls words this error without the address.
    for slug in (CODES.keys() & catalogue.keys()) - {"admin_deactivated"}:
        assert (CODES[slug]["status"], CODES[slug]["detail"]) == catalogue[slug]


def test_every_error_of_an_operation_is_in_the_table_of_codes() -> None:
    for operation in EVERY_OPERATION.values():
        for status, response in operation["responses"].items():
            content = response.get("content", {}).get("application/json", {})
            for code, example in content.get("examples", {}).items():
                assert str(CODES[code]["status"]) == status
                assert example["value"]["code"] == code
