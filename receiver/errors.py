"""The errors of the receiver: one class per reaction, and the one table of problems that they become on the wire."""

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
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of problem: `status` is its HTTP status, `title` the same for every occurrence (RFC 9457, 3.1.3)."""

    status: int
    title: str


PROBLEMS: Mapping[str, Problem] = MappingProxyType(
    {
        "not-json": Problem(400, "The body is not JSON"),
        "bad-request": Problem(400, "The request cannot be read"),
        "no-key": Problem(401, "An API key is needed"),
        "scope-missing": Problem(403, "The API key lacks a scope"),
        "origin-refused": Problem(403, "Pages of this origin may not use this receiver"),
        "not-found": Problem(404, "There is nothing at this address"),
        "unknown-task": Problem(404, "No such task"),
        "method-not-allowed": Problem(405, "The method is not allowed here"),
        "ambiguous-task-id": Problem(409, "Several providers have a task with this id"),
        "task-id-taken": Problem(409, "The taskId belongs to another task"),
        "task-id-mismatch": Problem(409, "The task is bound to another taskId"),
        "idempotency-in-flight": Problem(409, "A request with this Idempotency-Key is in flight"),
        "cursor-gone": Problem(410, "The cursor is of no use here"),
        "too-slow": Problem(408, "The request took too long to arrive"),
        "body-too-large": Problem(413, "The body is too large"),
        "unsupported-media-type": Problem(415, "The body is of a type or a coding that is not taken here"),
        "wrong-field": Problem(422, "A field is wrong"),
        "unreadable-answer": Problem(422, "The answer is not one of this provider's"),
        "idempotency-key-reused": Problem(422, "The Idempotency-Key was used with another body"),
        "too-many-waiters": Problem(429, "The API key has too many requests waiting"),
        "too-many-names": Problem(429, "The API key names too many tasks"),
        "too-many-tickets": Problem(429, "Too many tickets are good at once"),
        "too-much-unsent": Problem(429, "The API key leaves too much unread"),
        "too-many-streams": Problem(429, "The API key has too many streams open"),
        "server-error": Problem(500, "The receiver failed"),
        "provider-refused": Problem(502, "The provider refused the task"),
        "provider-unreachable": Problem(503, "The provider does not take tasks now"),
        "quota-full": Problem(503, "A quota is used up"),
        "not-stored": Problem(503, "It could not be stored now"),
        "receiver-full": Problem(503, "The receiver holds all the waits, streams and unread answers it can"),
        "shutting-down": Problem(503, "The receiver is shutting down"),
    }
)
"""Every problem by its slug: `urn:callback-receiver:problem:<slug>`."""


class ReceiverError(Exception):
    """What a request can be told: `slug` names it in PROBLEMS, `detail` says what was wrong, without secrets.

    `extra` holds further members of the problem, `retry_after_seconds` becomes the header.
    """

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
    """The store could not write or read now (full disk, locked or broken file); nothing of a command was stored."""

    def __init__(self, detail: str) -> None:
        super().__init__("not-stored", detail, retry_after_seconds=5)


class StoreBusyError(ReceiverError):
    """The command was not stored in time; it may still be stored."""

    def __init__(self, detail: str) -> None:
        super().__init__("not-stored", detail, retry_after_seconds=2)


class CursorGoneError(ReceiverError):
    """A cursor of another log, beyond the end, or older than what is kept; `resumes_at` is where to go on."""

    def __init__(self, reason: str, resumes_at: str) -> None:
        texts = {
            "other-log": "the cursor is of another log: the database was replaced or restored",
            "beyond-end": "the cursor is beyond the end of the log",
            "pruned": "what follows the cursor is no longer kept",
        }
        super().__init__("cursor-gone", texts[reason], extra={"reason": reason, "resumesAt": resumes_at})
        self.reason = reason
        self.resumes_at = resumes_at


class CannotStartError(Exception):
    """The receiver refuses to start; the text is the one line that an operator gets.

    `passes`: the reason may pass by itself (a full disk, a port in use), so that trying again is worth it.
    """

    def __init__(self, text: str, *, passes: bool = False) -> None:
        super().__init__(text)
        self.passes = passes
