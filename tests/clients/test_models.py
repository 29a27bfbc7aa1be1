"""What the client package reads and sends, compared with the server's own description of its API:
no field may be missing, be another kind of thing, or be one that the server does not know."""

from __future__ import annotations

import importlib.util
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import httpx2
import msgspec
import pytest
from ciris_billing_client import (
    ApiError,
    CapReached,
    CaptureExceedsHold,
    ChargeExists,
    HoldExpired,
    HoldSettled,
    InsufficientCredits,
    User,
    operations,
)
from ciris_billing_client import models as m
from ciris_billing_client.errors import Field
from ciris_billing_client.exchange import Operation

from tests.support import Service

Schema = dict[str, Any]
ADA = User("oauth:google", "ada")
EPOCH = datetime(2026, 11, 1, tzinfo=UTC)
SOME_ID = "019a9c2e-7f06-7a52-9c1e-0b8d4f6a2e93"

# The client's type -> the description's.
ANSWERS = {
    "CreditCheck": "CreditCheck",
    "Charge": "Charge",
    "Cap": "CapReached.cap",
    "NextExpiry": "NextExpiry",
    "Hold": "Hold",
    "HoldPage": "HoldPage",
    "Reversal": "Reversal",
    "Credit": "Credit",
    "Account": "AccountNow",
    "Payment": "Payment",
    "Balance": "Balance",
    "StatementRow": "AgentRow",
    "Statement": "AgentStatement",
    "Transaction": "Transaction",
    "TransactionPage": "TransactionPage",
    "TopUp": "TopUp",
}
# Fields that the body does not have: Written.replayed is a header.
NOT_IN_A_BODY = {"replayed"}
# A hold's id is null where it is only tried, and that is another type here.
NEVER = {"hold_id": {"null"}}


@pytest.fixture(scope="module")
def description(service: Service) -> Schema:
    """/openapi.json of the running server."""
    document: Schema = httpx2.get(f"{service.base_url}/openapi.json").json()
    return document


