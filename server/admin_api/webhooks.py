"""/admin/api/webhooks: where alerts are sent, and what is on its way there."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from aiohttp import web
from pydantic import Field, StringConstraints
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer, page_of
from server.admin_api.models import ListedDays, PageQuery
from server.gateway import Row, functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.app_keys import GATEWAY
from server.http.errors import ApiError, validation_error
from server.http.example_values import ACCOUNT_ID, AT, BOUNDED, THEN
from server.http.route import Example
from server.http.validation import Name255, Reason, RequestModel
from server.limits import most
from server.outbox import endpoints
from server.outbox.endpoints import EndpointFault
from server.outbox.sender import SENDER

_KINDS = "|".join(kind.replace(".", "[.]") for kind, _ in endpoints.KINDS)
Kind = Annotated[str, StringConstraints(pattern=f"^({_KINDS})$")]
Address = Annotated[str, StringConstraints(min_length=1, max_length=most("url"))]
_KINDS_MEAN = "Kinds of alerts that are sent there; an empty list stands for all."
_ENDPOINT_ID = "0197f2a0-0000-7000-8000-0000000000e1"
_DELIVERY_ID = "0197f2a0-0000-7000-8000-0000000000d1"


class EndpointPath(RequestModel):
    """/admin/api/webhooks/{endpoint_id}"""

    endpoint_id: Annotated[UUID, f.means("The endpoint.")]


class DeliveryPath(RequestModel):
    """/admin/api/webhook-deliveries/{delivery_id}"""

    delivery_id: Annotated[UUID, f.means("The delivery.")]


class CreateEndpointRequest(RequestModel):
    """POST /admin/api/webhooks"""

    name: Annotated[Name255, f.means("What people call it.")]
    url: Annotated[Address, f.means("Where alerts are sent. It must be https and public.")]
    kinds: Annotated[list[Kind], f.means(_KINDS_MEAN)] = Field(default_factory=list)
    reason: Annotated[Reason, f.AUDIT_REASON]


class ChangeEndpointRequest(RequestModel):
    """PUT /admin/api/webhooks/{endpoint_id}"""

    name: Annotated[Name255 | None, f.means("What people call it; null keeps.")] = None
    url: Annotated[
        Address | None,
        f.means("Another address; null keeps. It must be tried before it is switched on."),
    ] = None
    kinds: Annotated[list[Kind] | None, f.means(f"{_KINDS_MEAN} Null keeps.")] = None
    status: Annotated[
        Literal["off", "on", "paused"] | None,
        f.means("On, off, or paused: then alerts wait. Null keeps."),
    ] = None
    reason: Annotated[Reason, f.AUDIT_REASON]


class EndpointReason(RequestModel):
    """POST .../rotate and .../resend"""

    reason: Annotated[Reason, f.AUDIT_REASON]


class DeliveriesQuery(ListedDays, PageQuery):
    """GET /admin/api/webhook-deliveries"""

    endpoint_id: Annotated[UUID | None, f.means("Only those to this endpoint.")] = None
    state: Annotated[
        Literal["waiting", "delivered", "failed"] | None, f.means("Only those in this state.")
    ] = None
    kind: Annotated[Kind | None, f.means("Only alerts of this kind.")] = None
    account_id: Annotated[UUID | None, f.means("Only alerts about this account.")] = None


class LowBalanceRequest(RequestModel):
    """PUT /admin/api/config/low-balance"""

    threshold: Annotated[
        Annotated[int, Field(ge=1, le=10**12)] | None,
        f.means("Free uses and credits left together; null for none."),
    ]
    reason: Annotated[Reason, f.AUDIT_REASON]


class Endpoint(TypedDict):
    """Where alerts are sent."""

    endpoint_id: Annotated[UUID, f.ITS_ID]
    name: Annotated[str, f.means("What people call it.")]
    url: Annotated[str, f.means("Where alerts are sent.")]
    kinds: Annotated[list[str], f.means(_KINDS_MEAN)]
    status: Annotated[Literal["off", "on", "paused"], f.means("While paused, alerts wait.")]
    secret: Annotated[str, f.means("The mask of the secret that signs.")]
    old_secret: Annotated[
        str | None, f.means("The mask of the secret before, while it signs as well.")
    ]
    old_secret_until: Annotated[datetime | None, f.means("Until when that is, in UTC.")]
    tried_at: Annotated[
        datetime | None, f.means("When it last accepted a test event, in UTC; null: never.")
    ]
    waiting: Annotated[f.Count, f.means("Alerts that wait for it.")]
    failed: Annotated[f.Count, f.means("Alerts whose delivery was given up.")]
    created_at: Annotated[datetime, f.WHEN]
    updated_at: Annotated[datetime, f.means("When it last changed, in UTC.")]
    problem: Annotated[
        str | None,
        f.means(
            "Why the sender switched it off; null otherwise, and once it accepts a test event."
        ),
    ]


class NewEndpoint(TypedDict):
    """A new endpoint with its secret."""

    endpoint_id: Annotated[UUID, f.ITS_ID]
    secret: Annotated[str, f.means("The secret, which signs alerts. It is shown this once.")]


class ChangedEndpoint(TypedDict):
    """An endpoint after a change."""

    endpoint_id: Annotated[UUID, f.ITS_ID]
    name: Annotated[str, f.means("What people call it.")]
    url: Annotated[str, f.means("Where alerts are sent.")]
    status: Annotated[Literal["off", "on", "paused"], f.means("While paused, alerts wait.")]
    previous_status: Annotated[Literal["off", "on", "paused"], f.means("Its status before.")]


class RotatedSecret(TypedDict):
    """An endpoint's new secret."""

    secret: Annotated[str, f.means("The new secret. It is shown this once.")]
    old_secret_until: Annotated[
        datetime, f.means("Until when alerts are signed with the old secret as well, in UTC.")
    ]


