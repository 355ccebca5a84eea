"""`Task`: a caller's handle of one task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from client.following.follower import Follower
from client.following.freshness import check_seconds
from client.protocol import models as protocol
from client.provider_api.timeline import TimelineStep
from client.providers.readings import TaskId

__all__ = ["Task"]


class Task:
    """The handle of a submitted or attached task. The task is followed while the client is open, awaited or not."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def __repr__(self) -> str:
        return f"<Task ref={self.ref!r} taskId={self.task_id!r}>"

    @property
    def ref(self) -> str | None:
        """The receiver's id of the task; None without a receiver, or if it did not answer."""
        return self._follower.state.ref

    @property
    def task_id(self) -> TaskId | None:
        """The provider's id; None if the answer to createTask was lost."""
        return self._follower.state.task_id

    @property
    def type(self) -> str | None:
        """The type of the submitted task; None if it was attached to."""
        return self._follower.registration.type

    def when_finished(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` once the task has ended, or now if it has. Return a function that takes the call back."""
        return self._follower.outcome.when_finished(listener)

    def timeline(self) -> tuple[TimelineStep, ...]:
        """Return the steps of this task so far, oldest first: requests, answers, and the reasons of its waits.

        The steps have the names of the log lines, and hold no secrets and no solutions. At most 64 steps are kept.
        Beyond that the oldest polls are collapsed into a count, and then the oldest steps after the first eight.
        """
        return self._follower.timeline.steps()

    async def result(self, timeout: float | None = None, *, fresh_for: float | None = None) -> protocol.Task:
        """Return the finished task with its solution. Any number of waiters may call this, any number of times.

        With `fresh_for`, an answer is returned only if it is certainly no older than that in seconds (see
        `TaskClient.solve`). During such a wait the task is polled often enough to know the age. An answer too old for
        this wait may still be young enough for another. For an attached task the time of createTask is unknown. So the
        answer to a poll has an age only if an earlier poll was answered with "processing".

        Cancelling the wait leaves nothing behind, and the task goes on.

        Raises:
            TimeoutError: `timeout` seconds passed; the task goes on.
            StaleAnswerError: the answer is older than `fresh_for`, or may be.
            TaskFailedError, UnsolvableError, TaskParametersError: the task ended as failed.
            TaskTimedOutError, SubmitUnknownError: no answer came until its deadline.
            WrongKeyError, NoBalanceError, ProviderRefusedError: the provider refuses polls, and there is no callback.
            ClientClosedError: the client was closed first.
        """
        check_seconds(fresh_for)
        async with asyncio.timeout(timeout):
            return await self._follower.answer(fresh_for)
