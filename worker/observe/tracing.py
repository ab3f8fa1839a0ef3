"""Traces: one span a query from its record to the acknowledged decision, with the steps encode, decide and write.

Needs the extra `tracing` and `PILOT_TRACING=otlp`; where spans go and how many is OpenTelemetry's own
environment (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, ...). A query's `traceparent` header
(W3C Trace Context) is the parent, and whether that is sampled decides. Of the others one in ten is traced, unless
`OTEL_TRACES_SAMPLER` says otherwise: OpenTelemetry's own default, all, costs a worker half as much again.
No span carries a prompt, an embedding or metadata.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from worker.errors import UsageError
from worker.observe.identity import Disguise

_FLUSH_MS = 3_000
_SAMPLED = 0.1


class QueryTrace:
    """The span of one query; each step becomes a child of it when it is over."""

    def __init__(self, tracer: Any, span: Any) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)

    def step(self, name: str, began_ns: int) -> int:
        """A step that began then (ns since the epoch) and is over now; now."""
        now = time.time_ns()
        self._tracer.start_span(name, context=self._context, start_time=began_ns).end(now)
        return now

    def decided(self, model: str | None, status: str) -> None:
        """Note the outcome."""
        self._span.set_attributes({"pilot.model": model or "", "pilot.status": status})

    def end(self, name: str, began_ns: int) -> None:
        """The last step is over, and with it the query."""
        self._span.end(self.step(name, began_ns))


class QueryTracer:
    """Begins a trace for every query; `close` sends what is left."""

    def __init__(self, provider: Any, disguise: Disguise) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("pilot")
        self._extract: Callable[[dict[str, str]], Any] = TraceContextTextMapPropagator().extract
        self._orphan = Context()
        self._kind = SpanKind.CONSUMER
        self._disguise = disguise

    def begin(
        self, topic: str, partition: int, offset: int, headers: Sequence[tuple[str, bytes | None]], ids: tuple[str, str]
    ) -> QueryTrace | None:
        """The trace of a query record, None where it is not sampled; `ids` are query_id and user_id."""
        span = self._tracer.start_span("route", self._parent(headers), self._kind)
        if not span.is_recording():
            return None
        query_id, user_id = ids
        attributes = {
            "messaging.system": "kafka",
            "messaging.destination.name": topic,
            "messaging.destination.partition.id": str(partition),
            "messaging.kafka.offset": offset,
            "pilot.query_id": query_id,
        }
        shown = self._disguise(user_id)
        if shown is not None:
            attributes["pilot.user_id"] = shown
        span.set_attributes(attributes)
        return QueryTrace(self._tracer, span)

    def _parent(self, headers: Sequence[tuple[str, bytes | None]]) -> Any:
        """The caller's span, where the record names one."""
        named = {name: (value or b"").decode("latin-1") for name, value in headers if name.startswith("trace")}
        return self._extract(named) if "traceparent" in named else self._orphan

    def close(self) -> None:
        """Send what is left, for some seconds at most."""
        self._provider.force_flush(_FLUSH_MS)


def otlp(worker_id: str, disguise: Disguise) -> QueryTracer:
    """Spans to an OTLP collector over HTTP.

    Raises:
        UsageError: the extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ImportError:
        raise UsageError("PILOT_TRACING=otlp: install pilot-router[tracing]") from None
    names = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "pilot-router"), "service.instance.id": worker_id}
    sampler = None if os.environ.get("OTEL_TRACES_SAMPLER") else ParentBasedTraceIdRatio(_SAMPLED)
    # Without hooks at exit: the worker leaves through `os._exit`, after `close`.
    provider = TracerProvider(sampler, _constant(Resource.create(names)), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return QueryTracer(provider, disguise)


def _constant(resource: Any) -> Any:
    """The same resource with a hash that is computed once; the exporter asks for it at every span."""
    from opentelemetry.sdk.resources import Resource

    class Constant(Resource):  # type: ignore[misc] # opentelemetry is untyped here
        _hash = hash(resource)

        def __hash__(self) -> int:
            return self._hash

    return Constant(resource.attributes, resource.schema_url)
