"""The routes of staff about credits of an account that differ from each other: what is left of
each, which paid for charges, and credits that are granted regularly."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer
from server.admin_api.models import (
    AllocationsQuery,
    ChangeScheduleRequest,
    GrantScheduleRequest,
    LotsQuery,
    ReasonRequest,
    SchedulePath,
    SchedulesQuery,
    UserPath,
)
from server.gateway import functions
from server.http import fields as f
from server.http.answers import reader
from server.http.example_values import ACCOUNT_ID, AT, CREDIT_ID, THEN
from server.http.route import Example

_Source = Literal["purchase", "grant", "promotion", "refund"]
_SCHEDULE_ID = "019a9c30-4b1c-7d20-9e4f-6a8c0d2f4b16"


class Lot(TypedDict):
    """Credits of one kind, and what is left of them."""

    lot_id: Annotated[UUID | None, f.means("The credits; null for what books began with.")]
    credit_id: Annotated[UUID | None, f.CREDIT_ID]
    source: Annotated[_Source, f.means("Where they come from.")]
    in_pool: Annotated[bool, f.means("Whether they are of the usual kind, which never ends.")]
    amount_minor: Annotated[f.Positive, f.AMOUNT]
    left_minor: Annotated[f.Count, f.means("What is left of them, held credits included.")]
    held_minor: Annotated[f.Count, f.means("What open holds keep of them.")]
    priority: Annotated[f.Count, f.means("Credits of lower numbers are spent first.")]
    expires_at: Annotated[datetime | None, f.means("When they end; null for never.")]
    created_at: Annotated[datetime | None, f.WHEN]
    description: Annotated[str | None, f.DESCRIPTION]


class Lots(TypedDict):
    """The credits of an account, in the order in which they are spent."""

    lots: Annotated[list[Lot], f.means("Credits.")]
    has_more: Annotated[bool, f.HAS_MORE]


class Allocation(TypedDict):
    """What credits paid of a charge."""

    charge_id: Annotated[UUID, f.means("The charge.")]
    ledger_version: Annotated[f.Positive, f.means("The number of its entry.")]
    created_at: Annotated[datetime, f.WHEN]
    charge_minor: Annotated[f.Positive, f.means("The whole charge.")]
    lot_id: Annotated[UUID | None, f.means("The credits; null for what books began with.")]
    credit_id: Annotated[UUID | None, f.CREDIT_ID]
    in_pool: Annotated[bool, f.means("Whether they are of the usual kind.")]
    amount_minor: Annotated[f.Positive, f.means("What they paid of it.")]
    source: Annotated[_Source, f.means("Where they come from.")]
    expires_at: Annotated[datetime | None, f.means("When they end; null for never.")]


class Allocations(TypedDict):
    """Which credits paid for the newest charges of an account."""

    allocations: Annotated[list[Allocation], f.means("A row for each charge and credit.")]
    has_more: Annotated[bool, f.HAS_MORE]


class GrantSchedule(TypedDict):
    """Credits that are granted once at a set time, or regularly."""

    schedule_id: Annotated[UUID, f.means("The schedule.")]
    account_id: Annotated[UUID, f.ACCOUNT_ID]
    state: Annotated[Literal["active", "paused", "ended"], f.STATE]
    amount_minor: Annotated[f.Positive, f.means("Credits each time.")]
    repeat: Annotated[Literal["once", "daily", "weekly", "monthly"], f.means("How often.")]
    day: Annotated[f.Positive | None, f.means("Of the month, or of the week from Monday on.")]
    rollover: Annotated[bool, f.means("Whether what is left stays when the next ones come.")]
    lasts_days: Annotated[f.Positive | None, f.means("After how many days they end.")]
    next_at: Annotated[datetime | None, f.means("When the next ones come; null for never.")]
    ends_at: Annotated[datetime | None, f.means("From when on none come; null for no such end.")]
    grants_left: Annotated[f.Count | None, f.means("How many grants are left; null: no limit.")]
    grants: Annotated[f.Count, f.means("How many it gave so far.")]
    source: Annotated[_Source, f.means("Where they come from.")]
    priority: Annotated[f.Count, f.means("Credits of lower numbers are spent first.")]
    description: Annotated[str, f.DESCRIPTION]
    reason: Annotated[str | None, f.means("Why it was set.")]
    who: Annotated[str | None, f.means("Who set it.")]
    created_at: Annotated[datetime, f.WHEN]
    updated_at: Annotated[datetime, f.UPDATED_AT]


class GrantSchedules(TypedDict):
    """The schedules of an account."""

    schedules: Annotated[list[GrantSchedule], f.means("Schedules, newest first.")]
    has_more: Annotated[bool, f.HAS_MORE]


class ScheduleSet(TypedDict):
    """A schedule of grants that was set."""

    schedule_id: Annotated[UUID, f.means("The schedule.")]
    account_id: Annotated[UUID, f.ACCOUNT_ID]
    next_at: Annotated[datetime | None, f.means("When the next credits come; null for never.")]


_PATH = {"account_id": ACCOUNT_ID}
LOTS = Example(
    {
        "lots": [
            {
                "lot_id": CREDIT_ID,
                "credit_id": CREDIT_ID,
                "source": "promotion",
                "in_pool": False,
                "amount_minor": 20,
                "left_minor": 12,
                "held_minor": 2,
                "priority": 50,
                "expires_at": AT,
                "created_at": THEN,
                "description": "Welcome gift",
            }
        ],
        "has_more": False,
    },
    values=_PATH,
)
ALLOCATIONS = Example(
    {
        "allocations": [
            {
                "charge_id": "019a9c30-1f6a-7b35-8d2c-4e9b7a1c3d52",
                "ledger_version": 7,
                "created_at": AT,
                "charge_minor": 3,
                "lot_id": CREDIT_ID,
                "credit_id": CREDIT_ID,
                "in_pool": True,
                "amount_minor": 3,
                "source": "purchase",
                "expires_at": None,
            }
        ],
        "has_more": False,
    },
    values=_PATH,
)
SCHEDULES = Example(
    {
        "schedules": [
            {
                "schedule_id": _SCHEDULE_ID,
                "account_id": ACCOUNT_ID,
                "state": "active",
                "amount_minor": 20,
                "repeat": "monthly",
                "day": 1,
                "rollover": False,
                "lasts_days": None,
                "next_at": "2026-12-01T00:00:00+00:00",
                "ends_at": None,
                "grants_left": None,
                "grants": 3,
                "source": "grant",
                "priority": 50,
                "description": "Monthly grant",
                "reason": "A plan with 20 messages a month",
                "who": "ada@example.com",
                "created_at": THEN,
                "updated_at": THEN,
            }
        ],
        "has_more": False,
    },
    values=_PATH,
)
SET = Example(
    {
        "schedule_id": _SCHEDULE_ID,
        "account_id": ACCOUNT_ID,
        "next_at": "2026-12-01T00:00:00+00:00",
    },
    request={"amount": 20, "day": 1, "reason": "A plan with 20 messages a month"},
    values=_PATH,
    idempotency_key="plan-1042",
)
CHANGED = Example(
    {
        "schedule_id": _SCHEDULE_ID,
        "account_id": ACCOUNT_ID,
        "next_at": "2026-12-01T00:00:00+00:00",
    },
    request={"reason": "The plan is on hold"},
    values={"schedule_id": _SCHEDULE_ID},
)
MODIFIED = Example(
    {"schedule_id": _SCHEDULE_ID, "account_id": ACCOUNT_ID, "next_at": AT},
    request={"amount": 30, "rollover": True, "reason": "A greater plan"},
    values={"schedule_id": _SCHEDULE_ID},
)
ENDED = Example(
    {"schedule_id": _SCHEDULE_ID, "account_id": ACCOUNT_ID, "next_at": None},
    request={"reason": "The plan is over"},
    values={"schedule_id": _SCHEDULE_ID},
)
ERRORS = ("grant_schedule_not_found", "grant_schedule_over")

_lot = reader(Lot, functions.list_lots.columns)
_allocation = reader(Allocation, functions.list_allocations.columns)
_schedule = reader(GrantSchedule, functions.list_grant_schedules.columns)
_set = reader(ScheduleSet, functions.set_grant_schedule.columns)


async def list_user_lots(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists an account's credits with what is left of each, in the order in which they are spent.
    With `pool` false only those that end, are promotions or have another priority than 50."""
    path: UserPath = call.path
    query: LotsQuery = call.query
    rows = await call.rows(
        functions.list_lots(
            account_id=path.account_id, all=query.all, pool=query.pool, limit=query.limit + 1
        )
    )
    told: Lots = {
        "lots": [_lot(row) for row in rows[: query.limit]],
        "has_more": len(rows) > query.limit,
    }
    return answer(200, told)


