"""Spans of OpenTelemetry, from the submission of a task to the wake-up of its waiters: one trace for each task.

The package is an extra. Without it, or while nothing configures it, there is no `Tracing`, and nothing is imported.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from client.protocol.traceparent import TRACEPARENT, current_traceparent
from client.version import VERSION
from receiver.domain.records import Growth, TaskRecord
from receiver.errors import CannotStartError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import TracerProvider

__all__ = ["Tracing", "current_tracing", "exporting"]

_NAME = "callback-receiver"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_FLUSH_SECONDS = 2.0

_log = structlog.get_logger()


class Tracing:
    """Makes the spans of a receiver. Their attributes are those of log lines, without ids of providers and keys."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer(_NAME, VERSION)

    @contextmanager
    def submitting(self, provider: str, traceparent: str | None) -> Iterator[str | None]:
        """Run the block in the span of a registration, in the caller's trace. Yield the header for its task."""
        kind = self._trace.SpanKind.SERVER
        with self._span("POST /v1/tasks", kind, {"provider": provider}, self._parent(traceparent)):
            yield current_traceparent()

    @contextmanager
    def creating(self, task: TaskRecord) -> Iterator[None]:
        """Run the block in the span of a createTask."""
        with self._span("createTask", self._trace.SpanKind.CLIENT, {"provider": task.provider, "ref": task.ref}, None):
            yield

    def delivered(self, provider: str, verdict: str, task: TaskRecord | None, seconds: float) -> None:
        """Make the span of a callback that was stored just now and took so long, in the trace of its task."""
        attributes = {"provider": provider, "verdict": verdict}
        traceparent = None
        if task is not None:
            attributes["ref"], traceparent = task.ref, task.traceparent
        ended = time.time_ns()
        span = self._tracer.start_span(
            "callback",
            context=self._parent(traceparent),
            kind=self._trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=ended - round(seconds * 1e9),
        )
        span.end(ended)

    def woken(self, growth: Growth, started: int) -> None:
        """Make a span for each finished task with a trace whose waiters were woken. `started` is in ns since 1970."""
        for entry in growth.entries or ():
            task = entry.task
            if entry.kind == "result" and task is not None and task.traceparent is not None:
                span = self._tracer.start_span(
                    "wake",
                    context=self._parent(task.traceparent),
                    attributes={"provider": task.provider, "ref": task.ref},
                    start_time=started,
                )
                span.end()

    @contextmanager
    def _span(self, name: str, kind: object, attributes: dict[str, str], parent: Context | None) -> Iterator[None]:
        """Run the block in a span. Of an error only the type is told: its text may be a stranger's."""
        with self._tracer.start_as_current_span(
            name,
            context=parent,
            kind=kind,  # type: ignore[arg-type]
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Exception as error:
                span.set_status(self._trace.StatusCode.ERROR, getattr(error, "slug", type(error).__name__))
                raise

    def _parent(self, traceparent: str | None) -> Context | None:
        """Return the context of a header. None: the current one."""
        return None if traceparent is None else self._propagator.extract({TRACEPARENT: traceparent})


def current_tracing() -> Tracing | None:
    """Return the spans of this process. None unless it has configured OpenTelemetry, as `exporting` does."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return Tracing(provider)


@contextmanager
def exporting() -> Iterator[None]:
    """Export the spans of the block by OTLP if one of the standard variables names an endpoint.

    All variables OTEL_* of the SDK and of its exporter apply. At the end, spans have 2 s to be sent.

    Raises:
        CannotStartError: the SDK refuses one of the variables.
    """
    environment = os.environ
    is_off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or (
        environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    )
    if is_off or not any(environment.get(name) for name in _ENDPOINTS):
        yield
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        # The variables may be there for other programs.
        _log.warning("tracing.missing", reason="OpenTelemetry is not installed; install callback-receiver[otel]")
        yield
        return
    # An attribute given here would win over the variables.
    named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    attributes = {"service.version": VERSION} if named else {"service.version": VERSION, "service.name": _NAME}
    try:
        provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        raise CannotStartError(f"OTEL_*: the OpenTelemetry SDK refuses a variable: {error}") from None
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        # A collector that hangs must not hold the end of the process.
        closing = threading.Thread(target=provider.shutdown, daemon=True)
        closing.start()
        closing.join(_FLUSH_SECONDS)
