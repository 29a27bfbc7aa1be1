"""Verifies what the service sends to a URL of yours, signed as Standard Webhooks has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from ciris_billing_client.errors import BillingError


class WebhookError(BillingError):
    """The message is not the service's, or it is more than five minutes old. Answer 400."""


class _Payload(msgspec.Struct, frozen=True):
    type: str
    timestamp: datetime
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Webhook:
    """A message of the service: what happened, when, and to whom. It may come more than once, with
    the same `id`."""

    id: str
    type: str
    timestamp: datetime
    data: dict[str, Any]


def verify_webhook(
    content: bytes | str, headers: Mapping[str, str], secrets: str | Sequence[str]
) -> Webhook:
    """The message, if one of its signatures was made with one of the secrets (`whsec_...`) in the
    last five minutes. `content` is the body as it came. Two secrets are for the days on which you
    change from one to the other."""
    # A name that is there twice counts once, as it does for the verifier.
    lowered = {name.lower(): value for name, value in headers.items()}
    known = [secrets] if isinstance(secrets, str) else secrets
    failure: Exception = WebhookError("no secret is given")
    for verifier in [Verifier(secret) for secret in known]:  # a wrong secret is not the sender's
        try:
            payload = msgspec.convert(verifier.verify(content, lowered), _Payload)
        # A header or a body of a wrong form is a ValueError.
        except (WebhookVerificationError, msgspec.MsgspecError, ValueError) as error:
            failure = error
        else:
            return Webhook(lowered["webhook-id"], payload.type, payload.timestamp, payload.data)
    raise WebhookError(str(failure)) from failure
