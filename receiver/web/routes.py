"""Routes of the receiver, in one table. The router reads it.

`make docs` writes the OpenAPI document and the table in `receiver/README.md` from it. So a new route is one declaration
here, its handler and its test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web
from pydantic import BaseModel

from client.protocol.models import (
    Binding,
    OutcomeReport,
    Registered,
    Registration,
    Reported,
    ResultsPage,
    Task,
    TaskList,
    TaskTimeline,
    Ticket,
)
from receiver.web import callbacks, operations, results, tasks, tickets
from receiver.web.auth import needs, needs_for_stream
from receiver.web.middleware import Handler
from receiver.web.request import MAX_WAIT_SECONDS
from receiver.web.streaming import sse, websocket

__all__ = ["ROUTES", "Answers", "Route", "add_routes"]

Answers = Mapping[int, tuple[str, type[BaseModel] | str | None]]
"""Meaning of each status, and the body: a model, a content type that is not JSON, or None for no body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path.

    `scope` is the scope that an API key needs; None lets anyone in. `query` and `headers` name the parameters, with
    their meaning. A JSON route with a scope refuses parameters outside `query`, unless that is None.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answers: Answers
    scope: str | None = None
    is_stream: bool = False
    takes_head: bool = False
    spellings: tuple[str, ...] = ()
    query: Mapping[str, str] | None = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: type[BaseModel] | None = None
    problems: tuple[str, ...] = ()

    @property
    def guarded(self) -> Handler:
        """The handler behind the API key that the route needs."""
        if self.scope is None:
            return self.handler
        if self.is_stream:
            return needs_for_stream(self.handler)
        return needs(self.scope, self.handler, query=self.query)


def add_routes(router: web.UrlDispatcher, *, verification_name: str | None) -> None:
    """Add every route. The file that proves the host is served under its name, or not at all for None."""
    # That file comes last, so that its name shadows no other route.
    for route in sorted(ROUTES, key=lambda route: route.path == _VERIFICATION_PATH):
        path = route.path
        if path == _VERIFICATION_PATH:
            if verification_name is None:
                continue
            path = f"/{verification_name}"
        methods = (route.method, "HEAD") if route.takes_head else (route.method,)
        for method in methods:
            # Not add_get: it would take HEAD for every GET.
            for spelling in (path, *route.spellings):
                router.add_route(method, spelling, route.guarded)


_VERIFICATION_PATH = "/2captcha.txt"
_UNREAD = ("too-much-unsent", "receiver-full", "too-many-requests")
_KEYED = (
    *("no-key", "scope-missing", "provider-not-allowed", "origin-refused", "unsupported-media-type"),
    *_UNREAD,
    *("wrong-field", "server-error", "not-stored", "overloaded"),
)
_BODY = ("not-json", "bad-request", "body-too-large", "too-slow")
_WRITES = ("shutting-down",)
_WAITS = ("too-many-waiters",)
_NAMES = ("too-many-names",)
_IDS = ("task-id-taken", "task-id-mismatch")

_PROVIDER_OF_ID = {"provider": "The provider of the `taskId`, if several have the same one."}
_PREFER = {"Prefer": "`wait=SECONDS`, like the parameter; the parameter wins."}
_WAIT = f"Seconds to hold the request until there is an answer; at most {MAX_WAIT_SECONDS:g}."
_FILTER = {
    "provider": "Only results of this provider,",
    "tags": "with all of these tags, separated by commas;",
    "tasks": "or of these tasks, separated by commas: `REF` or `PROVIDER:TASKID`, where `,,` is a comma.",
    "hints": "`true`: hints as well.",
}
_AFTER = "A cursor, or `start` for the oldest entry kept; from now if not given."
_LAST_EVENT_ID = "For polyfills that cannot send the header `Last-Event-ID`; also `lastEventID` and `Last-Event-ID`."
_PLAIN = "text/plain"
_CALLBACK: Answers = {
    200: ("The callback is stored. It became the outcome, or it changes nothing.", _PLAIN),
    204: ("A GET without a query on a valid URL: this receiver can be reached. Nothing is stored.", None),
    400: ("The body cannot be decoded.", _PLAIN),
    401: ("The signature of this provider is missing or wrong.", _PLAIN),
    403: ("The callback came from an address that is not the provider's.", _PLAIN),
    404: ("There is no such callback URL, or it was revoked.", _PLAIN),
    405: ("The provider does not call back by this method.", _PLAIN),
    408: ("The body did not arrive in time.", _PLAIN),
    409: ("The callback names another task.", _PLAIN),
    413: ("The body is too large.", _PLAIN),
    415: ("The body is compressed, but not by gzip or deflate.", _PLAIN),
    422: ("The body is not a callback of this provider.", _PLAIN),
    429: ("There is no such callback URL, and this address asked for many.", _PLAIN),
    503: ("The callback was not stored in time, though it still may be. Send it again.", _PLAIN),
}

