"""How far one task is: what is known of it, what the receiver tells of it, and how it ends."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal

from client.following.freshness import ready_since
from client.following.outcome import Ending, MakeError
from client.following.plan import Known, Step, next_step
from client.following.record import Record
from client.following.resources import Surroundings
from client.protocol.models import FirstOutcome, Registration, Task
from client.provider_api.errors import LocalTask
from client.provider_api.http import ProviderAnswer
from client.provider_api.timeline import Timeline
from client.providers.readings import Failed, Ready, Unknown

__all__ = ["Progress"]

HeardBy = Literal["createTask", "registration", "binding", "log", "look", "poll", "deadline"]
"""From where this client learned how a task ended."""


class Progress:
    """The state of one task, and a subscriber of the log for it.

    `stage` is "submitting" until the id is bound, "concluding" while the provider's own answer is on its way to the
    receiver. `accepted` is set when the caller may have the task, or `submit_error`, which kept it from being
    submitted; `woken`, when what is to be done next may have changed. `stop` is called when the task ends by something
    else than the code that drives it.
    """

    def __init__(self, around: Surroundings, registration: Registration, stop: Callable[[], None]) -> None:
        clock = around.timing.clock
        self._around = around
        self._registration = registration
        self._stop = stop
        self._wanted_ages: list[float] = []
        self._ready_since = -math.inf
        self.timeline = Timeline(around.timing.now, self.names)
        self.record = Record(around.link, registration, self, timeline=self.timeline, clock=clock)
        self.known = Known(
            plan=around.dialect.polls,
            submitted_at=clock(),
            deadline_at=clock() + (registration.timeout_seconds or 0.0),
            expects_callback=False,
            can_poll=False,
            first_poll_seconds=around.first_poll_seconds,
        )
        self.stage: Literal["submitting", "waiting", "concluding"] = "submitting"
        self.task_id = registration.task_id
        self.created_at = around.timing.now()
        self.submit_error: MakeError | None = None
        self.accepted = asyncio.Event()
        self.woken = asyncio.Event()
        self.ending = Ending()

    # What the reader of the log tells

    def offer(self, task: Task, heard_by: HeardBy = "log") -> None:
        """Take the outcome, or what else the receiver knows of the task."""
        if task.is_final:
            # While the provider's own answer is on its way to the receiver, an outcome of ours is no news.
            if self.stage != "concluding" or not task.is_provisional:
                self.settle(task, heard_by)
            return
        if self.stage == "waiting" and self.task_id is None and task.task_id is not None:
            # The createTask answer was lost, but a callback that was no outcome told the id.
            self.task_id = task.task_id
            self.learn(can_poll=True)
        if task.next_poll_at is not None and (task.poll_after is None or task.next_poll_at < task.poll_after):
            # Brought forward: something came that could not be trusted or read.
            self.hint()

    def hint(self) -> None:
        """Brings the next poll to now, once."""
        self.note("hint.received")
        self.learn(is_hinted=True)

    def forget(self) -> None:
        """The receiver has no record of it any more: its callback URL is dead, and only polling is left."""
        self.record.lose()
        self.learn(expects_callback=False)
        if self.stage == "waiting" and self.task_id is None:
            self.settle(self.local().given_up(self.now()), "deadline")

    def wake(self) -> None:
        """Lets the task be looked at again."""
        self.woken.set()

    def note(self, happened: str, **facts: Any) -> None:
        """Take a step of the timeline."""
        self.timeline.note(happened, **facts)

    # What the code that drives the task finds out

    def learn(self, **known: Any) -> None:
        """Note what is known from now on; the names are those of `Known`."""
        self.known = replace(self.known, **known)
        self.woken.set()

    def next_step(self) -> Step:
        """What to do now."""
        known = replace(self.known, paused_until=self._around.gate.paused_until, silent_since=self.record.silent_since)
        return next_step(known, self._around.timing.clock())

    def settle(self, task: Task, heard_by: HeardBy) -> bool:
        """End the task with its final state; false where it had ended before."""
        if self.ending.finished.is_set():
            return False
        self._ready_since = ready_since(
            task,
            unfinished_at=self.known.unfinished_at,
            record_made_at=self.record.made_at,
            heard_at=self._around.timing.clock(),
        )
        if self.task_id is None:
            self.task_id = task.task_id
        self.timeline.info(
            "task.finished",
            status=task.status,
            errorCode=task.error_code,
            source=task.source,
            heardBy=heard_by,
            polls=self.known.polls,
        )
        self.ending.settle(task)
        self.accepted.set()
        if self.stage == "waiting":
            self._stop()
        return True

    def fail(self, make_error: MakeError) -> None:
        """End the task because it could not be submitted."""
        if self.ending.settle(make_error):
            self.note("task.abandoned", reason=str(make_error()))
            self.submit_error = make_error

    async def conclude(
        self, source: Literal["submit", "poll"], answered: ProviderAnswer[Any], said: Ready | Failed | Unknown
    ) -> Task | None:
        """End the task with the provider's answer, or with what the receiver says won over it.

        None where it had ended before.
        """
        self.stage = "concluding"
        won = await self.report(source, answered)
        if won is None or not won.is_final or won.is_provisional:
            won = self.local().ended(said, source, self.now())
        return won if self.settle(won, "createTask" if source == "submit" else "poll") else None

    async def report(self, source: Literal["submit", "poll"], answered: ProviderAnswer[Any]) -> Task | None:
        """Return the task with the outcome that won, where the receiver can be told of the answer now."""
        outcome = FirstOutcome(source=source, answer=answered.body, polls=self.known.polls)
        return await self.record.report(self.task_id, outcome)

    # How old its answer is

    @contextmanager
    def kept_fresh(self, fresh_for: float | None) -> Iterator[None]:
        """While someone waits who takes no older answer, the task is polled often enough to know the answer's age."""
        if fresh_for is None:
            yield
            return
        self._wanted_ages.append(fresh_for)
        self.learn(fresh_for=min(self._wanted_ages))
        try:
            yield
        finally:
            self._wanted_ages.remove(fresh_for)
            self.learn(fresh_for=min(self._wanted_ages, default=None))

    def age_seconds(self) -> float:
        """How old the answer is by now, or may be; infinite where nobody can tell. To be called once it has ended."""
        return self._around.timing.clock() - self._ready_since

    def names(self) -> dict[str, Any]:
        """What the task is called in log lines."""
        return {"provider": self._around.dialect.provider, "ref": self.record.ref, "taskId": self.task_id}

    def now(self) -> datetime:
        """Return the wall clock."""
        return self._around.timing.now()

    def local(self) -> LocalTask:
        """Return the task as this client alone knows it."""
        left = self.known.deadline_at - self._around.timing.clock()
        return LocalTask(
            dialect=self._around.dialect,
            ref=self.record.ref or "",
            task_id=self.task_id,
            type=self._registration.type,
            tags=self._registration.tags,
            metadata=self._registration.metadata,
            created_at=self.created_at,
            deadline_at=self.now() + timedelta(seconds=left),
        )
