"""The receiver's record of one task. Where there is no receiver or no record, nothing here does anything."""

from __future__ import annotations

from contextlib import suppress

from client.errors import ReceiverRefusedError
from client.link import ReceiverLink
from client.logs import Log
from client.protocol import FirstOutcome, Registered, Registration, Task
from client.providers.readings import TaskId
from client.receiver_api import Attached
from client.subscription import Subscriber

__all__ = ["Record"]

_log = Log()


class Record:
    """One task at the receiver: made, bound, reported to, and read for `subscriber` while it exists.

    `ref` stays known when the record is lost.
    """

    def __init__(self, link: ReceiverLink | None, registration: Registration, subscriber: Subscriber) -> None:
        self._link = link
        self._registration = registration
        self._subscriber = subscriber
        self._is_bind_refused = False
        self.ref: str | None = None
        self.exists = False

    @property
    def silent_since(self) -> float | None:
        """Since when the receiver fails to tell of this task; None while it does, or never could."""
        return self._link.reader.silent_since if self._link is not None and self.exists else None

    async def register(self) -> Registered | Attached | None:
        """The answer to the registration; once it is here, the reader tells the subscriber of the task.

        Raises:
            ReceiverRefusedError: the receiver said no.
        """
        registered = None if self._link is None else await self._link.register(self._registration)
        match registered:
            case Registered(ref=ref, cursor=cursor):
                self._adopt(ref, cursor)
                _log.info("task.registered", ref=ref, hasCallbackUrl=registered.callback_url is not None)
            case Attached(task=task) if not task.is_final:
                self._adopt(task.ref, task.cursor or "start")
            case Attached(task=task):
                self.ref = task.ref
        return registered

    async def bind(self, task_id: TaskId) -> Task | None:
        """The task with its id, if the receiver answers now; otherwise it is told the id later."""
        if self._link is None or self.ref is None or not self.exists:
            return None
        try:
            return await self._link.bind(self.ref, task_id)
        except ReceiverRefusedError as error:
            _log.warning("task.bind_refused", ref=self.ref, taskId=task_id, problem=error.slug)
            self._is_bind_refused = True
            if error.slug == "unknown-task":
                self._subscriber.forget()
            return None

    async def report(self, task_id: TaskId | None, outcome: FirstOutcome) -> Task | None:
        """The task with the outcome that won, if the receiver answers now; otherwise it is told later."""
        if self._link is None:
            return None
        # An id that was refused once would make the report be refused as well.
        named = None if self._is_bind_refused and self.exists else task_id
        return await self._link.report(self.ref if self.exists else None, named, self._registration, outcome)

    async def look(self) -> Task | None:
        """The task as the receiver knows it now, if it answers."""
        if self._link is None or self.ref is None or not self.exists:
            return None
        with suppress(ReceiverRefusedError):
            return await self._link.look(self.ref)
        return None

    def lose(self) -> None:
        """The receiver has no such record any more."""
        if self.exists:
            _log.warning("task.forgotten", ref=self.ref)
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
