"""What concerns the top-up on the page of an account: what the person agreed to, what the card was
charged, and ending it."""

from __future__ import annotations

from aiohttp import web

from server.admin_pages.account_view import FailedForm, account_id_of, address_of, show_account
from server.admin_pages.page import FormFault, done, form_of, reason_of
from server.admin_pages.refusals import fault_of
from server.gateway import Refused, functions
from server.staff.guard import Visit, require_admin

_FIELDS = {"p_reason": "reason"}


async def end(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Ends the account's top-up."""
    await require_admin(visit)
    account_id = account_id_of(request)
    form = await form_of(request)
    try:
        row = await visit.row(functions.end_top_up(account_id=account_id, reason=reason_of(form)))
    except (FormFault, Refused) as error:
        fault = fault_of(error, _FIELDS) if isinstance(error, Refused) else error
        return await show_account(visit, account_id, FailedForm("top-up", form, fault.faults))
    message = (
        "The top-up is off: the card is not charged any more."
        if row["changed"]
        else "The top-up was off already. Nothing was changed."
    )
    return await done(visit, address_of(account_id), message)
