"""/admin/api/config/providers (contract.md 5, changed by 8.17): secrets are accepted, and only
their masks are returned."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from aiohttp import web
from pydantic import WithJsonSchema
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer
from server.admin_api.models import ProviderPath, SetProviderRequest
from server.gateway import Row, functions
from server.http import fields as f
from server.http.answers import From, reader
from server.http.errors import validation_error
from server.http.example_values import AT
from server.http.route import Example
from server.payment_kinds import KINDS_WITHOUT_CODE, PROVIDER_KINDS
from server.payments.payments import PAYMENTS
from server.payments.settings import InvalidSetting


def _config(row: Row) -> Any:
    return orjson.loads(row["config_data"])


class Provider(TypedDict):
    """A payment provider, its secrets masked."""

    id: Annotated[UUID, f.ITS_ID]
    provider_name: Annotated[
        str,
        From("provider_type"),
        WithJsonSchema({"enum": [*PROVIDER_KINDS, *KINDS_WITHOUT_CODE], "type": "string"}),
        f.PROVIDER,
    ]
    is_enabled: Annotated[bool, From("is_active"), f.means("Whether it is in use.")]
    config_data: Annotated[
        dict[str, Any],
        From(_config),
        f.means(
            "The provider's settings by name. Secrets are masked, like `sk_…1234`; several"
            " webhook secrets have commas between their masks."
        ),
    ]
    updated_at: Annotated[datetime, f.means("When it last changed, in UTC.")]
    mode: Annotated[
        Literal["test", "live"] | None,
        f.means("Whether the API key is for test or for live payments; null when nothing says."),
    ]


_EXAMPLE = {
    "id": "0b9f6f7c-1f53-4dd5-93a4-5f2f6f5b8f11",
    "provider_name": "stripe",
    "is_enabled": True,
    "config_data": {
        "api_key": "sk_…4242",
        "webhook_secret": "whsec_…9f1c",
        "publishable_key": "pk_test_example",
    },
    "updated_at": AT,
    "mode": "test",
}
LIST = Example([_EXAMPLE])
CONFIGURED = Example(
    _EXAMPLE,
    request={
        "is_enabled": True,
        "config_data": {"api_key": "sk_…4242", "publishable_key": "pk_test_example"},
        "reason": "New publishable key",
    },
    values={"provider": "stripe"},
)

_provider = reader(Provider, functions.list_provider_configs.columns)


async def list_providers(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists the payment providers that are set up, by name, with masked secrets."""
    rows = await call.rows(functions.list_provider_configs())
    return answer(200, [_provider(row) for row in rows])


async def set_provider(request: web.Request, call: Call) -> web.StreamResponse:
    """Sets a payment provider up, or switches it on or off. Secrets are stored encrypted. An answer
    of GET may be sent back: masked values keep what is stored."""
    path: ProviderPath = call.path
    body: SetProviderRequest = call.body
    given: dict[str, Any] = {}
    if body.config_data is not None:
        given = dict.fromkeys(await _stored_names(call, path.provider)) | body.config_data
    try:
        sealed = request.app[PAYMENTS].seal(path.provider, given)
    except InvalidSetting as error:
        raise validation_error([_invalid(error)]) from None
    row = await call.row(
        functions.set_provider_config(
            provider_type=path.provider,
            config_data=orjson.dumps(sealed).decode(),
            is_active=body.is_enabled,
            reason=body.reason,
        )
    )
    return answer(200, _provider(row))


async def _stored_names(call: Call, provider: str) -> list[str]:
    return [
        name
        for row in await call.rows(functions.list_provider_configs())
        if row["provider_type"] == provider
        for name in orjson.loads(row["config_data"])
    ]


def _invalid(error: InvalidSetting) -> dict[str, Any]:
    # The entry leaves out what was sent: that may be most of a secret.
    return {
        "type": "value_error",
        "loc": ["body", "config_data"],
        "msg": f"Value error, {error}",
        "input": None,
        "ctx": {"error": {}},
    }
