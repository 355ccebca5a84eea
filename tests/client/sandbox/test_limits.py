"""The limits of the providers, with the time given."""

from __future__ import annotations

import pytest

from client.errors import BadArgumentError
from client.sandbox import SandboxLimits
from client.sandbox.limits import Block, PollCount, broken_limit
from client.sandbox.wires.profiles import profile_named


def _poll(age_seconds: float = 10.0, number: int = 1, since_last_seconds: float | None = None) -> PollCount:
    return PollCount(age_seconds=age_seconds, number=number, since_last_seconds=since_last_seconds)


def test_documented_limits_of_capsolver() -> None:
    """CapSolver: 120 queries, 5 minutes, 120 s, 1000 errors a minute for 30 minutes.

    Source: providers/README.md, "CapSolver".
    """
    assert (
        SandboxLimits(
            max_polls=120,
            window_seconds=300.0,
            task_timeout_seconds=120.0,
            poll_interval_seconds=3.0,
            is_interval_enforced=False,
            ban_errors=1000,
            ban_seconds=1800.0,
            key_block_errors=0,
            key_block_seconds=300.0,
        )
        == profile_named("capsolver").limits
    )


def test_documented_limits_of_onecaptcha() -> None:
    """1captcha.vip: 300 s time-out, 3 s between queries (seed: 1captcha, lines 58 and 74)."""
    limits = profile_named("onecaptcha").limits

    assert (limits.task_timeout_seconds, limits.poll_interval_seconds) == (300.0, 3.0)


@pytest.mark.parametrize(
    ("poll", "broken"),
    [
        (_poll(age_seconds=300.0, number=120, since_last_seconds=3.0), None),
        (_poll(age_seconds=300.1), "window"),
        (_poll(number=121, since_last_seconds=3.0), "maxPolls"),
        (_poll(number=2, since_last_seconds=2.9), "interval"),
        (_poll(age_seconds=301.0, number=121, since_last_seconds=0.0), "window"),
        (_poll(number=121, since_last_seconds=0.0), "maxPolls"),
    ],
)
def test_which_limit_a_poll_breaks(poll: PollCount, broken: str | None) -> None:
    """The gravest limit is named, and the last allowed poll breaks none."""
    assert broken_limit(profile_named("capsolver").limits, poll) == broken


def test_no_limit_of_polls() -> None:
    """A count of 0 means that any number of polls is allowed."""
    assert broken_limit(SandboxLimits(max_polls=0), _poll(number=100_000)) is None


@pytest.mark.parametrize("name", ["max_polls", "window_seconds", "ban_seconds"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_limits_are_numbers_that_are_not_negative(name: str, value: float) -> None:
    """A negative or infinite limit is an error with its name."""
    with pytest.raises(BadArgumentError, match=f"^{name}: "):
        SandboxLimits(**{name: value})  # type: ignore[arg-type]  # one name at a time, and all are numbers


def test_errors_within_a_minute_block() -> None:
    """The 1000th error within a minute blocks its caller, and no other, for 30 minutes."""
    block = Block(errors=1000, seconds=1800.0)
    for number in range(999):
        block.count_error("a", number * 0.06)
    assert not block.is_blocked("a", 59.95)

    block.count_error("a", 59.95)

    assert block.is_blocked("a", 59.95)
    assert block.is_blocked("a", 1859.9)
    assert not block.is_blocked("a", 1859.95)
    assert not block.is_blocked("b", 60.0)


def test_errors_over_more_than_a_minute_do_not_block() -> None:
    """Errors older than a minute do not count."""
    block = Block(errors=3, seconds=10.0)
    for now in (0.0, 40.0, 61.0):
        block.count_error("a", now)

    assert not block.is_blocked("a", 61.0)


def test_a_block_leaves_no_errors_behind() -> None:
    """After a block it takes as many errors again."""
    block = Block(errors=2, seconds=10.0)
    for now in (0.0, 0.0, 10.0):
        block.count_error("a", now)

    assert not block.is_blocked("a", 10.0)


def test_nobody_is_blocked_without_a_limit() -> None:
    """A limit of 0 errors never blocks."""
    block = Block(errors=0, seconds=10.0)
    for _ in range(10):
        block.count_error("a", 0.0)

    assert not block.is_blocked("a", 0.0)


def test_callers_are_forgotten_beyond_a_bound() -> None:
    """Beyond a thousand callers the oldest is forgotten, so that unknown callers cannot fill the memory."""
    block = Block(errors=2, seconds=10.0)
    block.count_error("oldest", 0.0)
    for number in range(1000):
        block.count_error(str(number), 0.0)

    block.count_error("oldest", 0.0)

    assert not block.is_blocked("oldest", 0.0)
