"""Refusals of the billing functions on a form: each is shown at the field it is about, in words for
the person who filled it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from server.admin_pages.page import FormFault
from server.gateway import Refused

FORM = "form"  # the name for faults that are about no single field
_WORDS = {
    "insufficient_credits": "The account has only {balance} credits.",
    "balance_overflow": "The account has {balance} credits and cannot hold more than {maximum}.",
    "already_reversed": "It is reversed as a whole already.",
    "reversal_too_great": "Only {left} of it can still be reversed.",
    "free_use_is_whole": "A free use is given back whole: leave the amount empty.",
    "account_erased": "The data of account {account_id}'s person was erased: it stays as it is.",
    "account_merged": "This account was merged into account {into_account_id} before.",
    "account_not_active": "Account {account_id} is {status}. Make it active first.",
    "account_not_found": "There is no account of this id.",
    "account_not_merged": "Account {account_id} is not merged any more.",
    "accounts_are_one": "This is the same account.",
    "accounts_of_other_currency": "The accounts have different currencies: {currency} and"
    " {other_currency}.",
    "merge_stands": "The merge cannot be undone: {problem}.",
    "account_in_use": "The account still has {problem}. Say that they are to be given up, or settle"
    " them first.",
    "credit_not_usable": "This credit cannot be the payment's: {problem}.",
    "payment_already_credited": "This payment has been credited or dealt with already.",
    "payment_not_settled": "This payment is not paid, so nothing can be refunded.",
    "payment_refunded": "All of this payment went back already, or was asked back.",
    "refund_too_great": "At most {left} can still be refunded.",
    "hold_settled": "The hold was {state} before.",
    "idempotency_key_reused": "This form was already used for another change. Look at the ledger,"
    " and submit again if this one is wanted too.",
}


def all_of(*reads: Callable[[], Any]) -> list[Any]:
    """The results of all reads of a form's fields. Raises FormFault with the faults of all of
    them."""
    values: list[Any] = []
    faults: dict[str, str] = {}
    for read in reads:
        try:
            values.append(read())
        except FormFault as fault:
            faults |= fault.faults
    if faults:
        raise FormFault(**faults)
    return values


def fault_of(error: Refused, fields: Mapping[str, str]) -> FormFault:
    """Turns a refusal into a fault at a field of the form. `fields` maps slugs, or names of invalid
    arguments, to fields. Raises the refusal itself when it concerns neither the form nor a field of
    it."""
    if error.slug == "invalid_argument":
        argument = str(error.values.get("argument", ""))
        problem = str(error.values.get("problem", error.message))
        field = fields.get(argument, FORM)
        return FormFault(**{field: f"{problem[:1].upper()}{problem[1:]}."})
    if error.slug in _WORDS:
        words = _WORDS[error.slug].format_map(_written(error.values))
        return FormFault(**{fields.get(error.slug, FORM): words})
    raise error


def _written(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{value:,}" if isinstance(value, int) else str(value)
        for name, value in values.items()
    }