ROUTES: tuple[Route, ...] = (
    *(
        Route(
            method=method,
            path="/callback/{provider}/{token}",
            handler=callbacks.callback,
            # The path above is found by its prefix, and these only where it is not.
            spellings=(f"/{callbacks.LENIENT_PATH}",),
            summary="Takes callbacks of providers; the URL is the proof.",
            answers=_CALLBACK,
        )
        for method in ("GET", "POST")
    ),
    Route(
        method="POST",
        path="/v1/tasks",
        handler=tasks.register,
        summary="Registers a task; it is durable before the answer.",
        scope="submit",
        headers={
            "Idempotency-Key": "1 to 200 visible ASCII characters. The same body and key get the same answer.",
            "traceparent": "W3C Trace Context. Spans of the task belong to this trace.",
        },
        body=Registration,
        answers={200: ("The task with this `taskId`, registered before.", Task), 201: ("A new task.", Registered)},
        problems=(
            *(*_KEYED, *_BODY, *_WRITES, *_IDS, "unreadable-answer", "unknown-task"),
            *("idempotency-in-flight", "idempotency-key-reused", "provider-refused", "provider-unreachable"),
        ),
    ),
    Route(
        method="GET",
        path="/v1/tasks",
        handler=tasks.list_tasks,
        summary="Lists tasks, newest first.",
        scope="read",
        query={
            "status": "`processing`, `ready` or `failed`.",
            "provider": "Only of this provider.",
            "tag": "Only with this tag.",
            "page": "The `nextPage` of the previous page.",
            "limit": "1 to 1000; 100 if not given.",
        },
        answers={200: ("A page of tasks.", TaskList)},
        problems=_KEYED,
    ),
    Route(
        method="GET",
        path="/v1/tasks/{id}",
        handler=tasks.fetch,
        summary="Returns a task by `ref` or `taskId`; a `ref` wins.",
        scope="read",
        query={"wait": _WAIT, **_PROVIDER_OF_ID},
        headers=_PREFER,
        answers={200: ("The task has an outcome.", Task), 202: ("The task has no outcome yet.", Task)},
        problems=(*_KEYED, *_WAITS, "unknown-task", "ambiguous-task-id"),
    ),
    Route(
        method="PATCH",
        path="/v1/tasks/{id}",
        handler=tasks.bind,
        summary="Binds a task, by `ref`, to its `taskId` from createTask.",
        scope="submit",
        body=Binding,
        answers={200: ("The task, with its outcome if there is one.", Task)},
        problems=(*_KEYED, *_BODY, *_WRITES, *_IDS, "unknown-task"),
    ),
    Route(
        method="DELETE",
        path="/v1/tasks/{id}",
        handler=tasks.forget,
        summary="Deletes a task, by `ref`.",
        scope="admin",
        answers={204: ("The task is deleted.", None)},
        problems=(*_KEYED, *_WRITES, "unknown-task"),
    ),
    Route(
        method="GET",
        path="/v1/tasks/{id}/timeline",
        handler=tasks.timeline,
        summary="Returns the history of a task, and the next step that it waits for.",
        scope="read",
        query=_PROVIDER_OF_ID,
        answers={200: ("The steps, oldest first.", TaskTimeline)},
        problems=(*_KEYED, "unknown-task", "ambiguous-task-id"),
    ),
    Route(
        method="PUT",
        path="/v1/tasks/{id}/outcome",
        handler=tasks.report,
        summary="Reports the provider's answer to a task, verbatim, by `ref`.",
        scope="submit",
        body=OutcomeReport,
        answers={200: ("The verdict on the answer, and the task with the outcome that won.", Reported)},
        problems=(*_KEYED, *_BODY, *_WRITES, *_IDS, "unknown-task", "unreadable-answer"),
    ),
    Route(
        method="GET",
        path="/v1/results",
        handler=results.results,
        summary="Returns the log of results, oldest first.",
        scope="read",
        query={"after": _AFTER, "limit": "1 to 1000; 100 if not given.", "wait": _WAIT, **_FILTER},
        headers=_PREFER,
        answers={200: ("A page; `cursor` is where the next one begins.", ResultsPage)},
        problems=(*_KEYED, *_WAITS, *_NAMES, "cursor-gone"),
    ),
    Route(
        method="GET",
        path="/v1/results/stream",
        handler=sse.stream,
        summary="Streams the log as server-sent events; see `/asyncapi.json`.",
        scope="read",
        is_stream=True,
        query={"after": _AFTER, "lastEventId": _LAST_EVENT_ID, **_FILTER, "ticket": "A ticket instead of a key."},
        headers={"Last-Event-ID": "A cursor; the header wins over `lastEventId` and `after`."},
        answers={200: ("Events until either side ends the stream.", "text/event-stream")},
        problems=(*_KEYED, *_NAMES, "too-many-streams"),
    ),
    Route(
        method="GET",
        path="/v1/subscribe",
        handler=websocket.subscribe,
        summary="Streams the log over a websocket; see `/asyncapi.json`.",
        scope="read",
        is_stream=True,
        answers={101: ("The connection is a websocket from now on.", None)},
        problems=(*_KEYED, "bad-request"),
    ),
    Route(
        method="POST",
        path="/v1/tickets",
        handler=tickets.make_ticket,
        summary="Makes a ticket, with which a page in a browser opens a stream.",
        scope="read",
        answers={201: ("The ticket.", Ticket)},
        problems=(*_KEYED, *_WRITES, "bad-request", "body-too-large", "too-slow", "too-many-tickets"),
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=operations.metrics,
        summary="Returns metrics for Prometheus.",
        scope="admin",
        # Prometheus may be configured to send parameters of its own.
        query=None,
        answers={200: ("The metrics of this process since its start.", _PLAIN)},
        problems=tuple(slug for slug in _KEYED if slug != "wrong-field"),
    ),
    Route(
        method="GET",
        path=_VERIFICATION_PATH,
        handler=operations.verification,
        takes_head=True,
        summary="Returns the text that proves to a provider that the host is yours.",
        answers={200: ("The text of the settings.", _PLAIN)},
        problems=("not-found", "too-many-requests", "receiver-full"),
    ),
    *(
        Route(
            method="GET",
            path=path,
            handler=handler,
            summary=summary,
            answers={200: ("The document.", "application/json")},
            problems=_UNREAD,
        )
        for path, handler, summary in (
            ("/asyncapi.json", operations.asyncapi, "The contract of the streams (AsyncAPI 3.0)."),
            ("/openapi.json", operations.openapi, "The contract of all routes (OpenAPI 3.1)."),
        )
    ),
    Route(
        method="GET",
        path="/healthz",
        handler=operations.healthz,
        summary="Answers while the process lives.",
        takes_head=True,
        answers={
            200: ("The process lives.", "application/json"),
            503: ("It is about to end.", "application/json"),
        },
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=operations.readyz,
        summary="Says if the receiver can store.",
        takes_head=True,
        answers={
            200: ("It can store.", "application/json"),
            503: ("It cannot store; the reason is given.", "application/json"),
        },
    ),
)
"""Every route of the receiver."""
