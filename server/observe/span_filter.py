"""Decides which parts of a span leave the process. OpenTelemetry's packages record addresses, query
strings and texts of exceptions, which contain people's ids. Therefore only the listed parts are
sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, Status

# Closed sets, route templates, counts and ids of requests; docs/telemetry.md describes them.
_ATTRIBUTES = frozenset(
    {
        "billing.error_code",
        "billing.outcome",
        "billing.shared_call",
        "db.operation.batch.size",
        "db.stored_procedure.name",
        "db.system.name",
        "error.type",
        "http.request.method",
        "http.response.status_code",
        "http.route",
        "request_id",
        "url.scheme",
    }
)
_EVENTS = {
    "sent": frozenset({"billing.shared_call", "db.operation.batch.size"}),
    "exception": frozenset({"exception.type", "exception.stacktrace"}),
}
# An exception that OpenTelemetry itself recorded has its text here, and again at the end of its
# stack trace.
_TEXT, _TRACE = "exception.message", "exception.stacktrace"


class ListedOnly(SpanExporter):
    """Sends spans by another exporter, with only their listed parts."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Runs in the thread that sends spans, so no request waits for it."""
        return self._exporter.export([_listed(span) for span in spans])

    def shutdown(self) -> None:
        """Shuts the other exporter down."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flushes the other exporter."""
        return self._exporter.force_flush(timeout_millis)


def _listed(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=_without_state(span.context),
        parent=_without_state(span.parent),
        resource=span.resource,
        attributes=_part(span.attributes, _ATTRIBUTES),
        events=[_event(event) for event in span.events if event.name in _EVENTS],
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _event(event: Event) -> Event:
    known = event.attributes or {}
    names = _EVENTS[event.name] - ({_TRACE} if _TEXT in known else set())
    return Event(event.name, _part(known, names), event.timestamp)


def _part(attributes: Mapping[str, Any] | None, names: frozenset[str]) -> dict[str, Any]:
    # The route of an unknown path is an empty text.
    return {
        name: value for name, value in (attributes or {}).items() if name in names and value != ""
    }


def _without_state(context: SpanContext | None) -> SpanContext | None:
    """Returns the ids without the tracestate, which holds whatever a caller wrote into it."""
    if context is None:
        return None
    return SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)
