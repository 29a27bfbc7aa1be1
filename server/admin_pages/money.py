"""Money for people to read, as billing_data.money_text writes it."""

from __future__ import annotations

from decimal import Decimal

# What a currency's minor unit is, as Stripe counts; of all others it is a hundredth.
_NONE = frozenset(
    ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "UGX", "VND", "VUV")
) | frozenset(("XAF", "XOF", "XPF"))
_THOUSANDTHS = frozenset(("BHD", "JOD", "KWD", "OMR", "TND"))


def money_text(amount_minor: int | Decimal, currency: str) -> str:
    """An amount in minor units as money: $5.00, 5.00 EUR, 500 JPY."""
    digits = 0 if currency in _NONE else 3 if currency in _THOUSANDTHS else 2
    amount = f"{Decimal(amount_minor).scaleb(-digits):.{digits}f}"
    return f"${amount}" if currency == "USD" else f"{amount} {currency}"
