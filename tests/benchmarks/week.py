"""A week in virtual time: the learned schedule beside the fixed one, on the same tasks.

The polling plans are from the catalogue. Solving times and callback delays are made up, because no provider publishes
them. Solving times are lognormal, with a median that doubles from night to evening. The same seed gives the same
figures.
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

__all__ = [
    "CALLBACK_DELAYS",
    "DAYS",
    "QUICK_DAYS",
    "PollFigures",
    "Task",
    "Week",
    "make_tasks",
    "poll_tasks",
    "simulate_week",
]

DAYS, QUICK_DAYS = 7.0, 1.0

_SEED = 5
_HOUR, _DAY = 3600.0, 86_400.0
_GAP_SECONDS = 60.0
_SPREAD = 0.45
_PROVIDERS = ("anticaptcha", "nextcaptcha", "twocaptcha")
_MEDIANS = {"ImageToTextTask": 4.0, "TurnstileTaskProxyless": 9.0, "RecaptchaV2TaskProxyless": 16.0}


@dataclass(frozen=True, slots=True)
class Task:
    """One task, with its times in seconds; `called_back_at` is infinite if the callback is lost."""

    task_type: str
    submitted_at: float
    solved_at: float
    called_back_at: float


@dataclass(frozen=True, slots=True)
class PollFigures:
    """Figures of one schedule over all tasks.

    A wait is the time from the answer to the poll that fetched it, for tasks with a lost callback. A poll is wasted if
    it brought nothing, or an answer that a callback brought too.
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
    """The figures of the fixed schedule, then of the learned one, by kind of callbacks and provider."""

    days: float
    rows: Mapping[tuple[str, str], tuple[PollFigures, PollFigures]]

    def goals(self) -> Sequence[Goal]:
        """Return the worst comparisons of the learned schedule with the fixed one."""
        ratios = [learned.wait_p50_seconds / fixed.wait_p50_seconds for fixed, learned in self.rows.values()]
        wasted = [learned.wasted_per_task - fixed.wasted_per_task for fixed, learned in self.rows.values()]
        return [
            Goal("wait after a lost callback, p50, learned ÷ fixed, at worst", max(ratios), most=1.0),
            Goal("polls wasted on a task, learned - fixed, at worst", max(wasted), most=0.25),
        ]

    def figures(self) -> dict[str, Any]:
        """Return all figures as JSON."""
        return {
            "days": self.days,
            "rows": [
                {"callbacks": callbacks, "provider": provider, "fixed": asdict(fixed), "learned": asdict(learned)}
                for (callbacks, provider), (fixed, learned) in self.rows.items()
            ],
        }

    def tables(self) -> Sequence[Table]:
        """Return all figures as a table to print."""
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
        for (callbacks, provider), (fixed, learned) in self.rows.items():
            shown.add_row(
                f"{callbacks}: {provider}",
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
    """Return a delay of about half a second for most callbacks, and infinity for a share of them."""
    return lambda random, _: math.inf if random.random() < share else random.expovariate(2.0)


def _fails_for_two_hours(random: Random, at: float) -> float:
    """Return infinity from 10 to 12 o'clock on each day, and short delays otherwise."""
    return math.inf if 10.0 <= at % _DAY / _HOUR < 12.0 else _loses(0.01)(random, at)


def _delays(random: Random, at: float) -> float:
    """Return delays of about half a minute from 14 to 20 o'clock on each day, and short delays otherwise."""
    late = 30.0 * random.lognormvariate(0.0, 0.3) if 14.0 <= at % _DAY / _HOUR < 20.0 else 0.0
    return late + _loses(0.01)(random, at)


CALLBACK_DELAYS: Mapping[str, Callable[[Random, float], float]] = {
    "1 % lost": _loses(0.01),
    "30 % lost": _loses(0.3),
    "2 h a day none": _fails_for_two_hours,
    "6 h a day late": _delays,
}
"""The seconds from an answer to its callback, for each kind of callbacks; infinity: it is lost."""


def simulate_week(days: float) -> Week:
    """Simulate each provider with each kind of callbacks; both schedules get the same tasks."""
    rows = {}
    for callbacks, delay in CALLBACK_DELAYS.items():
        for provider in _PROVIDERS:
            plan = DIALECTS[provider].polls
            tasks = make_tasks(Random(f"{_SEED} {callbacks} {provider}"), days, delay)
            rows[callbacks, provider] = poll_tasks(plan, None, tasks), poll_tasks(plan, Schedule(plan), tasks)
    return Week(days, rows)


def make_tasks(random: Random, days: float, delay: Callable[[Random, float], float]) -> Sequence[Task]:
    """Return the tasks of several days, about one a minute, in the order of submission."""
    tasks, at = [], 0.0
    types = list(_MEDIANS)
    while (at := at + random.expovariate(1.0 / _GAP_SECONDS)) < days * _DAY:
        task_type = random.choice(types)
        by_hour = 2.0 ** (0.5 * math.sin(2.0 * math.pi * (at / _DAY - 0.5)))
        solved_at = at + _MEDIANS[task_type] * by_hour * random.lognormvariate(0.0, _SPREAD)
        tasks.append(Task(task_type, at, solved_at, solved_at + delay(random, solved_at)))
    return tasks


def poll_tasks(plan: PollPlan, schedule: Schedule | None, tasks: Sequence[Task]) -> PollFigures:
    """Handle each callback and poll in the order of time; without a `schedule`, the plan's fixed waits hold."""
    run = _Run(plan, schedule, tasks)
    while run.due:
        run.step()
    return run.figures()


class _Run:
    """The simulation of one schedule with all tasks."""

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
        """Handle the next event."""
        at, event, index = heappop(self.due)
        task = self._tasks[index]
        if event == "submit":
            heappush(self.due, (at + self._first_wait(task), "poll", index))
            if task.called_back_at < math.inf:
                heappush(self.due, (task.called_back_at, "callback", index))
        elif event == "callback":
            self._called_back.add(index)
            self._learn(index, "callback", at)
        elif index not in self._called_back:
            self._poll(index, at)

    def figures(self) -> PollFigures:
        """Return the figures of all tasks."""
        lost = [index for index, task in enumerate(self._tasks) if task.called_back_at == math.inf]
        waits = [self._brought_by_poll[index] - self._tasks[index].solved_at for index in lost]
        count, polls = len(self._tasks), sum(self._polls)
        return PollFigures(
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
            self._learn(index, "poll", at)
            return
        elapsed = at - task.submitted_at
        wait = self._plan.interval_seconds
        if self._schedule is not None:
            wait = self._schedule.next_poll_after(self._polls[index], elapsed_seconds=elapsed)
        heappush(self.due, (at + wait, "poll", index))

    def _learn(self, index: int, source: str, at: float) -> None:
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
