"""A call of the service without any input or output: what to send, how long to wait, what came of
it. Drivers do the sending and the waiting; the rules are here, once for async and sync."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Generic, TypeVar
from uuid import uuid4

import msgspec

from ciris_billing_client.errors import (
    ApiError,
    BillingError,
    NoAnswer,
    UnreadableAnswer,
    error_class,
)
from ciris_billing_client.models import Written

_LOG = logging.getLogger("ciris_billing_client")

T = TypeVar("T")
AnswerT = TypeVar("AnswerT")

_WORTH_REPEATING = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
# What decoding raises for a body that is no JSON, no UTF-8, or nested without end.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


@dataclass(frozen=True)
class Options:
    """How long a call may take. `timeout` bounds one attempt and `deadline` all of them with their
    pauses, in seconds; `retries` is how often an attempt is repeated at most."""

    timeout: float = 10.0
    deadline: float = 30.0
    retries: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= threading.TIMEOUT_MAX:
            raise ValueError("timeout must be more than 0 seconds, and finite")
        if not self.deadline > 0:
            raise ValueError("deadline must be more than 0 seconds")
        if self.retries < 0:
            raise ValueError("retries must be 0 or more")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the service. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer: the connection failed, or it took too long."""

    why: str


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """One call. It may be repeated if `key` makes a repeat harmless, or if it `is_harmless` to do
    it twice."""

    method: str
    path: str
    read: Callable[[Reply], T]
    body: Any = None
    query: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    is_harmless: bool = False

    @property
    def may_repeat(self) -> bool:
        return self.key is not None or self.is_harmless


@dataclass(frozen=True, slots=True)
class Send:
    """For the driver: send this, and wait for the whole answer for `timeout` seconds at most."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    content: bytes | None
    timeout: float


@dataclass(frozen=True, slots=True)
class Pause:
    """For the driver: wait."""

    seconds: float


Steps = Generator[Send | Pause, Reply | Lost | None, T]


def exchange(
    operation: Operation[T],
    options: Options,
    *,
    clock: Callable[[], float] = time.monotonic,
    chance: Callable[[], float] = random.random,
) -> Steps[T]:
    """The steps of a call. Returns what it answers; raises BillingError."""
    deadline = clock() + options.deadline
    request_id = str(uuid4())
    headers = {"X-Request-ID": request_id}
    content = None
    if operation.body is not None:
        content = msgspec.json.encode(operation.body)
        headers["Content-Type"] = "application/json"
    if operation.key is not None:
        headers["Idempotency-Key"] = operation.key
    attempt = 0
    while True:
        timeout = max(min(options.timeout, deadline - clock()), 0.001)
        reply = yield Send(
            operation.method, operation.path, operation.query, headers, content, timeout
        )
        assert reply is not None
        if isinstance(reply, Reply) and reply.status < 300:
            return _read(operation, reply)
        failure = _failure(operation, reply, request_id)
        pause = _pause(reply, attempt, chance)
        is_over = attempt >= options.retries or clock() + pause >= deadline
        if is_over or not operation.may_repeat or not _may_pass(failure):
            raise failure
        _LOG.info(
            "%s %s failed and is repeated in %.2f s: %s",
            *(operation.method, operation.path, pause, failure),
        )
        yield Pause(pause)
        attempt += 1


def _may_pass(failure: BillingError) -> bool:
    """Whether the same call may succeed later."""
    if not isinstance(failure, ApiError):
        return True
    return failure.status in _WORTH_REPEATING and failure.body.get("retryable") is not False


def _pause(reply: Reply | Lost, attempt: int, chance: Callable[[], float]) -> float:
    """Seconds until the next attempt: what the service asks for, and a random part that grows, so
    that clients that failed together do not come again together."""
    wanted = retry_after(reply.headers) if isinstance(reply, Reply) else None
    random_part = chance() * min(_FIRST_PAUSE * 2.0**attempt, _LONGEST_PAUSE)
    return (wanted or 0.0) + random_part


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a Retry-After header asks for, given as a number or as a date."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _read(operation: Operation[T], reply: Reply) -> T:
    try:
        return operation.read(reply)
    except UNREADABLE as error:
        raise UnreadableAnswer(f"{operation.method} {operation.path}: {error}") from error


def _failure(operation: Operation[Any], reply: Reply | Lost, request_id: str) -> BillingError:
    if isinstance(reply, Lost):
        return NoAnswer(reply.why, request_id, operation.key)
    return refusal(
        reply.status,
        reply.content,
        retry_after=retry_after(reply.headers),
        idempotency_key=operation.key,
    )


def refusal(status: int, content: bytes, **facts: Any) -> ApiError:
    """The error that an answer says. A proxy's own answer may be no JSON."""
    try:
        body = msgspec.json.decode(content, type=dict[str, Any])
    except UNREADABLE:
        body = {"detail": content[:200].decode(errors="replace")}
    return error_class(status, body.get("code"))(status, body, **facts)


def answer(kind: type[AnswerT]) -> Callable[[Reply], AnswerT]:
    """Reads a body as this type."""
    decoder = msgspec.json.Decoder(kind)

    def read(reply: Reply) -> AnswerT:
        found = decoder.decode(reply.content)
        if isinstance(found, Written) and reply.headers.get("idempotent-replayed") == "true":
            return msgspec.structs.replace(found, replayed=True)
        return found

    return read
