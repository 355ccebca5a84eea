"""The receiver's record of one task."""

from __future__ import annotations

from contextlib import suppress

from client.errors import ReceiverRefusedError
from client.following.freshness import DATE_SECONDS
from client.following.resources import ClientResources
from client.following.state import TaskState
from client.protocol.connection import Attached
from client.protocol.models import FirstOutcome, Registered, Registration, Task
from client.provider_api.timeline import Timeline
from client.receiver_api.reader import Subscriber

__all__ = ["ReceiverRecord"]


class ReceiverRecord:
    """The record of one task at the receiver: made, bound, reported to, and read for `subscriber` while it exists.

    Without a receiver or a record, every method does nothing.
    """

    def __init__(
        self,
        resources: ClientResources,
        registration: Registration,
        *,
        state: TaskState,
        timeline: Timeline,
        subscriber: Subscriber,
    ) -> None:
        self._receiver = resources.receiver
        self._clock = resources.timing.clock
        self._registration = registration
        self._state = state
        self._timeline = timeline
        self._subscriber = subscriber

    @property
    def silent_since(self) -> float | None:
        """The time at which the receiver stopped telling of this task; None while it tells, or never could."""
        return self._receiver.reader.silent_since if self._receiver is not None and self._state.has_record else None

    async def register(self) -> Registered | Attached | None:
        """Register the task. Once this returns, the reader reports the task to the subscriber.

        Raises:
            ReceiverRefusedError: the receiver refused the registration.
        """
        if self._receiver is None:
            self._timeline.note("registration.skipped", reason="there is no receiver")
            return None
        state, asked_at = self._state, self._clock()
        registered = await self._receiver.register(self._registration)
        match registered:
            case Registered(ref=ref, cursor=cursor):
                state.record_made_at = asked_at
                has_url = registered.callback_url is not None
                self._timeline.info("task.registered", ref=ref, hasCallbackUrl=has_url)
                self._subscribe(ref, cursor)
            case Attached(task=task):
                if registered.is_age_known:
                    state.record_made_at = asked_at - registered.age_seconds - DATE_SECONDS
                state.ref = task.ref
                self._timeline.info("task.attached", ref=task.ref, status=task.status)
                if not task.is_final:
                    self._subscribe(task.ref, task.cursor or "start")
            case None:
                self._timeline.note("registration.skipped", reason="the receiver did not answer")
        return registered

    async def bind(self) -> Task | None:
        """Bind the provider's id. Return the task, or None if the receiver learns the id later, or refuses it."""
        state = self._state
        if self._receiver is None or state.ref is None or state.task_id is None or not state.has_record:
            return None
        try:
            task = await self._receiver.bind(state.ref, state.task_id)
        except ReceiverRefusedError as error:
            self._timeline.warning("task.bind_refused", taskId=state.task_id, problem=error.slug, otherRef=error.ref)
            state.is_bind_refused = True
            if error.slug == "unknown-task":
                self._subscriber.forget()
            return None
        self._timeline.note("binding.postponed" if task is None else "task.bound", taskId=state.task_id)
        return task

    async def report(self, outcome: FirstOutcome) -> Task | None:
        """Report the provider's answer. Return the task with the outcome that won, or None if that is known later."""
        state = self._state
        if self._receiver is None:
            return None
        # With a refused id, the report would be refused as well.
        task_id = None if state.is_bind_refused and state.has_record else state.task_id
        ref = state.ref if state.has_record else None
        task = await self._receiver.report(ref, task_id, self._registration, outcome)
        self._timeline.note("report.postponed" if task is None else "outcome.reported", source=outcome.source)
        return task

    async def current(self) -> Task | None:
        """Return the task as the receiver knows it now, if it answers."""
        if self._receiver is None or self._state.ref is None or not self._state.has_record:
            return None
        with suppress(ReceiverRefusedError):
            return await self._receiver.task(self._state.ref)
        return None

    def lose(self) -> None:
        """Note that the receiver has no such record any more."""
        if self._state.has_record:
            self._timeline.warning("task.forgotten")
        self.leave()
        self._state.has_record = False

    def leave(self) -> None:
        """Stop reporting the task to the subscriber."""
        if self._receiver is not None and self._state.ref is not None and self._state.has_record:
            self._receiver.reader.remove(self._state.ref, self._subscriber)

    def _subscribe(self, ref: str, cursor: str) -> None:
        assert self._receiver is not None  # noqa: S101 - only its answers have a ref
        self._state.ref, self._state.has_record = ref, True
        self._receiver.reader.add(ref, cursor, self._subscriber)