@pytest.fixture(scope="module")
def strict_models(tree: Path) -> Iterator[ModuleType]:
    """The client's models as a type checker sees them, with the words that a field may be."""
    path = tree / "clients/python/ciris_billing_client/models.py"
    spec = importlib.util.spec_from_file_location("strict_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with patch.object(typing, "TYPE_CHECKING", True), patch.dict(sys.modules, {spec.name: module}):
        spec.loader.exec_module(module)
        yield module


def kinds_of(schema: Schema, named: Mapping[str, Schema]) -> set[str]:
    """What a schema allows, without its bounds: kinds, formats, words, and an object's fields."""
    if "$ref" in schema:
        return kinds_of(named[schema["$ref"].rpartition("/")[2]], named)
    if "anyOf" in schema:
        return set[str]().union(*(kinds_of(one, named) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        words = schema.get("enum", [schema.get("const")])
        simple = {None: "null", False: "boolean ", True: "boolean "}
        return {simple.get(word) or repr(word) for word in words}
    if "properties" in schema:
        none = {"null"} if "null" in schema["type"] else set()
        return {str(sorted(fields_and_kinds(schema, named).items())), *none}
    if "items" in schema:
        return {f"list of {sorted(kinds_of(schema['items'], named))}"}
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    form = schema.get("format") if schema.get("format") in ("uuid", "date-time") else ""
    return {kind if kind == "null" else f"{kind} {form}" for kind in kinds}


def fields_and_kinds(schema: Schema, named: Mapping[str, Schema]) -> dict[str, list[str]]:
    """An object's fields. One that may be absent may be null here: the client has None for it."""
    required = schema.get("required", [])
    return {
        name: sorted(
            (kinds_of(one, named) - NEVER.get(name, set()))
            | (set() if name in required else {"null"})
        )
        for name, one in schema["properties"].items()
        if name not in NOT_IN_A_BODY
    }


@pytest.mark.parametrize(("ours", "theirs"), ANSWERS.items())
def test_an_answers_fields_are_those_of_the_server(
    description: Schema, strict_models: ModuleType, ours: str, theirs: str
) -> None:
    model = getattr(strict_models, ours)
    _, components = msgspec.json.schema_components([model], ref_template="#/{name}")
    named = description["components"]["schemas"]
    schema_name, _, field = theirs.partition(".")
    schema = named[schema_name]
    if field:
        schema = named[schema["properties"][field]["$ref"].rpartition("/")[2]]
    expected = fields_and_kinds(schema, named)
    found = fields_and_kinds(components[ours], components)
    assert found == expected


def test_every_answer_of_the_package_is_compared(strict_models: ModuleType) -> None:
    kinds = {
        name
        for name, kind in vars(strict_models).items()
        if isinstance(kind, type) and issubclass(kind, strict_models.Answer)
    }
    within = {"Origin", "TriedHold", "TopUpConsent", "TopUpAttempt"}  # of answers that are compared
    assert kinds - {"Answer", "Written"} - within == set(ANSWERS)


PARTS = {"AgentRow", "Transaction", "CapReached.cap", "NextExpiry"}  # of other answers


def test_every_answer_of_a_call_is_compared(description: Schema) -> None:
    answers = set()
    for operation in every_call():
        responses = described(description, operation)[1]["responses"]
        success = min(status for status in responses if status.startswith("2"))
        schema = responses[success]["content"]["application/json"]["schema"]
        answers.add(schema["$ref"].rpartition("/")[2])
    # A new account has fewer fields than one that is read; a batch is compared below.
    assert answers == set(ANSWERS.values()) - PARTS | {
        "Account",
        "ChargeBatch",
    }


def test_a_batchs_fields_are_those_of_the_server(description: Schema) -> None:
    named = description["components"]["schemas"]
    facts = set(operations.Batch.__struct_fields__) - NOT_IN_A_BODY
    assert facts == set(named["ChargeBatch"]["properties"])
    result = {
        "body" if name == "outcome" else name for name in operations.BatchResult.__struct_fields__
    }
    assert result == set(named["ChargeResult"]["properties"])


@pytest.mark.parametrize(
    ("error", "schema"),
    [
        (ApiError, "Error"),
        (InsufficientCredits, "InsufficientCredits"),
        (CapReached, "CapReached"),
        (ChargeExists, "ChargeExists"),
        (HoldSettled, "HoldSettled"),
        (HoldExpired, "HoldTooSmall"),
        (CaptureExceedsHold, "HoldTooSmall"),
    ],
)
def test_an_errors_fields_are_those_of_the_server(
    description: Schema, error: type[ApiError], schema: str
) -> None:
    fields = {
        name
        for kind in error.__mro__
        for name, value in vars(kind).items()
        if isinstance(value, Field)
    }
    theirs = set(description["components"]["schemas"][schema]["properties"])
    assert fields | {"code"} == theirs


def every_call() -> list[Operation[Any]]:
    """Each operation with everything that it can send."""
    profile = m.Profile(
        customer_email="ada@example.com",
        user_role="user",
        agent_id="scout",
        marketing_opt_in=True,
        marketing_opt_in_source="settings",
        wa_id="wa",
        tenant_id="tenant",
    )
    metadata = m.Metadata(message_id="1", agent_id="2", channel_id="3", request_id="4")
    context = m.Context(agent_id="2", channel_id="3", request_id="4")
    hold = m.NewHold(amount=1, expires_in_seconds=9, description="x")
    new = operations.NewCharge(user=ADA, metadata=metadata, profile=profile, idempotency_key="k")
    return [
        operations.check(ADA, hold=hold, profile=profile, context=context),
        operations.charge(ADA, metadata=metadata, profile=profile),
        operations.batch([new, operations.Capture(hold_id=SOME_ID, amount=1)]),
        operations.reverse(SOME_ID, "why", amount=1),
        operations.hold(ADA, 1, expires_in_seconds=9, currency="USD", metadata=metadata),
        operations.try_hold(ADA, 1),
        operations.capture(SOME_ID, 1),
        operations.release(SOME_ID, "why"),
        operations.extend(SOME_ID, 9),
        operations.get_hold(SOME_ID),
        operations.list_holds(ADA, status="open", after=SOME_ID),
        operations.add_credits(
            ADA,
            1,
            description="x",
            expires_at=EPOCH,
            effective_at=EPOCH,
            priority=1,
            source="grant",
            profile=profile,
            external_transaction_id="pi_1",
        ),
        operations.create_account(ADA, profile=profile),
        operations.account(ADA),
        operations.balance(ADA),
        operations.statement(ADA, start=EPOCH, end=EPOCH),
        operations.history_page(ADA, cursor="c"),
        operations.purchase(ADA, "ada@example.com", save_card=True, profile=profile),
        operations.payment("pi_1"),
        operations.set_top_up(
            ADA,
            threshold=2,
            amount_minor=500,
            currency="USD",
            monthly_cap_minor=2000,
            consent_version="1",
            consent_text="x",
            payment_id="pi_1",
        ),
        operations.get_top_up(ADA),
        operations.end_top_up(ADA),
    ]


# What the package does not send, and why.
NOT_SENT = {
    # Accepted and ignored, or kept for later.
    "query wa_id",
    "query tenant_id",
    "body initial_balance_minor",
    "body return_url",
    # Pages are followed by cursors.
    "query offset",
    # The header does the same, and a repeat gets the first answer.
    "body idempotency_key",
    # What staff decide.
    "body plan_name",
}

# Operations that the package does not call, and why.
NOT_CALLED = {
    # `payment` reads the same from the payment's other address; the answers are byte for byte one.
    ("GET", "/v1/billing/purchases/{payment_id}/status"),
}
NOT_SENT_TO = {"/v1/billing/holds": {"body wa_id", "body tenant_id"}}  # ignored there


def test_what_is_sent_is_what_the_server_takes(description: Schema) -> None:
    named = description["components"]["schemas"]
    taken: dict[tuple[str, str], set[str]] = {}
    sent: dict[tuple[str, str], set[str]] = {}
    for operation in every_call():
        path, offered = described(description, operation)
        call = (operation.method, path)
        content = offered.get("requestBody", {}).get("content", {}).get("application/json", {})
        taken[call] = {f"body {name}" for name in fields_of(content.get("schema", {}), named)} | {
            f"query {parameter['name']}"
            for parameter in offered.get("parameters", [])
            if parameter["in"] == "query"
        }
        body = msgspec.json.decode(msgspec.json.encode(operation.body))
        sent.setdefault(call, set()).update(f"body {name}" for name in names_of(body))
        sent[call].update(f"query {name}" for name in operation.query)
    assert {call: sent[call] - taken[call] for call in sent if sent[call] - taken[call]} == {}
    unsent = {call: taken[call] - sent[call] - NOT_SENT_TO.get(call[1], set()) for call in sent}
    assert set[str]().union(*unsent.values()) == NOT_SENT
    offered_at_all = {
        (method.upper(), path)
        for path, methods in description["paths"].items()
        for method, one in methods.items()
        if any("ApiKeyAuth" in scheme for scheme in one.get("security", []))
    }
    assert set(sent) == offered_at_all - NOT_CALLED


def described(description: Schema, operation: Operation[Any]) -> tuple[str, Schema]:
    """The description's path and operation for a call."""
    for path, methods in description["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))
        if re.fullmatch(pattern, operation.path) and operation.method.lower() in methods:
            return path, methods[operation.method.lower()]
    raise AssertionError(f"the server does not have {operation.method} {operation.path}")


def fields_of(schema: Schema, named: Mapping[str, Schema]) -> Iterator[str]:
    """The names of all fields of a body, those of its parts too."""
    if "$ref" in schema:
        yield from fields_of(named[schema["$ref"].rpartition("/")[2]], named)
    for one in (*schema.get("anyOf", []), *schema.get("allOf", [])):
        yield from fields_of(one, named)
    yield from fields_of(schema["items"], named) if "items" in schema else ()
    for name, one in schema.get("properties", {}).items():
        yield name
        yield from fields_of(one, named)


def names_of(sent: Any) -> Iterator[str]:
    """The names of all fields that are sent."""
    if isinstance(sent, list):
        for one in sent:
            yield from names_of(one)
    elif isinstance(sent, dict):
        for name, value in sent.items():
            yield name
            yield from names_of(value)
