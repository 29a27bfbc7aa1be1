"""The answer to a request whose handler raises, by the middleware alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient

from server.config import ServeConfig
from server.gateway import Refused, Unavailable
from server.http.app_keys import CONFIG, STOPPING
from server.http.errors import ApiError
from server.http.middleware import around_request

SECRET = "ada@example.com"


async def client_of(aiohttp_client: AiohttpClient, error: Exception) -> TestClient[Any, Any]:
    """A client of an application with one handler, which raises this error."""

    async def handler(request: web.Request) -> web.Response:
        raise error

    app = web.Application(middlewares=[around_request])
    app[CONFIG] = ServeConfig(database_url="", max_body_bytes=1000)
    app[STOPPING] = asyncio.Event()
    app.router.add_get("/work", handler)
    return await aiohttp_client(app)


@pytest.mark.parametrize(
    ("error", "status", "body", "headers"),
    [
        (
            ApiError(418, "teapot", "No coffee", headers={"X-Pot": "tea"}, extra={"hint": "Wait"}),
            418,
            {"detail": "No coffee", "code": "teapot", "hint": "Wait"},
            {"X-Pot": "tea"},
        ),
        (
            Refused("api_key_invalid", 401, "No such key", {}),
            401,
            {"detail": "No such key", "code": "api_key_invalid"},
            {"WWW-Authenticate": "ApiKey"},
        ),
        (
            Unavailable(f"no route to {SECRET}"),
            503,
            {"detail": "Service temporarily unavailable, please retry", "code": "unavailable"},
            {"Retry-After": "1"},
        ),
        (
            web.HTTPRequestEntityTooLarge(max_size=1000, actual_size=1001),
            413,
            {
                "detail": "Request body too large: at most 1000 bytes are accepted",
                "code": "body_too_large",
            },
            {},
        ),
        (
            ValueError(SECRET),
            500,
            {"detail": "Internal Server Error", "code": "internal_error"},
            {},
        ),
    ],
    ids=["ApiError", "Refused", "Unavailable", "HTTPException", "unforeseen"],
)
async def test_what_a_handler_raises_becomes_an_answer_without_its_words(
    aiohttp_client: AiohttpClient,
    error: Exception,
    status: int,
    body: dict[str, Any],
    headers: dict[str, str],
) -> None:
    client = await client_of(aiohttp_client, error)
    answer = await client.get("/work", headers={"X-Request-ID": "mine"})
    assert answer.status == status
    assert await answer.json() == {**body, "request_id": "mine"}
    assert headers.items() <= dict(answer.headers).items()
    assert answer.headers["X-Request-ID"] == "mine"


async def test_a_request_gets_an_id_of_ours_unless_its_own_can_be_logged(
    aiohttp_client: AiohttpClient,
) -> None:
    client = await client_of(aiohttp_client, ApiError(404, "gone", "Gone"))
    for presented in ("", "with space", "x" * 129, "ümlaut"):
        answer = await client.get("/work", headers={"X-Request-ID": presented})
        assert len(answer.headers["X-Request-ID"]) == 32
        assert (await answer.json())["request_id"] == answer.headers["X-Request-ID"]


async def test_a_server_that_stops_closes_its_connections(aiohttp_client: AiohttpClient) -> None:
    client = await client_of(aiohttp_client, ApiError(404, "gone", "Gone"))
    assert (await client.get("/work")).headers.get("Connection") is None
    assert client.app is not None
    client.app[STOPPING].set()
    assert (await client.get("/work")).headers["Connection"] == "close"
