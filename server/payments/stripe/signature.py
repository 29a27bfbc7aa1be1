"""Whether Stripe has sent a webhook request: checks its signature against our secrets, and its age.
The scheme: https://docs.stripe.com/webhooks#verify-manually"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Iterable

from server.payments.provider import StaleSignature, WrongSignature

TOLERANCE = 300  # the most seconds between Stripe's signature and its arrival here
_TIME = re.compile(rb"[0-9]{1,12}")


def verify(body: bytes, header: str | None, secrets: Iterable[str]) -> None:
    """Raises WrongSignature or StaleSignature unless Stripe has just sent the request. One of the
    signatures in the header must be right for one of the secrets."""
    if not header:
        raise WrongSignature("it has no Stripe-Signature header")
    fields = [
        (name.strip(), value.strip())
        for name, _, value in (
            item.partition(b"=") for item in header.encode("utf-8", "surrogateescape").split(b",")
        )
    ]
    # The first time counts. It is signed, so adding a second time to the header changes nothing.
    signed_at = next((value for name, value in fields if name == b"t"), b"")
    signatures = [value for name, value in fields if name == b"v1"]
    if not _TIME.fullmatch(signed_at) or not signatures:
        raise WrongSignature("its Stripe-Signature header is not one of Stripe's")
    message = b"%s.%s" % (signed_at, body)
    for secret in secrets:
        right = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest().encode()
        if any(hmac.compare_digest(right, signature) for signature in signatures):
            break
    else:
        raise WrongSignature("it was signed with another secret, or changed on its way")
    age = int(time.time()) - int(signed_at)
    if age > TOLERANCE:
        raise StaleSignature(age, TOLERANCE)
