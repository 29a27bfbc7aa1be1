"""/admin/api/staff: who may sign in."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer
from server.admin_api.models import (
    AddStaffRequest,
    ChangeStaffRequest,
    StaffPath,
)
from server.gateway import functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.example_values import STAFF_ID, THEN
from server.http.route import Example


class StaffMember(TypedDict):
    """A member of staff."""

    id: Annotated[UUID, From("admin_user_id"), f.ITS_ID]
    email: Annotated[str, f.EMAIL]
    name: Annotated[str, From("full_name"), f.FULL_NAME]
    role: Annotated[Literal["admin", "viewer"], f.ROLE]
    is_active: Annotated[bool, f.IS_ACTIVE]


class StaffEntry(StaffMember):
    """A member of staff in the list."""

    created_at: Annotated[datetime, f.WHEN]
    last_login_at: Annotated[
        datetime | None, f.means("When they last signed in, in UTC; null before that.")
    ]


class StaffList(TypedDict):
    """All members of staff."""

    staff: Annotated[list[StaffEntry], f.means("Everybody who may, or once might, sign in.")]


_EXAMPLE = {
    "id": STAFF_ID,
    "email": "grace@example.com",
    "name": "Grace",
    "role": "viewer",
    "is_active": True,
}
LIST = Example({"staff": [{**_EXAMPLE, "created_at": THEN, "last_login_at": None}]})
ADDED = Example(_EXAMPLE, request={"email": "grace@example.com", "name": "Grace", "role": "viewer"})
CHANGED = Example(
    _EXAMPLE,
    request={"is_active": True, "reason": "Back from leave"},
    values={"email": "grace@example.com"},
)

_member = reader(StaffMember, functions.add_admin.columns)
_entry = reader(StaffEntry, functions.list_admins.columns)


async def list_staff(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists everybody who may sign in, and those who once could."""
    rows = await call.rows(functions.list_admins())
    everybody: StaffList = {"staff": [_entry(row) for row in rows]}
    return answer(200, everybody)


async def add_staff(request: web.Request, call: Call) -> web.StreamResponse:
    """Lets somebody sign in. An existing member of staff gets this role and may sign in again."""
    body: AddStaffRequest = call.body
    row = await call.row(
        functions.add_admin(
            email=body.email,
            full_name=body.name,
            role=body.role,
            reason=body.reason,
        )
    )
    return answer(201, _member(row))


async def change_staff(request: web.Request, call: Call) -> web.StreamResponse:
    """Changes somebody's role, or whether they may sign in. The last administrator keeps that
    role."""
    path: StaffPath = call.path
    body: ChangeStaffRequest = call.body
    row = await call.row(
        functions.set_admin(
            email=path.email,
            reason=body.reason,
            role=body.role,
            is_active=body.is_active,
        )
    )
    return answer(200, _member(row))
