"""What concerns regular grants on the page of an account: adding, changing, pausing and ending
them."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from aiohttp import web

from server.admin_pages.account_view import (
    FailedForm,
    account_id_of,
    address_of,
    id_of,
    show_account,
)
from server.admin_pages.page import (
    FormFault,
    done,
    end_of_day,
    form_of,
    reason_of,
    required,
    whole_number,
)
from server.admin_pages.refusals import all_of, fault_of
from server.gateway import FunctionCall, Refused, functions
from server.limits import INT64_MAX
from server.staff.guard import Visit, require_admin

_FIELDS = {
    "p_amount": "amount",
    "p_day": "day",
    "p_description": "description",
    "p_ends_at": "ends_on",
    "p_lasts_days": "lasts_days",
    "p_reason": "reason",
    "p_repeat": "repeat",
    "p_rollover": "rollover",
}
_WORDS = {
    "change": "The regular grant is changed, from its next grant on.",
    "end": "The regular grant ended. What it gave stays.",
    "pause": "The regular grant is paused.",
    "resume": "The regular grant goes on.",
}


async def add(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Makes a schedule of grants."""
    await require_admin(visit)
    account_id = account_id_of(request)
    form = await form_of(request)
    try:
        amount, day, lasts_days, ends_at, reason = all_of(
            lambda: whole_number(form, "amount", 1, INT64_MAX),
            lambda: whole_number(form, "day", 1, 31, optional=True),
            lambda: whole_number(form, "lasts_days", 1, 3650, optional=True),
            lambda: end_of_day(form, "ends_on"),
            lambda: reason_of(form),
        )
        repeat = form.get("repeat", "")
        made = await visit.row(
            functions.set_grant_schedule(
                account_id=account_id,
                amount=amount,
                reason=reason,
                repeat=repeat,
                day=day,
                rollover=form.get("rollover") == "yes",
                lasts_days=lasts_days,
                ends_at=ends_at,
                idempotency_key=form.get("idempotency_key") or None,
            )
        )
    except (FormFault, Refused) as error:
        fault = fault_of(error, _FIELDS) if isinstance(error, Refused) else error
        return await show_account(visit, account_id, FailedForm("schedule", form, fault.faults))
    message = (
        "This was done before, and was not done again."
        if made["replayed"]
        else f"The first grant comes on {made['next_at']:%Y-%m-%d} at 00:00 UTC."
    )
    return await done(visit, f"{address_of(account_id)}#credits-that-end", message)


async def change(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Changes a schedule of grants, pauses it, lets it go on, or ends it."""
    await require_admin(visit)
    account_id = account_id_of(request)
    schedule_id = id_of(request, "schedule_id")
    form = await form_of(request)
    what = form.get("do", "")
    try:
        if what not in _WORDS:
            raise FormFault(form="Choose what to do.")
        await visit.row(_asked(what, schedule_id, form))
    except (FormFault, Refused) as error:
        fault = fault_of(error, _FIELDS) if isinstance(error, Refused) else error
        failed = FailedForm(f"schedule-{schedule_id}", form, fault.faults)
        return await show_account(visit, account_id, failed)
    return await done(visit, f"{address_of(account_id)}#credits-that-end", _WORDS[what])


def _asked(what: str, schedule_id: UUID, form: Mapping[str, str]) -> FunctionCall:
    """The call that the form's button asks for. Raises FormFault."""
    if what == "change":
        amount, description, reason = all_of(
            lambda: whole_number(form, "amount", 1, INT64_MAX),
            lambda: required(form, "description", "what its credits are called"),
            lambda: reason_of(form),
        )
        return functions.change_grant_schedule(
            schedule_id=schedule_id,
            reason=reason,
            amount=amount,
            rollover=form["rollover"] == "yes" if form.get("rollover") else None,
            description=description,
        )
    reason = reason_of(form)
    if what == "end":
        return functions.end_grant_schedule(schedule_id=schedule_id, reason=reason)
    return functions.pause_grant_schedule(
        schedule_id=schedule_id, reason=reason, paused=what == "pause"
    )
