"""What the API's description promises is what is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest

from server.limits import INT64_MAX
from tests.http.contract import set_cap
from tests.http.descriptions import (
    CODES,
    Json,
    validate,
    validate_answer,
)
from tests.http.openapi.helpers import (
    AGENTS,
    OPERATIONS,
    SIGNED,
    STRIPE,
    example_account,
    example_top_up,
    known_card,
    known_payment,
    new_charge,
    payment_example,
    send,
)
from tests.http.openapi.holds import PROVOKE_HOLDS, check_with_a_used_key, hold_body
from tests.payments import (
    forget_faults,
    purchase_body,
    set_provider,
)
from tests.stripe_double import Drop
from tests.support import (
    Database,
    Service,
    charge_body,
    credit_body,
    identity,
    running_service,
    unique,
)


def make_known(service: Service, external_id: str) -> str:
    """Creates the user's account as agents do: by a check."""
    with service.client() as client:
        answer = client.post("/v1/billing/credits/check", json=identity(external_id))
    assert answer.status_code == 200
    return external_id


# What the server answers


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_example_request_is_accepted_and_answered_as_described(
    service: Service, name: str
) -> None:
    example_account(service)
    if name in ("getTopUp", "endTopUp"):
        example_top_up(service)
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


# Errors: how to get each code


def _wrong_shape(service: Service, name: str) -> httpx2.Response:
    path: str = OPERATIONS[name]["path"]
    if "{external_id}" in path:
        answer = send(service, name, path=_account_path(name, "google", "user-1042"))
    elif "{hold_id}" in path:
        answer = send(service, name, path=path.replace("{hold_id}", "none"))
    elif name.startswith("getPurchase"):
        answer = send(service, name, path=_payment_path(name, "pi_%00"))
    else:
        answer = send(service, name, body={}, query={})
    assert isinstance(answer, httpx2.Response)
    return answer


def _account_path(name: str, oauth_provider: str, external_id: str) -> str:
    """The operation's path with this identity in it."""
    path: str = OPERATIONS[name]["path"]
    return path.format(oauth_provider=oauth_provider, external_id=external_id)


def _payment_path(name: str, payment_id: str) -> str | None:
    """The operation's path with this payment in it; None where its path has no payment."""
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
    make: dict[str, Callable[..., Json]] = {
        "createCharge": charge_body, "createCredit": credit_body, "createHold": hold_body,
    }  # fmt: skip
    return make[name](user, **fields) if name in make else {**identity(user), **fields}


def _unknown_user(service: Service, name: str) -> Any:
    if name.endswith("TopUp"):
        example_account(service)
    if "{external_id}" in OPERATIONS[name]["path"]:
        return send(service, name, path=_account_path(name, "oauth:google", unique()))
    return send(service, name, body=_body(name, unique()), headers={})


def _used_key(service: Service, name: str) -> Any:
    if name == "checkCredit":
        return check_with_a_used_key(service)
    body = _body(name, make_known(service, unique()), idempotency_key="once")
    assert send(service, name, body=body, headers={}).is_success
    return send(service, name, body=body, headers={})


def _reused_header(service: Service, name: str) -> Any:
    if name == "reverseCharge":
        charge, headers = _paid_charge(service), {"Idempotency-Key": unique("once")}
        assert _reverse(service, charge, headers, amount_minor=1).is_success
        return _reverse(service, charge, headers, amount_minor=2)
    user, headers = make_known(service, unique()), {"Idempotency-Key": unique("once")}
    first, other = _FIRST_AND_OTHER.get(name, ({}, {"user_role": "other"}))
    assert send(service, name, body=_body(name, user, **first), headers=headers).is_success
    return send(service, name, body=_body(name, user, **other), headers=headers)


# What a first request and another one under the same key have beside the identity.
_FIRST_AND_OTHER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "checkCredit": ({"hold": {"amount_minor": 1}}, {"hold": {"amount_minor": 2}}),
    "createHold": ({}, {"description": "other"}),
}


def _cap_of_account(service: Service, name: str) -> Any:
    user = make_known(service, unique())
    set_cap(service, "account", 0, user)
    return send(service, name, body=_body(name, user), headers={})


def _cap_of_agent(service: Service, name: str) -> Any:
    user, agent = make_known(service, unique()), unique("agent")
    set_cap(service, "agent", 0, agent)
    fields = {"metadata": {"agent_id": agent}} if name in ("createCharge", "createHold") else {}
    return send(service, name, body=_body(name, user, **fields), headers={})


def _other_currency(service: Service, name: str) -> Any:
    body = _body(name, make_known(service, unique()), currency="EUR")
    return send(service, name, body=body, headers={})


def _too_many_credits(service: Service, name: str) -> Any:
    if name == "reverseCharge":
        user = make_known(service, unique())
        charge = _paid_charge(service, INT64_MAX, user)
        refilled = credit_body(user, amount=INT64_MAX)
        assert send(service, "createCredit", body=refilled, headers={}).is_success
        return _reverse(service, charge)
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


def _other_consent(service: Service, **changes: Any) -> Any:
    """The example's consent with changes, of a user who never agreed to one."""
    example_account(service)
    path = _account_path("setTopUp", "oauth:google", make_known(service, unique()))
    content = OPERATIONS["setTopUp"]["requestBody"]["content"]["application/json"]
    return send(service, "setTopUp", path=path, body={**content["example"], **changes})


