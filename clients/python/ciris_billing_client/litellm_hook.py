"""Credits for the requests of a LiteLLM proxy: held before the model is asked, settled by its cost
afterwards, given back if it fails. This module can be imported without litellm."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ciris_billing_client.clients import AsyncBilling
from ciris_billing_client.errors import ApiError, BillingError, NotFound
from ciris_billing_client.models import Hold, User

if TYPE_CHECKING:
    _CustomLogger = object
else:
    try:
        from litellm.integrations.custom_logger import CustomLogger as _CustomLogger
    except ImportError:
        _CustomLogger = object

_LOG = logging.getLogger("ciris_billing_client")
_LONGEST_REQUEST = 86_400  # seconds
_TOKEN = "ciris_billing_hold"  # noqa: S105 - where a request's metadata has its token

UserOf = Callable[[Any, dict[str, Any]], User | None]


def end_user(api_key: Any, request: dict[str, Any]) -> User | None:
    """The request's end user, or else the user of its LiteLLM key."""
    name = getattr(api_key, "end_user_id", None) or getattr(api_key, "user_id", None)
    return User("oauth:litellm", str(name)) if name else None


class RequestRefused(Exception):
    """What the proxy answers instead of asking the model; it reads `status_code`."""

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.message = self.detail = message


class BillingHook(_CustomLogger):
    """For `callbacks` in the proxy's `litellm_settings`.

    `up_to` credits are held for each request. `credits_per_dollar` turns the cost that LiteLLM
    reckons into credits, rounded up; a cost that it does not know takes all that is held, and one
    above it is taken as far as the user has it. `user_of` says whose request it is (LiteLLM's key
    and the request are its arguments); requests of nobody are refused. If the proxy dies, or loses
    a stream, the hold expires and the user has paid nothing."""

    def __init__(
        self,
        billing: AsyncBilling,
        *,
        up_to: int,
        credits_per_dollar: float,
        user_of: UserOf = end_user,
        expires_in_seconds: int = 900,
    ) -> None:
        super().__init__()
        self._billing = billing
        self._up_to = up_to
        self._credits_per_dollar = credits_per_dollar
        self._user_of = user_of
        self._expires_in_seconds = expires_in_seconds
        # The requests that are under way. A request names its hold by a token that is made here:
        # what a request brings along in its metadata must not reach another's hold.
        self._holds: dict[str, tuple[float, UUID]] = {}

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Holds credits, or refuses the request: 402 for a user who has too few."""
        user = self._user_of(user_api_key_dict, data)
        if user is None:
            raise RequestRefused(400, "the request does not say whose it is")
        try:
            hold = await self._hold(user, f"{call_type} {data.get('model', '')}".strip())
        except ApiError as error:
            raise RequestRefused(error.status, str(error)) from error
        except BillingError as error:
            raise RequestRefused(503, str(error)) from error
        token = self._remember(hold.hold_id)
        data["metadata"] = {**(data.get("metadata") or {}), _TOKEN: token}
        return data

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Settles a request by its cost; a stream when it has ended."""
        hold_id = self._taken(kwargs.get("litellm_params") or {})
        if hold_id is not None:
            credits_used = self._credits(kwargs.get("response_cost"))
            await self._end(self._billing.capture(hold_id, credits_used, overage="available"))

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        """Gives back what a request held that failed with all its retries and fallbacks."""
        hold_id = self._taken(request_data)
        if hold_id is not None:
            await self._end(self._billing.release(hold_id, "the request failed"))

    async def _hold(self, user: User, description: str) -> Hold:
        async def hold() -> Hold:
            return await self._billing.hold(
                user,
                self._up_to,
                description=description,
                expires_in_seconds=self._expires_in_seconds,
            )

        try:
            return await hold()
        except NotFound:  # a check creates the account
            await self._billing.check(user)
            return await hold()

    def _remember(self, hold_id: UUID) -> str:
        """A token for a hold. Requests that never ended, such as broken streams, are forgotten."""
        now = time.monotonic()
        while self._holds and next(iter(self._holds.values()))[0] < now - _LONGEST_REQUEST:
            del self._holds[next(iter(self._holds))]
        token = secrets.token_urlsafe(16)
        self._holds[token] = now, hold_id
        return token

    def _credits(self, cost: float | None) -> int:
        if cost is None:
            return self._up_to
        # 0.07 dollars at 100 credits each are 7.000000000000001.
        return math.ceil(round(cost * self._credits_per_dollar, 6))

    def _taken(self, request: dict[str, Any]) -> UUID | None:
        """The hold of a request, once."""
        token = (request.get("metadata") or {}).get(_TOKEN)
        known = self._holds.pop(token, None) if isinstance(token, str) else None
        return known[1] if known else None

    async def _end(self, ending: Any) -> None:
        """A failure must not spoil an answer that the model has given; the hold expires."""
        try:
            await ending
        except BillingError as error:
            _LOG.warning("a hold could not be settled: %s", error)
