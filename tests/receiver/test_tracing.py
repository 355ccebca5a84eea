"""Traces: one for each task, from its submission to the wake-up of its waiters."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from client.sandbox import Sandbox
from receiver import tracing
from receiver.errors import CannotStartError
from receiver.tracing import Tracing, exporting
from tests.client.support import PNG, QUICK, image_task, open_client
from tests.flows.test_mounted import mounted_at
from tests.support import Api, eventually, free_port, receiver_process, running_receiver

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.fixture
def provider() -> TracerProvider:
    """Return a provider of spans."""
    return TracerProvider()


@pytest.fixture
def spans(provider: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Return the memory for the spans of receivers in this process."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("receiver.app.current_tracing", lambda: Tracing(provider))
    yield exporter
    provider.shutdown()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    """Return the finished spans of this name."""
    return [span for span in spans.get_finished_spans() if span.name == name]


def trace_of(span: ReadableSpan) -> str:
    """Return the trace of a span."""
    assert span.context is not None
    return trace.format_trace_id(span.context.trace_id)


def parent_of(span: ReadableSpan) -> str | None:
    """Return the id of its parent."""
    return None if span.parent is None else trace.format_span_id(span.parent.span_id)


def id_of(span: ReadableSpan) -> str:
    """Return the id of a span."""
    assert span.context is not None
    return trace.format_span_id(span.context.span_id)


def kept(database: Path) -> list[str | None]:
    """Return the headers that the tasks keep, in their order."""
    with closing(sqlite3.connect(database)) as connection:
        return [row[0] for row in connection.execute("SELECT traceparent FROM task ORDER BY id")]


async def registered(api: Api, headers: Mapping[str, str], **fields: Any) -> Any:
    """Return a new task, registered with these headers."""
    answer = await api.send("POST", "/v1/tasks", json={"provider": "capsolver", **fields}, headers=headers)
    assert answer.status == 201, answer.body
    return answer.json


async def test_a_trace_goes_from_the_submission_to_the_wake_up(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """All spans are in the caller's trace, below that of the registration. They tell ref, provider and verdict."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        task = await registered(api, {"traceparent": PARENT})
        async with asyncio.TaskGroup() as group:
            group.create_task(api.send("GET", f"/v1/tasks/{task['ref']}?wait=50"))
            await eventually(lambda: api.waiting == 1)
            await api.call_back(task["callbackUrl"])
        await eventually(lambda: len(spans.get_finished_spans()) == 3)

    (post,), (callback,), (wake,) = (named(spans, name) for name in ("POST /v1/tasks", "callback", "wake"))
    assert {trace_of(span) for span in (post, callback, wake)} == {TRACE_ID}
    assert parent_of(post) == SPAN_ID
    assert parent_of(callback) == parent_of(wake) == id_of(post)
    assert dict(callback.attributes or {}) == {"provider": "capsolver", "verdict": "accepted", "ref": task["ref"]}
    assert dict(wake.attributes or {}) == {"provider": "capsolver", "ref": task["ref"]}
    for span in (post, callback, wake):
        assert span.start_time is not None
        assert span.end_time is not None
        assert 0 <= span.end_time - span.start_time < 60e9


