"""A week in virtual time: the learned schedule beside the fixed one, on the same tasks.

The plans are those of the catalogue. How long solving takes and how callbacks fare is made up: no provider publishes
it. Latencies are lognormal, with a median that doubles from night to evening; the same seed gives the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from random import Random
from typing import Any

from rich.table import Table

from client.providers import DIALECTS, PollPlan
from receiver.domain.schedule import Schedule
from tests.benchmarks.goals import Goal, table
from tests.benchmarks.load import percentile

__all__ = ["DAYS", "QUICK_DAYS", "WEATHERS", "Fared", "Task", "Week", "make_tasks", "poll_tasks", "simulate_week"]

DAYS, QUICK_DAYS = 7.0, 1.0

_SEED = 5
_HOUR, _DAY = 3600.0, 86_400.0
_GAP_SECONDS = 60.0
_SPREAD = 0.45
_PROVIDERS = ("anticaptcha", "nextcaptcha", "twocaptcha")
_MEDIANS = {"ImageToTextTask": 4.0, "TurnstileTaskProxyless": 9.0, "RecaptchaV2TaskProxyless": 16.0}


@dataclass(frozen=True, slots=True)
class Task:
    """One task: seconds of its submission and of its answer; `called_back_at` is infinite where that is lost."""

    task_type: str
    submitted_at: float
    solved_at: float
    called_back_at: float


@dataclass(frozen=True, slots=True)
class Fared:
    """How all tasks fared: waits are from the answer to the poll that brought it, where the callback was lost.

    A poll is wasted that brought nothing, or what a callback brought as well.
    """

    tasks: int
    lost: int
    wait_p50_seconds: float
    wait_p95_seconds: float
    polls_per_task: float
    wasted_per_task: float
    reports: int


@dataclass(frozen=True, slots=True)
class Week:
    """For each weather and provider: the fixed schedule, then the learned one."""

    days: float
    fared: Mapping[tuple[str, str], tuple[Fared, Fared]]

    def goals(self) -> Sequence[Goal]:
        """Return the learned schedule against the fixed one, where it does worst."""
        ratios = [learned.wait_p50_seconds / fixed.wait_p50_seconds for fixed, learned in self.fared.values()]
        wasted = [learned.wasted_per_task - fixed.wasted_per_task for fixed, learned in self.fared.values()]
        return [
            Goal("wait after a lost callback, p50, learned ÷ fixed, at worst", max(ratios), most=1.0),
            Goal("polls wasted on a task, learned - fixed, at worst", max(wasted), most=0.25),
        ]

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "days": self.days,
            "rows": [
                {"callbacks": weather, "provider": provider, "fixed": asdict(fixed), "learned": asdict(learned)}
                for (weather, provider), (fixed, learned) in self.fared.items()
            ],
        }

    def tables(self) -> Sequence[Table]:
        """For eyes."""
        shown = table(
            f"{self.days:g} days in virtual time: fixed → learned",
            "tasks",
            "lost",
            "wait p50 s",
            "wait p95 s",
            "polls a task",
            "wasted",
            "reports",
        )
        for (weather, provider), (fixed, learned) in self.fared.items():
            shown.add_row(
                f"{weather}: {provider}",
                f"{fixed.tasks:,}",
                f"{fixed.lost:,}",
                f"{fixed.wait_p50_seconds:.1f} → {learned.wait_p50_seconds:.1f}",
                f"{fixed.wait_p95_seconds:.1f} → {learned.wait_p95_seconds:.1f}",
                f"{fixed.polls_per_task:.2f} → {learned.polls_per_task:.2f}",
                f"{fixed.wasted_per_task:.2f} → {learned.wasted_per_task:.2f}",
                f"{learned.reports}",
            )
        return [shown]


def _loses(share: float) -> Callable[[Random, float], float]:
    """Callbacks that take about half a second, and a share that never comes."""
    return lambda random, _: math.inf if random.random() < share else random.expovariate(2.0)


def _fails_for_two_hours(random: Random, at: float) -> float:
    """No callback comes from 10 to 12 o'clock on any day."""
    return math.inf if 10.0 <= at % _DAY / _HOUR < 12.0 else _loses(0.01)(random, at)


def _delays(random: Random, at: float) -> float:
    """Callbacks come half a minute late from 14 to 20 o'clock."""
    late = 30.0 * random.lognormvariate(0.0, 0.3) if 14.0 <= at % _DAY / _HOUR < 20.0 else 0.0
    return late + _loses(0.01)(random, at)


