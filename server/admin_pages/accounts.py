"""/admin/accounts: searching and listing accounts, and showing and changing one account."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from server.admin_pages.account_view import (
    FailedForm,
    account_id_of,
    address_of,
    id_of,
    new_key,
    read_account,
    show_account,
)
from server.admin_pages.lists import (
    Column,
    Sorting,
    csv_address,
    days_given,
    days_of,
    every_row,
    headings,
    list_page,
    send_list,
    sorting,
    window,
)
from server.admin_pages.page import (
    FormFault,
    done,
    end_of_day,
    form_of,
    page_number,
    reason_of,
    render,
    required,
    whole_number,
)
from server.admin_pages.refusals import all_of, fault_of
from server.admin_pages.visible import exact
from server.gateway import FunctionCall, Refused, Row, functions
from server.limits import INT64_MAX
from server.staff.guard import Visit, require_admin

_STATUSES = (
    ("", "Any"),
    ("active", "Active"),
    ("suspended", "Suspended"),
    ("closed", "Closed"),
    ("merged", "Merged"),
)
_COLUMNS = (
    Column("Identity"),
    Column("E-mail", "email", descending=False),
    Column("Status"),
    Column("Free uses", is_number=True),
    Column("Paid credits", "credits", is_number=True),
    Column("Uses", "uses", is_number=True),
    Column("Last charge"),
    Column("Created", "newest"),
)
_FIELDS = {
    "p_amount": "amount",
    "p_free_uses": "free_uses",
    "p_status": "status",
    "p_reason": "reason",
    "p_note": "note",
    "p_expires_at": "ends_on",
    "insufficient_credits": "amount",
    "balance_overflow": "amount",
}


async def find(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Lists the accounts that match: first those that begin with the words, and where none does,
    those that contain them."""
    query, number = _query(request), page_number(request.query)
    order = sorting(request.query, _COLUMNS)
    faults: Mapping[str, str] = {}
    rows: list[Row] = []
    try:
        rows = await visit.rows(_list(query, order).given(**window(number)))
        if not rows and number == 1 and query.get("search") and "match" not in query:
            query["match"] = "substring"
            rows = await visit.rows(_list(query, order).given(**window(number)))
    except FormFault as fault:
        faults = fault.faults
    sorted_query = {**query, "sort": order.text} if "sort" in request.query else query
    return await render(
        visit,
        "admin/accounts/list.html",
        status=422 if faults else 200,
        search=query.get("search", ""),
        form={"from": "", "to": "", "status": "", **query},
        faults=faults,
        statuses=_STATUSES,
        anywhere="match" in query,
        filtered=bool(query),
        total=await _total(visit, query, order) if rows else 0,
        headings=headings(_COLUMNS, order, request.path, query),
        csv_address=csv_address(request.path, sorted_query),
        **list_page(rows, number, request.path, sorted_query),
    )


