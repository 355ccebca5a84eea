"""The receiver over HTTP: one function per endpoint, on a shared session."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import TypeVar
from urllib.parse import quote, urlencode

import aiohttp
from pydantic import BaseModel, ValidationError
from yarl import URL

from client.errors import BadArgumentError, ReceiverRefusedError, ReceiverUnavailableError, UnreadableError
from client.protocol.connection import Attached, error_of_problem
from client.protocol.filters import ResultFilter
from client.protocol.frames import GapFrame
from client.protocol.models import (
    Binding,
    OutcomeReport,
    Problem,
    Registered,
    Registration,
    Reported,
    ResultsPage,
    Task,
)
from client.protocol.traceparent import TRACEPARENT, current_traceparent
from client.providers.readings import TaskId
from client.providers.values import parse_object
from client.receiver_api.websocket import WebsocketSubscription, open_websocket

__all__ = ["Attached", "ReceiverApi", "open_receiver_session"]

Model = TypeVar("Model", bound=BaseModel)

_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_LARGE_BYTES = 1024 * 1024
_MAX_CONNECTIONS = 50
_CONNECT_SECONDS = 5.0
_CALL_SECONDS = 10.0
_PAGE = 200


class ReceiverApi:
    """A `client.protocol.connection.ReceiverConnection` over HTTP, with one API key.

    Every method raises `ReceiverUnavailableError` if the same request may work later (no answer, 429, 5xx), and
    `ReceiverRefusedError` if it will not. After a cancellation the request may have been carried out. All may be
    repeated, `register` with the same idempotency key.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str | None) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    async def register(
        self, registration: Registration, *, idempotency_key: str | None = None
    ) -> Registered | Attached:
        """Send `POST /v1/tasks`. Return the new task, or the one with this `taskId`."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        traceparent = current_traceparent()
        if traceparent is not None:
            headers[TRACEPARENT] = traceparent
        answer = await self._ask("POST", "/v1/tasks", body=registration, headers=headers)
        if answer.status == 201:
            return _read(Registered, answer)
        return _attached(_read(Task, answer), answer)

    async def bind(self, ref: str, task_id: TaskId) -> Task:
        """Send `PATCH /v1/tasks/{ref}`."""
        return _read(Task, await self._ask("PATCH", f"/v1/tasks/{_part(ref)}", body=Binding(task_id=task_id)))

    async def report(self, ref: str, report: OutcomeReport) -> Reported:
        """Send `PUT /v1/tasks/{ref}/outcome`."""
        return _read(Reported, await self._ask("PUT", f"/v1/tasks/{_part(ref)}/outcome", body=report))

    async def task(self, ref: str) -> Task:
        """Send `GET /v1/tasks/{ref}`. Return the task as it is now."""
        return _read(Task, await self._ask("GET", f"/v1/tasks/{_part(ref)}"))

    async def results(self, after: str | None, only: ResultFilter, *, wait_seconds: float) -> ResultsPage | GapFrame:
        """Send `GET /v1/results`; see `ReceiverConnection`."""
        place = {} if after is None else {"after": after}
        query = urlencode({**place, **only.to_query(), "limit": _PAGE, "wait": f"{wait_seconds:g}"})
        try:
            answer = await self._ask("GET", f"/v1/results?{query}", seconds=wait_seconds + _CONNECT_SECONDS)
        except _CursorGoneError as error:
            return error.gap
        return _read(ResultsPage, answer)

    def subscription(self) -> AbstractAsyncContextManager[WebsocketSubscription]:
        """Return an opening `GET /v1/subscribe`; see `ReceiverConnection`."""
        return open_websocket(self._session, f"{self._url}/v1/subscribe", self._headers)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        headers: dict[str, str] | None = None,
        seconds: float = _CALL_SECONDS,
    ) -> _Answer:
        sent = {**self._headers, **(headers or {})}
        raw = None
        if body is not None:
            raw = body.model_dump_json(by_alias=True, exclude_defaults=True).encode()
            sent["Content-Type"] = "application/json"
        try:
            async with asyncio.timeout(seconds):
                answer = await self._exchange(method, path, raw, sent)
        except TimeoutError as error:
            raise ReceiverUnavailableError(f"the receiver did not answer within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ReceiverUnavailableError(f"the receiver cannot be reached ({type(error).__name__})") from error
        if 200 <= answer.status < 300:
            return answer
        raise _error_of(answer)

    async def _exchange(self, method: str, path: str, raw: bytes | None, headers: dict[str, str]) -> _Answer:
        url = URL(self._url + path, encoded=True)
        # As a file, aiohttp sends it in pieces; as bytes it would warn of that.
        data = BytesIO(raw) if raw is not None and len(raw) > _LARGE_BYTES else raw
        async with self._session.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _MAX_ANSWER_BYTES:
                    response.close()
                    raise ReceiverUnavailableError(f"the receiver sent more than {_MAX_ANSWER_BYTES} bytes")
            return _Answer(response.status, bytes(body), response.headers.get("Date"))


def open_receiver_session() -> aiohttp.ClientSession:
    """Return a session for a receiver. `ReceiverApi` has its own limits on time."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_MAX_CONNECTIONS),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    date: str | None


class _CursorGoneError(ReceiverRefusedError):
    def __init__(self, detail: str, gap: GapFrame) -> None:
        super().__init__(status=410, slug="cursor-gone", detail=detail)
        self.gap = gap


def _read(model: type[Model], answer: _Answer) -> Model:
    try:
        return model.model_validate_json(answer.body)
    except ValidationError as error:
        # Another server answers at this address, or a proxy on the way: not even a problem of ours.
        raise ReceiverUnavailableError(f"the answer (HTTP {answer.status}) is not from a receiver") from error


def _error_of(answer: _Answer) -> ReceiverUnavailableError | ReceiverRefusedError:
    try:
        fields = parse_object(answer.body)
        problem = Problem.model_validate(fields)
    except (UnreadableError, ValidationError):
        fields, problem = {}, Problem()
    detail = problem.detail or problem.title or "no reason was given"
    if problem.slug == "cursor-gone" and isinstance(fields.get("resumesAt"), str):
        gap = GapFrame(reason=str(fields.get("reason", "")), resumes_at=fields["resumesAt"])
        return _CursorGoneError(detail, gap)
    return error_of_problem(status=answer.status, slug=problem.slug, detail=detail, ref=problem.ref)


def _attached(task: Task, answer: _Answer) -> Attached:
    """Return the ages by the receiver's clock, from the `Date` header: this machine's clock may be wrong."""
    try:
        now = parsedate_to_datetime(answer.date or "")
        age, left = (now - task.created_at).total_seconds(), (task.deadline_at - now).total_seconds()
    except (TypeError, ValueError):
        # Without a date, or one without a zone, it counts as made now.
        left = (task.deadline_at - task.created_at).total_seconds()
        return Attached(task, 0.0, max(0.0, left), is_age_known=False)
    return Attached(task, max(0.0, age), max(0.0, left))


def _part(text: str) -> str:
    if text in ("", ".", ".."):
        raise BadArgumentError(f"ref: expected the ref of a task, got {text!r}")
    return quote(text, safe="")
