"""Poll schedules learned from callbacks, for each provider that the receiver polls. They survive a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog
from pydantic_core import from_json, to_json

from client.providers import Dialect
from receiver.domain.deliveries import DeliveryResult
from receiver.domain.polls import PolledTask, Remember
from receiver.domain.records import SECOND, TaskRecord
from receiver.domain.schedule import Change, Schedule
from receiver.errors import ReceiverError
from receiver.storage.store import Store

__all__ = ["Schedules"]

_SAVE_SECONDS = 60.0

_log = structlog.get_logger()


class Schedules:
    """The schedules of all providers that the receiver polls. Call `open` first, and run `run` to store them."""

    def __init__(self, store: Store, dialects: Mapping[str, Dialect], now: Callable[[], int]) -> None:
        self._store = store
        self._now = now
        self._dialects = dialects
        self._schedules = {provider: Schedule(dialect.polls) for provider, dialect in dialects.items()}
        self._is_changed = False

    async def open(self) -> None:
        """Load the stored schedules."""
        for provider, dialect in self._dialects.items():
            text = await self._store.remembered(_name(provider))
            if text is not None:
                self._schedules[provider] = Schedule.from_json(dialect.polls, _parsed(text))

    async def run(self) -> None:
        """Store changed schedules once a minute, until cancelled."""
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            await self.save()

    async def save(self) -> None:
        """Store the schedules if they have changed. A failure is logged, and the next call tries again."""
        if not self._is_changed:
            return
        self._is_changed = False
        try:
            for provider, schedule in self._schedules.items():
                text = to_json(schedule.as_json()).decode()
                await self._store.write(Remember(name=_name(provider), text=text))
        except ReceiverError as error:
            self._is_changed = True
            _log.warning("schedule.not_kept", reason=error.detail)

    def first_poll_seconds(self, provider: str, task_type: str | None, *, expects_callback: bool) -> float | None:
        """Return the seconds from now until the first poll of a new task; None if the receiver does not poll it."""
        schedule = self._schedules.get(provider)
        return None if schedule is None else schedule.first_poll_after(task_type, expects_callback=expects_callback)

    def next_poll_seconds(self, task: TaskRecord, polls: int) -> float:
        """Return the seconds until the next poll of a task, after `polls` polls; infinity: never."""
        elapsed = (self._now() - task.counts_from) / SECOND
        return self._schedules[task.provider].next_poll_after(polls, elapsed_seconds=elapsed)

    def delivered(self, delivered: DeliveryResult) -> None:
        """Learn from a callback: one that was the outcome, hinted at it, or came after a poll had brought it."""
        task = delivered.task
        if task is None or not task.is_polled_here or not _is_awaited(delivered.verdict, task):
            return
        schedule = self._schedules.get(task.provider)
        if schedule is None:
            return
        latency = (self._now() - task.counts_from) / SECOND
        is_late = delivered.verdict == "late"
        self._changed(
            task, schedule.count_answer(task.type, latency, "callback", called_back_late=is_late, at=self._at())
        )

    def polled(self, polled: PolledTask) -> None:
        """Learn from a poll: an expected callback was lost if only the poll brought the outcome."""
        task = polled.task
        if task.outcome is not None and task.outcome.is_provisional:
            # It is no answer of the provider, so no callback was lost.
            return
        if polled.verdict == "accepted" and (task.has_url or task.open_to_standing) and task.hinted_at is None:
            self._changed(task, self._schedules[task.provider].count_loss(at=self._at()))

    def _changed(self, task: TaskRecord, change: Change | None) -> None:
        self._is_changed = True
        if change is not None:
            log = _log.warning if change.kind == "entered" else _log.info
            log(f"callbacks.{change.kind}", provider=task.provider, learned=change.words)

    def _at(self) -> float:
        return self._now() / SECOND


def _is_awaited(verdict: str, task: TaskRecord) -> bool:
    """Return True for the awaited callback, even if a poll still has to confirm or complete it."""
    return verdict in ("accepted", "late", "held") or (verdict == "notFinal" and task.hinted_at is not None)


def _name(provider: str) -> str:
    return f"schedule {provider}"


def _parsed(text: str) -> object:
    try:
        return from_json(text)
    except ValueError:
        return None
