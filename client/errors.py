"""Errors of the package, one class per reaction of the caller."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.protocol.models import Task

__all__ = [
    "BadArgumentError",
    "CallbackReceiverError",
    "ClientClosedError",
    "NoBalanceError",
    "ProviderRefusedError",
    "ProviderUnreachableError",
    "ReceiverRefusedError",
    "ReceiverUnavailableError",
    "ResultsGapError",
    "SlowDownError",
    "StaleAnswerError",
    "SubmitUnknownError",
    "TaskFailedError",
    "TaskTimedOutError",
    "UnreadableError",
    "UnsolvableError",
    "WrongKeyError",
]


class CallbackReceiverError(Exception):
    """Base of all errors that this package raises on purpose."""


class UnreadableError(CallbackReceiverError):
    """The bytes are not a message of the dialect or of the protocol."""


class BadArgumentError(CallbackReceiverError, ValueError):
    """An argument, a file or a setting is wrong. The text names it and the expected value."""


class ClientClosedError(CallbackReceiverError):
    """The `TaskClient` was closed before the task ended. Attach to the task again to go on."""


class ReceiverUnavailableError(CallbackReceiverError):
    """The receiver did not answer in time, or answered 5xx. Try again later, or go on without it."""


class ReceiverRefusedError(CallbackReceiverError):
    """The receiver answered with a problem. The same request would fail again.

    `status` is the HTTP status, `slug` the last part of the problem's `type`. `ref` is the task named by the problem:
    under `task-id-taken` the owner of the id.
    """

    def __init__(self, *, status: int, slug: str, detail: str, ref: str | None = None) -> None:
        super().__init__(f"the receiver answered {status} {slug}: {detail}")
        self.status = status
        self.slug = slug
        self.detail = detail
        self.ref = ref


class ResultsGapError(CallbackReceiverError):
    """The cursor has no place in the log, so results may have been missed.

    `reason` is `pruned`, `other-log` (a restored database) or `beyond-end`. The rest of the log can be read from the
    cursor `resumes_at`.
    """

    def __init__(self, reason: str, resumes_at: str) -> None:
        super().__init__(f"results may have been missed ({reason}): the log resumes at cursor {resumes_at}")
        self.reason = reason
        self.resumes_at = resumes_at


class ProviderUnreachableError(CallbackReceiverError):
    """The provider did not answer, or not with a message of its dialect (5xx, HTML, cut connection).

    At submit a task may have been made, or an HTTP status (3xx, 4xx) says that none was made. The text says which of
    the two. Nothing is submitted again. `status` is the HTTP status, or None without one.
    """

    def __init__(self, text: str = "", status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class ProviderRefusedError(CallbackReceiverError):
    """The provider refused the request itself. A person has to change something.

    `error_code` is the provider's code as it was sent, `error_id` its number.
    """

    advice = "change the request; the same one will be refused again"

    def __init__(self, provider: str, error_id: int, error_code: str, description: str | None = None) -> None:
        words = f" ({description})" if description else ""
        super().__init__(f"{provider} refused the request: {error_code}{words}: {self.advice}")
        self.provider = provider
        self.error_id = error_id
        self.error_code = error_code
        self.description = description


class WrongKeyError(ProviderRefusedError):
    """The provider does not know the client key, or blocked it."""

    advice = "check the client key"


class SlowDownError(ProviderRefusedError):
    """The provider is busy, or got too many requests. Several tries failed."""

    advice = "wait a while, then submit again"


class NoBalanceError(ProviderRefusedError):
    """The account has no money left."""

    advice = "add funds to the account"


class StaleAnswerError(CallbackReceiverError):
    """Every answer was older than `fresh_for` seconds when it could be returned, so none was returned.

    `ages_seconds` holds the age of each submitted task's answer, and `age_seconds` the last one; infinity: the age is
    not known. `task` is the last task, with its solution.
    """

    advice = "allow older answers, or submit a new task"

    def __init__(self, task: Task, *, fresh_for: float, ages_seconds: Sequence[float]) -> None:
        count = len(ages_seconds)
        answers = "1 answer was" if count == 1 else f"{count} answers were"
        ages = ", ".join(f"{age:.1f} s" if isfinite(age) else "an unknown age" for age in ages_seconds)
        super().__init__(
            f"{task.provider} task {task.task_id or task.ref}: {answers} too old: expected at most {fresh_for:g} s, "
            f"got {ages}: {self.advice}"
        )
        self.age_seconds = ages_seconds[-1]
        self.ages_seconds = tuple(ages_seconds)
        self.fresh_for = fresh_for
        self.task = task


class TaskFailedError(CallbackReceiverError):
    """The task ended as `failed`. `task` is its last known state, with the provider's code."""

    advice = "the same task will fail again"

    def __init__(self, task: Task) -> None:
        words = f" ({task.error_description})" if task.error_description else ""
        name = f"task {task.task_id or task.ref}".rstrip()
        is_unlisted = task.is_provisional and task.source == "poll"
        advice = "this code is on no list; ask the provider for its meaning" if is_unlisted else self.advice
        super().__init__(f"{task.provider} {name} failed: {task.error_code}{words}: {advice}")
        self.task = task


class UnsolvableError(TaskFailedError):
    """The task failed, but a new one like it may work."""

    advice = "submit it again if the answer is still needed"


class TaskParametersError(TaskFailedError):
    """The task failed, and a new one fails in the same way without another proxy, image or site key."""

    advice = "change the parameters named by the code; a task with other ones may work"


class TaskTimedOutError(TaskFailedError):
    """No answer came until the task's `deadlineAt`."""

    advice = "submit a new task"


class SubmitUnknownError(TaskFailedError):
    """The answer to createTask was lost, and no callback came. The task may have been made and charged."""

    advice = "check the account before submitting it again"
