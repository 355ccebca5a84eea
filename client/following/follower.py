"""One task from its registration to its outcome, even if nobody waits for it any more.

The order makes it safe. The record is made and read before the provider is called, so a callback that overtakes the
createTask answer is seen. The id is bound before the caller gets the task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from math import isfinite
from typing import Any, Literal, assert_never

from client.errors import ClientClosedError, ProviderUnreachableError, ReceiverRefusedError, StaleAnswerError
from client.following.freshness import ready_since
from client.following.outcome import MakeError, OutcomeFuture
from client.following.plan import GiveUp, NextStep, Poll, UnknownIsFinal, Wait, next_step
from client.following.polling import Poller
from client.following.record import ReceiverRecord
from client.following.resources import ClientResources
from client.following.state import TaskState
from client.protocol.connection import Attached
from client.protocol.models import FirstOutcome, Registered, Registration, Task
from client.provider_api.errors import LocalTask, failure_of, refusal_of, words_of
from client.provider_api.http import ProviderAnswer, UnclearError
from client.provider_api.submit import Submission
from client.provider_api.timeline import Timeline
from client.providers.readings import Failed, Pending, Ready, Refused, Unknown

__all__ = ["Follower"]

HeardBy = Literal["createTask", "registration", "binding", "log", "look", "poll", "deadline"]
"""The way in which this client learned of the outcome."""


class Follower:
    """Follows one task to its outcome, and is the reader's subscriber for it.

    `task` is submitted; if it is None, the task of `registration` exists already and is only attached to.
    """

    def __init__(self, resources: ClientResources, registration: Registration, task: Mapping[str, Any] | None) -> None:
        now = resources.timing.clock()
        self._resources = resources
        self._task = task
        self._accepted = asyncio.Event()
        self._submit_error: MakeError | None = None
        self._woken = asyncio.Event()
        # The outcome from the log, if it came before the answer to this client's own report.
        self._overtook: Task | None = None
        self._running: asyncio.Task[None] | None = None
        self.registration = registration
        self.state = state = TaskState(
            plan=resources.dialect.polls,
            submitted_at=now,
            deadline_at=now + (registration.timeout_seconds or 0.0),
            created_at=resources.timing.now(),
            task_id=registration.task_id,
            first_poll_seconds=resources.first_poll_seconds,
        )
        self.outcome = OutcomeFuture()
        self.timeline = Timeline(resources.timing.now, self._names)
        self._poller = Poller(resources, state, self.timeline)
        self._record = ReceiverRecord(resources, registration, state=state, timeline=self.timeline, subscriber=self)

    # The caller's side

    async def accepted(self) -> None:
        """Return once the task was submitted or attached to, or has ended. Cancelling leaves nothing behind.

        Raises:
            CallbackReceiverError: the task could not be submitted.
        """
        await self._accepted.wait()
        if self._submit_error is not None:
            raise self._submit_error()

    async def answer(self, fresh_for: float | None = None) -> Task:
        """Return the finished task. Cancelling leaves nothing behind.

        Raises:
            StaleAnswerError: the answer is older than `fresh_for` seconds by now.
            CallbackReceiverError: the task ended in another way.
        """
        await self._finished(fresh_for)
        task = self.outcome.answer(self._resources.dialect.codes)
        age_seconds = self._resources.timing.clock() - self.state.ready_since
        if fresh_for is not None and age_seconds > fresh_for:
            # No infinity: lines are written as JSON.
            age = round(age_seconds, 3) if isfinite(age_seconds) else None
            self.timeline.warning("answer.discarded", ageSeconds=age, freshFor=fresh_for)
            raise StaleAnswerError(task, fresh_for=fresh_for, ages_seconds=[age_seconds])
        return task

    def start(self, owner: asyncio.TaskGroup) -> asyncio.Task[None]:
        """Follow the task in `owner`, until it has ended or is abandoned."""
        self._running = owner.create_task(self._run(), name="follower")
        return self._running

    def abandon(self) -> None:
        """Stop at once: nobody will ask for the outcome, or nobody can any more."""
        closed = partial(ClientClosedError, "the client was closed while the task was still waiting")
        if not self.outcome.finished.is_set():
            self.timeline.note("task.abandoned", reason="the client was closed, or its only waiter was cancelled")
            if not self._accepted.is_set():
                self._submit_error = closed
            self.outcome.settle(closed)
        self._accepted.set()
        self._stop()

    # The subscriber's side: calls of the reader of the log

    def offer(self, task: Task, heard_by: HeardBy = "log") -> None:
        """Take the task as the receiver knows it, with or without an outcome."""
        state = self.state
        if task.is_final:
            if state.stage != "concluding":
                self._settle(task, heard_by)
            elif not task.is_provisional:
                self._overtook = task
            return
        if state.stage == "waiting" and state.task_id is None and task.task_id is not None:
            # The createTask answer was lost, but a callback without an outcome had the id.
            state.task_id = task.task_id
            self.wake()
        if task.next_poll_at is not None and (task.poll_after is None or task.next_poll_at < task.poll_after):
            # The receiver polls earlier, because it could not trust or read a callback.
            self.hint()

    def hint(self) -> None:
        """Bring the next poll to now, once."""
        self.timeline.note("hint.received")
        self.state.is_hinted = True
        self.wake()

    def forget(self) -> None:
        """Go on without the record. Its callback URL no longer works, so only polling is left."""
        self._record.lose()
        if self.state.stage == "waiting" and self.state.task_id is None:
            self._give_up()
        self.wake()

    def wake(self) -> None:
        """Let the next step be decided again."""
        self._woken.set()

    def note(self, happened: str, **facts: Any) -> None:
        """Add a step to the timeline."""
        self.timeline.note(happened, **facts)

    # From the registration to the provider's first answer

    async def _run(self) -> None:
        try:
            await (self._attach() if self._task is None else self._submit(self._task))
            self.state.stage = "waiting"
            self._accepted.set()
            while not self.outcome.finished.is_set():
                await self._take_step()
        finally:
            self._record.leave()
            self.abandon()

    async def _submit(self, task: Mapping[str, Any]) -> None:
        state, clock = self.state, self._resources.timing.clock
        registered = await self._register()
        if self.outcome.finished.is_set():
            return
        callback_url = registered.callback_url if isinstance(registered, Registered) else None
        state.is_polled_elsewhere = isinstance(registered, Registered) and registered.fallback == "receiver"
        state.submitted_at = state.unfinished_at = clock()
        # Counted from here, the deadline is never before that of the record.
        state.deadline_at = clock() + (self.registration.timeout_seconds or 0.0)
        try:
            submission = await self._resources.submitter.submit(
                task, callback_url, deadline_at=state.deadline_at, timeline=self.timeline
            )
        except ProviderUnreachableError as error:
            self._fail(partial(ProviderUnreachableError, str(error), error.status))
            return
        state.has_callback_url, state.unfinished_at = submission.has_callback, submission.sent_at
        await self._submitted(submission)

    async def _register(self) -> Registered | Attached | None:
        try:
            return await self._record.register()
        except ReceiverRefusedError as error:
            self._fail(
                partial(ReceiverRefusedError, status=error.status, slug=error.slug, detail=error.detail, ref=error.ref)
            )
            return None

    async def _submitted(self, submission: Submission) -> None:
        state, answer = self.state, submission.answer
        if isinstance(answer, UnclearError):
            self.timeline.warning("task.submit_unclear", reason=str(answer))
            if not state.expects_callback:
                self._fail(partial(ProviderUnreachableError, f"{answer}; a task may have been made", answer.status))
            return
        state.task_id = answer.reading.task_id
        match answer.reading.reading:
            case Pending() as pending:
                has_callback = submission.has_callback
                self.timeline.info(
                    "task.submitted", taskId=state.task_id, hasCallback=has_callback, **words_of(pending)
                )
                await self._bind()
            case Ready() as ready:
                await self._conclude("submit", answer, ready)
            case Failed(is_listed=True) as failed:
                task = await self._conclude("submit", answer, failed)
                if task is not None:
                    self._submit_error = partial(failure_of, task, self._resources.dialect.codes)
            case Refused() | Unknown() | Failed() as refused:
                # Settled first: once it is reported, the log tells of it in other words.
                self._fail(partial(refusal_of, self._resources.dialect.provider, refused))
                await self._report("submit", answer)
            case unexpected:
                assert_never(unexpected)

    async def _bind(self) -> None:
        task = await self._record.bind()
        if task is not None and task.disputed:
            task = await self._confirm(task)
        if task is not None:
            self.offer(task, "binding")

    async def _confirm(self, disputed: Task) -> Task:
        """Poll once, because a callback had brought an outcome for another id than createTask's."""
        if not await self._poller.turn(is_hinted=True):
            return disputed
        answer = await self._poller.ask()
        match answer:
            case ProviderAnswer(reading=Ready() | Failed(is_listed=True)):
                return await self._report("poll", answer) or disputed
        return disputed

    async def _attach(self) -> None:
        state, now = self.state, self._resources.timing.clock()
        registered = await self._register()
        if not isinstance(registered, Attached):
            return
        task = registered.task
        if task.is_final:
            self._settle(task, "registration")
            return
        state.created_at = task.created_at
        state.task_id = task.task_id or state.task_id
        state.submitted_at = now - registered.age_seconds
        state.deadline_at = now + registered.seconds_left
        state.has_callback_url = self._resources.dialect.callback is not None
        wait = None if task.poll_after is None else task.poll_after - task.created_at
        state.first_poll_seconds = None if wait is None else wait.total_seconds()
        # Read it once more, because an outcome may have come before the reader reported the task.
        task_now = await self._record.current()
        if task_now is not None:
            self.offer(task_now, "look")

    # From there to the outcome

    async def _take_step(self) -> None:
        self._woken.clear()
        match self._next_step():
            case Wait(until):
                self._poller.note_pause(until)
                await self._resources.timing.wait(self._woken, until)
            case Poll():
                await self._poll()
            case UnknownIsFinal():
                if (answer := self.state.unknown_answer) is not None and isinstance(answer.reading, Unknown):
                    await self._conclude("poll", answer, answer.reading)
            case GiveUp():
                task = await self._record.current()
                if task is not None and task.is_final:
                    self._settle(task, "look")
                else:
                    self._give_up()
            case step:
                assert_never(step)

    def _next_step(self) -> NextStep:
        self.state.paused_until = self._resources.limiter.paused_until
        self.state.silent_since = self._record.silent_since
        return next_step(self.state, self._resources.timing.clock())

    async def _poll(self) -> None:
        state = self.state
        if not await self._poller.turn(is_hinted=state.is_hinted):
            await self._poller.wait_for_polls(self._woken)
            return
        if not isinstance(self._next_step(), Poll):
            # While it was in line, the window ended.
            return
        answer = await self._poller.ask()
        if answer is None:
            return
        match answer.reading:
            case Failed(is_listed=False) as failed:
                if state.take_unlisted(failed, self._resources.timing.clock()):
                    await self._conclude("poll", answer, failed)
            case Ready() | Failed() as final:
                await self._conclude("poll", answer, final)
            case Refused() as refused:
                make_error = self._poller.refused(refused, answer.retry_after_seconds)
                if make_error is not None:
                    self.outcome.settle(make_error)
            case Pending() | Unknown() as unfinished:
                state.unlisted = None
                state.unknown_answer = answer if isinstance(unfinished, Unknown) else None
            case unexpected:
                assert_never(unexpected)

    # The outcome

    async def _conclude(
        self, source: Literal["submit", "poll"], answer: ProviderAnswer[Any], reading: Ready | Failed | Unknown
    ) -> Task | None:
        """End the task with the provider's answer, or with the outcome that won over it at the receiver.

        Return None if the task had ended before.
        """
        self.state.stage = "concluding"
        winner = await self._report(source, answer)
        if winner is None or not winner.is_final or winner.is_provisional:
            winner = self._overtook or self._local().ended(reading, source, self._resources.timing.now())
        return winner if self._settle(winner, "createTask" if source == "submit" else "poll") else None

    async def _report(self, source: Literal["submit", "poll"], answer: ProviderAnswer[Any]) -> Task | None:
        """Return the task with the outcome that won, if the receiver takes the answer now."""
        return await self._record.report(FirstOutcome(source=source, answer=answer.body, polls=self.state.polls))

    def _give_up(self) -> None:
        self._settle(self._local().given_up(self._resources.timing.now()), "deadline")

    def _settle(self, task: Task, heard_by: HeardBy) -> bool:
        """End the task with its final state. Return False if it had ended before."""
        state = self.state
        if self.outcome.finished.is_set():
            return False
        state.ready_since = ready_since(
            task,
            unfinished_at=state.unfinished_at,
            record_made_at=state.record_made_at,
            heard_at=self._resources.timing.clock(),
        )
        if state.task_id is None:
            state.task_id = task.task_id
        self.timeline.info(
            "task.finished",
            status=task.status,
            errorCode=task.error_code,
            source=task.source,
            heardBy=heard_by,
            polls=state.polls,
        )
        self.outcome.settle(task)
        self._accepted.set()
        if state.stage == "waiting":
            self._stop()
        return True

    def _fail(self, make_error: MakeError) -> None:
        """End the task because it could not be submitted."""
        if self.outcome.settle(make_error):
            self.timeline.note("task.abandoned", reason=str(make_error()))
            self._submit_error = make_error

    def _stop(self) -> None:
        # It may be in line for a poll that nobody needs any more.
        if self._running is not None and self._running is not asyncio.current_task():
            self._running.cancel()

    async def _finished(self, fresh_for: float | None) -> None:
        """Wait for the outcome. Meanwhile the task is polled often enough to know the answer's age."""
        if fresh_for is not None:
            self.state.wanted_ages.append(fresh_for)
            self.wake()
        try:
            await self.outcome.finished.wait()
        finally:
            if fresh_for is not None:
                self.state.wanted_ages.remove(fresh_for)
                self.wake()

    def _local(self) -> LocalTask:
        """Return the task as this client alone knows it."""
        state, timing = self.state, self._resources.timing
        return LocalTask(
            dialect=self._resources.dialect,
            ref=state.ref or "",
            task_id=state.task_id,
            type=self.registration.type,
            tags=self.registration.tags,
            metadata=self.registration.metadata,
            created_at=state.created_at,
            deadline_at=timing.now() + timedelta(seconds=state.deadline_at - timing.clock()),
        )

    def _names(self) -> dict[str, Any]:
        return {"provider": self._resources.dialect.provider, "ref": self.state.ref, "taskId": self.state.task_id}