class Trial(TypedDict):
    """The result of a test event."""

    accepted: Annotated[bool, f.means("Whether it was answered with a status of 2xx.")]
    answer_status: Annotated[int | None, f.means("The answer's status; null without an answer.")]
    error: Annotated[str | None, f.means("What went wrong; null when it was accepted.")]


class Delivery(TypedDict):
    """One alert for one endpoint."""

    delivery_id: Annotated[UUID, f.ITS_ID]
    event_id: Annotated[UUID, f.means("The webhook-id, the same at every attempt.")]
    endpoint_id: Annotated[UUID, f.means("The endpoint.")]
    endpoint_name: Annotated[str | None, f.means("Its name; null when it is gone.")]
    kind: Annotated[str, f.means("The kind of alert.")]
    account_id: Annotated[UUID | None, f.means("The account it is about, if any.")]
    payload: Annotated[
        dict[str, Any],
        From(lambda row: orjson.loads(row["payload"])),
        f.means("The body that is sent."),
    ]
    state: Annotated[
        Literal["waiting", "delivered", "failed"], f.means("`failed`: it was given up.")
    ]
    attempts: Annotated[f.Count, f.means("How often it was sent.")]
    created_at: Annotated[datetime, f.WHEN]
    due_at: Annotated[datetime | None, f.means("When it is sent next, in UTC, while it waits.")]
    attempted_at: Annotated[datetime | None, f.means("When it was last sent, in UTC.")]
    answer_status: Annotated[int | None, f.means("The status of the last answer.")]
    error: Annotated[str | None, f.means("Why the last attempt failed.")]
    settled_at: Annotated[datetime | None, f.means("When it was delivered or given up, in UTC.")]


class DeliveryPage(f.BoundedPage):
    """A page of deliveries, newest first."""

    deliveries: Annotated[list[Delivery], f.means("The deliveries.")]


class Resent(TypedDict):
    """What is sent again."""

    deliveries: Annotated[f.Count, f.means("How many deliveries are due again.")]


class LowBalance(TypedDict):
    """The balance that counts as low."""

    threshold: Annotated[
        f.Count | None, f.means("Free uses and credits left together; null: there is none.")
    ]


