"""The client package verifies what the service sends: only whole, recent messages that a known
secret signed."""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ciris_billing_client import WebhookError, verify_webhook
from multidict import CIMultiDict
from standardwebhooks import Webhook as Signer

from tests.clients.example import running_example
from tests.http.admin_api.helpers import hire, staff_environment
from tests.run import free_port
from tests.sql.helpers import set_staff_domain
from tests.support import Database, running_service


def new_secret() -> str:
    return f"whsec_{b64encode(secrets.token_bytes(24)).decode()}"


SECRET, OTHER = new_secret(), new_secret()
BODY = b'{"type": "credits.low", "timestamp": "2026-11-26T20:00:00Z", "data": {"available": 2}}'


def signed(*by: str, age: float = 0.0, body: bytes = BODY, **changes: str) -> Mapping[str, str]:
    """The headers of a message that these secrets signed some seconds ago."""
    moment = datetime.now(UTC) - timedelta(seconds=age)
    signatures = [Signer(secret).sign("msg_1", moment, body.decode()) for secret in by]
    headers = {
        "Webhook-Id": "msg_1",
        "Webhook-Timestamp": str(int(moment.timestamp())),
        "Webhook-Signature": " ".join(signatures),
    }
    return {**headers, **{name.replace("_", "-"): value for name, value in changes.items()}}


def test_a_signed_message_is_read() -> None:
    message = verify_webhook(BODY, signed(SECRET), SECRET)
    assert (message.id, message.type, message.timestamp.hour) == ("msg_1", "credits.low", 20)
    lowered = {name.lower(): value for name, value in signed(SECRET).items()}
    assert verify_webhook(BODY.decode(), lowered, SECRET).data == {"available": 2}


def test_a_header_that_comes_twice_is_no_failure_of_ours() -> None:
    twice = CIMultiDict([*signed(SECRET).items(), ("webhook-id", "msg_1")])
    assert verify_webhook(BODY, twice, SECRET).id == "msg_1"


def test_either_side_may_change_its_secret_without_losing_a_message() -> None:
    assert verify_webhook(BODY, signed(OTHER, SECRET), SECRET).id == "msg_1"
    assert verify_webhook(BODY, signed(SECRET), [OTHER, SECRET]).id == "msg_1"


@pytest.mark.parametrize("age", [290, -290])
def test_a_message_is_good_for_five_minutes_either_way(age: float) -> None:
    assert verify_webhook(BODY, signed(SECRET, age=age), SECRET).id == "msg_1"
    with pytest.raises(WebhookError, match="too"):
        verify_webhook(BODY, signed(SECRET, age=age * 1.1), SECRET)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BODY, signed(OTHER)),
        (BODY + b" ", signed(SECRET)),
        (BODY, signed(SECRET, Webhook_Id="msg_2")),
        (BODY, signed(SECRET, Webhook_Timestamp=str(int(datetime.now(UTC).timestamp()) - 9))),
        (BODY, signed(SECRET, Webhook_Timestamp="now")),
        (BODY, signed(SECRET, Webhook_Timestamp="nan")),
        (BODY, signed(SECRET, Webhook_Signature="")),
        (BODY, signed(SECRET, Webhook_Signature="v1")),
        (BODY, signed(SECRET, Webhook_Signature="v1,!")),
        (BODY, signed(SECRET, Webhook_Signature="v1,é")),
        (BODY, signed(SECRET, Webhook_Signature=signed(SECRET)["Webhook-Signature"].upper())),
        (BODY, {}),
        (b"\xff", signed(SECRET)),
        (b"no JSON", signed(SECRET, body=b"no JSON")),
        (b"[1]", signed(SECRET, body=b"[1]")),
    ],
)
def test_anything_else_is_refused(body: bytes, headers: Mapping[str, str]) -> None:
    with pytest.raises(WebhookError):
        verify_webhook(body, headers, SECRET)


def test_the_services_own_message_reaches_the_aiohttp_example(
    database: Database, tree: Path
) -> None:
    set_staff_domain(database)
    allowed: dict[str, Any] = {"WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}
    with running_service(database, **staff_environment(), **allowed) as service:
        admin, port = hire(service, "admin"), free_port()
        body = {"name": "agent", "url": f"http://127.0.0.1:{port}/billing", "kinds": []}
        endpoint = admin.post("/webhooks", {**body, "reason": "a test"}).json()
        for secret, accepted in ((OTHER, False), (endpoint["secret"], True)):
            with running_example(service, tree, port, CIRIS_BILLING_WEBHOOK_SECRET=secret) as said:
                tried = admin.post(f"/webhooks/{endpoint['endpoint_id']}/try").json()
                assert tried["accepted"] is accepted
                assert ("webhook.test {" in said.output) is accepted


def test_without_a_secret_nothing_is_good() -> None:
    with pytest.raises(WebhookError):
        verify_webhook(BODY, signed(SECRET), [])
