"""The interface between a client and a receiver, over HTTP or in the same process."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from client.errors import CallbackReceiverError, ReceiverRefusedError, ReceiverUnavailableError
from client.protocol.filters import ResultFilter
from client.protocol.frames import GapFrame, Request, StreamFrame
from client.protocol.models import OutcomeReport, Registered, Registration, Reported, ResultsPage, Task
from client.providers.readings import TaskId

__all__ = [
    "RETRY_STATUSES",
    "Attached",
    "OpenSubscription",
    "ReceiverConnection",
    "StreamBlockedError",
    "error_of_problem",
]

RETRY_STATUSES = frozenset({408, 425, 429})
"""HTTP statuses below 500 after which the same request may work later."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A task that the receiver already had, with its age and the time to its deadline by the receiver's clock.

    Over HTTP the age may be up to a second too small. If it is not known, the task counts as made now.
    """

    task: Task
    age_seconds: float
    seconds_left: float
    is_age_known: bool = True


class StreamBlockedError(CallbackReceiverError):
    """A proxy on the way blocks websockets. Other requests may still get through."""


class OpenSubscription(Protocol):
    """An open subscription: a connection for frames in both directions."""

    async def send(self, frame: Request) -> None:
        """Send a frame.

        Raises:
            ReceiverUnavailableError: the connection is gone.
        """

    async def receive(self) -> StreamFrame:
        """Return the next frame known to this version. Cancelling is safe.

        Raises:
            ReceiverUnavailableError: the connection broke or was closed, or not even a heartbeat came in time.
        """


class ReceiverConnection(Protocol):
    """One receiver.

    Every method raises `ReceiverUnavailableError` if the same call may work later, and `ReceiverRefusedError` if not. A
    cancelled call may have been carried out. All calls may be repeated, `register` with the same idempotency key.
    """

    async def register(
        self, registration: Registration, *, idempotency_key: str | None = None
    ) -> Registered | Attached:
        """Register a task. Return it, or the task that already has this `taskId`."""

    async def bind(self, ref: str, task_id: TaskId) -> Task:
        """Bind the provider's id to the task and return the task."""

    async def report(self, ref: str, report: OutcomeReport) -> Reported:
        """Report a provider's answer. Return its verdict and the task with the outcome that won."""

    async def task(self, ref: str) -> Task:
        """Return the current state of the task."""

    async def results(self, after: str | None, only: ResultFilter, *, wait_seconds: float) -> ResultsPage | GapFrame:
        """Return the next page of the log behind `after`, once it has an entry or the wait is over.

        Without a cursor the page begins now. Long polls replace a subscription if none can be opened.
        """

    def subscription(self) -> AbstractAsyncContextManager[OpenSubscription]:
        """Open a subscription, without sending a frame.

        Raises:
            StreamBlockedError: a proxy on the way blocks websockets.
        """


def error_of_problem(
    *, status: int, slug: str, detail: str, ref: str | None = None
) -> ReceiverUnavailableError | ReceiverRefusedError:
    """Return the error for a problem of the receiver. Its type says if the same request may work later."""
    if status >= 500 or status in RETRY_STATUSES or slug == "idempotency-in-flight":
        return ReceiverUnavailableError(f"the receiver answered {status} {slug}: {detail}")
    return ReceiverRefusedError(status=status, slug=slug, detail=detail, ref=ref)
