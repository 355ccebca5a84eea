"""Unlisted error codes at the receiver's own polls: on the store, with a clock of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.providers.readings import Failed, Pending, Reading, Ready, Unknown
from receiver.domain.deliveries import HintTask
from receiver.domain.polls import PolledTask
from receiver.domain.reading import Origin, ReportedAnswer
from receiver.domain.records import CUT_OFF, SECOND, TaskRecord
from receiver.domain.registrations import Expire, Report, ReportedTask
from tests.receiver.domain.test_poll_races import BEGAN, LIMITS, PLAN, Clocked
from tests.receiver.storage.stores import running_store

ODD = Failed(1, "ERROR_OF_TOMORROW", "in words", is_listed=False)
OTHER = Failed(1, "ERROR_OF_THE_DAY_AFTER", is_listed=False)
READY = Ready({"text": "44795sds"})


@pytest.fixture
async def clocked(database: Path | str) -> AsyncIterator[Clocked]:
    """Yield an empty store."""
    async with running_store(database) as store:
        yield Clocked(store)


async def polled(clocked: Clocked, *answers: tuple[float, Reading | None]) -> PolledTask:
    """Take each poll at its time and answer it at once. Return the result of the last one."""
    last = None
    for seconds, reading in answers:
        (taken,) = await clocked.take(seconds)
        last = await clocked.finish(taken, reading, seconds)
    assert last is not None
    return last


async def reported(clocked: Clocked, task: TaskRecord, reading: Reading, seconds: float) -> ReportedTask:
    """Report a poll as a client does."""
    now = BEGAN + round(seconds * SECOND)
    answer = ReportedAnswer(
        reading=reading,
        origin=Origin("poll", "reported", now),
        polls=None,
        reported_at=now,
        unknown_final_after=LIMITS.window + LIMITS.grace,
        size=0,
    )
    return await clocked.store.write(Report(ref=task.ref, task_id=None, answer=answer, now=now))


async def test_the_same_code_three_times_ends_the_task_provisionally(clocked: Clocked) -> None:
    """At doubled intervals; the outcome has the code, and the provider's next word replaces it."""
    task = await clocked.task()
    first = await polled(clocked, (35, ODD))
    second = await polled(clocked, (41, ODD))
    third = await polled(clocked, (53, ODD))
    answer = await reported(clocked, task, READY, 60)

    assert PLAN.interval_seconds == 3.0
    assert [clocked.seconds(result.task.next_poll_at) for result in (first, second, third)] == [41, 53, None]
    assert [result.verdict for result in (first, second, third)] == ["notFinal", "notFinal", "accepted"]
    outcome = third.task.outcome
    assert outcome is not None
    assert (outcome.status, outcome.error_code, outcome.error_description) == ("failed", ODD.error_code, "in words")
    assert (outcome.source, outcome.trust, outcome.is_provisional) == ("poll", "provisional", True)
    assert (answer.verdict, answer.task.outcome is not None) == ("accepted", True)
    assert answer.task.outcome is not None
    assert (answer.task.outcome.status, answer.task.outcome.supersedes) == ("ready", third.task.position)


async def test_three_times_within_less_than_fifteen_seconds_are_not_enough(clocked: Clocked) -> None:
    """Polls go on, and no wait is longer than four intervals."""
    await clocked.task(hinted_at=BEGAN)
    tight = replace(LIMITS, interval=SECOND)
    seconds, polls = 35.0, []
    while True:
        (taken,) = await clocked.take(seconds)
        last = await clocked.finish(taken, ODD, seconds, limits=tight)
        polls.append(seconds)
        if last.task.next_poll_at is None:
            break
        seconds = clocked.seconds(last.task.next_poll_at) or 0

    assert polls == [35, 37, 41, 45, 49, 53]
    assert last.verdict == "accepted"


@pytest.mark.parametrize(
    "other", [Pending("processing"), Unknown(1, "ERROR_TASKID_INVALID"), OTHER], ids=["pending", "unknown id", "other"]
)
async def test_another_answer_begins_the_row_anew(clocked: Clocked, other: Reading) -> None:
    """A row holds no other answers about the task."""
    await clocked.task()
    last = await polled(clocked, (35, ODD), (50, ODD), (65, other), (80, ODD), (95, ODD))
    end = await polled(clocked, (110, ODD))

    assert (last.verdict, last.task.outcome) == ("notFinal", None)
    assert end.verdict == "accepted"


