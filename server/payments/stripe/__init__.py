"""Stripe (https://docs.stripe.com/api), the payment provider of purchases on the web."""

from server.payments.stripe.provider import PROVIDER

__all__ = ["PROVIDER"]
