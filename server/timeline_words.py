"""How the rows of an account's timeline are told to people: the same words on the console's page
and at the command line."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

KINDS = {
    "denial": "Denied",
    "check": "Checks",
    "charge": "Charges",
    "credit": "Credits",
    "hold": "Holds",
    "purchase": "Purchases",
    "staff": "Staff acts",
}
_WHAT = {
    "check": {"allowed": "Check: allowed", "denied": "Check: denied"},
    "charge": {"charge": "Charge", "free_use": "Free use"},
    "purchase": {
        "offered": "Pack offered",
        "pending": "Pack offered, not paid yet",
        "settled": "Pack bought",
    },
    "staff": {
        "account.add_note": "Note written",
        "account.adjust_credits": "Credits changed",
        "account.change_grant_schedule": "Regular grant changed",
        "account.create_credit": "Credits added",
        "account.end_grant_schedule": "Regular grant ended",
        "account.end_top_up": "Top-up ended",
        "account.erase": "Person's data erased",
        "account.export": "Person's data exported",
        "account.merge": "Accounts merged",
        "account.pause_grant_schedule": "Regular grant paused",
        "account.release_hold": "Hold released",
        "account.remove_note": "Note removed",
        "account.reset_free_uses": "Free uses set",
        "account.resume_grant_schedule": "Regular grant goes on",
        "account.reverse_charge": "Charge reversed",
        "account.reverse_credit": "Credit reversed",
        "account.set_grant_schedule": "Regular grant set",
        "account.set_status": "Status changed",
        "account.set_top_up": "Top-up set",
        "account.transfer_credits": "Credits moved",
        "account.undo_merge": "Merge undone",
        "account.withdraw_consent": "Consent withdrawn",
        "payment.refund": "Refund asked for",
        "payment.refund_made": "Refund made",
        "payment.refund_refused": "Refund refused",
        "payment.reopen": "Payment opened again",
        "payment.resolve": "Payment resolved",
        "payment.return": "Refund or dispute booked",
        "payment.settle": "Payment booked",
        "payment_return.resolve": "Shortfall written off",
        "purchase.attach_payment": "Payment attached",
    },
}


def told(row: Mapping[str, Any]) -> str:
    """What a row of billing.list_timeline is about, in a few words."""
    kind, what = row["kind"], row["what"]
    if kind == "denial":
        words = f"Charge of {row['amount_minor']:,} refused"
        return words + (f", {row['times']:,} times" if row["times"] > 1 else "")
    if kind == "hold":
        amount = "a free use" if row["free_uses"] else f"{row['amount_minor']:,}"
        words = f"Hold of {amount}: {what}"
        return words + (f" {row['paid_credits']:,}" if what == "captured" else "")
    if kind == "purchase":
        uses = row["paid_credits"]
        return f"{_WHAT[kind][what]}: {uses:,} credit{'' if uses == 1 else 's'}" + (
            f" for {row['amount_text']}"
        )
    if origin := origin_of(row):
        return origin_told(origin, row["credits_change"])
    words = _WHAT.get(kind, {}).get(what) or _from_code(what)
    return f"{words}{_with_whom(row)}{_change(row)}"


def origin_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a side of a transfer or a reversal comes from; empty for every other row."""
    changes = row["changes"]
    if row["kind"] == "credit" and isinstance(changes, Mapping) and "act" in changes:
        return changes
    return {}


def origin_told(origin: Mapping[str, Any], credits_change: int | None) -> str:
    """Says where an entry comes from, as "Transfer to ada@example.com" or "Reversal of the charge
    of 3 on 2026-11-22 10:00"."""
    if origin["act"] == "reversal":
        at = datetime.fromisoformat(origin["at"]).astimezone(UTC)
        text = f": {origin['text']}" if origin["text"] else ""
        return (
            f"Reversal of the {origin['of']} of {origin['amount']:,} on {at:%Y-%m-%d %H:%M}{text}"
        )
    words = {"transfer": "Transfer", "merge": "Merge", "undo_merge": "Merge undone"}[origin["act"]]
    if origin["act"] == "transfer":
        words += " to" if (credits_change or 0) < 0 else " from"
    else:
        words += " with" if origin["act"] == "merge" else ":"
    return f"{words} {origin['account'] or 'another account'}"


def other_account_of(row: Mapping[str, Any]) -> str | None:
    """The id of the other account of a transfer or merge that a row tells of."""
    changes = row["changes"]
    if not isinstance(changes, Mapping):
        return None
    return origin_of(row).get("account_id") or changes.get("other_account_id")


def _with_whom(row: Mapping[str, Any]) -> str:
    """The other account of an act on two."""
    changes = row["changes"]
    if not isinstance(changes, Mapping) or "other_account" not in changes:
        return ""
    if row["what"] == "account.transfer_credits":
        return f" {'to' if changes['amount'] < 0 else 'from'} {changes['other_account']}"
    return f": {changes['other_account']}"


def reason_told(row: Mapping[str, Any]) -> str:
    """Why it happened, in the words of its writer; for a denial, what was missing."""
    if row["kind"] == "denial":
        return str(row["reason"] or "").replace("_", " ")
    return row["reason"] or ""


def _from_code(code: str) -> str:
    """Words for a code for which this release has no wording."""
    return code.rpartition(".")[2].replace("_", " ").capitalize()


def _change(row: Mapping[str, Any]) -> str:
    """What an act changed, where that is one value."""
    changes = row["changes"]
    if not isinstance(changes, Mapping) or not {"before", "after"} <= changes.keys():
        return ""
    before, after = changes["before"], changes["after"]
    if isinstance(before, Mapping) or isinstance(after, Mapping):
        return ""
    return f": from {_value(before)} to {_value(after)}"


def _value(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
