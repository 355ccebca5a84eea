"""The receiver's record of one task. Where there is no receiver or no record, nothing here does anything."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from client.errors import ReceiverRefusedError
from client.following.freshness import DATE_SECONDS
from client.protocol.connection import Attached
from client.protocol.models import FirstOutcome, Registered, Registration, Task
from client.provider_api.timeline import Timeline
from client.providers.readings import TaskId
from client.receiver_api.reader import Subscriber
from client.receiver_api.resilience import ReceiverLink

__all__ = ["Record"]


class Record:
    """One task at the receiver: made, bound, reported to, and read for `subscriber` while it exists.

    `ref` stays known when the record is lost. `made_at` is a moment by `clock`, the client's, that is not after the
    making of the record, by whomever; None while there is none, or where its age is not known.
    """

    def __init__(
        self,
        link: ReceiverLink | None,
        registration: Registration,
        subscriber: Subscriber,
        *,
        timeline: Timeline,
        clock: Callable[[], float],
    ) -> None:
        self._link = link
        self._registration = registration
        self._subscriber = subscriber
        self._timeline = timeline
        self._clock = clock
        self._is_bind_refused = False
        self.ref: str | None = None
        self.made_at: float | None = None
        self.exists = False

    @property
    def silent_since(self) -> float | None:
        """Since when the receiver fails to tell of this task; None while it does, or never could."""
        return self._link.reader.silent_since if self._link is not None and self.exists else None

    async def register(self) -> Registered | Attached | None:
        """Return the answer to the registration; once it is here, the reader tells the subscriber of the task.

        Raises:
            ReceiverRefusedError: the receiver said no.
        """
        if self._link is None:
            self._timeline.note("registration.skipped", reason="there is no receiver")
            return None
        asked_at = self._clock()
        registered = await self._link.register(self._registration)
        match registered:
            case Registered(ref=ref, cursor=cursor):
                self.made_at = asked_at
                has_url = registered.callback_url is not None
                self._timeline.info("task.registered", ref=ref, hasCallbackUrl=has_url)
                self._adopt(ref, cursor)
            case Attached(task=task):
                if registered.is_age_known:
                    self.made_at = asked_at - registered.age_seconds - DATE_SECONDS
                self.ref = task.ref
                self._timeline.info("task.attached", ref=task.ref, status=task.status)
                if not task.is_final:
                    self._adopt(task.ref, task.cursor or "start")
            case None:
                self._timeline.note("registration.skipped", reason="the receiver did not answer")
        return registered

    async def bind(self, task_id: TaskId) -> Task | None:
        """Return the task with its id, if the receiver answers now; otherwise it is told the id later."""
        if self._link is None or self.ref is None or not self.exists:
            return None
        try:
            task = await self._link.bind(self.ref, task_id)
        except ReceiverRefusedError as error:
            self._timeline.warning("task.bind_refused", taskId=task_id, problem=error.slug, otherRef=error.ref)
            self._is_bind_refused = True
            if error.slug == "unknown-task":
                self._subscriber.forget()
            return None
        self._timeline.note("binding.postponed" if task is None else "task.bound", taskId=task_id)
        return task

    async def report(self, task_id: TaskId | None, outcome: FirstOutcome) -> Task | None:
        """Return the task with the outcome that won, if the receiver answers now; otherwise it is told later."""
        if self._link is None:
            return None
        # An id that was refused once would make the report be refused as well.
        named = None if self._is_bind_refused and self.exists else task_id
        task = await self._link.report(self.ref if self.exists else None, named, self._registration, outcome)
        self._timeline.note("report.postponed" if task is None else "outcome.reported", source=outcome.source)
        return task

    async def look(self) -> Task | None:
        """Return the task as the receiver knows it now, if it answers."""
        if self._link is None or self.ref is None or not self.exists:
            return None
        with suppress(ReceiverRefusedError):
            return await self._link.look(self.ref)
        return None

    def lose(self) -> None:
        """The receiver has no such record any more."""
        if self.exists:
            self._timeline.warning("task.forgotten")
        self.leave()
        self.exists = False

    def leave(self) -> None:
        """Tells the subscriber no more."""
        if self._link is not None and self.ref is not None and self.exists:
            self._link.reader.remove(self.ref, self._subscriber)

    def _adopt(self, ref: str, cursor: str) -> None:
        assert self._link is not None  # noqa: S101 - only what it answered is adopted
        self.ref = ref
        self.exists = True
        self._link.reader.add(ref, cursor, self._subscriber)