async def test_a_failed_poll_neither_counts_nor_ends_the_row(clocked: Clocked) -> None:
    """A 5xx, a cut connection and a refusal are no answers: there were only two."""
    await clocked.task()
    last = await polled(clocked, (35, ODD), (50, None), (65, ODD), (80, None))
    end = await polled(clocked, (95, ODD))

    assert (last.verdict, end.verdict) == ("notFinal", "accepted")


async def test_a_crash_in_between_keeps_the_row(clocked: Clocked) -> None:
    """A poll that was cut off changes nothing, because the row stands in the store."""
    task = await clocked.task()
    await polled(clocked, (35, ODD), (50, ODD))
    await clocked.take(65)
    end = await polled(clocked, (100, ODD))

    assert end.verdict == "accepted"
    assert await clocked.polls(task) == (4, ["Failed", "Failed", CUT_OFF, "Failed"])


async def test_beyond_the_polls_that_are_kept_the_row_goes_on(clocked: Clocked) -> None:
    """Of very many polls only the last is kept. It holds the row."""
    await clocked.task()
    pending = [(35.0 + 3 * number, Pending("processing")) for number in range(20)]
    last = await polled(clocked, *pending, (100, ODD), (106, ODD), (118, ODD))

    assert last.verdict == "accepted"


async def test_a_row_that_began_in_the_future_is_counted_from_now(clocked: Clocked) -> None:
    """A clock that was set back makes a row neither end early nor last for ever."""
    await clocked.task()
    await polled(clocked, (60, ODD))
    last = await polled(clocked, (-3600, ODD), (-3588, ODD))
    end = await polled(clocked, (-3576, ODD))

    assert (last.verdict, end.verdict) == ("notFinal", "accepted")


async def test_the_longer_wait_does_not_lead_beyond_the_window(clocked: Clocked) -> None:
    """The last poll within the window is made."""
    await clocked.task()
    window_ends_at = PLAN.window_seconds
    last = await polled(clocked, (35, ODD), (window_ends_at - 4, ODD))

    assert clocked.seconds(last.task.next_poll_at) == window_ends_at - 1


async def test_it_does_not_contradict_an_outcome(clocked: Clocked) -> None:
    """It replaces neither the provider's outcome nor another one of ours."""
    ended, overdue = await clocked.task(), await clocked.task()
    await reported(clocked, ended, READY, 20)
    await clocked.store.write(Expire(now=BEGAN + 331 * SECOND, limit=10))
    late = [await reported(clocked, task, ODD, 332) for task in (ended, overdue)]

    assert [result.verdict for result in late] == ["notFinal", "notFinal"]
    codes = [result.task.outcome.error_code for result in late if result.task.outcome is not None]
    assert codes == [None, "RECEIVER_NO_ANSWER"]


async def test_a_report_of_it_is_provisional(clocked: Clocked) -> None:
    """The polling client has counted the codes. A later answer of the provider replaces the outcome."""
    task = await clocked.task()
    first = await reported(clocked, task, ODD, 60)
    again = await reported(clocked, task, ODD, 61)
    answer = await reported(clocked, task, Failed(12, "ERROR_CAPTCHA_UNSOLVABLE"), 62)

    assert [result.verdict for result in (first, again, answer)] == ["accepted", "notFinal", "accepted"]
    assert first.task.outcome is not None
    assert (first.task.outcome.trust, first.task.outcome.is_provisional) == ("provisional", True)
    assert answer.task.outcome is not None
    assert (answer.task.outcome.error_code, answer.task.outcome.trust) == ("ERROR_CAPTCHA_UNSOLVABLE", "reported")
    assert answer.task.outcome.supersedes == first.task.position


async def test_a_callback_that_is_held_back_is_not_overtaken(clocked: Clocked) -> None:
    """The provider was to confirm it. An unknown code does not contradict it."""
    await clocked.task(held_until=BEGAN + 300 * SECOND)
    last = await polled(clocked, (35, ODD), (41, ODD), (53, ODD))

    assert (last.verdict, last.task.outcome, last.task.held_until) == ("notFinal", None, BEGAN + 300 * SECOND)


