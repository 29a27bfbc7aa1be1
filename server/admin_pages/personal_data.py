"""What concerns a person's data on the page of an account: exported as a file, erased after a
confirmation, and the consent to marketing withdrawn."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from server.admin_pages.account_view import (
    FailedForm,
    account_id_of,
    address_of,
    read_account,
    show_account,
)
from server.admin_pages.page import HEADERS, FormFault, done, form_of, reason_of, render
from server.admin_pages.refusals import fault_of
from server.gateway import Refused, Row, functions
from server.staff.guard import Visit, require_admin

_FIELDS = {"p_reason": "reason", "account_in_use": "force"}


async def export(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends everything that is stored of the person, as a JSON file."""
    await require_admin(visit)
    account_id = account_id_of(request)
    await form_of(request)
    row = await visit.row(functions.export_personal_data(account_id=account_id))
    return web.Response(
        text=row["export_personal_data"],
        content_type="application/json",
        charset="utf-8",
        headers={
            **HEADERS,
            "Content-Disposition": f'attachment; filename="personal-data-{account_id}.json"',
        },
    )


async def withdraw_consent(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Withdraws the consent to marketing."""
    await require_admin(visit)
    account_id = account_id_of(request)
    form = await form_of(request)
    try:
        row = await visit.row(
            functions.withdraw_consent(account_id=account_id, reason=reason_of(form))
        )
    except (FormFault, Refused) as error:
        return await _failed(visit, error, "consent", form)
    message = (
        "The consent to marketing is withdrawn."
        if row["changed"]
        else "The consent had been withdrawn already. Nothing was changed."
    )
    return await done(visit, address_of(account_id), message)


async def erase(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Says what would be erased; with the account's external id typed in, erases it."""
    await require_admin(visit)
    account_id = account_id_of(request)
    form = await form_of(request)
    account = await read_account(visit, account_id)
    faults: dict[str, str] = {}
    try:
        reason = reason_of(form)
        if "confirm" in form:
            if form["confirm"].strip() != account["external_id"]:
                raise FormFault(confirm="Type the external id as it is shown above.")
            await visit.rows(
                functions.erase_personal_data(
                    account_id=account_id, reason=reason, force=form.get("force") == "yes"
                )
            )
            return await done(visit, address_of(account_id), "The person's data is erased.")
    except (FormFault, Refused) as error:
        fault = fault_of(error, _FIELDS) if isinstance(error, Refused) else error
        if "confirm" not in form or "reason" in fault.faults:
            return await _failed(visit, error, "erase", form)
        faults = dict(fault.faults)
    try:
        foretold = await visit.rows(
            functions.erase_personal_data(account_id=account_id, reason=reason, dry_run=True)
        )
    except Refused as error:
        return await _failed(visit, error, "erase", form)
    return await _confirm(visit, account, form, foretold, faults)


async def _confirm(
    visit: Visit,
    account: Row,
    form: Mapping[str, str],
    foretold: list[Row],
    faults: Mapping[str, str],
) -> web.StreamResponse:
    return await render(
        visit,
        "admin/accounts/confirm_erasure.html",
        status=422 if faults else 200,
        account=account,
        address=address_of(account["account_id"]),
        form=form,
        faults=faults,
        foretold=foretold,
        obstacle=foretold[0]["obstacle"] if foretold else None,
    )


async def _failed(
    visit: Visit, error: FormFault | Refused, name: str, form: Mapping[str, str]
) -> web.StreamResponse:
    """Shows the account's page again, with the faults of the form `name`."""
    fault = fault_of(error, _FIELDS) if isinstance(error, Refused) else error
    failed = FailedForm(name, form, fault.faults)
    return await show_account(visit, account_id_of(visit.request), failed)
