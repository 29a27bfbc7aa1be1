"""What the tests of `serve` share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx2

from tests.support import (
    Service,
    charge_body,
    identity,
    wait_for,
)

CHECK, CHARGES, CREDITS = (
    f"/v1/billing/{name}" for name in ("credits/check", "charges", "credits")
)


BATCH = "/v1/billing/charges:batch"


@contextlib.asynccontextmanager
async def session_for(service: Service) -> AsyncIterator[aiohttp.ClientSession]:
    """Unlimited connections, presenting the service's key."""
    async with aiohttp.ClientSession(
        service.base_url,
        headers={"X-API-Key": service.key.secret},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=30),
    ) as session:
        yield session


async def timed_post(
    session: aiohttp.ClientSession, path: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, float, dict[str, Any]]:
    """Status, seconds, body. A 503 must carry Retry-After."""
    began = time.monotonic()
    async with session.post(path, json=body, headers=headers) as answer:
        content = await answer.json()
        if answer.status == 503:
            assert int(answer.headers["Retry-After"]) >= 1
        return answer.status, time.monotonic() - began, content


async def arrived(service: Service, session: aiohttp.ClientSession, count: int = 1) -> None:
    """Returns when `count` requests are under way and the checks and charges among them have been
    tried once: other requests, sent after them, were answered."""

    def in_progress() -> bool:
        text = httpx2.get(f"{service.base_url}/metrics", verify=False).text
        found = re.search(r"^billing_http_requests_in_progress (\S+)$", text, re.MULTILINE)
        return found is not None and float(found[1]) > count  # it counts itself

    await asyncio.to_thread(wait_for, in_progress, f"{count} requests to arrive")
    assert (await timed_post(session, CHECK, identity("bystander")))[0] == 200
    assert (await timed_post(session, CHARGES, charge_body("nobody")))[0] == 404


def exceptions(service: Service) -> str:
    """The first traceback in the server's log, for a failure's message."""
    for line in service.process.output.splitlines():
        if '"exception":' in line:
            return str(json.loads(line)["exception"])
    return ""