async def test_create_task_of_the_receiver_is_a_span_of_its_own(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """The receiver submits with its own key, within the registration. Without a header the trace begins here."""
    image = base64.b64encode(b"".join([PNG, b"1234"])).decode()
    async with Sandbox("capsolver", QUICK) as sandbox:
        accounts: dict[str, Any] = {
            "provider_keys": {"capsolver": "anything"},
            "provider_urls": {"capsolver": sandbox.url},
        }
        async with running_receiver(tmp_path / "receiver.db", **accounts) as api:
            await registered(api, {}, task={"type": "ImageToTextTask", "body": image})
            await eventually(lambda: bool(named(spans, "callback")))

    (post,), (create,), (callback,) = (named(spans, name) for name in ("POST /v1/tasks", "createTask", "callback"))
    assert parent_of(post) is None
    assert parent_of(create) == parent_of(callback) == id_of(post)


async def test_a_refused_registration_tells_its_problem(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """The status of the span is the slug. Texts of errors may hold something of a stranger's, so they stay out."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        answer = await api.send("POST", "/v1/tasks", json={"provider": "unknown-hunter2"})

    (post,) = named(spans, "POST /v1/tasks")
    assert answer.status == 422
    assert (post.status.status_code, post.status.description) == (trace.StatusCode.ERROR, "wrong-field")
    assert not post.events


@pytest.mark.sqlite
async def test_callbacks_without_a_task_make_spans_as_well(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """A refused callback keeps its verdict, and a task from before has no trace to belong to."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        url = (await registered(api, {}))["callbackUrl"]
        with sqlite3.connect(tmp_path / "receiver.db") as connection:
            connection.execute("UPDATE task SET traceparent = NULL")
        connection.close()
        await api.send("POST", url, key=None, data=b"<html>")
        await eventually(lambda: bool(named(spans, "callback")))

    (callback,) = named(spans, "callback")
    assert parent_of(callback) is None
    assert (callback.attributes or {})["verdict"] == "unreadable"


@pytest.mark.sqlite
@pytest.mark.parametrize(("header", "expected"), [(PARENT, PARENT), ("nonsense", None), (None, None)])
async def test_the_header_is_kept_without_tracing(tmp_path: Path, header: str | None, expected: str | None) -> None:
    """Another process may make the spans. A wrong header is ignored, as W3C asks for."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        await registered(api, {} if header is None else {"traceparent": header})

    assert kept(tmp_path / "receiver.db") == [expected]


@pytest.mark.sqlite
async def test_a_repeated_registration_keeps_the_first_trace(tmp_path: Path) -> None:
    """The Idempotency-Key belongs to the body, not to the trace."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        first = await registered(api, {"traceparent": PARENT, "Idempotency-Key": "one"})
        second = await registered(api, {"traceparent": PARENT.replace("b7", "c7"), "Idempotency-Key": "one"})

    assert first["ref"] == second["ref"]
    assert kept(tmp_path / "receiver.db") == [PARENT]


@pytest.mark.sqlite
async def test_a_client_names_its_span(tmp_path: Path, provider: TracerProvider) -> None:
    """A task submitted in a span belongs to its trace, over HTTP. Without a span nothing is sent."""
    path, tracer = tmp_path / "receiver.db", provider.get_tracer("tests")
    async with (
        Sandbox("capsolver", QUICK) as sandbox,
        running_receiver(path) as api,
        open_client(sandbox.url, api.url) as client,
    ):
        with tracer.start_as_current_span("mine") as span:
            await client.solve(image_task())
        await client.solve(image_task())

    inside, outside = kept(path)
    assert inside is not None
    assert trace.format_trace_id(span.get_span_context().trace_id) in inside
    assert outside is None


async def test_a_mounted_receiver_finds_the_span_of_its_caller(tmp_path: Path, provider: TracerProvider) -> None:
    """In one process there is no header."""
    async with mounted_at(tmp_path / "receiver.db") as mounted:
        with provider.get_tracer("tests").start_as_current_span("mine") as span:
            await mounted.register()

    context = span.get_span_context()
    (header,) = kept(tmp_path / "receiver.db")
    assert header is not None
    assert header.split("-")[1:3] == [trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)]


def test_only_a_configured_process_has_spans(provider: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package alone configures nothing."""
    assert tracing.current_tracing() is None
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    assert tracing.current_tracing() is not None


def test_a_wrong_variable_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK raises errors of its own, with a trace."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")

    with pytest.raises(CannotStartError, match=r"OTEL_\*: .* refuses a variable: max_queue_size must be"), exporting():
        pass


def test_a_missing_package_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables may be there for other programs, so the receiver starts."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)

    with capture_logs() as lines, exporting():
        pass

    assert [line["event"] for line in lines] == ["tracing.missing"]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_exported_unless_it_is_asked_for(
    variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The standard variables switch it on and off."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # An import would fail, and be logged.
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)

    with capture_logs() as lines, exporting():
        assert tracing.current_tracing() is None

    assert lines == []


async def post_one(url: str) -> None:
    """Register a task."""
    async with aiohttp.ClientSession() as session:
        await registered(Api(url, session), {})


async def test_the_process_exports_by_the_standard_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector gets the spans by OTLP over HTTP."""
    bodies: list[bytes] = []

    async def collect(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.Response(content_type="application/x-protobuf")

    app, port = web.Application(), free_port()
    app.router.add_post("/v1/traces", collect)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    try:
        async with receiver_process(tmp_path / "receiver.db", port=free_port()) as receiver:
            await post_one(receiver.url)
            await eventually(lambda: bool(bodies))
            assert await receiver.stop() == 0
    finally:
        await runner.cleanup()

    requests = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    resources = [resource for request in requests for resource in request.resource_spans]
    assert [span.name for resource in resources for scope in resource.scope_spans for span in scope.spans] == [
        "POST /v1/tasks"
    ]
    (named_service,) = [item for item in resources[0].resource.attributes if item.key == "service.name"]
    assert named_service.value.string_value == "callback-receiver"


async def test_a_dead_collector_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver answers, and its end does not wait for the exporter's own time limit."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
    async with receiver_process(tmp_path / "receiver.db", port=free_port()) as receiver:
        await post_one(receiver.url)
        started = time.monotonic()
        assert await receiver.stop() == 0

    assert time.monotonic() - started < 60
