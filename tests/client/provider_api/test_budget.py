"""The limits of a key, in virtual time: whatever is asked for and whatever comes back, no limit is broken."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.provider_api.budget import Allowance
from client.providers import DIALECTS, KeyLimits, Rate

_OLDER_API = DIALECTS["twocaptchav1"].key_limits
_EZCAPTCHA = DIALECTS["ezcaptcha"].key_limits


def _most_within(times: Sequence[float], seconds: float) -> int:
    """How many of the times lie in the fullest stretch of so many seconds, without its end."""
    return max((bisect_left(times, start + seconds - 1e-6) - index for index, start in enumerate(times)), default=0)


def _submit(allowance: Allowance, now: float) -> float:
    """Send createTask as soon as it is allowed: when that is."""
    at = allowance.submit_at(now)
    allowance.submit(at)
    return at


def test_a_thousand_tasks_submit_at_half_the_allowed_rate() -> None:
    """A thousand tasks at once: never more than half of what 2captcha documents, and no slower than that."""
    allowance = Allowance(_OLDER_API)
    times = []
    now = 0.0
    for _ in range(1000):
        now = _submit(allowance, now)
        times.append(now)

    assert _OLDER_API.submits == Rate(60, 3.0)
    assert _most_within(times, 3.0) == 30
    assert times[-1] == pytest.approx(99.9)


def test_a_single_task_does_not_wait() -> None:
    """Where nothing was sent lately, nothing waits."""
    allowance = Allowance(_OLDER_API)

    assert (allowance.submit_at(5.0), allowance.poll_at(5.0)) == (5.0, 5.0)


def test_polls_keep_the_rate_of_the_key() -> None:
    """Polls are spread evenly over the second, not sent all at its beginning."""
    allowance = Allowance(KeyLimits(requests_per_second=20.0))
    now = 0.0
    times = []
    for _ in range(40):
        now = allowance.poll_at(now)
        allowance.poll(now, is_first=False)
        times.append(now)

    assert times[-1] == pytest.approx(39 / 20)


def _polls_until_refused(allowance: Allowance, *, is_hinted: bool) -> int:
    polls = 0
    while allowance.has_polls_left(is_first=False, is_hinted=is_hinted):
        allowance.poll(float(polls), is_first=False)
        polls += 1
    return polls


def test_polls_of_all_tasks_are_counted() -> None:
    """A thousand tasks poll fewer than 20 times each and 1200; half of the 1200 is left to hints."""
    allowance = Allowance(_OLDER_API)
    for number in range(1000):
        assert allowance.has_polls_left(is_first=True, is_hinted=False)
        allowance.poll(float(number), is_first=True)

    ordinary = 1000 + _polls_until_refused(allowance, is_hinted=False)
    hinted = _polls_until_refused(allowance, is_hinted=True)

    assert ordinary == 20 * 1000 + 600 - 1
    assert ordinary + hinted == 20 * 1000 + 1200 - 1


def test_another_task_makes_room_for_polls() -> None:
    """Where all polls are used up, the first poll of a new task is allowed, and others after it."""
    allowance = Allowance(KeyLimits(polls_for_each=20, polls_for_all=4))
    _polls_until_refused(allowance, is_hinted=True)

    assert allowance.has_polls_left(is_first=True, is_hinted=False)
    allowance.poll(0.0, is_first=True)
    assert allowance.has_polls_left(is_first=False, is_hinted=False)


def test_half_of_the_errors_stop_everything() -> None:
    """After 15 errors of the 30 that EZ-Captcha allows in a minute, nothing is sent until the first is a minute old."""
    allowance = Allowance(_EZCAPTCHA)
    stopped = [allowance.fail(float(second)) for second in range(15)]

    assert _EZCAPTCHA.errors == Rate(30, 60.0)
    assert stopped == [False] * 14 + [True]
    assert (allowance.submit_at(15.0), allowance.poll_at(15.0)) == (60.0, 60.0)
    # One more would be the fifteenth again: it stops until the next is old enough.
    assert allowance.submit_at(60.0) == 60.0
    assert allowance.fail(60.0)
    assert allowance.submit_at(60.0) == 61.0


def test_errors_that_are_old_stop_nothing() -> None:
    """Errors slower than half of the allowed ones never stop anything."""
    allowance = Allowance(_EZCAPTCHA)

    assert not any(allowance.fail(number * 4.3) for number in range(200))
    assert allowance.submit_at(860.0) == 860.0


def test_what_is_under_way_counts_as_errors_to_come() -> None:
    """No more is under way than may fail; it goes on when one has ended."""
    allowance = Allowance(_EZCAPTCHA)
    for _ in range(15):
        allowance.begin()

    assert allowance.submit_at(1.0) == math.inf
    allowance.end()
    assert allowance.submit_at(1.0) == 1.0


@given(
    errors=st.builds(Rate, st.integers(2, 12), st.floats(1.0, 60.0)),
    fates=st.lists(st.tuples(st.floats(0.0, 5.0), st.booleans()), max_size=120),
)
def test_errors_never_reach_the_limit(errors: Rate, fates: list[tuple[float, bool]]) -> None:
    """Everybody sends as soon as it is allowed; answers take any time and may all be errors: too few in any stretch."""
    allowance = Allowance(KeyLimits(errors=errors))
    now = 0.0
    under_way: list[tuple[float, bool]] = []
    failed_at = []
    for seconds, is_error in fates:
        while (at := allowance.submit_at(now)) > now:
            ended_at, was_error = under_way.pop(0) if under_way and under_way[0][0] <= at else (at, None)
            now = max(now, ended_at)
            if was_error is not None:
                allowance.end()
                if was_error:
                    failed_at.append(now)
                    allowance.fail(now)
        allowance.submit(now)
        allowance.begin()
        under_way = sorted([*under_way, (now + seconds, is_error)])

    assert _most_within(failed_at, errors.seconds) < errors.count


@given(pauses=st.lists(st.floats(0.0, 100.0), min_size=1))
def test_pauses_do_not_shorten_each_other(pauses: list[float]) -> None:
    """Nothing is sent before the end of the longest pause."""
    allowance = Allowance(KeyLimits())
    for until in pauses:
        allowance.pause(until)

    assert allowance.submit_at(0.0) == allowance.poll_at(0.0) == max(pauses)
