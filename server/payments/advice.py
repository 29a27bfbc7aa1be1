"""What a person should do where money and credits do not agree, for the console and the log.

billing_data.payment_outcome_words says in SQL what is wrong."""

from __future__ import annotations

from server.payments.registry import name_of

_THEN = (
    "{provider} sends the event again for three days, and then it is credited; after that"
    " `ciris-billing reconcile {kind} --fix` does it."
)
_COMPARE = (
    "Compare the payment in {provider} with the purchase. Refund it there, or grant the credits on"
    " the account's page, then resolve this with what you did."
)
_WHO_PAID = (
    "The payment does not lead to an account here: find out at {provider} who paid. Refund the"
    " payment there, or grant the credits on the account's page, then resolve this with what you"
    " did."
)
_OTHERWISE = "Compare the payment in {provider} with the account."
ADVICE = {
    "account_not_found": _WHO_PAID,
    "amount_mismatch": _COMPARE,
    "balance_overflow": "Take credits away from the account so that there is room, or refund the"
    " payment in {provider}. " + _THEN,
    "credited_by_hand": "Somebody has given a credit that names this payment, on another account or"
    " with another amount than was sold. If it is the payment's credit, resolve this as credited by"
    " hand. If not, grant what is missing and resolve this as dealt with otherwise.",
    "credited_twice": "Two credits name one payment, which was not sold here. Look at both in the"
    " ledger: if the payment was credited twice, take the second away on the account's page. Then"
    " resolve this.",
    "paid_after_erasure": "The person paid after their data was erased. Nobody can use these"
    " credits: refund the payment in {provider}, which takes them back, then resolve this.",
    "charge_unreadable": "Money went back, and the API key may not read the charge or belongs to"
    " another account. Give the key the permissions Charges and Refunds (read), and {provider}'s"
    " next attempt takes the credits back; or take them away on the account's page, then resolve"
    " this.",
    "currency_mismatch": _COMPARE,
    "fraud_warning": "The bank of the card's owner reports this payment as fraud. Refund it in"
    " {provider} before it is disputed: the credits are taken back by the refund. Where it is"
    " abuse, suspend the account. Then resolve this.",
    "metadata_missing": _WHO_PAID,
    "mode_mismatch": "{provider} sends events here of a mode that this server is not set up for:"
    " take its endpoint of that mode away in {provider}'s dashboard. If money was paid, grant the"
    " credits by hand. Then resolve this.",
    "not_sold_here": "The payment names a purchase or an account, but not as this service does: its"
    " metadata may be a copy. If it is somebody else's, resolve this. If not: " + _WHO_PAID,
    "payment_mismatch": "The user may have paid twice. Refund one of the payments in {provider},"
    " then resolve this.",
    "payment_unknown": "Money went back for a payment that {provider} has not reported yet. It"
    " sends both events again; after three days `ciris-billing reconcile {kind} --fix` does it.",
    "shortfall": "The money went back after the credits were used, and a balance never goes below"
    " 0: the missing uses stay with you. Where it is abuse, suspend the account. Then write it off"
    " by resolving this.",
}


def advice_on(problem: str, kind: str) -> str:
    """What to do about a problem with a payment of the provider `kind`."""
    return with_name(ADVICE.get(problem, _OTHERWISE), kind)


def with_name(text: str, kind: str) -> str:
    """A text about a payment provider, with the provider's name."""
    return text.format(provider=name_of(kind), kind=kind)
