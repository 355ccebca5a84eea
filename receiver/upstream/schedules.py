"""What the receiver has learned of when callbacks come, for each provider that it polls; kept over a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog
from pydantic_core import from_json, to_json

from client.providers import Dialect
from receiver.domain.deliveries import Delivered
from receiver.domain.polls import PolledTask, Remember
from receiver.domain.records import SECOND, TaskRecord
from receiver.domain.schedule import Change, Schedule
from receiver.errors import ReceiverError
from receiver.storage.store import Store

__all__ = ["Learning"]

_SAVE_SECONDS = 60.0

_log = structlog.get_logger()


class Learning:
    """The schedules of the providers that are polled here. `open` it first; `run` it to keep what was learned."""

    def __init__(self, store: Store, dialects: Mapping[str, Dialect], now: Callable[[], int]) -> None:
        self._store = store
        self._now = now
        self._dialects = dialects
        self.schedules = {provider: Schedule(dialect.polls) for provider, dialect in dialects.items()}
        self._is_new = False

    async def open(self) -> None:
        """Goes on from what was kept."""
        for provider, dialect in self._dialects.items():
            kept = await self._store.remembered(_name(provider))
            if kept is not None:
                self.schedules[provider] = Schedule.from_json(dialect.polls, _parsed(kept))

    async def run(self) -> None:
        """Keep what was learned, a minute late at most, until it is cancelled."""
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            await self.save()

    async def save(self) -> None:
        """Keep what was learned; what cannot be stored now is learned again."""
        if not self._is_new:
            return
        self._is_new = False
        try:
            for provider, schedule in self.schedules.items():
                text = to_json(schedule.as_json()).decode()
                await self._store.write(Remember(name=_name(provider), text=text))
        except ReceiverError as error:
            self._is_new = True
            _log.warning("schedule.not_kept", reason=error.detail)

    def first_poll_seconds(self, provider: str, task_type: str | None, *, expects_callback: bool) -> float | None:
        """When a new task is to be polled first, counted from now; None where it is not polled here."""
        schedule = self.schedules.get(provider)
        return None if schedule is None else schedule.first_poll_after(task_type, expects_callback=expects_callback)

    def next_poll_seconds(self, task: TaskRecord, polls: int) -> float:
        """When a task is to be polled again, after so many polls; infinity: never."""
        elapsed = (self._now() - task.counts_from) / SECOND
        return self.schedules[task.provider].next_poll_after(polls, elapsed_seconds=elapsed)

    def delivered(self, delivered: Delivered) -> None:
        """Learns from a callback that was the outcome, brought the poll to now, or came after a poll had brought it."""
        task = delivered.task
        if task is None or not task.is_polled_here or not _has_come(delivered.verdict, task):
            return
        schedule = self.schedules.get(task.provider)
        if schedule is None:
            return
        latency = (self._now() - task.counts_from) / SECOND
        is_late = delivered.verdict == "late"
        self._learned(task, schedule.answered(task.type, latency, "callback", called_back_late=is_late, at=self._at()))

    def polled(self, polled: PolledTask) -> None:
        """Learns from an outcome that only a poll brought, though a callback was expected."""
        task = polled.task
        if task.outcome is not None and task.outcome.is_provisional:
            # It is no answer, so no callback of one got lost.
            return
        if polled.verdict == "accepted" and (task.has_url or task.open_to_standing) and task.hinted_at is None:
            self._learned(task, self.schedules[task.provider].lost(at=self._at()))

    def _learned(self, task: TaskRecord, change: Change | None) -> None:
        self._is_new = True
        if change is not None:
            tell = _log.warning if change.kind == "entered" else _log.info
            tell(f"callbacks.{change.kind}", provider=task.provider, learned=change.words)

    def _at(self) -> float:
        return self._now() / SECOND


def _has_come(verdict: str, task: TaskRecord) -> bool:
    """Whether it is the callback that was awaited: also one to be confirmed, or of which a poll brings more."""
    return verdict in ("accepted", "late", "held") or (verdict == "notFinal" and task.hinted_at is not None)


def _name(provider: str) -> str:
    return f"schedule {provider}"


def _parsed(text: str) -> object:
    try:
        return from_json(text)
    except ValueError:
        return None
