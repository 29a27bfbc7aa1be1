"""Tracing. opentelemetry-instrumentation-aiohttp-server makes the server's span. This module makes
the spans of database calls and records how a request ended. span_filter.py decides what is sent.
The settings are OpenTelemetry's own (docs/telemetry.md)."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar
from uuid import uuid4

from aiohttp import web
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.propagate import set_global_textmap
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_span_id, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server import __version__
from server.observe.coded_error import CodedError
from server.observe.span_filter import ListedOnly

_T = TypeVar("_T")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_FLUSH_SECONDS = 3.0
_INSTRUMENTATION = {
    "OTEL_SEMCONV_STABILITY_OPT_IN": "http",  # use the stable names of attributes
    # Machines request these paths every few seconds.
    "OTEL_PYTHON_AIOHTTP_SERVER_EXCLUDED_URLS": "^/health$,^/metrics$",
}
_ERROR = Status(StatusCode.ERROR)

# True while a request waits for a batch. The batch runs in the context of the request that started
# it but serves other requests too, so its call gets no span of that request.
_collected: ContextVar[bool] = ContextVar("collected", default=False)


class Tracer:
    """The traces of one process. A thread of its own sends spans to the collector. Spans that the
    collector does not take are dropped, and no request waits for it."""

    def __init__(self) -> None:
        ours: dict[str, Any] = {
            "service.name": "ciris-billing",
            "service.version": __version__,
            "process.pid": os.getpid(),
        }
        self._provider = TracerProvider(
            resource=Resource(ours).merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(ListedOnly(OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("ciris-billing", __version__)
        self._waiting: dict[int, Span] = {}  # by the identity of an item that waits to be sent

    async def close(self) -> None:
        """Sends the remaining spans, for a few seconds at most: shutting down must not wait for a
        collector."""
        loop = asyncio.get_running_loop()
        sent = asyncio.Event()

        def send() -> None:
            self._provider.shutdown()
            if not loop.is_closed():
                loop.call_soon_threadsafe(sent.set)

        # Not one of asyncio's threads: shutting down waits for those, however long they take.
        threading.Thread(target=send, daemon=True).start()
        try:
            await asyncio.wait_for(sent.wait(), _FLUSH_SECONDS)
        except TimeoutError:
            return

    def instrument(self) -> None:
        """Makes a span of each request to an Application that is built from now on."""
        os.environ.update(_INSTRUMENTATION)
        # no baggage, because it can hold anything
        set_global_textmap(TraceContextTextMapPropagator())
        AioHttpServerInstrumentor().instrument(tracer_provider=self._provider)

    async def serve(
        self,
        request: web.Request,
        handler: _Handler,
        answer: Callable[[web.Request, _Handler], Awaitable[web.StreamResponse]],
        *,
        request_id: str,
    ) -> web.StreamResponse:
        """Answers the request and records in the server's span, if there is one, how it ended."""
        span = trace.get_current_span()
        context = span.get_span_context()
        if not context.is_valid:
            return await answer(request, handler)
        fault: Exception | None = None

        async def noting_faults(request: web.Request) -> web.StreamResponse:
            nonlocal fault
            try:
                return await handler(request)
            except Exception as error:
                fault = error
                raise

        span.set_attribute("request_id", request_id)
        response = await answer(request, noting_faults)
        if isinstance(fault, CodedError):
            span.set_attribute("billing.error_code", fault.code)
        if response.status >= 500 and fault is not None:
            _record(span, fault)
        response.headers["traceresponse"] = (
            f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"
            f"-{context.trace_flags:02x}"
        )
        return response

    async def database_call(self, name: str, work: Coroutine[Any, Any, _T]) -> _T:
        """Runs one call inside a span, if a traced request makes the call for itself alone."""
        if _collected.get() or not trace.get_current_span().is_recording():
            return await work
        with self._database_span(name) as span:
            return await _watched(span, work)

    async def collected_call(
        self, name: str, items: Any, send: Callable[[Any], Awaitable[_T]]
    ) -> _T:
        """Runs send(items) inside a span, while the items wait for a call that many requests share.
        `items` is one item or a list. Each time an item is sent, an event records when, in which
        call and with how many others."""
        if not trace.get_current_span().is_recording():
            return await send(items)
        members = items if isinstance(items, list) else [items]
        with self._database_span(name) as span:
            token = _collected.set(True)
            for item in members:
                self._waiting[id(item)] = span
            try:
                row = await _watched(span, send(items))
            finally:
                _collected.reset(token)
                for item in members:
                    self._waiting.pop(id(item), None)
            if not isinstance(row, list):
                outcome: Any = row
                span.set_attribute("billing.outcome", outcome["outcome"])
            return row

    def note_sent(self, items: Sequence[Any]) -> None:
        """Records in the items' spans that they leave in one call now."""
        spans = {id(span): span for item in items if (span := self._waiting.get(id(item)))}
        if not spans:
            return
        call: dict[str, Any] = {
            "billing.shared_call": uuid4().hex,
            "db.operation.batch.size": len(items),
        }
        for span in spans.values():
            span.add_event("sent", call)
            span.set_attributes(call)

    def _database_span(self, name: str) -> Any:
        return self._tracer.start_as_current_span(
            f"billing.{name}",
            kind=SpanKind.CLIENT,
            attributes={
                "db.system.name": "postgresql",
                "db.stored_procedure.name": f"billing.{name}",
            },
            record_exception=False,
            set_status_on_exception=False,
        )


async def _watched(span: Span, work: Awaitable[_T]) -> _T:
    try:
        return await work
    except CodedError as refusal:  # a refusal is an answer, not a fault
        span.set_attribute("billing.outcome", refusal.code)
        raise
    except BaseException as error:
        span.set_status(_ERROR)
        _record(span, error)
        raise


def _record(span: Span, error: BaseException) -> None:
    """Records the type of an exception and where it was raised. Its text is left out: it may quote
    a row, an address or a header."""
    span.set_attribute("error.type", _code(error))
    while True:
        frames = "".join(traceback.format_tb(error.__traceback__))
        span.add_event(
            "exception",
            {"exception.type": type(error).__qualname__, "exception.stacktrace": frames},
        )
        if error.__cause__ is None:
            return
        error = error.__cause__


def _code(error: BaseException) -> str:
    return error.code if isinstance(error, CodedError) else type(error).__qualname__
