"""/admin/caps: how much may be charged in a minute, a day or a month."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from aiohttp import web

from server.admin_pages.lists import (
    Column,
    csv_address,
    every_row,
    headings,
    list_page,
    send_list,
    sort_rows,
    sorting,
)
from server.admin_pages.page import (
    CSV_LIMIT,
    PAGE_SIZE,
    FormFault,
    done,
    form_of,
    page_number,
    reason_of,
    render,
    whole_number,
)
from server.admin_pages.refusals import all_of, fault_of
from server.gateway import Refused, Row, functions
from server.limits import INT64_MAX
from server.staff.guard import Visit, require_admin

_PAGE = "/admin/caps"
SCOPES = (
    ("api_key", "An API key"),
    ("account", "An account"),
    ("agent", "An agent"),
    ("all", "All charges"),
)
PERIODS = (("minute", "Minute"), ("day", "Day"), ("month", "Month"))
MODES = (("hard", "Refuse what is more"), ("alert", "Only tell that it is reached"))
_COLUMNS = (
    Column("Whose", "subject_name", descending=False),
    Column("Period", "period", descending=False),
    Column("Limit", "limit_minor", is_number=True),
    Column("Used", "used_minor", is_number=True),
    Column("Left", "left_minor", descending=False, is_number=True),
    Column("Begins anew", "resets_at", descending=False),
    Column("Reached", "reached_at"),
)
_FIELDS = {
    "p_subject": "subject",
    "p_account": "subject",
    "account_not_found": "subject",
    "p_limit_minor": "limit",
    "p_reason": "reason",
}
# What a link to change a cap fills in.
_FILLED_IN = ("scope", "subject", "period", "mode", "limit")


async def list_caps(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows the caps, or the question before one is deleted."""
    if "delete" in request.query and visit.is_admin:
        return await _question(visit, request.query["delete"])
    given = {name: request.query[name] for name in _FILLED_IN if name in request.query}
    return await _list(visit, given, {})


async def export(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sends the caps as CSV."""
    return await send_list("caps", functions.list_caps.columns, await _rows(visit))


async def set_cap(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Sets a cap, or changes its limit."""
    await require_admin(visit)
    form = await form_of(request)
    try:
        cap = await _set(visit, form)
    except FormFault as error:
        return await _list(visit, form, error.faults, status=422)
    return await done(
        visit,
        _PAGE,
        f"The cap per {cap['period']} of {cap['subject_name']} is {cap['limit_minor']:,}.",
    )


async def delete_cap(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Deletes a cap."""
    await require_admin(visit)
    cap_id = request.match_info["cap_id"]
    form = await form_of(request)
    try:
        reason = reason_of(form)
    except FormFault as error:
        return await _question(visit, cap_id, form, error.faults)
    cap = await visit.row(functions.delete_cap(cap_id=_uuid(cap_id), reason=reason))
    return await done(
        visit, _PAGE, f"The cap per {cap['period']} of {cap['subject_name']} is deleted."
    )


async def _set(visit: Visit, form: Mapping[str, str]) -> Row:
    scope, period, mode, limit, reason = all_of(
        lambda: _chosen(form, "scope", SCOPES),
        lambda: _chosen(form, "period", PERIODS),
        lambda: _chosen(form, "mode", MODES),
        lambda: whole_number(form, "limit", 0, INT64_MAX),
        lambda: reason_of(form),
    )
    try:
        return await visit.row(
            functions.set_cap(
                scope=scope,
                subject=form.get("subject") or None,
                period=period,
                mode=mode,
                limit_minor=limit,
                reason=reason,
            )
        )
    except Refused as error:
        if error.slug == "api_key_not_found":
            raise FormFault(subject="There is no API key of this id or beginning.") from None
        raise fault_of(error, _FIELDS) from None


def _chosen(form: Mapping[str, str], field: str, options: tuple[tuple[str, str], ...]) -> str:
    if form.get(field) not in dict(options):
        raise FormFault(**{field: "Choose one of these."})
    return form[field]


async def _list(
    visit: Visit, form: Mapping[str, str], faults: Mapping[str, str], *, status: int = 200
) -> web.StreamResponse:
    query = visit.request.query
    number, order = page_number(query), sorting(query, _COLUMNS)
    rows = await _rows(visit)
    first = (number - 1) * PAGE_SIZE
    sorted_query = {"sort": order.text} if "sort" in query else {}
    return await render(
        visit,
        "admin/caps/list.html",
        status=status,
        **list_page(rows[first : first + PAGE_SIZE + 1], number, _PAGE, sorted_query),
        total=min(len(rows), CSV_LIMIT),
        is_more=len(rows) > CSV_LIMIT,
        headings=[
            *headings(_COLUMNS, order, _PAGE, {}),
            *(["Change"] if visit.is_admin else []),
        ],
        csv_address=csv_address(_PAGE, sorted_query),
        scopes=SCOPES,
        periods=PERIODS,
        modes=MODES,
        form=form,
        faults=faults,
    )


async def _rows(visit: Visit) -> list[Row]:
    """All caps, in the order that the address asks for; one more than CSV_LIMIT where there are
    more."""
    rows = await every_row(lambda span: visit.rows(functions.list_caps(**span)))
    return sort_rows(rows, sorting(visit.request.query, _COLUMNS), _COLUMNS)


async def _question(
    visit: Visit,
    cap_id: str,
    form: Mapping[str, str] | None = None,
    faults: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    rows = await visit.rows(functions.list_caps(cap_id=_uuid(cap_id)))
    if not rows:
        raise web.HTTPNotFound
    return await render(
        visit,
        "admin/caps/delete.html",
        status=422 if faults else 200,
        cap=rows[0],
        form=form or {},
        faults=faults or {},
    )


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise web.HTTPNotFound from None