_PATH = {"endpoint_id": _ENDPOINT_ID}
_URL = "https://shop.example.com/billing"
LIST = Example(
    [
        {
            "endpoint_id": _ENDPOINT_ID,
            "name": "shop",
            "url": _URL,
            "kinds": ["balance.low", "balance.empty"],
            "status": "on",
            "secret": "whsec_…Zx8=",
            "old_secret": None,
            "old_secret_until": None,
            "tried_at": THEN,
            "waiting": 0,
            "failed": 0,
            "created_at": THEN,
            "updated_at": THEN,
            "problem": None,
        }
    ]
)
CREATED = Example(
    {"endpoint_id": _ENDPOINT_ID, "secret": "whsec_..."},
    request={
        "name": "shop",
        "url": _URL,
        "kinds": ["balance.low", "balance.empty"],
        "reason": "The shop writes to its customers",
    },
)
CHANGED = Example(
    {
        "endpoint_id": _ENDPOINT_ID,
        "name": "shop",
        "url": _URL,
        "status": "paused",
        "previous_status": "on",
    },
    request={"status": "paused", "reason": "The shop is being moved"},
    values=_PATH,
)
DELETED = Example(values={**_PATH, "reason": "The shop is closed"})
TRIED = Example({"accepted": True, "answer_status": 204, "error": None}, values=_PATH)
ROTATED = Example(
    {"secret": "whsec_...", "old_secret_until": AT}, request={"reason": "It leaked"}, values=_PATH
)
DELIVERIES = Example(
    {
        "deliveries": [
            {
                "delivery_id": _DELIVERY_ID,
                "event_id": "0197f2a0-0000-7000-8000-0000000000e7",
                "endpoint_id": _ENDPOINT_ID,
                "endpoint_name": "shop",
                "kind": "balance.low",
                "account_id": ACCOUNT_ID,
                "payload": {
                    "type": "balance.low",
                    "timestamp": THEN,
                    "data": {
                        "account_id": ACCOUNT_ID,
                        "oauth_provider": "oauth:google",
                        "external_id": "ada",
                        "credits_remaining": 5,
                        "free_uses_remaining": 0,
                        "threshold": 5,
                    },
                },
                "state": "delivered",
                "attempts": 1,
                "created_at": THEN,
                "due_at": None,
                "attempted_at": THEN,
                "answer_status": 204,
                "error": None,
                "settled_at": THEN,
            }
        ],
        **BOUNDED,
    },
    values={"state": "delivered"},
)
RESENT = Example(
    {"deliveries": 1}, request={"reason": "The shop lost it"}, values={"delivery_id": _DELIVERY_ID}
)
RESENT_ALL = Example({"deliveries": 12}, request={"reason": "The shop is mended"}, values=_PATH)
LOW_BALANCE = Example({"threshold": 5})
NEW_LOW_BALANCE = Example(
    {"threshold": 5}, request={"threshold": 5, "reason": "Tell users in time"}
)

_endpoint = reader(Endpoint, functions.list_webhook_endpoints.columns)
_changed = reader(ChangedEndpoint, functions.set_webhook_endpoint.columns)
_delivery = reader(Delivery, functions.list_deliveries.columns)


