"""What a client needs of a receiver, over HTTP or in the same process."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from client.errors import CallbackReceiverError
from client.protocol.filters import ResultFilter
from client.protocol.frames import GapFrame, Request, StreamFrame
from client.protocol.models import OutcomeReport, Registered, Registration, Reported, ResultsPage, Task
from client.providers.readings import TaskId

__all__ = ["Attached", "OpenSubscription", "ReceiverConnection", "StreamBlockedError"]


@dataclass(frozen=True, slots=True)
class Attached:
    """A task that the receiver knew, and by its own clock how old it is and how long it has still to live.

    The age is one of whole seconds, cut off. Where it is not known, the task counts as made now.
    """

    task: Task
    age_seconds: float
    seconds_left: float
    is_age_known: bool = True


class StreamBlockedError(CallbackReceiverError):
    """Something on the way lets no websocket through; requests may get through all the same."""


class OpenSubscription(Protocol):
    """A subscription that is open: frames go out and come in."""

    async def send(self, frame: Request) -> None:
        """Send a frame; raises `ReceiverUnavailableError` where the connection is gone."""

    async def receive(self) -> StreamFrame:
        """Return the next frame that this version knows. Cancelling it loses nothing.

        Raises:
            ReceiverUnavailableError: the connection broke or was closed, or nothing came for 40 s, in which a
                heartbeat was due.
        """


class ReceiverConnection(Protocol):
    """One receiver.

    Every function raises `ReceiverUnavailableError` where the same may work later, and `ReceiverRefusedError` where it
    will not. Cancelling one leaves open whether it was carried out; all may be repeated, `register` with the same
    idempotency key.
    """

    async def register(
        self, registration: Registration, *, idempotency_key: str | None = None
    ) -> Registered | Attached:
        """Return the new task, or the one that has this `taskId`."""

    async def bind(self, ref: str, task_id: TaskId) -> Task:
        """Return the task, with the provider's id."""

    async def report(self, ref: str, report: OutcomeReport) -> Reported:
        """What became of a provider's answer, with the outcome that won."""

    async def task(self, ref: str) -> Task:
        """Return the task as it is now."""

    async def results(self, after: str | None, only: ResultFilter, *, wait_seconds: float) -> ResultsPage | GapFrame:
        """Return the next page of the log behind `after`, once there is something in it or the wait is over.

        Without a cursor: from now. It stands in for a subscription where none can be opened.
        """

    def subscription(self) -> AbstractAsyncContextManager[OpenSubscription]:
        """Return an open subscription, to which nothing was sent yet; raises `StreamBlockedError`, too."""
