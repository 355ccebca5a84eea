"""Limits of a key in virtual time. No order of requests and answers breaks one."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.provider_api.limits import KeyBudget
from client.providers import DIALECTS, KeyLimits, Rate

_OLDER_API = DIALECTS["twocaptchav1"].key_limits
_EZCAPTCHA = DIALECTS["ezcaptcha"].key_limits


def _most_within(times: Sequence[float], seconds: float) -> int:
    """Return the largest number of times in any stretch of `seconds`, its end excluded."""
    return max((bisect_left(times, start + seconds - 1e-6) - index for index, start in enumerate(times)), default=0)


def _submit(budget: KeyBudget, now: float) -> float:
    """Send createTask as soon as it is allowed. Return that time."""
    at = budget.submit_at(now)
    budget.submit(at)
    return at


def test_a_thousand_tasks_submit_at_half_the_allowed_rate() -> None:
    """A thousand tasks at once are submitted at half of 2captcha's documented rate, no faster and no slower."""
    budget = KeyBudget(_OLDER_API)
    times = []
    now = 0.0
    for _ in range(1000):
        now = _submit(budget, now)
        times.append(now)

    assert _OLDER_API.submits == Rate(60, 3.0)
    assert _most_within(times, 3.0) == 30
    assert times[-1] == pytest.approx(99.9)


def test_a_single_task_does_not_wait() -> None:
    """A request does not wait if none was sent lately."""
    budget = KeyBudget(_OLDER_API)

    assert (budget.submit_at(5.0), budget.poll_at(5.0)) == (5.0, 5.0)


def test_polls_keep_the_rate_of_the_key() -> None:
    """Polls are spread evenly over the second, not sent all at its beginning."""
    budget = KeyBudget(KeyLimits(requests_per_second=20.0))
    now = 0.0
    times = []
    for _ in range(40):
        now = budget.poll_at(now)
        budget.poll(now, is_first=False)
        times.append(now)

    assert times[-1] == pytest.approx(39 / 20)


def _polls_until_refused(budget: KeyBudget, *, is_hinted: bool) -> int:
    polls = 0
    while budget.has_polls_left(is_first=False, is_hinted=is_hinted):
        budget.poll(float(polls), is_first=False)
        polls += 1
    return polls


def test_polls_of_all_tasks_are_counted() -> None:
    """A thousand tasks poll fewer than 20 times each plus 1200. Half of the 1200 is reserved for hints."""
    budget = KeyBudget(_OLDER_API)
    for number in range(1000):
        assert budget.has_polls_left(is_first=True, is_hinted=False)
        budget.poll(float(number), is_first=True)

    ordinary = 1000 + _polls_until_refused(budget, is_hinted=False)
    hinted = _polls_until_refused(budget, is_hinted=True)

    assert ordinary == 20 * 1000 + 600 - 1
    assert ordinary + hinted == 20 * 1000 + 1200 - 1


def test_another_task_makes_room_for_polls() -> None:
    """After the last allowed poll, the first poll of a new task is allowed, and others after it."""
    budget = KeyBudget(KeyLimits(polls_for_each=20, polls_for_all=4))
    _polls_until_refused(budget, is_hinted=True)

    assert budget.has_polls_left(is_first=True, is_hinted=False)
    budget.poll(0.0, is_first=True)
    assert budget.has_polls_left(is_first=False, is_hinted=False)


def test_half_of_the_errors_stop_everything() -> None:
    """EZ-Captcha allows 30 errors a minute. After 15 nothing is sent until the first is a minute old."""
    budget = KeyBudget(_EZCAPTCHA)
    stopped = [budget.fail(float(second)) for second in range(15)]

    assert _EZCAPTCHA.errors == Rate(30, 60.0)
    assert stopped == [False] * 14 + [True]
    assert (budget.submit_at(15.0), budget.poll_at(15.0)) == (60.0, 60.0)
    # One more would be the fifteenth again: it stops until the next is old enough.
    assert budget.submit_at(60.0) == 60.0
    assert budget.fail(60.0)
    assert budget.submit_at(60.0) == 61.0


def test_errors_that_are_old_stop_nothing() -> None:
    """Errors at less than half of the allowed rate never stop requests."""
    budget = KeyBudget(_EZCAPTCHA)

    assert not any(budget.fail(number * 4.3) for number in range(200))
    assert budget.submit_at(860.0) == 860.0


def test_what_is_under_way_counts_as_errors_to_come() -> None:
    """The number of requests under way is bounded by the errors left. The next is sent when one has ended."""
    budget = KeyBudget(_EZCAPTCHA)
    for _ in range(15):
        budget.begin()

    assert budget.submit_at(1.0) == math.inf
    budget.end()
    assert budget.submit_at(1.0) == 1.0


@given(
    errors=st.builds(Rate, st.integers(2, 12), st.floats(1.0, 60.0)),
    fates=st.lists(st.tuples(st.floats(0.0, 5.0), st.booleans()), max_size=120),
)
def test_errors_never_reach_the_limit(errors: Rate, fates: list[tuple[float, bool]]) -> None:
    """Requests are sent as soon as allowed, and any of the answers may be errors: the limit is never reached."""
    budget = KeyBudget(KeyLimits(errors=errors))
    now = 0.0
    under_way: list[tuple[float, bool]] = []
    failed_at = []
    for seconds, is_error in fates:
        while (at := budget.submit_at(now)) > now:
            ended_at, was_error = under_way.pop(0) if under_way and under_way[0][0] <= at else (at, None)
            now = max(now, ended_at)
            if was_error is not None:
                budget.end()
                if was_error:
                    failed_at.append(now)
                    budget.fail(now)
        budget.submit(now)
        budget.begin()
        under_way = sorted([*under_way, (now + seconds, is_error)])

    assert _most_within(failed_at, errors.seconds) < errors.count


@given(pauses=st.lists(st.floats(0.0, 100.0), min_size=1))
def test_pauses_do_not_shorten_each_other(pauses: list[float]) -> None:
    """No request is allowed before the end of the longest pause."""
    budget = KeyBudget(KeyLimits())
    for until in pauses:
        budget.pause(until)

    assert budget.submit_at(0.0) == budget.poll_at(0.0) == max(pauses)
