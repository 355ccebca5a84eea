"""Routes of the receiver, in one table: it feeds the router, and the tests write the OpenAPI document from it.

A new route is one declaration here and its test.
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
from receiver.web.auth import Handler, needs, needs_for_stream
from receiver.web.request import MAX_WAIT_SECONDS
from receiver.web.streaming import sse, websocket

__all__ = ["ROUTES", "Answers", "Route", "add_routes"]

Answers = Mapping[int, tuple[str, type[BaseModel] | str | None]]
"""Meaning of each status, and the body: a model, a content type that is not JSON, or None for no body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path.

    `scope` is the scope that an API key needs; None lets anyone in. `query` and `headers` name the parameters, with
    their meaning. A JSON route refuses parameters outside `query`, unless that is None.
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
    for route in ROUTES:
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
_UNREAD = ("too-much-unsent", "receiver-full")
_KEYED = (
    *("no-key", "scope-missing", "origin-refused", "unsupported-media-type"),
    *_UNREAD,
    *("wrong-field", "server-error", "not-stored"),
)
_BODY = ("not-json", "bad-request", "body-too-large", "too-slow")
_WRITES = ("shutting-down",)
_WAITS = ("too-many-waiters",)
_NAMES = ("too-many-names",)
_IDS = ("task-id-taken", "task-id-mismatch")

_PROVIDER_OF_ID = {"provider": "Whose `taskId` it is, where several providers have one."}
_PREFER = {"Prefer": "`wait=SECONDS`, like the parameter, which wins."}
_WAIT = f"Seconds to hold the request until there is an answer; at most {MAX_WAIT_SECONDS:g}."
_FILTER = {
    "provider": "Only of this provider,",
    "tags": "and with all of these, with commas;",
    "tasks": "or one of these, with commas: `REF` or `PROVIDER:TASKID`.",
    "hints": "`true`: hints, too.",
}
_AFTER = "A cursor, or `start` for the oldest kept; from now if not given."
_LAST_EVENT_ID = "The header `Last-Event-ID` for polyfills that cannot send it; also `lastEventID` and `Last-Event-ID`."
_PLAIN = "text/plain"
_CALLBACK: Answers = {
    200: ("It is stored: it became the outcome, or changes nothing.", _PLAIN),
    204: ("A GET without a query on a valid URL: providers reach this receiver. Nothing is stored.", None),
    400: ("It cannot be decoded.", _PLAIN),
    401: ("It is not signed as this provider signs.", _PLAIN),
    404: ("No such callback URL.", _PLAIN),
    405: ("The provider does not call back by this method.", _PLAIN),
    408: ("It was not all there in time.", _PLAIN),
    409: ("It names another task.", _PLAIN),
    413: ("It is too large.", _PLAIN),
    415: ("It is compressed in another way than by gzip or deflate.", _PLAIN),
    422: ("It is no callback of this provider.", _PLAIN),
    503: ("It could not be stored in time; it may still be. To be repeated.", _PLAIN),
}