async def export(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends the accounts that match as CSV."""
    try:
        call = _list(_query(request), sorting(request.query, _COLUMNS))
    except FormFault:
        raise web.HTTPUnprocessableEntity(reason="Give days as 2026-11-22") from None
    rows = await every_row(lambda span: visit.rows(call.given(**span)))
    columns = [name for name in functions.list_accounts.columns if name != "total_count"]
    return await send_list("accounts", columns, rows)


def _query(request: web.Request) -> dict[str, str]:
    """The known filters in the address."""
    search = exact(request.query.get("search", "").replace("\0", "").strip())
    status = request.query.get("status", "")
    given = {
        "search": search,
        "status": status if status in dict(_STATUSES) else "",
        **days_given(request.query),
    }
    if search and request.query.get("match") == "substring":
        given["match"] = "substring"
    return {name: value for name, value in given.items() if value}


def _list(query: Mapping[str, str], order: Sorting) -> FunctionCall:
    """The call that lists the accounts that match. Raises FormFault."""
    return functions.list_accounts(
        search=query.get("search"),
        status=query.get("status"),
        match=query.get("match", "prefix"),
        **days_of({"from": "", "to": "", **query}),
        **order.arguments,
    )


async def _total(visit: Visit, query: Mapping[str, str], order: Sorting) -> int | None:
    """How many accounts match; None where counting would read every account."""
    if query.get("match") == "substring":
        return None
    row = await visit.row(_list(query, order).given(limit=1, count=True))
    return int(row["total_count"])


async def show(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows one account; the id of a merged one leads to the account that stayed."""
    return await show_account(visit, account_id_of(request))


async def adjust_credits(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Grants credits, or, after a confirmation, takes credits away."""
    await require_admin(visit)
    account_id = account_id_of(request)
    form = await form_of(request)
    try:
        amount, reason = all_of(
            lambda: whole_number(form, "amount", -INT64_MAX, INT64_MAX),
            lambda: reason_of(form),
        )
        asks = amount < 0 and form.get("confirm") != "yes"
        changed = await visit.row(
            functions.adjust_credits(
                account_id=account_id,
                amount=amount,
                reason=reason,
                idempotency_key=form.get("idempotency_key") or None,
                dry_run=asks,
            )
        )
    except (FormFault, Refused) as error:
        return await _failed(visit, error, "credits", form)
    if asks:
        return await _confirm_taking(visit, await read_account(visit, account_id), form, changed)
    what = f"{_counted(abs(amount))} {'granted' if amount > 0 else 'taken away'}"
    if changed["replayed"]:
        message = f"This was done before, and was not done again: {what}."
    else:
        message = f"{what}. The balance was {changed['balance_before']:,}"
        message += f" and is {changed['balance_after']:,} now."
    return await done(visit, address_of(account_id), message)


async def grant(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Grants credits in one step, or shows what that would do."""
    await require_admin(visit)
    account_id = account_id_of(request)
    form = await form_of(request)
    chosen = {**form, "amount": form.get("other") or form.get("amount", "")}
    try:
        amount, reason, expires_at = all_of(
            lambda: whole_number(chosen, "amount", 1, INT64_MAX),
            lambda: reason_of(form),
            lambda: end_of_day(form, "ends_on"),
        )
        changed = await visit.row(
            functions.adjust_credits(
                account_id=account_id,
                amount=amount,
                reason=reason,
                idempotency_key=form.get("idempotency_key") or None,
                dry_run="preview" in form,
                expires_at=expires_at,
            )
        )
    except (FormFault, Refused) as error:
        return await _failed(visit, error, "grant", form)
    if "preview" in form:
        return await show_account(visit, account_id, FailedForm("grant", form, tried=changed))
    return await done(visit, address_of(account_id), _granted(changed))


def _granted(changed: Row) -> str:
    what = f"{_counted(changed['amount_minor'])} granted"
    if changed["replayed"]:
        return f"This was done before, and was not done again: {what}."
    return (
        f"{what}. The balance was {changed['balance_before']:,} and is"
        f" {changed['balance_after']:,} now."
    )


async def add_note(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Writes a note on the account."""
    await require_admin(visit)
    account_id = account_id_of(request)
    form = await form_of(request)
    # A line of a text area ends in two characters, and its greatest length counts one of them.
    form["note"] = form.get("note", "").replace("\r\n", "\n")
    try:
        note = required(form, "note", "a note")
        await visit.row(functions.add_note(account_id=account_id, note=note))
    except (FormFault, Refused) as error:
        return await _failed(visit, error, "note", form)
    return await done(visit, f"{address_of(account_id)}#notes", "The note was written.")


async def remove_note(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Removes a note."""
    await require_admin(visit)
    removed = await visit.row(functions.remove_note(note_id=id_of(request, "note_id")))
    message = "The note was removed." if removed["changed"] else "There is no such note any more."
    return await done(visit, f"{address_of(account_id_of(request))}#notes", message)


async def _confirm_taking(
    visit: Visit, account: Row, form: Mapping[str, str], tried: Row
) -> web.StreamResponse:
    return await render(
        visit,
        "admin/accounts/confirm_credits.html",
        account=account,
        address=address_of(account["account_id"]),
        tried=tried,
        what=_counted(-tried["amount_minor"]),
        form=form,
        idempotency_key=form.get("idempotency_key") or new_key(),
    )


def _counted(credits: int) -> str:
    return f"{credits:,} credit{'' if credits == 1 else 's'}"


async def reset_free_uses(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sets the free uses, to what new accounts get unless a number is given."""
    await require_admin(visit)
    account_id = account_id_of(request)
    form = await form_of(request)
    try:
        free_uses, reason = all_of(
            lambda: whole_number(form, "free_uses", 0, INT64_MAX, optional=True),
            lambda: reason_of(form),
        )
        changed = await visit.row(
            functions.reset_free_uses(account_id=account_id, reason=reason, free_uses=free_uses)
        )
    except (FormFault, Refused) as error:
        return await _failed(visit, error, "free-uses", form)
    before, after = changed["free_uses_before"], changed["free_uses_remaining"]
    if before == after:
        message = f"The account had {after:,} free uses already. Nothing was changed."
    else:
        message = f"Free uses were {before:,} and are {after:,} now."
    return await done(visit, address_of(account_id), message)


async def set_status(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Suspends, reactivates, or, after a confirmation, closes the account."""
    await require_admin(visit)
    account_id = account_id_of(request)
    form = await form_of(request)
    account = await read_account(visit, account_id)
    try:
        status = form.get("status", "")
        if status not in ("active", "suspended", "closed"):
            raise FormFault(status="Choose what to do.")
        reason = reason_of(form)
        if status == "closed" and form.get("confirm") != "yes":
            return await render(
                visit,
                "admin/accounts/confirm_close.html",
                account=account,
                address=address_of(account_id),
                reason=reason,
            )
        changed = await visit.row(
            functions.set_account_status(
                oauth_provider=account["oauth_provider"],
                external_id=account["external_id"],
                status=status,
                reason=reason,
            )
        )
    except (FormFault, Refused) as error:
        return await _failed(visit, error, "status", form)
    if changed["previous_status"] == status:
        message = f"The account was {status} already. Nothing was changed."
    else:
        message = f"The account was {changed['previous_status']} and is {status} now."
    return await done(visit, address_of(account_id), message)


async def _failed(
    visit: Visit, error: FormFault | Refused, name: str, form: Mapping[str, str]
) -> web.StreamResponse:
    """Shows the account's page again, with the faults of the form `name`."""
    fault = fault_of(error, _FIELDS) if isinstance(error, Refused) else error
    failed = FailedForm(name, form, fault.faults)
    return await show_account(visit, account_id_of(visit.request), failed)
