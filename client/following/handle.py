"""`Task`: what a caller holds of one task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from client.following.follower import Watch
from client.following.freshness import check_seconds
from client.protocol import models as protocol
from client.provider_api.timeline import TimelineStep
from client.providers.readings import TaskId

__all__ = ["Task"]


class Task:
    """A task that was submitted or attached to; awaited or not, it is followed to its end while the client is open."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __repr__(self) -> str:
        return f"<Task ref={self.ref!r} taskId={self.task_id!r}>"

    @property
    def ref(self) -> str | None:
        """The receiver's id of the task; None where it was done without."""
        return self._watch.ref

    @property
    def task_id(self) -> TaskId | None:
        """The provider's id; None where the answer to createTask was lost."""
        return self._watch.task_id

    @property
    def type(self) -> str | None:
        """The type that it was submitted with; None where it was attached to."""
        return self._watch.type

    def when_finished(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` once it has ended, or now if it has; calling what this returns takes that back."""
        return self._watch.ending.when_finished(listener)

    def timeline(self) -> tuple[TimelineStep, ...]:
        """What happened to this task so far, oldest first: what was sent, who told what, and why it still waits.

        The names are those of the log lines; there are no secrets and no solutions in it. At most 64 steps are kept:
        beyond that the oldest polls, and then the oldest steps after the first eight, are collapsed into a count.
        """
        return self._watch.timeline.steps()

    async def result(self, timeout: float | None = None, *, fresh_for: float | None = None) -> protocol.Task:
        """Return the finished task with its solution; any number of waiters may ask, any number of times.

        With `fresh_for` no answer is given out that may be older than so many seconds (see `TaskClient.solve`); while
        such a wait lasts, the task is polled often enough to know. An answer that is too old for this wait is given
        out by one that asks for less. Of a task that was attached to, it is not known when createTask was called: what
        a poll brings has an age only once another poll has said "processing".

        Cancelling the wait leaves nothing behind; the task lives on.

        Raises:
            TimeoutError: `timeout` seconds passed; the task lives on.
            StaleAnswerError: the answer is older than `fresh_for`, or may be.
            TaskFailedError, UnsolvableError, TaskParametersError: the task ended as failed.
            TaskTimedOutError, SubmitUnknownError: no answer came until its deadline.
            WrongKeyError, NoBalanceError, ProviderRefusedError: the provider refuses to be asked, and won't call back.
            ClientClosedError: the client was closed first.
        """
        check_seconds(fresh_for)
        async with asyncio.timeout(timeout):
            return await self._watch.answer(fresh_for)
