"""The errors of the receiver: one class per reaction, and one table of problems for the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = [
    "PROBLEMS",
    "CannotStartError",
    "CursorGoneError",
    "Problem",
    "ReceiverError",
    "StoreBusyError",
    "StoreFailedError",
    "TooManyRequestsError",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of problem: its HTTP `status` and its `title`, the same for every occurrence (RFC 9457, 3.1.3)."""

    status: int
    title: str


PROBLEMS: Mapping[str, Problem] = MappingProxyType(
    {
        "not-json": Problem(400, "The body is not JSON"),
        "bad-request": Problem(400, "The request cannot be read"),
        "no-key": Problem(401, "An API key is needed"),
        "scope-missing": Problem(403, "The API key lacks a scope"),
        "provider-not-allowed": Problem(403, "The API key is limited to other providers"),
        "origin-refused": Problem(403, "Pages of this origin may not use this receiver"),
        "not-found": Problem(404, "There is nothing at this address"),
        "unknown-task": Problem(404, "No such task"),
        "method-not-allowed": Problem(405, "The method is not allowed here"),
        "ambiguous-task-id": Problem(409, "Several providers have a task with this id"),
        "task-id-taken": Problem(409, "The taskId belongs to another task"),
        "task-id-mismatch": Problem(409, "The task is bound to another taskId"),
        "idempotency-in-flight": Problem(409, "A request with this Idempotency-Key is in flight"),
        "cursor-gone": Problem(410, "The cursor cannot be used here"),
        "too-slow": Problem(408, "The request took too long to arrive"),
        "body-too-large": Problem(413, "The body is too large"),
        "unsupported-media-type": Problem(415, "The media type or coding of the body is not accepted here"),
        "wrong-field": Problem(422, "A field is wrong"),
        "unreadable-answer": Problem(422, "This provider gives no such answer"),
        "idempotency-key-reused": Problem(422, "The Idempotency-Key was used with another body"),
        "too-many-requests": Problem(429, "There are too many requests from this address or key"),
        "too-many-waiters": Problem(429, "The API key has too many requests waiting"),
        "too-many-names": Problem(429, "The streams of the API key name too many tasks"),
        "too-many-tickets": Problem(429, "Too many tickets are valid at once"),
        "too-much-unsent": Problem(429, "The API key has too many unread answers"),
        "too-many-streams": Problem(429, "The API key has too many streams open"),
        "head-too-large": Problem(431, "The head of the request is too large"),
        "server-error": Problem(500, "The receiver failed"),
        "provider-refused": Problem(502, "The provider refused the task"),
        "provider-unreachable": Problem(503, "The provider accepts no tasks now"),
        "quota-full": Problem(503, "A quota is used up"),
        "not-stored": Problem(503, "The receiver cannot store now"),
        "overloaded": Problem(503, "The receiver has no time for it now"),
        "receiver-full": Problem(503, "The receiver has too many waits, streams or unread answers"),
        "shutting-down": Problem(503, "The receiver is shutting down"),
    }
)
"""Every problem by its slug: `urn:callback-receiver:problem:<slug>`."""


class ReceiverError(Exception):
    """An error that a request is answered with.

    `slug` names it in PROBLEMS. `detail` describes the fault without secrets. `extra` holds further members of the
    problem, and `retry_after_seconds` becomes the header Retry-After. `headers` are further headers of the answer.
    """

    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        extra: Mapping[str, Any] | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.detail = detail
        self.extra = dict(extra or {})
        self.retry_after_seconds = retry_after_seconds


class StoreFailedError(ReceiverError):
    """A failed write or read of the store (full disk, locked or broken file). Nothing of the command was stored."""

    def __init__(self, detail: str) -> None:
        super().__init__("not-stored", detail, retry_after_seconds=5)


class StoreBusyError(ReceiverError):
    """A command not stored in time. It may still be stored later."""

    def __init__(self, detail: str) -> None:
        super().__init__("not-stored", detail, retry_after_seconds=2)


class TooManyRequestsError(ReceiverError):
    """A request beyond a rate. `headers` say which rate it is."""

    def __init__(self, detail: str, *, retry_after_seconds: int, headers: Mapping[str, str]) -> None:
        super().__init__("too-many-requests", detail, retry_after_seconds=retry_after_seconds)
        self.headers = headers


class CursorGoneError(ReceiverError):
    """A cursor of another log, beyond the end, or before the oldest entry. Reading resumes at `resumes_at`."""

    def __init__(self, reason: str, resumes_at: str) -> None:
        texts = {
            "other-log": "the cursor belongs to another log: the database was replaced or restored",
            "beyond-end": "the cursor is beyond the end of the log",
            "pruned": "the entries after the cursor are no longer kept",
        }
        super().__init__("cursor-gone", texts[reason], extra={"reason": reason, "resumesAt": resumes_at})
        self.reason = reason
        self.resumes_at = resumes_at


class CannotStartError(Exception):
    """A refusal to start or to carry out a command. Its text is the one line for the operator.

    `passes`: the reason may pass by itself (a full disk, a port in use), so a later attempt can succeed.
    """

    def __init__(self, text: str, *, passes: bool = False) -> None:
        super().__init__(text)
        self.passes = passes
