"""The API's description, and requests made of its examples."""

from __future__ import annotations

import json
from typing import Any

import httpx2

from tests.http.descriptions import (
    EVERY_OPERATION,
    Json,
)
from tests.stripe_double import StripeDouble
from tests.support import (
    Key,
    Service,
    charge_body,
    identity,
    unique,
)

# What staff do is sent to a server in tests/http/admin_api/.
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


SIGNED = "receiveStripeEvent"  # called by Stripe and not with an agent's key


STRIPE = StripeDouble()


def send(service: Service, name: str, key: Key | str | None = None, **changes: Any) -> Any:
    """Sends an operation's example request, with another `key`, or with a `body`, `path`, `query`
    or `headers` instead of the example's."""
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
    if name == "setTopUp" and content is not None:
        content = known_card(service, content.decode()).encode()
    if content is not None:
        headers = {"Content-Type": "application/json", **headers}
    if name == SIGNED:
        assert content is not None
        headers = {"Stripe-Signature": STRIPE.sign(content), **headers}
    path = changes.get("path") or known_hold(
        service, known_charge(service, known_payment(service, path))
    )
    return httpx2.request(
        operation["method"],
        service.base_url + path,
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
    """`text` with the payment of the example purchase in place of the examples' payment, which
    Stripe never made."""
    if payment_example() not in text:
        return text
    bought = send(service, "createPurchase")
    payment_id = bought.json()["payment_id"] if bought.is_success else payment_example()
    return text.replace(payment_example(), payment_id)


def known_card(service: Service, text: str) -> str:
    """`text` with a payment that saved a card in place of the examples' payment."""
    if payment_example() not in text:
        return text
    purchase = OPERATIONS["createPurchase"]["requestBody"]["content"]["application/json"]
    body = {**purchase["example"], "save_card": True}
    bought = send(service, "createPurchase", body=body, headers={})
    if not bought.is_success:
        return text
    payment_id = str(bought.json()["payment_id"])
    STRIPE.pay(payment_id)
    return text.replace(payment_example(), payment_id)


def charge_example() -> str:
    """The charge that the examples give back."""
    (example,) = [
        one["example"]
        for one in OPERATIONS["reverseCharge"]["parameters"]
        if one["name"] == "charge_id"
    ]
    return str(example)


def new_charge(service: Service, body: Json | None = None) -> str:
    """A charge of the service's key; by default of a user who is new. While the service makes none,
    the examples' charge."""
    if body is None:
        body = charge_body(unique())
        send(service, "checkCredit", body=identity(body["external_id"]))
    charged = send(service, "createCharge", body=body, headers={})
    return str(charged.json()["charge_id"]) if charged.is_success else charge_example()


def known_charge(service: Service, text: str) -> str:
    """`text` with a new charge in place of the examples' charge, which was never made."""
    if charge_example() not in text:
        return text
    return text.replace(charge_example(), new_charge(service))


def hold_example() -> str:
    """The hold that the examples settle."""
    (example,) = [
        one["example"] for one in OPERATIONS["getHold"]["parameters"] if one["name"] == "hold_id"
    ]
    return str(example)


def known_hold(service: Service, text: str) -> str:
    """`text` with a new hold in place of the examples' hold, which was never made."""
    if hold_example() not in text:
        return text
    who = identity(unique())
    send(service, "checkCredit", body=who)
    made = send(service, "createHold", body={**who, "amount_minor": 5}, headers={})
    return text.replace(hold_example(), made.json()["hold_id"]) if made.is_success else text


def example_account(service: Service) -> None:
    """Creates the account of the examples by a check, as the introduction says."""
    assert send(service, "checkCredit").status_code == 200


def example_top_up(service: Service) -> None:
    """Has the user of the examples agree to a top-up."""
    assert send(service, "setTopUp").status_code == 200
