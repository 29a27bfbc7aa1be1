"""/admin/api/config/providers (contract.md 5, mended by 8.17): secrets come in and only their masks
go out."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from server.admin_api.endpoint import Call, answer, pick
from server.admin_api.models import ProviderPath, SetProviderRequest
from server.gateway import Row, calls
from server.http.errors import validation_error
from server.payments.payments import PAYMENTS
from server.payments.settings import InvalidSetting


async def list_providers(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with a bare array, ordered by name."""
    rows = await call.rows(calls.LIST_PROVIDER_CONFIGS)
    return answer(200, [_provider(row) for row in rows])


async def set_provider(request: web.Request, call: Call) -> web.StreamResponse:
    """200 with the configuration as it is now. A given config_data replaces what is stored, but
    for values that come back masked or blank, which are kept."""
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
        calls.SET_PROVIDER_CONFIG,
        provider_type=path.provider,
        config_data=orjson.dumps(sealed).decode(),
        is_active=body.is_enabled,
        reason=body.reason,
    )
    return answer(200, _provider(row))


async def _stored_names(call: Call, provider: str) -> list[str]:
    return [
        name
        for row in await call.rows(calls.LIST_PROVIDER_CONFIGS)
        if row["provider_type"] == provider
        for name in orjson.loads(row["config_data"])
    ]


def _invalid(error: InvalidSetting) -> dict[str, Any]:
    # Without what was sent: it may be most of a secret.
    return {
        "type": "value_error",
        "loc": ["body", "config_data"],
        "msg": f"Value error, {error}",
        "input": None,
        "ctx": {"error": {}},
    }


def _provider(row: Row) -> dict[str, Any]:
    return {
        **pick(row, id="id", provider_name="provider_type", is_enabled="is_active"),
        "config_data": orjson.loads(row["config_data"]),
        **pick(row, "updated_at", "mode"),
    }
