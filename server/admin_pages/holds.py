"""What concerns holds on the page of an account: releasing one, after a confirmation."""

from __future__ import annotations

from aiohttp import web

from server.admin_pages.account_view import (
    FailedForm,
    account_id_of,
    address_of,
    id_of,
    read_account,
    show_account,
)
from server.admin_pages.page import FormFault, done, form_of, reason_of, render
from server.admin_pages.refusals import fault_of
from server.gateway import Refused, functions
from server.staff.guard import Visit, require_admin

_FIELDS = {"p_reason": "reason"}


async def release(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Gives back what a hold keeps."""
    await require_admin(visit)
    account_id, hold_id = account_id_of(request), id_of(request, "hold_id")
    form = await form_of(request)
    try:
        reason = reason_of(form)
        if form.get("confirm") != "yes":
            return await render(
                visit,
                "admin/accounts/confirm_release.html",
                account=await read_account(visit, account_id),
                address=address_of(account_id),
                hold=await visit.row(functions.get_hold(hold_id=hold_id)),
                reason=reason,
            )
        released = await visit.row(functions.release_hold(hold_id=hold_id, reason=reason))
    except (FormFault, Refused) as error:
        fault = fault_of(error, _FIELDS) if isinstance(error, Refused) else error
        return await show_account(
            visit, account_id, FailedForm(f"hold-{hold_id}", form, fault.faults)
        )
    message = (
        "The hold was released before. Nothing was changed."
        if released["outcome"] == "replayed"
        else f"The hold was released. The account has {released['available']:,} paid credits"
        f" and {released['free_uses_available']:,} free uses available now."
    )
    return await done(visit, f"{address_of(account_id)}#holds", message)
