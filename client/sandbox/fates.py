"""What awaits each task: the faults that were ordered for it or drawn, and the time it takes. No I/O, no clock.

Of the contents submitted, the newest 50,000 are remembered; a forgotten one counts as new.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from client.sandbox.answers import content_digest
from client.sandbox.faults import FaultRates, Faults, HttpFault, draw_faults, draw_http_fault, draw_latency
from client.sandbox.settings import Settings

__all__ = ["Fate", "Fates", "FaultsFor"]

FaultsFor = Callable[[dict[str, Any]], Faults | None]
"""The faults of a task, by its content; None leaves them to the rates."""

_MOST_CONTENTS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What awaits one createTask call and the task it makes.

    `key` names the content and which submission of it this is, `times_seen` how many came before. `rates` is None
    where the faults were ordered: then nothing else strikes.
    """

    faults: Faults
    rates: FaultRates | None
    seed: int
    key: str
    times_seen: int
    latency_seconds: float

    @property
    def is_cut(self) -> bool:
        """Whether the connection closes instead of an answer, though the task is made."""
        return self.faults.create_task == "cut" and self.times_seen < self.faults.create_task_times

    def strike_create_task(self) -> HttpFault | None:
        """What comes instead of a createTask answer, and of the task."""
        if self.rates is not None:
            return draw_http_fault(self.rates, seed=self.seed, call="createTask", key=self.key)
        ordered = self.faults.create_task
        if ordered is None or ordered == "cut" or self.times_seen >= self.faults.create_task_times:
            return None
        return ordered

    def strike_poll(self, number: int) -> HttpFault | None:
        """What comes instead of the answer to the `number`-th poll, from 1."""
        if self.rates is not None:
            return draw_http_fault(self.rates, seed=self.seed, call="getTaskResult", key=f"{self.key}/{number}")
        return self.faults.get_task_result if number <= self.faults.get_task_result_times else None


class Fates:
    """Gives each submission its fate: ordered in the task first, by `faults_for` second, drawn by the rates last."""

    def __init__(self, settings: Settings, faults_for: FaultsFor | None) -> None:
        self._settings = settings
        self._faults_for = faults_for
        self._times_seen: dict[bytes, int] = {}

    def fate_of(self, task: dict[str, Any], ordered: Faults | None) -> Fate:
        """Return the fate of one more submission of this content."""
        digest = content_digest(task)
        times_seen = self._times_seen.pop(digest, 0)
        self._times_seen[digest] = times_seen + 1
        if len(self._times_seen) > _MOST_CONTENTS:
            del self._times_seen[next(iter(self._times_seen))]
        if ordered is None and self._faults_for is not None:
            ordered = self._faults_for(dict(task))
        key = f"{digest.hex()}/{times_seen}"
        faults = ordered or draw_faults(self._settings.rates, seed=self._settings.seed, key=key)
        return Fate(
            faults=faults,
            rates=None if ordered else self._settings.rates,
            seed=self._settings.seed,
            key=key,
            times_seen=times_seen,
            latency_seconds=self._latency(faults, key),
        )

    def _latency(self, faults: Faults, key: str) -> float:
        # An early callback tells the outcome before createTask answers, so its task takes no time.
        if faults.callback == "early":
            return 0.0
        if faults.latency_seconds is not None:
            return faults.latency_seconds
        return draw_latency(self._settings.latency_seconds, seed=self._settings.seed, key=key)
