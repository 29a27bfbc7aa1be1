"""/admin/accounts/{account_id}: moving credits to another account, merging accounts, and undoing a
merge. Each is shown first as it would be (a dry run), and done when it is confirmed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from aiohttp import web

from server.admin_pages.account_view import (
    FailedForm,
    account_id_of,
    address_of,
    new_key,
    read_account,
    show_account,
)
from server.admin_pages.page import FormFault, done, form_of, reason_of, render, whole_number
from server.admin_pages.refusals import all_of, fault_of
from server.gateway import Refused, Row, functions
from server.limits import INT64_MAX
from server.staff.guard import Visit, require_admin

_FIELDS = {
    "p_amount": "amount",
    "p_reason": "reason",
    "insufficient_credits": "amount",
    "balance_overflow": "amount",
    "account_merged": "other",
    "account_not_active": "other",
    "account_not_found": "other",
    "accounts_are_one": "other",
    "accounts_of_other_currency": "other",
}


@dataclass(frozen=True, slots=True)
class _Preview:
    """What a form would do, for the page that asks for a confirmation."""

    question: str
    button: str
    facts: Sequence[tuple[str, Any]]


async def transfer_credits(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Moves credits to another account, after a confirmation."""
    await require_admin(visit)
    account_id, form = account_id_of(request), await form_of(request)
    try:
        amount, reason = all_of(
            lambda: whole_number(form, "amount", 1, INT64_MAX), lambda: reason_of(form)
        )
        other = await _other_account(visit, form)
        row = await visit.row(
            functions.transfer_credits(
                from_account_id=account_id,
                to_account_id=other,
                amount=amount,
                reason=reason,
                **_how(form),
            )
        )
        if not _confirmed(form):
            facts = [
                ("From account", await _called(visit, row["from_account_id"])),
                ("Its balance before", row["from_balance_before"]),
                ("Its balance after", row["from_balance_after"]),
                ("To account", await _called(visit, row["to_account_id"])),
                ("Its balance before", row["to_balance_before"]),
                ("Its balance after", row["to_balance_after"]),
            ]
            title = f"Move {amount:,} credits?"
            return await _ask(visit, form, _Preview(title, "Move the credits", facts), other)
    except (FormFault, Refused) as error:
        return await _failed(visit, error, "transfer", form)
    whom = await _called(visit, row["to_account_id"])
    message = f"{amount:,} credits were moved to account {whom}."
    return await done(visit, address_of(account_id), _once(row, message))


async def merge_accounts(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Merges the account into another one, after a confirmation."""
    await require_admin(visit)
    account_id, form = account_id_of(request), await form_of(request)
    try:
        (reason,) = all_of(lambda: reason_of(form))
        other = await _other_account(visit, form)
        row = await visit.row(
            functions.merge_accounts(
                account_id=account_id, into_account_id=other, reason=reason, **_how(form)
            )
        )
        if not _confirmed(form):
            facts = [
                ("Account that ends", await _called(visit, row["merged_account_id"])),
                ("Account that stays", await _called(visit, row["account_id"])),
                ("Credits moved", row["credits_moved"]),
                ("Its balance after", row["balance_after"]),
                ("Free uses moved", row["free_uses_given"]),
                ("Its free uses after", row["free_uses_after"]),
            ]
            if row["takes_consent"]:
                facts.append(("Marketing", "the merged account's consent, the newer one, counts"))
            title = "Merge this account into the other one?"
            return await _ask(visit, form, _Preview(title, "Merge the accounts", facts), other)
    except (FormFault, Refused) as error:
        return await _failed(visit, error, "merge", form)
    message = f"Account {account_id} was merged into this one. This can be undone until it changes."
    return await done(visit, address_of(row["account_id"]), _once(row, message))


async def undo_merge(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Undoes the merge of the account in the path, after a confirmation."""
    await require_admin(visit)
    account_id, form = account_id_of(request), await form_of(request)
    try:
        (reason,) = all_of(lambda: reason_of(form))
        row = await visit.row(
            functions.undo_merge(account_id=account_id, reason=reason, **_how(form))
        )
        if not _confirmed(form):
            facts = [
                ("Account that is its own again", await _called(visit, row["merged_account_id"])),
                ("Credits it gets back", row["credits_moved_back"]),
                ("Free uses it gets back", row["free_uses_given_back"]),
                ("Account that it was merged into", await _called(visit, row["account_id"])),
            ]
            return await _ask(visit, form, _Preview("Undo the merge?", "Undo the merge", facts))
    except (FormFault, Refused) as error:
        return await _failed(visit, error, "undo", form)
    message = "The merge was undone. Id and identity lead to this account again."
    return await done(visit, address_of(account_id), _once(row, message))


def _confirmed(form: Mapping[str, str]) -> bool:
    return form.get("confirm") == "yes"


def _how(form: Mapping[str, str]) -> dict[str, Any]:
    """A form that is not confirmed is only tried."""
    return {
        "idempotency_key": form.get("idempotency_key") or None,
        "dry_run": not _confirmed(form),
    }


def _once(row: Row, message: str) -> str:
    return (
        f"This was done before, and was not done again: {message}" if row["replayed"] else message
    )


async def _other_account(visit: Visit, form: Mapping[str, str]) -> UUID:
    """The account that a form names by its id, or by an e-mail address or external id that one
    account has. Raises FormFault."""
    text = form.get("other", "")
    if not text:
        raise FormFault(other="Give the other account: its id, e-mail address or external id.")
    try:
        return UUID(text)
    except ValueError:
        pass
    found = await visit.rows(functions.list_accounts(search=text, limit=50))
    ids = {
        row["account_id"]
        for row in found
        if row["status"] != "merged"
        and text.lower() in (row["external_id"].lower(), (row["customer_email"] or "").lower())
    }
    if not ids:
        raise FormFault(other="No account has this id, e-mail address or external id.")
    if len(ids) > 1:
        raise FormFault(other="Several accounts have this. Give the account's id.")
    return UUID(str(ids.pop()))


async def _called(visit: Visit, account_id: UUID) -> str:
    """What people call an account, and its id, which alone tells nobody whether it is the right
    account. One that was merged is called by its own name."""
    for row in await visit.rows(functions.list_accounts(search=str(account_id), limit=2)):
        if row["account_id"] == account_id:
            return f"{row['customer_email'] or row['external_id']} ({account_id})"
    return str(account_id)


async def _ask(
    visit: Visit, form: Mapping[str, str], preview: _Preview, other: UUID | None = None
) -> web.StreamResponse:
    account = await read_account(visit, account_id_of(visit.request))
    fields = {name: form[name] for name in ("amount", "reason") if name in form}
    if other is not None:
        fields["other"] = str(other)
    return await render(
        visit,
        "admin/accounts/confirm_move.html",
        account=account,
        address=address_of(account["account_id"]),
        preview=preview,
        action=visit.request.path,
        fields={
            **fields,
            "idempotency_key": form.get("idempotency_key") or new_key(),
            "confirm": "yes",
        },
    )


async def _failed(
    visit: Visit, error: FormFault | Refused, name: str, form: Mapping[str, str]
) -> web.StreamResponse:
    """Shows the account's page again, with the faults of the form `name`."""
    fault = fault_of(error, _FIELDS) if isinstance(error, Refused) else error
    return await show_account(
        visit, account_id_of(visit.request), FailedForm(name, form, fault.faults)
    )
