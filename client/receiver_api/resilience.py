"""Calls to the receiver with a time limit and a circuit breaker. Reports that fail are queued and sent again."""

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
from client.receiver_api.circuit_breaker import CircuitBreaker
from client.receiver_api.reader import TaskReader
from client.receiver_api.reports import LateBinding, LateOutcome, Reports

__all__ = ["ResilientReceiver"]

_log = Log()

Answer = TypeVar("Answer")

_CALL_SECONDS = 2.0
_MOST_AT_ONCE = 32


class ResilientReceiver:
    """Calls to one receiver that take at most 2 s each, and none while the breaker is open; with a reader of the log.

    At most 32 calls are under way at once, and the time of a call begins only then. So a thousand calls in a row do not
    look like a slow receiver. If the receiver hangs, no caller waits longer than the first ones. After a cancellation
    the receiver may have carried the call out.
    """

    def __init__(self, connection: ReceiverConnection, owner: asyncio.TaskGroup, timing: Timing) -> None:
        self.connection = connection
        self._timing = timing
        self._breaker = CircuitBreaker(timing.clock)
        self._slots = asyncio.Semaphore(_MOST_AT_ONCE)
        self.reader = TaskReader(connection, owner, timing)
        self.reports = Reports(connection, timing)
        self._delivering = owner.create_task(self.reports.run(), name="reports")

    async def register(self, registration: Registration) -> Registered | Attached | None:
        """Return the new record of the task, or None if the receiver does not answer in time.

        Raises:
            ReceiverRefusedError: the receiver refused, mostly because of a wrong key.
        """
        return await self._within_two_seconds("register", lambda: self.connection.register(registration))

    async def bind(self, ref: str, task_id: TaskId) -> Task | None:
        """Return the task once the id is bound to it; None if the binding is queued.

        A binding that is cancelled is queued as well.

        Raises:
            ReceiverRefusedError: the id belongs to another task, the task has another id, or there is no such task.
        """
        try:
            task = await self._within_two_seconds("bind", lambda: self.connection.bind(ref, task_id))
        except asyncio.CancelledError:
            self.reports.add(LateBinding(ref, task_id))
            raise
        if task is None:
            self.reports.add(LateBinding(ref, task_id))
        return task

    async def report(
        self, ref: str | None, task_id: TaskId | None, registration: Registration, outcome: FirstOutcome
    ) -> Task | None:
        """Return the task with the outcome that won; None if the report is queued, or was refused.

        A report that is cancelled is queued as well, because the answer was paid for.
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
                reported = await self._within_two_seconds("report", lambda: self.connection.report(ref, report))
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

    async def task(self, ref: str) -> Task | None:
        """Return the task as it is now; None if the receiver does not answer in time.

        Raises:
            ReceiverRefusedError: the receiver does not know the task, or refuses the key.
        """
        return await self._within_two_seconds("look", lambda: self.connection.task(ref))

    async def close(self, seconds: float) -> None:
        """Deliver the queued reports, within `seconds`. Those that are left then are lost, and logged."""
        self._delivering.cancel()
        await asyncio.wait([self._delivering])
        await self.reports.close(seconds)

    async def _within_two_seconds(self, call: str, ask: Callable[[], Awaitable[Answer]]) -> Answer | None:
        async with self._slots:
            if not self._breaker.allows():
                _log.info("receiver.skipped", call=call, reason="it did not answer a moment ago")
                return None
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    answer = await ask()
            except (ReceiverUnavailableError, TimeoutError) as error:
                self._breaker.failed()
                reason = str(error) or f"the receiver did not answer within {_CALL_SECONDS:g} s"
                _log.warning("receiver.skipped", call=call, reason=reason)
                return None
            except ReceiverRefusedError:
                self._breaker.succeeded()
                raise
            self._breaker.succeeded()
            return answer