async def test_a_hint_afterwards_brings_one_more_poll(clocked: Clocked) -> None:
    """A bare code, of which a poll brings more, would get lost otherwise; also after a deadline of ours."""
    task = await clocked.task()
    failed = await polled(clocked, (35, ODD), (41, ODD), (53, ODD))
    overdue = await clocked.task(deadline_at=BEGAN + 60 * SECOND, next_poll_at=BEGAN + 300 * SECOND)
    await clocked.store.write(Expire(now=BEGAN + 61 * SECOND, limit=10))
    assert await clocked.take(62) == []
    for hinted in (task, overdue):
        await clocked.store.write(HintTask(ref=hinted.ref, now=BEGAN + 63 * SECOND))
    again, other = await clocked.take(64)
    answer = await clocked.finish(again, READY, 64)
    silent = await clocked.finish(other, Pending("processing"), 64)

    assert {again.ref, other.ref} == {task.ref, overdue.ref}
    assert (answer.verdict, answer.task.outcome is not None and answer.task.outcome.status) == ("accepted", "ready")
    assert (silent.verdict, silent.task.next_poll_at) == ("notFinal", None)
    assert failed.task.position is not None
    assert await clocked.take(200) == []


async def test_a_report_does_not_overtake_a_callback_that_is_held_back(clocked: Clocked) -> None:
    """The provider has not decided: the callback is still to be confirmed, or to be the outcome."""
    task = await clocked.task(held_until=BEGAN + 300 * SECOND)
    report = await reported(clocked, task, ODD, 60)

    assert (report.verdict, report.task.outcome, report.task.held_until) == ("notFinal", None, BEGAN + 300 * SECOND)


async def test_a_poll_after_a_hint_is_repeated_until_it_is_answered(clocked: Clocked) -> None:
    """A 502 or a pause of the key is no answer. Else the hint would be used up and the answer lost."""
    task = await clocked.task()
    await polled(clocked, (35, ODD), (41, ODD), (53, ODD))
    await clocked.store.write(HintTask(ref=task.ref, now=BEGAN + 60 * SECOND))
    silent = await polled(clocked, (61, None))
    answer = await polled(clocked, (73, READY))

    assert (silent.verdict, clocked.seconds(silent.task.next_poll_at)) == ("notFinal", 73)
    assert (answer.verdict, answer.task.next_poll_at) == ("accepted", None)
    assert answer.task.outcome is not None
    assert answer.task.outcome.status == "ready"


async def test_a_hint_during_a_poll_is_not_used_up_by_it(clocked: Clocked) -> None:
    """The poll was sent before the deadline and before the hint. So its answer is older than both."""
    task = await clocked.task(deadline_at=BEGAN + 60 * SECOND, next_poll_at=BEGAN + 59 * SECOND)
    (taken,) = await clocked.take(59)
    await clocked.store.write(Expire(now=BEGAN + 61 * SECOND, limit=10))
    await clocked.store.write(HintTask(ref=task.ref, now=BEGAN + 63 * SECOND))
    early = await clocked.finish(taken, Pending("processing"), 63.5)
    answer = await polled(clocked, (67, READY))

    assert (early.verdict, clocked.seconds(early.task.next_poll_at)) == ("notFinal", 66.5)
    assert answer.verdict == "accepted"


async def test_an_outcome_of_ours_that_no_hint_follows_is_not_polled(clocked: Clocked) -> None:
    """A poll that failed over the deadline is no reason for another one; nor is an earlier hint."""
    await clocked.task(deadline_at=BEGAN + 60 * SECOND, hinted_at=BEGAN + 50 * SECOND, next_poll_at=BEGAN + 50 * SECOND)
    (taken,) = await clocked.take(59)
    await clocked.store.write(Expire(now=BEGAN + 61 * SECOND, limit=10))
    late = await clocked.finish(taken, None, 63)

    assert late.task.next_poll_at is None


async def test_a_hint_behind_an_outcome_of_ours_counts_though_one_came_before(clocked: Clocked) -> None:
    """The first one was used up before the provisional outcome. The second one may stand for the answer."""
    task = await clocked.task()
    await clocked.store.write(HintTask(ref=task.ref, now=BEGAN + 10 * SECOND))
    await polled(clocked, (10, Pending("processing")))
    await polled(clocked, (36, ODD), (42, ODD), (54, ODD))
    ended = await clocked.store.task(task.ref)
    await clocked.store.write(HintTask(ref=task.ref, now=BEGAN + 60 * SECOND))
    answer = await polled(clocked, (60, READY))

    assert ended is not None
    assert ended.outcome is not None
    assert ended.outcome.is_provisional
    assert answer.verdict == "accepted"
