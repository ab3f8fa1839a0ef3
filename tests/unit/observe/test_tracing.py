"""Which queries are traced, and how their spans hang together."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from worker.observe import tracing
from worker.observe.identity import disguise
from worker.observe.tracing import QueryTrace, QueryTracer

CALLER = "0af7651916cd43dd8448eb211c80319c"
IDS = ("q1", "ann")


class Traced:
    """A tracer whose spans are kept; the sampler is chosen as an operator does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
        self._kept = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self._tracer = QueryTracer(provider, disguise("plain"))

    def begin(self, *headers: tuple[str, bytes | None]) -> QueryTrace | None:
        return self._tracer.begin("pilot.queries", 2, 7, headers, IDS)

    @property
    def spans(self) -> dict[str, object]:
        return {span.name: span for span in self._kept.get_finished_spans()}


def traceparent(flags: str) -> tuple[str, bytes]:
    """A caller's header; flags `01`: it is traced, `00`: it is not."""
    return ("traceparent", f"00-{CALLER}-b7ad6b7169203331-{flags}".encode())


def test_steps_hang_below_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a caller's header the query begins a trace of its own, and its steps are children of its span."""
    traced = Traced(monkeypatch, "always_on")
    trace = traced.begin(("traceparent", None))
    assert trace is not None
    trace.decided("m", "routed")
    trace.end("write", trace.step("decide", 1))
    assert list(traced.spans) == ["decide", "write", "route"]
    root = traced.spans["route"]
    assert root.parent is None
    assert {traced.spans[name].parent.span_id for name in ("decide", "write")} == {root.context.span_id}
    assert root.attributes["pilot.query_id"] == "q1"
    assert root.attributes["pilot.model"] == "m"


def test_what_is_not_sampled_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a query has no trace at all, so its steps cost nothing; one whose caller is traced has."""
    traced = Traced(monkeypatch, "parentbased_always_off")
    assert traced.begin() is None
    assert traced.begin(traceparent("00")) is None
    trace = traced.begin(traceparent("01"))
    assert trace is not None
    trace.end("write", 1)
    assert f"{traced.spans['route'].context.trace_id:032x}" == CALLER


def test_the_resource_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter groups spans by resource: it stays what it was, and its hash is not computed for each."""
    resource = Resource.create({"service.name": "s"})
    constant = tracing._constant(resource)
    assert (constant, hash(constant)) == (resource, hash(resource))
    monkeypatch.setattr(Resource, "__hash__", lambda _: pytest.fail("hashed again"))
    hash(constant)


@pytest.mark.parametrize(("sampler", "least", "most"), [(None, 20, 200), ("always_on", 1_000, 1_000)])
def test_one_in_ten_is_traced_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, sampler: str | None, least: int, most: int
) -> None:
    """Tracing everything is dear, so it is asked for by OpenTelemetry's own variable."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.delenv("OTEL_TRACES_SAMPLER", raising=False)
    if sampler is not None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    tracer = tracing.otlp("w", disguise("plain"))
    traced = sum(tracer.begin("pilot.queries", 0, offset, (), IDS) is not None for offset in range(1_000))
    assert least <= traced <= most
