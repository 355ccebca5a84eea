"""Polls of one task: getTaskResult, within the limits of the client key."""

from __future__ import annotations

import asyncio
from functools import partial
from math import inf

from client.errors import ProviderUnreachableError
from client.following.outcome import MakeError
from client.following.resources import ClientResources
from client.following.state import TaskState
from client.provider_api.errors import refusal_of, words_of
from client.provider_api.http import ProviderAnswer, ProviderBusyError
from client.provider_api.refusals import pause_after_poll
from client.provider_api.timeline import Timeline
from client.provider_api.timing import backoff_seconds
from client.providers.readings import Pending, Reading, Refused

__all__ = ["Poller"]

_MOST_BACKOFF = 30.0


class Poller:
    """Polls one task, and keeps in its state the facts that decide on the next poll."""

    def __init__(self, resources: ClientResources, state: TaskState, timeline: Timeline) -> None:
        self._resources = resources
        self._state = state
        self._timeline = timeline
        self._noted_pause = -inf
        self._has_noted_used_up = False

    async def turn(self, *, is_hinted: bool) -> bool:
        """Wait for this task's turn to be polled. Return False if none comes before the window or the task ends."""
        state = self._state
        by = min(state.deadline_at, state.window_ends_at)
        return await self._resources.limiter.poll_turn(by, is_first=state.polls == 0, is_hinted=is_hinted)

    async def wait_for_polls(self, woken: asyncio.Event) -> None:
        """Wait until more polls may be allowed, or `woken` is set, if those for the tasks so far are used up."""
        state, timing = self._state, self._resources.timing
        if self._resources.limiter.has_polls_left(is_first=state.polls == 0, is_hinted=state.is_hinted):
            return
        if not self._has_noted_used_up:
            self._has_noted_used_up = True
            self._timeline.warning(
                "poll.postponed", reason="the polls that the provider allows for the tasks so far are used up"
            )
        await timing.wait(woken, min(timing.clock() + state.plan.interval_seconds, state.deadline_at))

    def note_pause(self, until: float) -> None:
        """Note in the timeline, once, that a wait until then is due to a pause of the key."""
        limiter = self._resources.limiter
        if until == limiter.paused_until != self._noted_pause:
            self._noted_pause = until
            seconds = until - self._resources.timing.clock()
            self._timeline.note("poll.postponed", seconds=seconds, reason=limiter.pause_reason)

    async def ask(self) -> ProviderAnswer[Reading] | None:
        """Return the answer to one poll; None if the poll failed or the task has no id."""
        state, clock = self._state, self._resources.timing.clock
        if state.task_id is None:
            return None
        sent_at = clock()
        state.polls, state.last_poll_at, state.is_hinted = state.polls + 1, sent_at, False
        try:
            answer = await self._resources.provider.get_task_result(state.task_id, seconds=state.deadline_at - clock())
        except ProviderUnreachableError as error:
            self._failed(error)
            return None
        finally:
            # The interval counts from the answer: "ask again after 3 s" is what it says.
            state.last_poll_at = clock()
        state.failed_polls, state.last_failure = 0, None
        reading = answer.reading
        state.was_banned = state.was_banned and isinstance(reading, Refused)
        if isinstance(reading, Pending) and reading.state:
            # An answer without a state does not prove that the task is unfinished.
            state.unfinished_at = sent_at
        self._timeline.info("task.polled", polls=state.polls, said=type(reading).__name__, **words_of(reading))
        return answer

    def refused(self, refused: Refused, retry_after_seconds: float | None) -> MakeError | None:
        """Poll later, or not any more, after an error about the request. Such an error is never an outcome.

        If no callback can bring the answer either, return the error to end the task for its caller.
        """
        resources, state = self._resources, self._state
        seconds = pause_after_poll(refused, retry_after_seconds, was_banned=state.was_banned)
        if seconds == 0:
            # This poll alone came too early; the next one is not before the interval anyway.
            return None
        if seconds is not None:
            state.was_banned = refused.is_ban
            resources.limiter.pause(seconds)
            self._timeline.warning("provider.paused", errorCode=refused.error_code, seconds=seconds)
            return None
        state.is_poll_refused = True
        if not state.expects_callback:
            self._timeline.note(
                "poll.refused", errorCode=refused.error_code, consequence="the task ends, because no callback can come"
            )
            return partial(refusal_of, resources.dialect.provider, refused)
        is_new = refused.error_code not in resources.warned_codes
        resources.warned_codes.add(refused.error_code)
        tell = self._timeline.warning if is_new else self._timeline.note
        tell("poll.refused", errorCode=refused.error_code, consequence="callbacks only")
        return None

    def _failed(self, error: ProviderUnreachableError) -> None:
        """Back off: each failed poll waits longer than the last, but does not pause the polls of other tasks."""
        state, timing = self._state, self._resources.timing
        if isinstance(error, ProviderBusyError):
            self._resources.limiter.pause(error.retry_after_seconds or 0.0)
        interval = state.plan.interval_seconds
        most = max(_MOST_BACKOFF, interval)
        seconds = backoff_seconds(state.failed_polls, timing.random, first=2 * interval, most=most)
        state.failed_polls += 1
        state.not_before = timing.clock() + seconds
        failure = (type(error), error.status)
        # Once for each state: a wrong URL is no news at every poll.
        tell = self._timeline.note if failure == state.last_failure else self._timeline.warning
        state.last_failure = failure
        tell("poll.failed", reason=str(error))
