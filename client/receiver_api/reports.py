"""A queue of reports that the receiver did not take at once: ids to bind, and outcomes that were polled meanwhile.

The queue is bounded. Each report is idempotent, so one that may have arrived is simply sent again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from client.errors import ReceiverRefusedError, ReceiverUnavailableError
from client.logs import Log
from client.protocol.connection import ReceiverConnection
from client.protocol.models import FirstOutcome, OutcomeReport, Registration
from client.provider_api.timing import Timing, backoff_seconds
from client.providers.readings import TaskId

__all__ = ["LateBinding", "LateOutcome", "Reports"]

_log = Log()

_CALL_SECONDS = 10.0
_MOST_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class LateBinding:
    """The createTask id of a registered task."""

    ref: str
    task_id: TaskId

    async def deliver(self, api: ReceiverConnection) -> None:
        """Bind the id."""
        await api.bind(self.ref, self.task_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class LateOutcome:
    """An outcome, and the registration of its task, in case the receiver never had the task or lost it.

    `ref` is None if the task was never registered. `idempotency_key` keeps repetitions from making two tasks of it.
    """

    ref: str | None
    task_id: TaskId | None
    registration: Registration
    outcome: FirstOutcome
    idempotency_key: str

    async def deliver(self, api: ReceiverConnection) -> None:
        """Report the outcome, in one request."""
        if self.ref is not None:
            report = OutcomeReport(task_id=self.task_id, **dict(self.outcome))
            try:
                await api.report(self.ref, report)
            except ReceiverRefusedError as error:
                if error.slug != "unknown-task" or self.task_id is None:
                    raise
            else:
                return
        after_the_fact = self.registration.model_copy(update={"task_id": self.task_id, "outcome": self.outcome})
        await api.register(after_the_fact, idempotency_key=self.idempotency_key)


class Reports:
    """Delivers reports in order, as soon as the receiver takes them. At most `limit` are queued."""

    def __init__(self, api: ReceiverConnection, timing: Timing, *, limit: int = 1000) -> None:
        self._api = api
        self._timing = timing
        self._limit = limit
        self._waiting: deque[LateBinding | LateOutcome] = deque()
        self._added = asyncio.Event()
        self._lost = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, report: LateBinding | LateOutcome) -> None:
        """Queue a report. If the queue is full, the report is lost, counted and logged."""
        if len(self._waiting) >= self._limit:
            self._lost += 1
            _log.warning("report.lost", reason="the queue of reports is full", limit=self._limit, lost=self._lost)
            return
        self._waiting.append(report)
        self._added.set()
        _log.info("report.queued", ref=report.ref, taskId=report.task_id, waiting=len(self))

    async def run(self) -> None:
        """Deliver until cancelled. A report that was not delivered then is still in the queue."""
        failures = 0
        while True:
            self._added.clear()
            if not self._waiting:
                await self._added.wait()
            try:
                await self._deliver_next()
            except ReceiverUnavailableError:
                await self._timing.sleep(backoff_seconds(failures, self._timing.random, most=_MOST_SECONDS))
                failures += 1
            else:
                failures = 0

    async def close(self, seconds: float) -> None:
        """Try once more to deliver all, within `seconds`, and log the number of lost ones. `run` must have ended."""
        try:
            async with asyncio.timeout(seconds):
                while self._waiting:
                    await self._deliver_next()
        except (ReceiverUnavailableError, TimeoutError):
            self._lost += len(self._waiting)
            self._waiting.clear()
        if self._lost:
            _log.warning("report.lost", reason="the receiver did not take them in time", lost=self._lost)

    async def _deliver_next(self) -> None:
        """Deliver the oldest report, and only then take it off. One that is refused for good is dropped."""
        report = self._waiting[0]
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await report.deliver(self._api)
        except ReceiverRefusedError as error:
            _log.warning(
                "report.refused", ref=report.ref, taskId=report.task_id, problem=error.slug, otherRef=error.ref
            )
        except TimeoutError:
            raise ReceiverUnavailableError(f"the receiver did not answer within {_CALL_SECONDS:g} s") from None
        else:
            _log.info("report.delivered", ref=report.ref, taskId=report.task_id, waiting=len(self) - 1)
        self._waiting.popleft()
