"""/admin/accounts/{account_id}/reverse: giving a charge back and taking a credit back, after a
preview."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from aiohttp import web

from server.admin_pages.account_view import (
    account_id_of,
    address_of,
    id_of,
    new_key,
    read_account,
)
from server.admin_pages.page import FormFault, done, form_of, reason_of, render, whole_number
from server.admin_pages.refusals import all_of, fault_of
from server.gateway import FunctionCall, Refused, Row, functions
from server.limits import INT64_MAX
from server.staff.guard import Visit, require_admin

_FIELDS = {
    "p_amount": "amount",
    "p_reason": "reason",
    "insufficient_credits": "amount",
    "balance_overflow": "amount",
    "reversal_too_great": "amount",
    "free_use_is_whole": "amount",
}
# Refusals that no other amount or reason would change: the page shows them instead of a form.
_FINAL = frozenset(
    {
        "account_erased",
        "already_reversed",
        "correction_not_reversible",
        "credit_of_payment",
        "entry_of_old_service",
    }
)


class _Entry(NamedTuple):
    """The charge or credit of the path."""

    account_id: UUID
    kind: str
    id: UUID

    def call(
        self, amount: int | None, reason: str, *, dry_run: bool, key: str | None = None
    ) -> FunctionCall:
        """The call that reverses it, or tries to."""
        if self.kind == "charge":
            tried = functions.reverse_charge(charge_id=self.id, reason=reason)
        else:
            tried = functions.reverse_credit(credit_id=self.id, reason=reason)
        return tried.given(amount=amount, idempotency_key=key, dry_run=dry_run)


def _entry_of(request: web.Request) -> _Entry:
    """The entry that the path names. Raises HTTPNotFound for an unknown kind of entry or a text
    that is not an id."""
    kind = request.match_info["kind"]
    if kind not in ("charge", "credit"):
        raise web.HTTPNotFound
    return _Entry(account_id_of(request), kind, id_of(request, "entry_id"))


async def ask(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows what reversing all that is left of an entry would do, and, to administrators, the
    form."""
    return await _form(visit, _entry_of(request))


async def reverse(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows what the reversal would do, and, once that is confirmed, does it."""
    await require_admin(visit)
    entry, form = _entry_of(request), await form_of(request)
    confirmed = form.get("confirm") == "yes"
    try:
        amount, reason = all_of(
            lambda: whole_number(form, "amount", 1, INT64_MAX, optional=True),
            lambda: reason_of(form),
        )
        key = form.get("idempotency_key") or None
        row = await visit.row(entry.call(amount, reason, dry_run=not confirmed, key=key))
    except Refused as error:
        if error.slug in _FINAL:
            return await _form(visit, entry, form)
        return await _form(visit, entry, form, fault_of(error, _FIELDS))
    except FormFault as fault:
        return await _form(visit, entry, form, fault)
    if not confirmed:
        return await _render(visit, entry, "confirm_reverse", row, form=form)
    message = f"The {entry.kind} was reversed: {_told(row)}."
    if row["replayed"]:
        message = f"This was done before, and was not done again: {_told(row)}."
    return await done(visit, address_of(row["account_id"]), message)


def _told(row: Row) -> str:
    if row.get("free_uses"):
        return f"a free use is back, and {row['free_uses_remaining']:,} are left"
    return f"the balance was {row['balance_before']:,} and is {row['balance_after']:,} now"


async def _form(
    visit: Visit,
    entry: _Entry,
    form: Mapping[str, str] | None = None,
    fault: FormFault | None = None,
) -> web.StreamResponse:
    whole: Row | None = None
    refusal = ""
    try:
        whole = await visit.row(entry.call(None, "a preview", dry_run=True))
    except Refused as error:
        if error.slug in _FINAL:
            refusal = error.message
        elif error.slug == "admin_role_required":
            refusal = "Only administrators reverse charges and credits"
        elif error.slug not in _FIELDS:
            raise
    return await _render(
        visit,
        entry,
        "reverse",
        whole,
        status=422 if fault or (form and refusal) else 200,
        refusal=refusal,
        values=form or {},
        faults=fault.faults if fault else {},
    )


async def _render(
    visit: Visit,
    entry: _Entry,
    template: str,
    row: Row | None,
    *,
    status: int = 200,
    **more: object,
) -> web.StreamResponse:
    form = more.get("form") or more.get("values") or {}
    assert isinstance(form, Mapping)
    account = await read_account(visit, entry.account_id)
    if row is not None and row["account_id"] != account["account_id"]:
        raise web.HTTPNotFound  # an entry of another account
    return await render(
        visit,
        f"admin/accounts/{template}.html",
        status=status,
        account=account,
        row=row,
        address=address_of(entry.account_id),
        entry=entry,
        action=f"{address_of(entry.account_id)}/reverse/{entry.kind}/{entry.id}",
        idempotency_key=form.get("idempotency_key") or new_key(),
        **more,
    )