async def list_user_allocations(request: web.Request, call: Call) -> web.StreamResponse:
    """Tells which credits paid for an account's newest paid charges; `before` goes on with those
    before an entry."""
    path: UserPath = call.path
    query: AllocationsQuery = call.query
    rows = await call.rows(
        functions.list_allocations(
            account_id=path.account_id, before=query.before, limit=query.limit + 1
        )
    )
    # A charge has a row for each credit that paid for it.
    charges = dict.fromkeys(row["charge_id"] for row in rows)
    shown = set(list(charges)[: query.limit])
    told: Allocations = {
        "allocations": [_allocation(row) for row in rows if row["charge_id"] in shown],
        "has_more": len(charges) > query.limit,
    }
    return answer(200, told)


async def list_user_grant_schedules(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists an account's regular grants, and credits that come at a set time; with `all` also those
    that ended."""
    path: UserPath = call.path
    query: SchedulesQuery = call.query
    rows = await call.rows(
        functions.list_grant_schedules(
            account_id=path.account_id, all=query.all, limit=query.limit + 1
        )
    )
    told: GrantSchedules = {
        "schedules": [_schedule(row) for row in rows[: query.limit]],
        "has_more": len(rows) > query.limit,
    }
    return answer(200, told)


async def set_user_grant_schedule(request: web.Request, call: Call) -> web.StreamResponse:
    """Grants an account credits every day, week or month at 00:00 UTC. With `schedule_id` it
    changes this schedule as a whole: a field that is left out has its default. What is left of a
    grant ends when the next one comes, unless `rollover` is true."""
    path: UserPath = call.path
    body: GrantScheduleRequest = call.body
    row = await call.row(
        functions.set_grant_schedule(
            account_id=path.account_id, idempotency_key=call.idempotency_key, **body.model_dump()
        )
    )
    return answer(201, _set(row), {"Idempotent-Replayed": "true"} if row["replayed"] else None)


async def change_grant_schedule(request: web.Request, call: Call) -> web.StreamResponse:
    """Changes a running schedule of grants from its next grant on. A field that is left out stays
    as it is, and so do the credits that were granted."""
    path: SchedulePath = call.path
    body: ChangeScheduleRequest = call.body
    row = await call.row(
        functions.change_grant_schedule(schedule_id=path.schedule_id, **body.model_dump())
    )
    return answer(200, _set(row))


async def pause_grant_schedule(request: web.Request, call: Call) -> web.StreamResponse:
    """Pauses a schedule of grants. What is not granted meanwhile is not granted afterwards."""
    return await _paused(call, True)


async def resume_grant_schedule(request: web.Request, call: Call) -> web.StreamResponse:
    """Lets a schedule of grants go on."""
    return await _paused(call, False)


async def end_grant_schedule(request: web.Request, call: Call) -> web.StreamResponse:
    """Ends a schedule of grants, or cancels credits that were to come. Credits that it granted
    stay."""
    path: SchedulePath = call.path
    body: ReasonRequest = call.body
    row = await call.row(
        functions.end_grant_schedule(schedule_id=path.schedule_id, reason=body.reason)
    )
    ended: ScheduleSet = {
        "schedule_id": row["schedule_id"],
        "account_id": row["account_id"],
        "next_at": None,
    }
    return answer(200, ended)


async def _paused(call: Call, paused: bool) -> web.StreamResponse:
    path: SchedulePath = call.path
    body: ReasonRequest = call.body
    row = await call.row(
        functions.pause_grant_schedule(
            schedule_id=path.schedule_id, reason=body.reason, paused=paused
        )
    )
    return answer(200, _set(row))
