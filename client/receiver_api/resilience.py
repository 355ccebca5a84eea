"""The receiver as a client deals with it: quickly or not at all, and what could not be said now is said later."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

from client.errors import ReceiverRefusedError, ReceiverUnavailableError
from client.logs import Log
from client.protocol.connection import Attached, ReceiverConnection
from client.protocol.models import FirstOutcome, OutcomeReport, Registered, Registration, Task
from client.provider_api.timing import Timing
from client.providers.readings import TaskId
from client.receiver_api.circuit_breaker import Breaker
from client.receiver_api.reader import Reader
from client.receiver_api.reports import LateBinding, LateOutcome, Reports

__all__ = ["ReceiverLink"]

_log = Log()

Answer = TypeVar("Answer")

_QUICK_SECONDS = 2.0
_MOST_AT_ONCE = 32


class ReceiverLink:
    """Calls that take at most 2 s each, and none while the breaker is open; with the reader of the log.

    A few are under way at once, and their time begins with them: a thousand calls in a row are no slow receiver, and
    behind one that hangs nobody stands in line for longer than the first ones do. Cancelling a call leaves open whether
    the receiver carried it out.
    """

    def __init__(self, api: ReceiverConnection, owner: asyncio.TaskGroup, timing: Timing) -> None:
        self._api = api
        self._timing = timing
        self._breaker = Breaker(timing.clock)
        self._room = asyncio.Semaphore(_MOST_AT_ONCE)
        self.reader = Reader(api, owner, timing)
        self.reports = Reports(api, timing)
        self._delivering = owner.create_task(self.reports.run(), name="reports")

    async def register(self, registration: Registration) -> Registered | Attached | None:
        """Return the task's record, or None where the receiver is to be done without.

        Raises:
            ReceiverRefusedError: it answered, and said no: a wrong key, most often.
        """
        return await self._quickly("register", lambda: self._api.register(registration))

    async def bind(self, ref: str, task_id: TaskId) -> Task | None:
        """Return the task once the id is bound to it; None where the binding is left for later.

        Raises:
            ReceiverRefusedError: the id belongs to another task, the task has another id, or there is no such task.
        """
        try:
            task = await self._quickly("bind", lambda: self._api.bind(ref, task_id))
        except asyncio.CancelledError:
            self.reports.add(LateBinding(ref, task_id))
            raise
        if task is None:
            self.reports.add(LateBinding(ref, task_id))
        return task

    async def report(
        self, ref: str | None, task_id: TaskId | None, registration: Registration, outcome: FirstOutcome
    ) -> Task | None:
        """Return the task with the outcome that won; None where the report is left for later, or was refused.

        A report whose wait is cancelled is left for later as well: the answer was paid for.
        """
        late = LateOutcome(
            ref=ref,
            task_id=task_id,
            registration=registration,
            outcome=outcome.model_copy(update={"finished_at": self._timing.now()}),
            idempotency_key=str(uuid.uuid4()),
        )
        if ref is not None:
            report = OutcomeReport(task_id=task_id, **dict(outcome))
            try:
                reported = await self._quickly("report", lambda: self._api.report(ref, report))
            except asyncio.CancelledError:
                self.reports.add(late)
                raise
            except ReceiverRefusedError as error:
                if error.slug != "unknown-task":
                    _log.warning("report.refused", ref=ref, taskId=task_id, problem=error.slug, otherRef=error.ref)
                    return None
            else:
                if reported is not None:
                    return reported.task
        if ref is not None or task_id is not None:
            self.reports.add(late)
        return None

    async def look(self, ref: str) -> Task | None:
        """Return the task as it is now; None where the receiver does not say.

        Raises:
            ReceiverRefusedError: it does not know the task, or refuses to tell.
        """
        return await self._quickly("look", lambda: self._api.task(ref))

    async def close(self, seconds: float) -> None:
        """Delivers what is left, within `seconds`."""
        self._delivering.cancel()
        await asyncio.wait([self._delivering])
        await self.reports.close(seconds)

    async def _quickly(self, call: str, ask: Callable[[], Awaitable[Answer]]) -> Answer | None:
        async with self._room:
            if not self._breaker.allows():
                _log.info("receiver.skipped", call=call, reason="it did not answer a moment ago")
                return None
            return await self._ask(call, ask)

    async def _ask(self, call: str, ask: Callable[[], Awaitable[Answer]]) -> Answer | None:
        try:
            async with asyncio.timeout(_QUICK_SECONDS):
                answer = await ask()
        except (ReceiverUnavailableError, TimeoutError) as error:
            self._breaker.failed()
            reason = str(error) or f"the receiver did not answer within {_QUICK_SECONDS:g} s"
            _log.warning("receiver.skipped", call=call, reason=reason)
            return None
        except ReceiverRefusedError:
            self._breaker.succeeded()
            raise
        self._breaker.succeeded()
        return answer
