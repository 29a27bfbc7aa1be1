"""Entries of the audit log as sentences: who did what to whom, how much and why, with links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from server.gateway import Row

# What was done, before the name of the thing. {n} is the amount that the entry names; {one} and
# {other} are the accounts of an act on two, from the one that gave or ended.
_WORDS = {
    "account.add_note": "wrote a note on",
    "account.adjust_credits": "gave {n} to",
    "account.change_grant_schedule": "changed the regular grant of",
    "account.create_credit": "gave {n} to",
    "account.end_grant_schedule": "ended the regular grant of",
    "account.end_top_up": "ended the top-up of",
    "account.erase": "erased the person of",
    "account.export": "exported the data of",
    "account.merge": "merged {one} into {other}",
    "account.pause_grant_schedule": "paused the regular grant of",
    "account.release_hold": "released a hold of",
    "account.remove_note": "removed a note from",
    "account.reset_free_uses": "set the free uses of",
    "account.resume_grant_schedule": "let the regular grant go on for",
    "account.reverse_charge": "gave a charge of {n} back to",
    "account.reverse_credit": "took a credit of {n} back from",
    "account.set_grant_schedule": "set a regular grant of {n} for",
    "account.set_status": "changed the state of",
    "account.set_top_up": "set the top-up of",
    "account.transfer_credits": "moved {n} from {one} to {other}",
    "account.undo_merge": "undid the merge of {one} into {other}",
    "account.withdraw_consent": "withdrew the consent of",
    "admin.add": "added the staff member",
    "admin.create_sign_in_link": "made a sign-in link for",
    "admin.create_token": "made a token for",
    "admin.end_sessions": "signed out",
    "admin.invite": "invited",
    "admin.set": "changed the rights of",
    "admin.sign_in": "signed in",
    "admin.sign_out": "signed out",
    "api_key.create": "created the API key",
    "api_key.revoke": "revoked the API key",
    "api_key.rotate": "rotated the API key",
    "cap.delete": "deleted the cap",
    "cap.set": "set the cap",
    "figures.rebuild": "had the figures counted anew",
    "maintenance.run": "ran the maintenance",
    "payment.refund": "asked for a refund of {n} of",
    "payment.refund_made": "had {n} refunded of",
    "payment.refund_refused": "was refused a refund of {n} of",
    "payment.reopen": "opened again",
    "payment.resolve": "resolved",
    "payment.return": "booked a return of",
    "payment.settle": "settled",
    "payment_event.process": "processed the event",
    "payment_event.resolve": "resolved the event",
    "payment_return.resolve": "wrote off the shortfall of",
    "payment_warning.resolve": "resolved the warning",
    "provider_config.set": "changed the settings of",
    "purchase.attach_payment": "attached the payment",
    "refused_charges.delete": "deleted old refusals",
    "settings.set_admin_domain": "changed the domain of the staff",
    "settings.set_low_balance": "changed what counts as a low balance",
    "settings.set_pricing": "changed the price",
    "webhook.create": "added the webhook",
    "webhook.delete": "deleted the webhook",
    "webhook.gone": "switched off the webhook",
    "webhook.reseal": "encrypted anew the secret of the webhook",
    "webhook.resend": "sent alerts again to the webhook",
    "webhook.rotate": "made a new secret for the webhook",
    "webhook.set": "changed the webhook",
    "webhook.try": "tried the webhook",
}
_PAGES = {
    "payment": "/admin/payments/{}",
    "payment_event": "/admin/payments/events?event={}",
    "api_key": "/admin/keys#key-{}",
    "admin_user": "/admin/staff",
    "cap": "/admin/caps#cap-{}",
    "webhook_endpoint": "/admin/webhooks#change-{}",
    "provider_config": "/admin/settings#{}",
    "settings": "/admin/settings",
}

# The field of an entry's changes that has the name of its thing, by the kind of thing.
_NAMED_BY = {
    "admin_user": "email",
    "api_key": "name",
    "cap": "subject",
    "webhook_endpoint": "name",
}


def told(entry: Row) -> dict[str, Any]:
    """The entry in words. `parts` are these words with the names of things, each a text and the
    address that it leads to, if any."""
    given = entry["changes"]
    changes = orjson.loads(given) if isinstance(given, str) else given
    changes = changes if isinstance(changes, dict) else {}
    action = entry["action"]
    words = _WORDS.get(action, f"did {action.replace('.', ': ').replace('_', ' ')}")
    amount = _amount(changes)
    if action == "account.adjust_credits" and str(changes.get("amount", "")).startswith("-"):
        words = "took {n} from"
    words = words.replace("{n}", amount or "credits")
    return {
        "id": entry["id"],
        "at": entry["created_at"],
        "who": entry["who"] or "nobody known",
        "parts": _parts(words, entry, changes),
        "change": _change(changes),
        "why": entry["reason"],
        "audit_address": f"/admin/audit?{urlencode({'entry': str(entry['id'])})}",
    }


def _parts(words: str, entry: Row, changes: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    thing, other = _thing(entry, changes), _other(entry)
    if "{one}" not in words:
        return [(words, None), thing]
    is_second = changes.get("amount", 0) > 0 or str(changes.get("account_id")) == str(
        entry["account_id"]
    )
    one, two = (other, thing) if is_second else (thing, other)
    before, _, after = words.partition("{one}")
    between = after.replace("{other}", "")
    return [(before.strip(), None), one, (between.strip(), None), two]


def _other(entry: Row) -> tuple[str, str | None]:
    if entry["other_account_id"] is None:
        return "another account", None
    return str(entry["other_account_name"]), f"/admin/accounts/{entry['other_account_id']}"


def _amount(changes: Mapping[str, Any]) -> str:
    if isinstance(changes.get("money"), str):
        return str(changes["money"])
    amount = changes.get("amount")
    if not isinstance(amount, int):
        return ""
    return f"{abs(amount):,} credit{'' if abs(amount) == 1 else 's'}"


def _change(changes: Mapping[str, Any]) -> str:
    """Before and after, where both are single values."""
    before, after = changes.get("before"), changes.get("after")
    if isinstance(before, str | int) and isinstance(after, str | int):
        return f"{before} → {after}"
    return ""


def _thing(entry: Row, changes: Mapping[str, Any]) -> tuple[str, str | None]:
    kind, thing = entry["resource_type"], entry["resource_id"] or ""
    if kind == "account" and entry["account_id"] is not None:
        return str(entry["account_name"]), f"/admin/accounts/{entry['account_id']}"
    page = _PAGES.get(kind)
    known = changes.get("after") or changes.get("before")
    known = {**known, **changes} if isinstance(known, Mapping) else changes
    name = known.get(_NAMED_BY.get(kind, ""))
    if not name and kind in ("settings", "admin_user"):
        return "", None  # the settings exist once, and people sign in as themselves
    return str(name or thing), page.format(quote(thing, safe="")) if page else None