WEATHERS: Mapping[str, Callable[[Random, float], float]] = {
    "1 % lost": _loses(0.01),
    "30 % lost": _loses(0.3),
    "2 h a day none": _fails_for_two_hours,
    "6 h a day late": _delays,
}
"""How callbacks fare: how long after the answer one comes; infinity: never."""


def simulate_week(days: float) -> Week:
    """Return every provider in every weather, each schedule with the same tasks."""
    fared = {}
    for weather, delay in WEATHERS.items():
        for provider in _PROVIDERS:
            plan = DIALECTS[provider].polls
            tasks = make_tasks(Random(f"{_SEED} {weather} {provider}"), days, delay)
            fared[weather, provider] = poll_tasks(plan, None, tasks), poll_tasks(plan, Schedule(plan), tasks)
    return Week(days, fared)


def make_tasks(random: Random, days: float, delay: Callable[[Random, float], float]) -> Sequence[Task]:
    """So many days of tasks, one a minute, in the order of submission."""
    tasks, at = [], 0.0
    types = list(_MEDIANS)
    while (at := at + random.expovariate(1.0 / _GAP_SECONDS)) < days * _DAY:
        task_type = random.choice(types)
        by_hour = 2.0 ** (0.5 * math.sin(2.0 * math.pi * (at / _DAY - 0.5)))
        solved_at = at + _MEDIANS[task_type] * by_hour * random.lognormvariate(0.0, _SPREAD)
        tasks.append(Task(task_type, at, solved_at, solved_at + delay(random, solved_at)))
    return tasks


def poll_tasks(plan: PollPlan, schedule: Schedule | None, tasks: Sequence[Task]) -> Fared:
    """Take each callback and make each poll when it is due; without a `schedule`, as the plan alone has it."""
    run = _Run(plan, schedule, tasks)
    while run.due:
        run.step()
    return run.fared()


class _Run:
    """One schedule on its way through the tasks."""

    def __init__(self, plan: PollPlan, schedule: Schedule | None, tasks: Sequence[Task]) -> None:
        self._plan = plan
        self._schedule = schedule
        self._tasks = tasks
        self._polls = [0] * len(tasks)
        self._brought_by_poll: dict[int, float] = {}
        self._called_back: set[int] = set()
        self._reports = 0
        self.due: list[tuple[float, str, int]] = []
        for index, task in enumerate(tasks):
            heappush(self.due, (task.submitted_at, "submit", index))

    def step(self) -> None:
        """What comes next."""
        at, what, index = heappop(self.due)
        task = self._tasks[index]
        if what == "submit":
            heappush(self.due, (at + self._first_wait(task), "poll", index))
            if task.called_back_at < math.inf:
                heappush(self.due, (task.called_back_at, "callback", index))
        elif what == "callback":
            self._called_back.add(index)
            self._tell(index, "callback", at)
        elif index not in self._called_back:
            self._poll(index, at)

    def fared(self) -> Fared:
        """Return the figures."""
        lost = [index for index, task in enumerate(self._tasks) if task.called_back_at == math.inf]
        waits = [self._brought_by_poll[index] - self._tasks[index].solved_at for index in lost]
        count, polls = len(self._tasks), sum(self._polls)
        return Fared(
            tasks=count,
            lost=len(lost),
            wait_p50_seconds=round(percentile(waits, 50), 3),
            wait_p95_seconds=round(percentile(waits, 95), 3),
            polls_per_task=round(polls / count, 4),
            wasted_per_task=round((polls - len(lost)) / count, 4),
            reports=self._reports,
        )

    def _first_wait(self, task: Task) -> float:
        if self._schedule is None:
            return self._plan.first_after_callback_seconds
        return self._schedule.first_poll_after(task.task_type, expects_callback=True)

    def _poll(self, index: int, at: float) -> None:
        task = self._tasks[index]
        self._polls[index] += 1
        if task.solved_at <= at:
            self._brought_by_poll[index] = at
            self._tell(index, "poll", at)
            return
        elapsed = at - task.submitted_at
        wait = self._plan.interval_seconds
        if self._schedule is not None:
            wait = self._schedule.next_poll_after(self._polls[index], elapsed_seconds=elapsed)
        heappush(self.due, (at + wait, "poll", index))

    def _tell(self, index: int, source: str, at: float) -> None:
        if self._schedule is None:
            return
        task = self._tasks[index]
        change = self._schedule.count_answer(
            task.task_type,
            at - task.submitted_at,
            "poll" if source == "poll" else "callback",
            called_back_late=source == "callback" and index in self._brought_by_poll,
            at=at,
        )
        self._reports += change is not None