async def list_webhooks(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists the endpoints that alerts are sent to, oldest first, without their secrets."""
    rows = await call.rows(functions.list_webhook_endpoints())
    return answer(200, [_endpoint(row) for row in rows])


async def create_webhook(request: web.Request, call: Call) -> web.StreamResponse:
    """Makes an endpoint, switched off. Its secret is in the answer and is never shown again. Try
    it, then switch it on."""
    body: CreateEndpointRequest = call.body
    try:
        endpoint_id, secret = await endpoints.create_endpoint(
            call.rows, request.app[SENDER], **body.model_dump()
        )
    except EndpointFault as fault:
        raise _invalid(fault) from None
    return answer(201, {"endpoint_id": endpoint_id, "secret": secret})


async def change_webhook(request: web.Request, call: Call) -> web.StreamResponse:
    """Changes an endpoint, or switches it on, off or pauses it. An endpoint that gets another
    address is off until it has been tried there. The deliveries of an endpoint that is switched off
    are parked as failed."""
    path: EndpointPath = call.path
    body: ChangeEndpointRequest = call.body
    try:
        row = await endpoints.change_endpoint(
            call.rows, request.app[SENDER], path.endpoint_id, **body.model_dump()
        )
    except EndpointFault as fault:
        raise _invalid(fault) from None
    return answer(200, _changed(row))


async def delete_webhook(request: web.Request, call: Call) -> web.StreamResponse:
    """Deletes an endpoint that is switched off, and all deliveries to it."""
    path: EndpointPath = call.path
    query: EndpointReason = call.query
    await call.rows(
        functions.delete_webhook_endpoint(endpoint_id=path.endpoint_id, reason=query.reason)
    )
    return web.Response(status=204, headers={"Cache-Control": "no-store"})


async def try_webhook(request: web.Request, call: Call) -> web.StreamResponse:
    """Sends a signed test event of type `webhook.test`. An endpoint that answers with 2xx can be
    switched on."""
    path: EndpointPath = call.path
    attempt = await endpoints.try_endpoint(call.rows, request.app[SENDER], path.endpoint_id)
    trial: Trial = {
        "accepted": attempt.error is None,
        "answer_status": attempt.status,
        "error": attempt.error,
    }
    return answer(200, trial)


async def rotate_webhook_secret(request: web.Request, call: Call) -> web.StreamResponse:
    """Gives an endpoint another secret. For a day, alerts are signed with the old one as well."""
    path: EndpointPath = call.path
    body: EndpointReason = call.body
    try:
        secret, until = await endpoints.rotate_secret(
            call.rows, request.app[SENDER], path.endpoint_id, body.reason
        )
    except EndpointFault as fault:
        raise _invalid(fault) from None
    return answer(200, {"secret": secret, "old_secret_until": until})


async def list_webhook_deliveries(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists alerts that wait, were delivered or were given up, newest first."""
    query: DeliveriesQuery = call.query
    filters: dict[str, Any] = {
        "endpoint_id": query.endpoint_id,
        "state": query.state,
        "kind": query.kind,
        "account_id": query.account_id,
        **query.days,
    }
    rows = await call.rows(
        functions.list_deliveries(**filters, limit=query.page_size + 1, offset=query.offset)
    )
    counted = await call.row(functions.count_deliveries(**filters))
    return answer(200, page_of("deliveries", rows, query, _delivery, counted))


async def resend_webhook_delivery(request: web.Request, call: Call) -> web.StreamResponse:
    """Sends an alert again, whatever became of it, under the same webhook-id."""
    path: DeliveryPath = call.path
    body: EndpointReason = call.body
    row = await call.row(
        functions.resend_deliveries(delivery_id=path.delivery_id, reason=body.reason)
    )
    return answer(200, _resent(row))


async def resend_failed_deliveries(request: web.Request, call: Call) -> web.StreamResponse:
    """Sends all alerts again whose delivery to this endpoint was given up."""
    path: EndpointPath = call.path
    body: EndpointReason = call.body
    row = await call.row(
        functions.resend_deliveries(endpoint_id=path.endpoint_id, reason=body.reason)
    )
    return answer(200, _resent(row))


async def get_low_balance(request: web.Request, call: Call) -> web.StreamResponse:
    """Returns the balance at which an account counts as low."""
    row = await request.app[GATEWAY].sign_in(functions.get_settings())
    assert row is not None
    return answer(200, {"threshold": row["low_balance"]})


async def set_low_balance(request: web.Request, call: Call) -> web.StreamResponse:
    """Sets the balance at which an account counts as low: checks then say `low_balance`, and alerts
    are raised when a balance crosses it. Null switches both off."""
    body: LowBalanceRequest = call.body
    row = await call.row(functions.set_low_balance(threshold=body.threshold, reason=body.reason))
    return answer(200, {"threshold": row["set_low_balance"]})


def _resent(row: Row) -> Resent:
    return {"deliveries": row["resend_deliveries"]}


def _invalid(fault: EndpointFault) -> ApiError:
    return validation_error(
        [
            {
                "type": "value_error",
                "loc": ["body", fault.field],
                "msg": f"Value error, {fault.problem}",
                "input": None,
                "ctx": {"error": {}},
            }
        ]
    )
