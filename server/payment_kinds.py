"""The payment providers by name. Table billing_data.payment_providers has a row for each."""

from __future__ import annotations

# Each has its code in server/payments/<kind>/. This is where a new one is registered.
PROVIDER_KINDS = (
    "stripe",
)  # fmt: skip

# The old service took settings for these, and so does this one. Nothing is sold by them.
KINDS_WITHOUT_CODE = ("square", "paypal")
