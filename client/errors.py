"""What can go wrong for a caller, one class per reaction the caller can have."""

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
    """Base of every error that this package raises on purpose."""


class UnreadableError(CallbackReceiverError):
    """The bytes are not what the dialect (or the protocol) calls a message."""


class BadArgumentError(CallbackReceiverError, ValueError):
    """An argument, a file or a setting of the caller is wrong; the text names it and what was expected."""


class ClientClosedError(CallbackReceiverError):
    """The `TaskClient` was closed while the task was still waiting; attach to it again to go on."""


class ReceiverUnavailableError(CallbackReceiverError):
    """The receiver did not answer in time, or answered 5xx: ask again later, or go on without it."""


class ReceiverRefusedError(CallbackReceiverError):
    """The receiver answered with a problem: asking the same again gives the same.

    `status` is the HTTP status, `slug` the last part of the problem's `type`. `ref` is the task that the problem names:
    under `task-id-taken` the one that has the id already.
    """

    def __init__(self, *, status: int, slug: str, detail: str, ref: str | None = None) -> None:
        super().__init__(f"the receiver answered {status} {slug}: {detail}")
        self.status = status
        self.slug = slug
        self.detail = detail
        self.ref = ref


class ResultsGapError(CallbackReceiverError):
    """The log does not go on at the cursor, so that results may have been missed.

    `reason` is `pruned`, `other-log` (a restored database) or `beyond-end`; `resumes_at` is the cursor from which what
    is left can be read.
    """

    def __init__(self, reason: str, resumes_at: str) -> None:
        super().__init__(f"results may have been missed ({reason}): the log goes on at cursor {resumes_at}")
        self.reason = reason
        self.resumes_at = resumes_at


class ProviderUnreachableError(CallbackReceiverError):
    """The provider did not answer, or not with a message of its dialect (5xx, HTML, cut connection).

    Raised at submit when it is unknown whether a task was made, and when an HTTP status (3xx, 4xx) says that none was;
    the text says which. Nothing is submitted again. `status` is the HTTP status, None where none came.
    """

    def __init__(self, text: str = "", status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class ProviderRefusedError(CallbackReceiverError):
    """The provider refused the request itself; a person has to change something.

    `error_code` is the provider's code as it was sent, `error_id` its number.
    """

    advice = "change the request; the same one will be refused again"

    def __init__(self, provider: str, error_id: int, error_code: str, description: str | None = None) -> None:
        said = f" ({description})" if description else ""
        super().__init__(f"{provider} refused the request: {error_code}{said}: {self.advice}")
        self.provider = provider
        self.error_id = error_id
        self.error_code = error_code
        self.description = description


class WrongKeyError(ProviderRefusedError):
    """The provider does not know the client key, or blocked it."""

    advice = "check the client key"


class SlowDownError(ProviderRefusedError):
    """The provider is busy, or was asked too often; several tries were in vain."""

    advice = "wait a while, then submit again"


class NoBalanceError(ProviderRefusedError):
    """The account has no money left."""

    advice = "add funds to the account"


class StaleAnswerError(CallbackReceiverError):
    """Every answer was older than `fresh_for` seconds when it could be handed over, so none was.

    `age_seconds` is the age of the last one (infinite: nobody can tell), `ages_seconds` holds those of all, one for
    each task that was submitted; `task` is the last one, with its solution.
    """

    advice = "allow older answers, or submit a new task"

    def __init__(self, task: Task, *, fresh_for: float, ages_seconds: Sequence[float]) -> None:
        count = len(ages_seconds)
        tasks = (
            "1 task was submitted, and its answer was" if count == 1 else f"{count} tasks were submitted, and each was"
        )
        ages = ", ".join(f"{age:.1f} s" if isfinite(age) else "nobody can tell how" for age in ages_seconds)
        super().__init__(
            f"{task.provider} task {task.task_id or task.ref}: {tasks} older than {fresh_for:g} s when it could be "
            f"handed over ({ages} old): {self.advice}"
        )
        self.age_seconds = ages_seconds[-1]
        self.ages_seconds = tuple(ages_seconds)
        self.fresh_for = fresh_for
        self.task = task


class TaskFailedError(CallbackReceiverError):
    """The task ended as `failed`; `task` is its last known state and holds the provider's code."""

    advice = "the same task will fail again"

    def __init__(self, task: Task) -> None:
        said = f" ({task.error_description})" if task.error_description else ""
        name = f"task {task.task_id or task.ref}".rstrip()
        is_unlisted = task.is_provisional and task.source == "poll"
        advice = "no list says what this code means; ask the provider" if is_unlisted else self.advice
        super().__init__(f"{task.provider} {name} failed: {task.error_code}{said}: {advice}")
        self.task = task


class UnsolvableError(TaskFailedError):
    """This task is dead, but a new one like it may work."""

    advice = "submit it again if it is still worth it"


class TaskParametersError(TaskFailedError):
    """This task is dead, and so is every one with the same parameters: another proxy, image or site key is needed."""

    advice = "change the parameters that the code names; a task with other ones may work"


class TaskTimedOutError(TaskFailedError):
    """No answer came until the task's `deadlineAt`."""

    advice = "no answer came in time; submit a new task"


class SubmitUnknownError(TaskFailedError):
    """Whether the provider made the task is not known, and no callback came; it may have been charged."""

    advice = "check the account before submitting it again"
