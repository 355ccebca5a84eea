"""One task from its registration to its end, whoever still waits for it.

The order is what makes it safe: the record is made and read before the provider is called, so that a callback which
overtakes the createTask answer is seen; and the id is bound before the caller gets the task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from math import inf, isfinite
from typing import Any, assert_never

from client.errors import ClientClosedError, ProviderUnreachableError, ReceiverRefusedError, StaleAnswerError
from client.following.outcome import Ending
from client.following.plan import GiveUp, Poll, UnknownIsFinal, Wait
from client.following.resources import Surroundings
from client.following.state import Progress
from client.protocol.connection import Attached
from client.protocol.models import Registered, Registration, Task
from client.provider_api.errors import failure_of, refusal_of, words_of
from client.provider_api.http import ProviderAnswer, ProviderBusyError, UnclearError
from client.provider_api.submit import Submission
from client.provider_api.timeline import Timeline
from client.provider_api.timing import backoff_seconds
from client.provider_api.unlisted import UnlistedRow, row_after
from client.providers.readings import Failed, Pending, Reaction, Reading, Ready, Refused, TaskId, Unknown

__all__ = ["Watch"]

_PAUSE_SECONDS = 5.0
_MOST_BACKOFF = 30.0


class Watch:
    """Follows one task to its end.

    `task` is what is submitted; None: the task of `registration` exists already, and is only attached to.
    """

    def __init__(self, around: Surroundings, registration: Registration, task: Mapping[str, Any] | None) -> None:
        self._around = around
        self._registration = registration
        self._task = task
        self._progress = Progress(around, registration, self._stop)
        self._last_answer: ProviderAnswer[Reading] | None = None
        self._running: asyncio.Task[None] | None = None
        self._noted_pause = -inf
        self._has_noted_used_up = False
        self._unclear_polls = 0
        self._was_banned = False
        self._unlisted: UnlistedRow | None = None
        self._failing_as: tuple[type[ProviderUnreachableError], int | None] | None = None

    @property
    def ref(self) -> str | None:
        """The receiver's id of the task; None while, and where, it gave none."""
        return self._progress.record.ref

    @property
    def task_id(self) -> TaskId | None:
        """The provider's id of the task; None while it is not known."""
        return self._progress.task_id

    @property
    def type(self) -> str | None:
        """The type of the task; None where it was attached to."""
        return self._registration.type

    @property
    def ending(self) -> Ending:
        """How the task ended."""
        return self._progress.ending

    @property
    def timeline(self) -> Timeline:
        """What happened to the task so far."""
        return self._progress.timeline

    async def accepted(self) -> None:
        """Return once the task was submitted, or attached to, or has ended. Cancelling it leaves nothing behind.

        Raises:
            CallbackReceiverError: what kept it from being submitted.
        """
        await self._progress.accepted.wait()
        if self._progress.submit_error is not None:
            raise self._progress.submit_error()

    async def answer(self, fresh_for: float | None = None) -> Task:
        """Return the finished task; raises how else it ended, or that its answer is too old by now.

        Cancelling it leaves nothing behind.
        """
        with self._progress.kept_fresh(fresh_for):
            await self.ending.finished.wait()
        task = self.ending.answer(self._around.dialect.codes)
        age_seconds = self._progress.age_seconds()
        if fresh_for is not None and age_seconds > fresh_for:
            # No infinity: lines are written as JSON.
            age = round(age_seconds, 3) if isfinite(age_seconds) else None
            self.timeline.warning("answer.discarded", ageSeconds=age, freshFor=fresh_for)
            raise StaleAnswerError(task, fresh_for=fresh_for, ages_seconds=[age_seconds])
        return task

    def start(self, owner: asyncio.TaskGroup) -> asyncio.Task[None]:
        """Run the watch in `owner`, until the task has ended or the watch is abandoned."""
        self._running = owner.create_task(self._run(), name="watch")
        return self._running

    def abandon(self) -> None:
        """End the watch at once: nobody will ask for its outcome, or nobody can any more."""
        closed = partial(ClientClosedError, "the client was closed while the task was still waiting")
        if not self.ending.finished.is_set():
            self.timeline.note("task.abandoned", reason="the client was closed, or nobody waits any more")
        if not self._progress.accepted.is_set():
            self._progress.fail(closed)
        self.ending.settle(closed)
        self._progress.accepted.set()
        self._stop()

    def _stop(self) -> None:
        # It may be in line for a poll that nobody needs any more.
        if self._running is not None and self._running is not asyncio.current_task():
            self._running.cancel()

    async def _run(self) -> None:
        progress = self._progress
        try:
            await (self._attach() if self._task is None else self._submit(self._task))
            progress.stage = "waiting"
            progress.accepted.set()
            while not self.ending.finished.is_set():
                await self._go_on()
        finally:
            progress.record.leave()
            self.abandon()

    # From the registration to the provider's first answer

    async def _submit(self, task: Mapping[str, Any]) -> None:
        progress, clock = self._progress, self._around.timing.clock
        registered = await self._register()
        if self.ending.finished.is_set():
            return
        callback_url = registered.callback_url if isinstance(registered, Registered) else None
        # Counted from here, the deadline is never before that of the record.
        deadline_at = clock() + (self._registration.timeout_seconds or 0.0)
        polls_elsewhere = isinstance(registered, Registered) and registered.fallback == "receiver"
        progress.learn(
            submitted_at=clock(),
            unfinished_at=clock(),
            deadline_at=deadline_at,
            is_polled_elsewhere=polls_elsewhere,
        )
        try:
            submission = await self._around.submitter.submit(
                task, callback_url, deadline_at=deadline_at, timeline=self.timeline
            )
        except ProviderUnreachableError as error:
            progress.fail(partial(ProviderUnreachableError, str(error), error.status))
            return
        progress.learn(
            expects_callback=submission.has_callback and progress.record.exists, unfinished_at=submission.sent_at
        )
        await self._submitted(submission)

    async def _register(self) -> Registered | Attached | None:
        try:
            return await self._progress.record.register()
        except ReceiverRefusedError as error:
            self._progress.fail(
                partial(ReceiverRefusedError, status=error.status, slug=error.slug, detail=error.detail, ref=error.ref)
            )
            return None

    async def _submitted(self, submission: Submission) -> None:
        progress, answered = self._progress, submission.answered
        if isinstance(answered, UnclearError):
            self.timeline.warning("task.submit_unclear", reason=str(answered))
            if not progress.known.expects_callback:
                progress.fail(
                    partial(ProviderUnreachableError, f"{answered}; a task may have been made", answered.status)
                )
            return
        progress.task_id = answered.reading.task_id
        match answered.reading.reading:
            case Pending() as said:
                has_callback = submission.has_callback
                self.timeline.info("task.submitted", taskId=self.task_id, hasCallback=has_callback, **words_of(said))
                progress.learn(can_poll=True)
                await self._bind()
            case Ready() as said:
                await progress.conclude("submit", answered, said)
            case Failed(is_listed=True) as said:
                task = await progress.conclude("submit", answered, said)
                if task is not None:
                    progress.submit_error = partial(failure_of, task, self._around.dialect.codes)
            case Refused() | Unknown() | Failed() as said:
                # Settled first: once it is reported, the log tells of it in other words.
                progress.fail(partial(refusal_of, self._around.dialect.provider, said))
                await progress.report("submit", answered)
            case said:
                assert_never(said)

    async def _bind(self) -> None:
        if self.task_id is None:
            return
        task = await self._progress.record.bind(self.task_id)
        if task is not None and task.disputed:
            task = await self._confirm(task)
        if task is not None:
            self._progress.offer(task, "binding")

    async def _confirm(self, disputed: Task) -> Task:
        """Poll once, because a callback had brought an outcome for another id than createTask's."""
        if not await self._turn(is_hinted=True):
            return disputed
        answered = await self._ask()
        if answered is None:
            return disputed
        if not isinstance(answered.reading, Ready | Failed) or _is_unlisted(answered.reading):
            return disputed
        return await self._progress.report("poll", answered) or disputed

    async def _attach(self) -> None:
        progress, now = self._progress, self._around.timing.clock()
        progress.learn(can_poll=True)
        registered = await self._register()
        if not isinstance(registered, Attached):
            return
        task = registered.task
        if task.is_final:
            progress.settle(task, "registration")
            return
        progress.created_at = task.created_at
        progress.task_id = task.task_id or self.task_id
        wait = None if task.poll_after is None else (task.poll_after - task.created_at).total_seconds()
        progress.learn(
            submitted_at=now - registered.age_seconds,
            deadline_at=now + registered.seconds_left,
            expects_callback=self._around.dialect.callback is not None,
            first_poll_seconds=wait,
        )
        # Read again now that the reader tells of it: nothing can come to pass in between.
        task_now = await progress.record.look()
        if task_now is not None:
            progress.offer(task_now, "look")

    # From there to the end

    async def _go_on(self) -> None:
        progress = self._progress
        progress.woken.clear()
        match progress.next_step():
            case Wait(until):
                self._note_pause(until)
                await self._around.timing.wait(progress.woken, until)
            case Poll():
                await self._poll()
            case UnknownIsFinal():
                await self._end_as_unknown()
            case GiveUp():
                task = await progress.record.look()
                if task is not None and task.is_final:
                    progress.settle(task, "look")
                else:
                    progress.settle(progress.local().given_up(progress.now()), "deadline")
            case step:
                assert_never(step)

    def _note_pause(self, until: float) -> None:
        if until == self._around.gate.paused_until != self._noted_pause:
            self._noted_pause = until
            self.timeline.note(
                "poll.postponed",
                seconds=until - self._around.timing.clock(),
                reason=self._around.gate.pause_reason,
            )

    async def _poll(self) -> None:
        progress = self._progress
        if not await self._turn(is_hinted=progress.known.is_hinted):
            await self._wait_for_polls()
            return
        if not isinstance(progress.next_step(), Poll):
            # While it was in line, the window ended.
            return
        answered = await self._ask()
        if answered is None:
            return
        match answered.reading:
            case Failed(is_listed=False) as said:
                await self._polled_unlisted(answered, said)
            case Ready() | Failed() as said:
                await progress.conclude("poll", answered, said)
            case Refused() as said:
                self._poll_refused(said, answered.retry_after_seconds)
            case Pending() | Unknown() as said:
                self._unlisted = None
                self._last_answer = answered
                progress.learn(is_unknown=isinstance(said, Unknown))
            case said:
                assert_never(said)

    async def _polled_unlisted(self, answered: ProviderAnswer[Reading], said: Failed) -> None:
        """Ask again later, or take the code for the outcome, provisionally, where it came often enough."""
        progress, now = self._progress, self._around.timing.clock()
        self._unlisted = row_after(self._unlisted, said, now)
        if self._unlisted is None:
            return
        if self._unlisted.is_enough(now):
            await progress.conclude("poll", answered, said)
            return
        not_before = now + self._unlisted.intervals * progress.known.plan.interval_seconds
        # A poll that the longer wait would move beyond the window is made at the interval.
        if not_before < progress.known.submitted_at + progress.known.plan.window_seconds:
            progress.learn(not_before=not_before)

    async def _turn(self, *, is_hinted: bool) -> bool:
        """Whether it is this task's turn to be polled; no, where none comes before the window or the task ends."""
        known = self._progress.known
        by = min(known.deadline_at, known.submitted_at + known.plan.window_seconds)
        return await self._around.gate.poll_turn(by, is_first=known.polls == 0, is_hinted=is_hinted)

    async def _wait_for_polls(self) -> None:
        """Where all polls are used up that are allowed for the tasks so far: until more are, or a hint comes."""
        progress, timing = self._progress, self._around.timing
        if self._around.gate.has_polls_left(is_first=progress.known.polls == 0, is_hinted=progress.known.is_hinted):
            return
        if not self._has_noted_used_up:
            self._has_noted_used_up = True
            self.timeline.warning("poll.postponed", reason="the provider allows no more polls for the tasks so far")
        until = min(timing.clock() + progress.known.plan.interval_seconds, progress.known.deadline_at)
        await timing.wait(progress.woken, until)

    async def _ask(self) -> ProviderAnswer[Reading] | None:
        """What getTaskResult answered; None where nothing was learned from it."""
        progress, clock, task_id = self._progress, self._around.timing.clock, self.task_id
        if task_id is None:
            return None
        sent_at = clock()
        progress.learn(polls=progress.known.polls + 1, last_poll_at=sent_at, is_hinted=False)
        try:
            answered = await self._around.provider.get_task_result(
                task_id, seconds=progress.known.deadline_at - clock()
            )
        except ProviderUnreachableError as error:
            if isinstance(error, ProviderBusyError):
                self._around.gate.pause(error.retry_after_seconds or 0.0)
            self._back_off()
            # Once for each state: a wrong URL is no news at every poll.
            failing_as = (type(error), error.status)
            tell = self.timeline.note if failing_as == self._failing_as else self.timeline.warning
            self._failing_as = failing_as
            tell("poll.failed", reason=str(error))
            return None
        finally:
            # The interval counts from the answer: "ask again after 3 s" is what it says.
            progress.learn(last_poll_at=clock())
        self._unclear_polls, self._failing_as = 0, None
        said = answered.reading
        self._was_banned = self._was_banned and isinstance(said, Refused)
        if isinstance(said, Pending) and said.state:
            # An answer without a word on the state proves nothing.
            progress.learn(unfinished_at=sent_at)
        self.timeline.info("task.polled", polls=progress.known.polls, said=type(said).__name__, **words_of(said))
        return answered

    def _back_off(self) -> None:
        """One failed poll after the other: each waits longer than the last, and not as long as the next task's."""
        interval = self._progress.known.plan.interval_seconds
        seconds = backoff_seconds(
            self._unclear_polls, self._around.timing.random, first=2 * interval, most=max(_MOST_BACKOFF, interval)
        )
        self._unclear_polls += 1
        self._progress.learn(not_before=self._around.timing.clock() + seconds)

    def _poll_refused(self, said: Refused, retry_after_seconds: float | None) -> None:
        """An error about the request is never an outcome: ask later, or wait for the callback, or tell the caller."""
        around, progress = self._around, self._progress
        if said.reaction is Reaction.WAIT:
            # This question alone came too early; the next one is not before the interval anyway.
            return
        if said.reaction is Reaction.SLOW and not (said.is_ban and self._was_banned):
            self._was_banned = said.is_ban
            seconds = retry_after_seconds or said.pause_seconds or _PAUSE_SECONDS
            around.gate.pause(seconds)
            self.timeline.warning("provider.paused", errorCode=said.error_code, seconds=seconds)
            return
        progress.learn(can_poll=False)
        if not progress.known.expects_callback:
            self.timeline.note("poll.refused", errorCode=said.error_code, consequence="nobody else would tell")
            self.ending.settle(partial(refusal_of, around.dialect.provider, said))
            return
        is_new = said.error_code not in around.said_once
        around.said_once.add(said.error_code)
        tell = self.timeline.warning if is_new else self.timeline.note
        tell("poll.refused", errorCode=said.error_code, consequence="callbacks only")

    async def _end_as_unknown(self) -> None:
        answered = self._last_answer
        if answered is not None and isinstance(answered.reading, Unknown):
            await self._progress.conclude("poll", answered, answered.reading)


def _is_unlisted(said: Reading) -> bool:
    return isinstance(said, Failed) and not said.is_listed