def _never_agreed(service: Service, name: str) -> Any:
    path = _account_path(name, "oauth:google", make_known(service, unique()))
    return send(service, name, path=path)


def _unknown_payment(service: Service, name: str) -> Any:
    if name == "setTopUp":
        return _other_consent(service, payment_id="pi_unknown")
    return send(service, name, path=_payment_path(name, "pi_unknown"))


def _no_provider(service: Service, name: str) -> Any:
    set_provider(service.database, {}, is_active=False)
    try:
        return send(service, name)
    finally:
        set_provider(service.database, {})


def _stripe_is_down(service: Service, name: str) -> Any:
    path = _payment_path(name, known_payment(service, payment_example()))
    body = _body(name, unique())
    if name == "setTopUp":
        example_account(service)
        content = OPERATIONS[name]["requestBody"]["content"]["application/json"]
        body = {**content["example"], "payment_id": known_card(service, payment_example())}
    for method in ("GET", "POST"):
        STRIPE.on(method, "/v1/payment_intents", Drop(), times=9)
    try:
        return send(service, name, path=path, body=body, headers={})
    finally:
        forget_faults(STRIPE)


def _event(**metadata: str) -> Json:
    """The event of a payment that succeeded, for an unknown user."""
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


def _reverse(service: Service, charge_id: str, headers: Any = None, **body: Any) -> Any:
    return send(
        service,
        "reverseCharge",
        path=f"/v1/billing/charges/{charge_id}/reverse",
        body={"reason": "a test", **body},
        headers=headers or {},
    )


def _paid_charge(service: Service, amount: int = 5, user: str | None = None) -> str:
    """A charge that paid credits paid for."""
    user = user or make_known(service, unique())
    for _ in range(3):
        assert send(service, "createCharge", body=charge_body(user), headers={}).is_success
    credit = credit_body(user, amount=amount)
    assert send(service, "createCredit", body=credit, headers={}).is_success
    return new_charge(service, charge_body(user, amount=amount))


def _reversed_before(service: Service, name: str) -> Any:
    charge = new_charge(service)
    assert _reverse(service, charge).is_success
    return _reverse(service, charge)


def _reversal_under_a_used_key(service: Service, name: str) -> Any:
    charge, key = _paid_charge(service), {"idempotency_key": "once"}
    assert _reverse(service, charge, amount_minor=1, **key).is_success
    return _reverse(service, charge, amount_minor=2, **key)


PROVOKE: dict[str, Callable[[Service, str], Any]] = {
    "account_closed": _stopped("closed"),
    "account_not_found": _unknown_user,
    "account_suspended": _stopped("suspended"),
    "already_reversed": _reversed_before,
    "api_key_expired": _expired,
    "api_key_format": lambda service, name: send(service, name, key="a-password"),
    "api_key_invalid": lambda service, name: send(service, name, key=f"cbk_test_{'x' * 43}"),
    "balance_overflow": _too_many_credits,
    "body_too_large": lambda service, name: send(service, name, body={"filler": "x" * 1_200_000}),
    "charge_already_exists": _used_key,
    "charge_currency_mismatch": _other_currency,
    "charge_not_found": lambda service, name: _reverse(service, str(uuid4())),
    "credit_already_exists": _used_key,
    "cap_reached": _cap_of_agent,
    "account_cap_reached": _cap_of_account,
    "credit_currency_mismatch": _other_currency,
    "hold_already_exists": _used_key,
    "free_use_is_whole": lambda service, name: _reverse(
        service, new_charge(service, charge_body(make_known(service, unique()), 5)), amount_minor=1
    ),
    "idempotency_key_reused": _reused_header,
    "insufficient_credits": _empty_account,
    "not_found": lambda service, name: send(service, name, path="/static/nothing.css"),
    "payment_already_credited": _paid_before,
    "payment_not_found": _unknown_payment,
    "payment_of_another_account": _sold_to_another,
    "payment_provider_not_configured": _no_provider,
    "payment_provider_unavailable": _stripe_is_down,
    "permission_missing": _other_permission,
    "reversal_exists": _reversal_under_a_used_key,
    "reversal_too_great": lambda service, name: _reverse(
        service, _paid_charge(service), amount_minor=6
    ),
    "top_up_card_missing": lambda service, name: _other_consent(service, payment_id=None),
    "top_up_not_found": _never_agreed,
    "top_up_price_changed": lambda service, name: _other_consent(service, amount_minor=501),
    "unsupported_content_encoding": lambda service, name: send(
        service, name, headers={"Content-Encoding": "gzip"}
    ),
    "validation_error": _wrong_shape,
    "webhook_failed": _nobodys_payment,
    **PROVOKE_HOLDS,
    "webhook_metadata_missing": _nameless_payment,
    "webhook_signature_invalid": lambda service, name: send(
        service, name, headers={"Stripe-Signature": "t=1,v1=0"}
    ),
}


# Only reverseCharge answers these, and their requests are all to it.
REVERSALS = {"already_reversed", "charge_not_found", "free_use_is_whole"} | {
    code for code in PROVOKE if code.startswith("reversal_")
}


# Only the operations of top-ups answer these.
TOP_UPS = {code for code in PROVOKE if code.startswith("top_up_")}


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
        PROVOKE.keys()
        - {"not_found", "permission_missing", "api_key_expired"}
        - WEBHOOKS
        - REVERSALS
        - TOP_UPS
        - PROVOKE_HOLDS.keys(),
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
        # For Stripe, any 5xx means "send it again"; the contract names this one.
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
