"""Poll schedules learned from callbacks, for each provider that the receiver polls. They survive a restart.

All receivers on one database learn one schedule of each provider. A receiver uses what it observes at once. Once a
minute it adds its observations to the stored schedule, and goes on from that. If it is killed, at most those of one
minute are lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

import structlog

from client.providers import Dialect
from receiver.domain.deliveries import DeliveryResult
from receiver.domain.polls import PolledTask
from receiver.domain.records import SECOND, TaskRecord
from receiver.domain.schedule import Change, Schedule
from receiver.domain.sharing.observations import Learn, Observation, observe, parse_schedule
from receiver.errors import ReceiverError
from receiver.storage.store import Store

__all__ = ["Schedules"]

_SAVE_SECONDS = 60.0
# A schedule keeps fewer latencies, so nothing that matters is dropped.
_MOST_OBSERVED = 1000

_log = structlog.get_logger()


class Schedules:
    """The schedules of all providers that the receiver polls. Call `open` first, and run `run` to store them."""

    def __init__(self, store: Store, dialects: Mapping[str, Dialect], now: Callable[[], int]) -> None:
        self._store = store
        self._now = now
        self._dialects = dialects
        self._schedules = {provider: Schedule(dialect.polls) for provider, dialect in dialects.items()}
        self._observed = {provider: deque[Observation](maxlen=_MOST_OBSERVED) for provider in dialects}
        self._texts: dict[str, str | None] = {}

    async def open(self) -> None:
        """Load the stored schedules."""
        for provider, dialect in self._dialects.items():
            text = self._texts[provider] = await self._store.remembered(_name(provider))
            if text is not None:
                self._schedules[provider] = Schedule.from_json(dialect.polls, parse_schedule(text))

    async def run(self) -> None:
        """Store what was observed, and load what other receivers did, once a minute, until cancelled."""
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            await self.save()

    async def save(self) -> None:
        """Add what was observed to the stored schedules, and go on from these.

        A failure is logged, and the next call tries again.
        """
        for provider in self._schedules:
            observed = list(self._observed[provider])
            self._observed[provider].clear()
            try:
                text = await self._exchange(provider, observed)
            except ReceiverError as error:
                since = self._observed[provider]
                self._observed[provider] = deque((*observed, *since), maxlen=_MOST_OBSERVED)
                _log.warning("schedule.not_kept", reason=error.detail)
                return
            if text != self._texts.get(provider):
                self._texts[provider] = text
                self._go_on(provider, text)

    async def _exchange(self, provider: str, observed: list[Observation]) -> str | None:
        name = _name(provider)
        if not observed:
            return await self._store.remembered(name)
        return await self._store.write(
            Learn(name=name, plan=self._dialects[provider].polls, observations=tuple(observed))
        )

    def _go_on(self, provider: str, text: str | None) -> None:
        """Go on from the stored schedule, with all that was observed since."""
        schedule = self._schedules[provider]
        change = schedule.replace(parse_schedule(text))
        self._log(provider, observe(schedule, self._observed[provider]) or change)

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
        if task.provider not in self._schedules:
            return
        latency = (self._now() - task.counts_from) / SECOND
        self._observe(
            task, Observation("late" if delivered.verdict == "late" else "inTime", task.type, latency, self._at())
        )

    def polled(self, polled: PolledTask) -> None:
        """Learn from a poll: an expected callback was lost if only the poll brought the outcome."""
        task = polled.task
        if task.outcome is not None and task.outcome.is_provisional:
            # It is no answer of the provider, so no callback was lost.
            return
        if polled.verdict == "accepted" and (task.has_url or task.open_to_standing) and task.hinted_at is None:
            self._observe(task, Observation("never", task.type, 0.0, self._at()))

    def _observe(self, task: TaskRecord, observation: Observation) -> None:
        self._observed[task.provider].append(observation)
        self._log(task.provider, observe(self._schedules[task.provider], [observation]))

    def _log(self, provider: str, change: Change | None) -> None:
        if change is not None:
            log = _log.warning if change.kind == "entered" else _log.info
            log(f"callbacks.{change.kind}", provider=provider, learned=change.words)

    def _at(self) -> float:
        return self._now() / SECOND


def _is_awaited(verdict: str, task: TaskRecord) -> bool:
    """Return True for the awaited callback, even if a poll still has to confirm or complete it."""
    return verdict in ("accepted", "late", "held") or (verdict == "notFinal" and task.hinted_at is not None)


def _name(provider: str) -> str:
    return f"schedule {provider}"
