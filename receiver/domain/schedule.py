"""The times to poll one provider for answers with an awaited callback, learned from its callbacks. Pure.

Times are arguments, in seconds; `at` is on one axis that survives a restart. Three things are learned:

* The time that callbacks take, for each type of task. A callback is overdue if it takes a third longer than the 90th
  percentile of the last ones. The 95th or 99th would be the one or two highest of a window that forgets soon enough, so
  stragglers would set it. A lower one, or no margin, wastes polls. A higher margin makes lost callbacks cost more. The
  simulated week (`tests/benchmarks/week.py`) chose these: fewer than one poll in ten tasks is needless.
* Late callbacks. If one comes after a poll had brought the answer, then it is counted by its own latency. A few of them
  lengthen the wait.
* Lost callbacks, since no provider promises delivery (providers/README.md, "Callbacks"). Then tasks are polled as if no
  callback was expected, until callbacks come again.

The provider's limits are kept in every case.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from client.provider_api.unlisted import WIDEST
from client.providers import PollPlan

__all__ = ["ENOUGH", "LATENCIES_KEPT", "MOST_TYPES", "QUANTILE", "Change", "Latencies", "Schedule"]

ENOUGH = 20
"""The number of callbacks from which on their latencies are used."""

MOST_TYPES = 16
"""The number of task types with latencies of their own. Beyond it, the type not seen for longest is forgotten."""

LATENCIES_KEPT = 100
"""The number of latencies that are kept."""

QUANTILE = 0.9

_HALF_LIFE = 25
_WEIGHTS = [0.5 ** (age / _HALF_LIFE) for age in range(LATENCIES_KEPT)]
_TOTALS = [0.0, *accumulate(_WEIGHTS)]

_MARGIN = 4.0 / 3.0
_STRETCH = 3.0
_REPORTED_CHANGE = 0.5

# A lost callback adds one to the doubt, one that comes takes three off. So it grows only if more than three in four are
# lost. From the lower bound on, callbacks count as failing. Then the doubt starts at the upper one and must go down to
# nothing. So the way back is long, at the cost of some polls, and there is no going to and fro.
_ENTERS_AT = 12
_FULL_DOUBT = 30
_RELIEF = 3
_PROBE_EVERY = 20

# So each wait is about a tenth of all waiting since the first poll, up to the limit. Twenty polls, about as many as
# 2captcha allows for each task (providers/README.md, "2captcha and ruCaptcha"), last four minutes so, and not two.
_GROWTH = 1.1


@dataclass(frozen=True, slots=True)
class Change:
    """A change to report once: callbacks began to fail ("entered") or came again ("left"), or waits changed."""

    kind: Literal["entered", "left", "schedule"]
    words: str


class Schedule:
    """All that was learned of one provider. Count only tasks that expected a callback."""

    def __init__(self, plan: PollPlan) -> None:
        self._plan = plan
        self._all = Latencies()
        self._types: OrderedDict[str, Latencies] = OrderedDict()
        self._doubt = 0
        self._doubted_since = 0.0
        self._polled_in_a_row = 0
        self._is_failing = False
        self._reported_wait = self._learned(None)

    @property
    def callbacks_failing(self) -> bool:
        """True if tasks are polled as if no callback was expected."""
        return self._is_failing

    def count_answer(
        self,
        task_type: str | None,
        latency_seconds: float,
        source: Literal["callback", "poll"],
        *,
        called_back_late: bool,
        at: float,
    ) -> Change | None:
        """Count an answer that came `latency_seconds` after its task was submitted. Return a change to report.

        `called_back_late`: the callback came after a poll had brought the answer, and that poll was counted. Until then
        an answer by "poll" is taken for a lost callback, so it is the same as `count_loss`.
        """
        if source == "poll":
            return self.count_loss(at=at)
        self._count_latency(task_type, latency_seconds)
        self._polled_in_a_row = 0
        self._doubt = max(0, self._doubt - _RELIEF - called_back_late)
        if self._is_failing and self._doubt == 0:
            self._is_failing = False
            self._reported_wait = self._learned(None)
            return Change("left", f"callbacks come again: {self.explain()}")
        return self._changed()

    def count_loss(self, *, at: float) -> Change | None:
        """Count a task that ended without its callback. Return a change to report.

        Callbacks count as failing only after the longest wait for one. So callbacks that have only become slow are not
        taken for lost.
        """
        # An earlier `at` means that the clock was set back: then the time is counted from there.
        self._doubted_since = at if self._doubt == 0 else min(self._doubted_since, at)
        self._doubt = min(self._doubt + 1, _FULL_DOUBT)
        self._polled_in_a_row += 1
        is_certain = self._doubt >= _ENTERS_AT and at - self._doubted_since >= self._latest_seconds()
        if self._is_failing or not is_certain:
            return None
        self._is_failing, self._doubt = True, _FULL_DOUBT
        return Change("entered", f"callbacks are failing: {self.explain()}")

    def first_poll_after(self, task_type: str | None, *, expects_callback: bool) -> float:
        """Return the seconds from its submission to the first poll of a task, if nothing has come by then.

        A callback is waited for until it is overdue. While callbacks fail, the wait is as if none was expected. Then
        the tasks submitted after every twentieth answer still get the longer wait. A provider may not call back for an
        answer already fetched, and its callbacks would never be seen to work again.
        """
        if not expects_callback or (self._is_failing and self._polled_in_a_row % _PROBE_EVERY):
            return self._plan.first_after_seconds
        return self._learned(task_type)

    def next_poll_after(self, polls: int, *, elapsed_seconds: float = 0.0) -> float:
        """Return the seconds from poll number `polls` to the next one; infinity: there is none.

        It is never below the plan's interval, nor beyond its number of polls. Nor is it beyond its window, at
        `elapsed_seconds` after the submission.
        """
        plan = self._plan
        if plan.max_polls is not None and polls >= plan.max_polls:
            return math.inf
        # The exponent is bounded because a float is.
        growth = min(_GROWTH ** min(max(polls - 1, 0), 100), WIDEST)
        wait = plan.interval_seconds * growth
        left = plan.window_seconds - elapsed_seconds
        if wait >= left:
            # One last look before the provider forgets the answer, where there is room for it.
            wait = max(plan.interval_seconds, left - plan.interval_seconds)
        return wait if wait < left else math.inf

    def explain(self, task_type: str | None = None) -> str:
        """Return in words the time of the first poll of a task of this type, and its reason."""
        if self._is_failing:
            wait = f"polled from {self._plan.first_after_seconds:.3g} s on"
            if self._polled_in_a_row == 0:
                return f"{wait}, until more callbacks come"
            return f"{wait}, because the last {self._polled_in_a_row} tasks ended without a callback"
        seen = self._of(task_type)
        wait = f"polled from {self._learned(task_type):.3g} s on"
        if len(seen) < ENOUGH:
            return f"{wait}, the fixed schedule: {len(seen)} of {ENOUGH} callbacks seen"
        return (
            f"{wait}: callbacks took {seen.quantile():.3g} s at the {QUANTILE * 100:.0f}th percentile "
            f"of the last {len(seen)}, newer ones counting more"
        )

    def as_json(self) -> dict[str, Any]:
        """Return all that was learned for `from_json`, at most about 15 kB."""
        return {
            "all": self._all.oldest_first(),
            "types": {task_type: seen.oldest_first() for task_type, seen in self._types.items()},
            "doubt": self._doubt,
            "doubtedSince": self._doubted_since,
            "polledInARow": self._polled_in_a_row,
            "isFailing": self._is_failing,
        }

    @classmethod
    def from_json(cls, plan: PollPlan, learned: Any) -> Schedule:
        """Return a schedule that goes on from the result of `as_json`. Unreadable parts are learned anew."""
        made = cls(plan)
        made._load(learned)
        made._reported_wait = made._learned(None)
        return made

    def replace(self, learned: Any) -> Change | None:
        """Go on from the result of `as_json` of another schedule. Return a change to report."""
        was_failing = self._is_failing
        self._load(learned)
        if self._is_failing == was_failing:
            return self._changed()
        if self._is_failing:
            return Change("entered", f"callbacks are failing: {self.explain()}")
        self._reported_wait = self._learned(None)
        return Change("left", f"callbacks come again: {self.explain()}")

    def _load(self, learned: Any) -> None:
        learned = learned if isinstance(learned, Mapping) else {}
        self._all = Latencies(_seconds(learned.get("all"), self._plan))
        types = learned.get("types")
        last = list(types.items())[-MOST_TYPES:] if isinstance(types, Mapping) else ()
        self._types = OrderedDict((str(name), Latencies(_seconds(seen, self._plan))) for name, seen in last)
        self._doubt = min(_count(learned.get("doubt")), _FULL_DOUBT)
        self._doubted_since = _time(learned.get("doubtedSince"))
        self._polled_in_a_row = _count(learned.get("polledInARow"))
        self._is_failing = learned.get("isFailing") is True and self._doubt > 0

    def _count_latency(self, task_type: str | None, seconds: float) -> None:
        # No wait lasts longer than the window. A later callback shows that callbacks work, not how long to wait.
        if not 0.0 <= seconds <= self._plan.window_seconds:
            return
        # Hundredths are more than enough, and keep what is stored short.
        seconds = round(seconds, 2)
        self._all.add(seconds)
        if task_type is None:
            return
        self._types.setdefault(task_type, Latencies()).add(seconds)
        self._types.move_to_end(task_type)
        if len(self._types) > MOST_TYPES:
            self._types.popitem(last=False)

    def _of(self, task_type: str | None) -> Latencies:
        """Return the latencies of the type if there are enough, else those of the provider."""
        seen = None if task_type is None else self._types.get(task_type)
        return self._all if seen is None or len(seen) < ENOUGH else seen

    def _learned(self, task_type: str | None) -> float:
        """Return the time after which a callback is overdue, within the limits of the plan."""
        plan, seen = self._plan, self._of(task_type)
        wanted = _MARGIN * seen.quantile() if len(seen) >= ENOUGH else plan.first_after_callback_seconds
        return max(plan.first_after_seconds, min(wanted, self._latest_seconds()))

    def _latest_seconds(self) -> float:
        """Return the longest wait for a callback. Half of the window is left for polls, if the plan leaves it."""
        plan = self._plan
        planned = plan.first_after_callback_seconds
        longest = max(planned, min(_STRETCH * planned, plan.window_seconds / 2.0))
        return min(longest, plan.window_seconds - plan.interval_seconds)

    def _changed(self) -> Change | None:
        learned = self._learned(None)
        if self._is_failing or abs(learned - self._reported_wait) < _REPORTED_CHANGE * self._reported_wait:
            return None
        self._reported_wait = learned
        return Change("schedule", self.explain())


class Latencies:
    """The last `LATENCIES_KEPT` latencies, in seconds.

    Each has half the weight of the one 25 later. So among many latencies, four high ones in a row move the quantile,
    under traffic within minutes. One or two do not, however high they are. Bad hours are soon over.
    """

    __slots__ = ("_added", "_by_age", "_by_size")

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self._by_age: deque[float] = deque()
        self._by_size: list[tuple[float, int]] = []
        self._added = 0
        for latency in seconds:
            self.add(latency)

    def __len__(self) -> int:
        return len(self._by_age)

    def add(self, seconds: float) -> None:
        """Add the newest. If there are too many, forget the oldest."""
        if len(self._by_age) == LATENCIES_KEPT:
            oldest = (self._by_age.popleft(), self._added - LATENCIES_KEPT)
            del self._by_size[bisect_left(self._by_size, oldest)]
        self._by_age.append(seconds)
        insort(self._by_size, (seconds, self._added))
        self._added += 1

    def quantile(self) -> float:
        """Return the smallest latency above which no more than 1 - `QUANTILE` of the weight lies.

        Raises:
            ValueError: there are none.
        """
        # From the top, because so few of the weights lie above the quantile.
        above, most = 0.0, (1.0 - QUANTILE) * _TOTALS[len(self._by_age)]
        for seconds, number in reversed(self._by_size):
            above += _WEIGHTS[self._added - 1 - number]
            if above > most:
                return seconds
        raise ValueError("no latency is known")

    def oldest_first(self) -> Sequence[float]:
        """Return all of them. They make an equal window."""
        return list(self._by_age)


def _seconds(value: Any, plan: PollPlan) -> list[float]:
    found = value[-LATENCIES_KEPT:] if isinstance(value, list) else []
    return [float(seconds) for seconds in found if _is_number(seconds) and 0.0 <= seconds <= plan.window_seconds]


def _time(value: Any) -> float:
    return float(value) if _is_number(value) else 0.0


def _count(value: Any) -> int:
    return int(min(value, 1e9)) if _is_number(value) and value > 0 else 0


def _is_number(value: Any) -> bool:
    # A comparison, because a whole number may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15