ROUTES: tuple[Route, ...] = (
    *(
        Route(
            method=method,
            path="/callback/{provider}/{token}",
            handler=callbacks.callback,
            # The path above is found by its prefix, and these only where it is not.
            spellings=(f"/{callbacks.LENIENT_PATH}",),
            summary="Where providers deliver; the URL is the proof.",
            answers=_CALLBACK,
        )
        for method in ("GET", "POST")
    ),
    Route(
        method="POST",
        path="/v1/tasks",
        handler=tasks.register,
        summary="Registers a task, durable before it is answered.",
        scope="submit",
        headers={"Idempotency-Key": "1 to 200 visible ASCII characters; the same body again gets the same answer."},
        body=Registration,
        answers={200: ("The task that has this `taskId` already.", Task), 201: ("A new task.", Registered)},
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
            "page": "The `nextPage` of the page before.",
            "limit": "1 to 1000; 100 if not given.",
        },
        answers={200: ("A page.", TaskList)},
        problems=_KEYED,
    ),
    Route(
        method="GET",
        path="/v1/tasks/{id}",
        handler=tasks.fetch,
        summary="A task by `ref`, which wins, or by `taskId`.",
        scope="read",
        query={"wait": _WAIT, **_PROVIDER_OF_ID},
        headers=_PREFER,
        answers={200: ("It has an outcome.", Task), 202: ("It has none yet.", Task)},
        problems=(*_KEYED, *_WAITS, "unknown-task", "ambiguous-task-id"),
    ),
    Route(
        method="PATCH",
        path="/v1/tasks/{id}",
        handler=tasks.bind,
        summary="Binds the `taskId` that createTask gave to a task, by `ref`.",
        scope="submit",
        body=Binding,
        answers={200: ("The task, with its outcome if there is one.", Task)},
        problems=(*_KEYED, *_BODY, *_WRITES, *_IDS, "unknown-task"),
    ),
    Route(
        method="DELETE",
        path="/v1/tasks/{id}",
        handler=tasks.forget,
        summary="Forgets a task, by `ref`.",
        scope="admin",
        answers={204: ("It is forgotten.", None)},
        problems=(*_KEYED, *_WRITES, "unknown-task"),
    ),
    Route(
        method="GET",
        path="/v1/tasks/{id}/timeline",
        handler=tasks.timeline,
        summary="What happened to a task and what it waits for.",
        scope="read",
        query=_PROVIDER_OF_ID,
        answers={200: ("Its steps, oldest first.", TaskTimeline)},
        problems=(*_KEYED, "unknown-task", "ambiguous-task-id"),
    ),
    Route(
        method="PUT",
        path="/v1/tasks/{id}/outcome",
        handler=tasks.report,
        summary="Reports what the provider answered, verbatim, by `ref`.",
        scope="submit",
        body=OutcomeReport,
        answers={200: ("What became of it, and the task with the outcome that won.", Reported)},
        problems=(*_KEYED, *_BODY, *_WRITES, *_IDS, "unknown-task", "unreadable-answer"),
    ),
    Route(
        method="GET",
        path="/v1/results",
        handler=results.results,
        summary="The log of results, oldest first.",
        scope="read",
        query={"after": _AFTER, "limit": "1 to 1000; 100 if not given.", "wait": _WAIT, **_FILTER},
        headers=_PREFER,
        answers={200: ("A page; `cursor` is how far it has looked.", ResultsPage)},
        problems=(*_KEYED, *_WAITS, *_NAMES, "cursor-gone"),
    ),
    Route(
        method="GET",
        path="/v1/results/stream",
        handler=sse.stream,
        summary="The same as server-sent events; see `/asyncapi.json`.",
        scope="read",
        is_stream=True,
        query={"after": _AFTER, "lastEventId": _LAST_EVENT_ID, **_FILTER, "ticket": "Instead of a key."},
        headers={"Last-Event-ID": "A cursor; it wins over `lastEventId` and `after`."},
        answers={200: ("Events until either side ends it.", "text/event-stream")},
        problems=(*_KEYED, *_NAMES, "too-many-streams"),
    ),
    Route(
        method="GET",
        path="/v1/subscribe",
        handler=websocket.subscribe,
        summary="The same over a websocket; see `/asyncapi.json`.",
        scope="read",
        is_stream=True,
        answers={101: ("The connection is a websocket from now on.", None)},
        problems=(*_KEYED, "bad-request"),
    ),
    Route(
        method="POST",
        path="/v1/tickets",
        handler=tickets.make_ticket,
        summary="Makes what a page in a browser opens a stream with.",
        scope="read",
        answers={201: ("The ticket.", Ticket)},
        problems=(*_KEYED, "bad-request", "body-too-large", "too-slow", "too-many-tickets"),
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=operations.metrics,
        summary="Numbers for Prometheus.",
        scope="admin",
        # Prometheus may be configured to send parameters of its own.
        query=None,
        answers={200: ("The numbers of this process since its start.", _PLAIN)},
        problems=tuple(slug for slug in _KEYED if slug != "wrong-field"),
    ),
    Route(
        method="GET",
        path=_VERIFICATION_PATH,
        handler=operations.verification,
        summary="The text by which a provider tells that the host is yours.",
        answers={200: ("The text of the settings.", _PLAIN)},
        problems=("not-found",),
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
            ("/openapi.json", operations.openapi, "This document."),
        )
    ),
    Route(
        method="GET",
        path="/healthz",
        handler=operations.healthz,
        summary="Whether the process answers.",
        takes_head=True,
        answers={200: ("It does.", "application/json")},
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=operations.readyz,
        summary="Whether it can store.",
        takes_head=True,
        answers={200: ("It can.", "application/json"), 503: ("It cannot, with the reason.", "application/json")},
    ),
)
"""Every route of the receiver."""
