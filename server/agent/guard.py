"""The guard of the agent API: which API key is calling (design.md 6).

A key's first 20 characters find its row, and its Argon2id hash is verified once, in a thread. From
then on the process remembers, by the SHA-256 of the presented key, the credential that calls name
the key by: the first half of that SHA-256, or the key's id for keys older than this rule. The
remembered credential can never become false, because a key's hash never changes, so it needs no
expiry. Whether the key is still valid is decided by the billing function, in the same round trip as
the work itself."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from uuid import UUID

from aiohttp import web

from server.api_key_secret import PREFIX_LENGTH, credential_of, digest_of, verify_secret
from server.gateway import Gateway
from server.http.errors import ApiError, known_error, unavailable

V = TypeVar("V")

# The contract words `detail`; this stands beside it.
WHERE_KEYS_GO = {
    "hint": "Send the API key as it is in the header X-API-Key. Authorization (Bearer) is not read."
}
_KNOWN_KEYS = 10_000
_KNOWN_WRONG = 10_000
_LOOKUPS_AT_ONCE = 2
_PENDING_PER_PREFIX = 8
_PENDING = 64


class Guard:
    """Turns a presented API key into its credential. A flood of wrong keys costs at most one
    low-priority thread of Argon2 and two look-ups at a time; known keys never queue behind it."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._known: OrderedDict[bytes, UUID] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._verifying: dict[bytes, asyncio.Task[UUID]] = {}
        self._pending_by_prefix: Counter[str] = Counter()
        self._lookups = asyncio.Semaphore(_LOOKUPS_AT_ONCE)
        self._thread = ThreadPoolExecutor(1, "argon2", initializer=_yield_to_others)

    def close(self) -> None:
        """Ends the verifying thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def identify(self, presented: str) -> UUID:
        """Returns the credential of the key with this secret. Whether the key may act is not
        decided here.

        Raises ApiError: 401 for what is not a key, 503 when too many unknown keys are waiting
        already."""
        if not presented.startswith("cbk_"):
            raise _unauthorized("api_key_format", WHERE_KEYS_GO)
        if not presented.isascii():
            raise _unauthorized("api_key_invalid")
        digest = digest_of(presented)
        known = self._known.get(digest)
        if known is not None:
            return known
        if digest in self._wrong:
            raise _unauthorized("api_key_invalid")
        # A burst of requests with one key, as after a restart, is verified once.
        verification = self._verifying.get(digest)
        if verification is None:
            verification = self._start(presented, digest)
        return await asyncio.shield(verification)

    def _start(self, presented: str, digest: bytes) -> asyncio.Task[UUID]:
        prefix = presented[:PREFIX_LENGTH]
        if (
            len(self._verifying) >= _PENDING
            or self._pending_by_prefix[prefix] >= _PENDING_PER_PREFIX
        ):
            raise unavailable(1, "Too many API keys are being verified, please retry")
        self._pending_by_prefix[prefix] += 1
        verification = asyncio.get_running_loop().create_task(
            self._verify(prefix, presented, digest)
        )
        self._verifying[digest] = verification

        def ended(task: asyncio.Task[UUID]) -> None:
            del self._verifying[digest]
            self._pending_by_prefix[prefix] -= 1
            if not self._pending_by_prefix[prefix]:
                del self._pending_by_prefix[prefix]
            if not task.cancelled():
                task.exception()  # marks the exception as seen, in case every waiter has gone away

        verification.add_done_callback(ended)
        return verification

    async def _verify(self, prefix: str, presented: str, digest: bytes) -> UUID:
        async with self._lookups:
            found = await self._gateway.find_api_key(prefix)
        if found is None:
            # Not remembered, because a key with this prefix may be created later.
            raise _unauthorized("api_key_invalid")
        genuine = await asyncio.get_running_loop().run_in_executor(
            self._thread, verify_secret, found["key_hash"], presented
        )
        if not genuine:
            _remember(self._wrong, digest, None, _KNOWN_WRONG)
            raise _unauthorized("api_key_invalid")
        credential = credential_of(digest) if found["acts_by_digest"] else found["api_key_id"]
        _remember(self._known, digest, credential, _KNOWN_KEYS)
        return credential


GUARD = web.AppKey("guard", Guard)


def _remember(memory: OrderedDict[bytes, V], digest: bytes, value: V, limit: int) -> None:
    memory[digest] = value
    if len(memory) > limit:
        memory.popitem(last=False)


def _unauthorized(code: str, extra: Mapping[str, Any] | None = None) -> ApiError:
    error = known_error(code, headers={"WWW-Authenticate": "ApiKey"})
    error.extra = extra or {}
    return error


def _yield_to_others() -> None:
    """Lowers the priority of the verifying thread: requests with known keys come first."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
