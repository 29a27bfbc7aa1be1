"""What can go wrong. An answer that refuses is an ApiError with the fields of its body; no answer
in time is a NoAnswer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar, cast, overload

import msgspec

from ciris_billing_client.models import Cap, Charge, Hold

T = TypeVar("T")


class BillingError(Exception):
    """The base of every error of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker pools pickle errors. Python itself would call the class with the message alone.
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[BillingError], args: tuple[Any, ...], fields: dict[str, Any]) -> BillingError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class NoAnswer(BillingError):
    """No answer came in time, so it is unknown whether the service did what was asked. The same
    call with this `idempotency_key` has no second effect, and tells."""

    def __init__(self, message: str, request_id: str, idempotency_key: str | None) -> None:
        super().__init__(f"{message} (request {request_id})")
        self.request_id = request_id
        self.idempotency_key = idempotency_key


class UnreadableAnswer(BillingError):
    """The service answered with success, but not in a form that this release understands."""


class Field(Generic[T]):
    """A field of an error's body; None where the body does not have it, or has no object of `kind`
    there."""

    def __init__(self, kind: type[T] | None = None) -> None:
        self.kind = kind

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, error: None, owner: type) -> Field[T]: ...

    @overload
    def __get__(self, error: ApiError, owner: type) -> T: ...

    def __get__(self, error: ApiError | None, owner: type) -> T | Field[T] | None:
        if error is None:
            return self
        value: Any = error.body.get(self.name)
        if self.kind is not None and value is not None:
            try:
                value = msgspec.convert(value, self.kind)
            except msgspec.ValidationError:
                value = None
        return cast("T | None", value)


class ApiError(BillingError):
    """An answer that refuses. Decide by the class or by `code`."""

    detail = Field[Any]()
    """For people; a list of what is wrong where, if the request has the wrong shape."""
    request_id = Field["str | None"]()
    """For asking the service's operator."""
    hint = Field["str | None"]()

    def __init__(
        self,
        status: int,
        body: Mapping[str, Any],
        *,
        retry_after: float | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.code = str(body.get("code", ""))
        self.retry_after = retry_after
        self.idempotency_key = idempotency_key
        super().__init__(f"{status} {self.code or 'error'}: {body.get('detail', '')}")


class InvalidRequest(ApiError):
    """What was sent is wrong: 400, 413, 415 or 422."""


class Unauthorized(ApiError):
    """The API key is missing, unknown, revoked or expired: 401."""


class InsufficientCredits(ApiError):
    """The user cannot pay, and nothing was taken: 402."""

    balance = Field[int]()
    required = Field[int]()
    shortfall = Field[int]()
    retryable = Field[bool]()
    purchase_url = Field["str | None"]()


class CapReached(ApiError):
    """A cap refused the charge, and nothing was taken: 402 for the account's own cap, else 429.
    `retryable` is false when the charge asks for more than the whole cap."""

    cap = Field(Cap)
    required = Field[int]()
    retryable = Field[bool]()


class Forbidden(ApiError):
    """The API key may not do this, or the account is suspended or closed: 403."""


class NotFound(ApiError):
    """This API key sees no such account, charge, hold or payment: 404."""


class Conflict(ApiError):
    """It was done before, or can no longer be done: 409. `code` says which."""


class ChargeExists(Conflict):
    """In a batch: the charge's own key has made a charge before. Take it as a success."""

    charge = Field(Charge)


class HoldSettled(Conflict):
    """The hold was captured or released before, in another way."""

    hold = Field["Hold | None"](Hold)


class HoldExpired(Conflict):
    """The hold's time is over, and its credits were used for something else."""

    available = Field[int]()
    required = Field[int]()


class CaptureExceedsHold(Conflict):
    """More was to be captured than is held."""

    available = Field[int]()
    required = Field[int]()


class RateLimited(ApiError):
    """Too many requests: 429. `retry_after` says after how many seconds to come again."""


class ServiceFault(ApiError):
    """A fault of the service: 5xx. Tell its operator the `request_id`."""


class Unavailable(ServiceFault):
    """The service cannot work now: 502, 503 or 504."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    402: InsufficientCredits,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


_BY_CODE: Mapping[str, type[ApiError]] = {
    "account_cap_reached": CapReached,
    "cap_reached": CapReached,
    "capture_exceeds_hold": CaptureExceedsHold,
    "charge_already_exists": ChargeExists,
    "hold_expired": HoldExpired,
    "hold_settled": HoldSettled,
}


def error_class(status: int, code: object) -> type[ApiError]:
    """The class of an answer that refuses, or that is none of the service's."""
    if isinstance(code, str) and code in _BY_CODE:
        return _BY_CODE[code]
    return _BY_STATUS.get(status, ServiceFault if status >= 500 else ApiError)
