"""Traces are on when an OTLP collector is named. This module is the switch that the rest of the
server asks. tracing.py does the work; it imports OpenTelemetry, so it is imported only when traces
are on."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from server.observe.tracing import Tracer

    class _Call(Protocol):
        @property
        def label(self) -> str: ...


_LOG = logging.getLogger(__name__)
_I = TypeVar("_I")
_P = ParamSpec("_P")
_R = TypeVar("_R")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

# None when nothing is traced. It is all that the handling of a request looks at.
tracer: Tracer | None = None


def is_wanted(env: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables ask for traces."""
    return (
        any(env.get(name) for name in _ENDPOINTS)
        and env.get("OTEL_SDK_DISABLED", "").lower() != "true"
        and env.get("OTEL_TRACES_EXPORTER", "otlp") == "otlp"
    )


def start(env: Mapping[str, str]) -> None:
    """Begins to trace if `env` asks for it. Call it in each worker after the fork, because the
    exporter has a thread and threads do not survive a fork, and before the Application is built."""
    global tracer  # noqa: PLW0603
    if is_wanted(env):
        try:
            from server.observe.tracing import Tracer

            tracer = Tracer()
            tracer.instrument()
        except Exception as error:
            # A setting that OpenTelemetry refuses must not keep the server from starting.
            # OpenTelemetry's message is left out: it may quote a header that holds a token.
            _LOG.error("nothing is traced: OTEL_... is at fault (%s)", type(error).__name__)


async def stop() -> None:
    """Sends the spans that have been collected, if the collector takes them in time."""
    global tracer
    if tracer is not None:
        ended, tracer = tracer, None
        await ended.close()


def database_call(
    method: Callable[_P, Coroutine[Any, Any, _R]],
) -> Callable[_P, Coroutine[Any, Any, _R]]:
    """Decorates a method whose first argument is the call it makes: each call gets a span of its
    own."""

    @functools.wraps(method)
    def traced(*arguments: _P.args, **options: _P.kwargs) -> Coroutine[Any, Any, _R]:
        work = method(*arguments, **options)
        if tracer is None:
            return work
        call: Any = arguments[1]
        return tracer.database_call(call.label, work)

    return traced


def collected_call(call: _Call, items: _I, send: Callable[[_I], Awaitable[_R]]) -> Awaitable[_R]:
    """Awaits send(items), one item or several that go to the database together with those of other
    requests, in a span that lasts until their own answer is there."""
    if tracer is None:
        return send(items)
    return tracer.collected_call(call.label, items, send)


def note_sent(items: Sequence[Any]) -> None:
    """Records that these items leave in one call now."""
    if tracer is not None:
        tracer.note_sent(items)
