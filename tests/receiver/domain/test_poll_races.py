"""Races between taking a poll and storing its end: on the store, with a clock of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from client.providers import DIALECTS
from client.providers.readings import CallbackReading, Failed, Pending, Reading, Ready, Unknown
from receiver.app import new_ref
from receiver.domain.next_poll import PollLimits, limits_of
from receiver.domain.polls import LEASE_SECONDS, FinishPoll, GiveBack, PolledTask, ReleaseHeld, TakeDue
from receiver.domain.reading import Origin, ReportedAnswer, make_outcome
from receiver.domain.records import CUT_OFF, IGNORED, SECOND, Outcome, PollRecord, StoredDelivery, TaskRecord
from receiver.domain.registrations import Bind, Expire, Register
from receiver.storage.store import Store
from tests.receiver.storage.stores import RULES, delivery_to_task, running_store

PLAN = DIALECTS["capsolver"].polls
LIMITS = limits_of(PLAN)
BEGAN = 1_790_000_000 * SECOND


@dataclass
class Clocked:
    """A store, and the receiver's commands on it at the times of a test."""

    store: Store
    now: int = BEGAN
    doubled: int = 0

    async def task(self, **fields: Any) -> TaskRecord:
        """Return a task that is polled here and due 35 s after the beginning."""
        task = TaskRecord(
            row=0,
            ref=str(new_ref()),
            provider="capsolver",
            type=None,
            tags=(),
            metadata="{}",
            created_by=None,
            client_key_id=None,
            has_url=True,
            open_to_standing=False,
            standing_id=None,
            task_id=None,
            bound_by=None,
            registered_at=0,
            created_at=BEGAN,
            poll_after=BEGAN + 35 * SECOND,
            next_poll_at=BEGAN + 35 * SECOND,
            deadline_at=BEGAN + 330 * SECOND,
            is_polled_here=True,
        ).evolve(**fields)
        await self.store.write(Register(task=task, answer=None, idempotency=None))
        return await self.store.write(Bind(ref=task.ref, task_id=f"id of {task.ref}", now=self.now))

    async def take(self, seconds: float, *, limits: PollLimits = LIMITS) -> Sequence[TaskRecord]:
        """Take the tasks due so many seconds after the beginning."""
        now = BEGAN + round(seconds * SECOND)
        taken = await self.store.write(TakeDue(provider="capsolver", now=now, limit=10, limits=limits))
        self.doubled += taken.doubled
        return taken.tasks

    async def give_back(self, task: TaskRecord, seconds: float) -> None:
        """Give a task back without a poll, so that it is due again so many seconds after the beginning."""
        now = BEGAN + round(seconds * SECOND) - LIMITS.interval
        await self.store.write(GiveBack(ref=task.ref, lease=task.lease, now=now, limits=LIMITS))

    async def polls(self, task: TaskRecord) -> tuple[int, list[str]]:
        """Return the number of polls that count, and the summaries of the kept ones."""
        found = await self.store.task(task.ref)
        assert found is not None
        return found.polls, [poll.summary for poll in (await self.store.history(found)).polls]

    async def finish(
        self, task: TaskRecord, reading: Reading | None, seconds: float, *, limits: PollLimits = LIMITS
    ) -> PolledTask:
        """Return the result of a poll with this end, so many seconds after the beginning."""
        now = BEGAN + round(seconds * SECOND)
        answer = None
        if reading is not None:
            answer = ReportedAnswer(
                reading=reading,
                origin=Origin("poll", "polled", now),
                polls=None,
                reported_at=now,
                unknown_final_after=LIMITS.window + LIMITS.grace,
                size=0,
            )
        polled = await self.store.write(
            FinishPoll(
                ref=task.ref,
                poll=PollRecord(now - SECOND, now, task.lease, type(reading).__name__),
                asked_id=task.id_text,
                answer=answer,
                wait=limits.interval,
                limits=limits,
                read=lambda _task, _delivery: None,
            )
        )
        assert polled is not None
        return polled

    def seconds(self, at: int | None) -> float | None:
        """Return a time of a record, in seconds after the beginning."""
        return None if at is None else (at - BEGAN) / SECOND


@pytest.fixture
async def clocked(database: Path | str) -> AsyncIterator[Clocked]:
    """Yield an empty store."""
    async with running_store(database) as store:
        yield Clocked(store)


async def test_a_taken_task_is_not_taken_again(clocked: Clocked) -> None:
    """A taken task stays with its poller until the lease runs out."""
    await clocked.task()

    assert await clocked.take(34) == []
    (taken,) = await clocked.take(35)
    assert (taken.lease, clocked.seconds(taken.leased_until)) == (1, 35 + LEASE_SECONDS)
    assert await clocked.take(35 + LEASE_SECONDS - 1) == []
    (again,) = await clocked.take(35 + LEASE_SECONDS)
    assert again.lease == 2


async def test_a_poll_that_a_crash_cut_off_counts(clocked: Clocked) -> None:
    """It may have been sent. It is kept as cut off, and counted as doubled if its task is taken again."""
    task = await clocked.task()
    await clocked.take(35)
    (again,) = await clocked.take(70)

    assert (again.polls, clocked.doubled) == (1, 1)
    await clocked.finish(again, Pending("processing"), 71)
    assert await clocked.polls(task) == (2, [CUT_OFF, "Pending"])


async def test_crashes_do_not_lead_beyond_the_providers_limit(clocked: Clocked) -> None:
    """Polls that may have been sent use it up. A process that returns late does not count twice."""
    few = replace(LIMITS, max_polls=2)
    task = await clocked.task()
    await clocked.take(35, limits=few)
    (slept,) = await clocked.take(70, limits=few)

    assert [await clocked.take(seconds, limits=few) for seconds in (105, 140)] == [[], []]
    assert await clocked.polls(task) == (2, [CUT_OFF, CUT_OFF])
    late = await clocked.finish(slept, Ready({"text": "a"}), 141)
    assert (late.verdict, await clocked.polls(task)) == ("accepted", (2, [CUT_OFF, "Ready"]))


async def test_a_poll_that_was_given_back_does_not_count(clocked: Clocked) -> None:
    """The task is due again at the time given. If another poller has taken it meanwhile, it stays theirs."""
    task = await clocked.task()
    (taken,) = await clocked.take(35)
    await clocked.give_back(taken, 38)

    assert await clocked.take(37.9) == []
    (again,) = await clocked.take(38)
    await clocked.give_back(taken, 39)
    assert await clocked.take(39) == []
    assert (again.polls, clocked.doubled, await clocked.polls(task)) == (0, 0, (0, []))


async def test_a_process_that_slept_polls_a_second_time_and_plans_nothing(clocked: Clocked) -> None:
    """Its lease ran out: its answer is counted, but the other poller plans the next poll."""
    await clocked.task()
    (slept,) = await clocked.take(35)
    (other,) = await clocked.take(70)
    done = await clocked.finish(other, Pending("processing"), 71)
    late = await clocked.finish(slept, Pending("processing"), 200)

    assert (done.is_doubled, clocked.seconds(done.task.next_poll_at)) == (False, 74)
    assert (late.is_doubled, late.task.polls, clocked.seconds(late.task.next_poll_at)) == (True, 2, 74)
    assert await clocked.polls(late.task) == (2, ["Pending", "Pending"])


async def test_the_answer_of_a_doubled_poll_is_an_answer(clocked: Clocked) -> None:
    """The provider's answer is true for either poller. The first one is the outcome."""
    await clocked.task()
    (slept,) = await clocked.take(35)
    (other,) = await clocked.take(70)
    first = await clocked.finish(slept, Ready({"text": "a"}), 71)
    second = await clocked.finish(other, Ready({"text": "a"}), 72)

    assert (first.verdict, first.is_doubled) == ("accepted", True)
    assert (second.verdict, second.task.position) == ("duplicate", first.task.position)


async def test_a_clock_that_is_set_back_far_does_not_delay(clocked: Clocked) -> None:
    """No poll is planned so far ahead. So it is due at once, and then by the new clock, before the answer is gone."""
    await clocked.task()
    (taken,) = await clocked.take(35)
    await clocked.finish(taken, Pending("processing"), 36)

    (again,) = await clocked.take(-3600)
    polled = await clocked.finish(again, Pending("processing"), -3599)
    assert clocked.seconds(polled.task.next_poll_at) == -3599 + LIMITS.interval / SECOND
    assert await clocked.take(-3597) == []
    assert await clocked.take(-3596) != []


async def test_a_clock_that_is_set_back_a_little_delays_a_little(clocked: Clocked) -> None:
    """A plan that may be real is waited for, but never longer than the window leaves room."""
    await clocked.task()

    assert await clocked.take(-60) == []
    assert await clocked.take(35) != []
    assert LIMITS.reach + 35 * SECOND < LIMITS.window


async def test_a_lease_from_before_the_clock_was_set_back_has_run_out(clocked: Clocked) -> None:
    """No lease lasts so long: the poll counts as cut off, and the task is polled."""
    await clocked.task()
    await clocked.take(35)

    (again,) = await clocked.take(-3600)
    assert (again.polls, clocked.doubled, clocked.seconds(again.leased_until)) == (1, 1, -3600 + LEASE_SECONDS)
    assert await clocked.take(-3599) == []


async def test_a_task_taken_meanwhile_is_not_taken_again(clocked: Clocked) -> None:
    """A command that waited for the database is older than the rows stored before it. That is no clock set back."""
    await clocked.task()
    await clocked.take(36)

    assert await clocked.take(35) == []
    assert clocked.doubled == 0


async def test_a_task_registered_meanwhile_is_not_polled_at_once(clocked: Clocked) -> None:
    """A first poll may be planned as far ahead as any, after the time of the command was taken. It is not due."""
    longest = replace(DIALECTS["capsolver"].polls, first_after_callback_seconds=290.0)
    await clocked.task(poll_after=BEGAN + 291 * SECOND, next_poll_at=BEGAN + 291 * SECOND)

    assert await clocked.take(0, limits=limits_of(longest)) == []


async def test_a_clock_that_is_set_forward_polls_at_once_and_once(clocked: Clocked) -> None:
    """Beyond the window it asks one last time: the answer may still be there."""
    await clocked.task()
    (taken,) = await clocked.take(3600)
    polled = await clocked.finish(taken, Pending("processing"), 3601)

    assert polled.task.next_poll_at is None
    assert await clocked.take(7200) == []


async def test_a_provider_that_is_down_for_the_whole_window(clocked: Clocked) -> None:
    """It is asked within the limits until the window ends. Then the deadline ends the task, and nothing hangs."""
    task = await clocked.task()
    seconds, polls = 35.0, 0
    while taken := await clocked.take(seconds):
        polled = await clocked.finish(taken[0], None, seconds + 1)
        polls += 1
        if polled.task.next_poll_at is None:
            break
        seconds = clocked.seconds(polled.task.next_poll_at) or 0
    ended = await clocked.store.write(Expire(now=BEGAN + 331 * SECOND, limit=10))
    found = await clocked.store.task(task.ref)

    assert PLAN.max_polls is not None
    assert 0 < polls <= PLAN.max_polls
    assert seconds < PLAN.window_seconds
    assert ended == 1
    assert found is not None
    assert found.outcome is not None
    assert found.outcome.error_code == "RECEIVER_NO_ANSWER"


async def test_a_poll_that_ends_behind_the_deadline_still_brings_the_answer(clocked: Clocked) -> None:
    """The outcome of ours was provisional: the provider's takes its place, once."""
    await clocked.task()
    (taken,) = await clocked.take(299)
    await clocked.store.write(Expire(now=BEGAN + 331 * SECOND, limit=10))
    polled = await clocked.finish(taken, Failed(1, "ERROR_CAPTCHA_UNSOLVABLE"), 332)

    assert (polled.verdict, polled.task.outcome is not None) == ("accepted", True)
    assert polled.task.outcome is not None
    assert polled.task.outcome.supersedes is not None


async def test_an_id_that_is_unknown_is_asked_for_once_more_behind_the_window(clocked: Clocked) -> None:
    """The second answer is the provider's last word."""
    await clocked.task(deadline_at=BEGAN + 400 * SECOND)
    (taken,) = await clocked.take(299)
    early = await clocked.finish(taken, Unknown(1, "ERROR_TASKID_INVALID"), 299.5)
    (last,) = await clocked.take(330)
    polled = await clocked.finish(last, Unknown(1, "ERROR_TASKID_INVALID"), 331)

    assert (early.verdict, clocked.seconds(early.task.next_poll_at)) == ("notFinal", 330)
    assert polled.task.outcome is not None
    assert polled.task.outcome.error_code == "ERROR_TASKID_INVALID"


@pytest.mark.parametrize("reading", [Ready({"text": "of another task"}), Failed(1, "ERROR_CAPTCHA_UNSOLVABLE")])
async def test_an_answer_about_an_id_that_was_replaced_is_ignored(clocked: Clocked, reading: Reading) -> None:
    """A callback named an id, which was asked for. Meanwhile createTask told another one."""
    task = await clocked.task()
    unbound = task.evolve(ref=str(new_ref()), task_id=None, bound_by=None)
    await clocked.store.write(Register(task=unbound, answer=None, idempotency=None))
    named = CallbackReading("another task's", Pending("processing"))
    await clocked.store.write(delivery_to_task(unbound.ref, named, at=BEGAN))
    (_, taken) = sorted(await clocked.take(35), key=lambda found: found.ref)
    await clocked.store.write(Bind(ref=unbound.ref, task_id="its own", now=BEGAN + 36 * SECOND))
    polled = await clocked.finish(taken, reading, 37)
    (poll,) = (await clocked.store.history(polled.task)).polls
    (again,) = await clocked.take(42)

    assert taken.task_id == "another task's"
    assert (polled.verdict, polled.task.outcome, polled.task.polls) == ("notFinal", None, 1)
    assert again.task_id == "its own"
    assert poll.summary.startswith(IGNORED)


async def test_unlisted_codes_of_a_replaced_id_do_not_count(clocked: Clocked) -> None:
    """A code outside the table ends a task after a row of answers, all about the task's own id."""
    task = await clocked.task()
    unbound = task.evolve(ref=str(new_ref()), task_id=None, bound_by=None, bound_at=None)
    await clocked.store.write(Register(task=unbound, answer=None, idempotency=None))
    named = CallbackReading("another task's", Pending("processing"))
    await clocked.store.write(delivery_to_task(unbound.ref, named, at=BEGAN))
    strange = Failed(1, "ERROR_STRANGE", is_listed=False)
    verdicts = []
    for seconds, task_id in ((60, "another task's"), (90, "another task's"), (120, "its own"), (150, "its own")):
        if task_id == "its own" and seconds == 120:
            await clocked.store.write(Bind(ref=unbound.ref, task_id=task_id, now=BEGAN + 110 * SECOND))
        (taken,) = [found for found in await clocked.take(seconds) if found.ref == unbound.ref]
        assert taken.task_id == task_id
        verdicts.append((await clocked.finish(taken, strange, seconds + 1)).verdict)

    assert verdicts == ["notFinal"] * 4


@pytest.mark.parametrize("later", ["its own", "another task's"])
async def test_a_callback_that_is_held_back_is_not_replaced(clocked: Clocked, later: str) -> None:
    """Only the newest of many deliveries is kept, but an acknowledged answer waits for its confirmation."""
    task = await clocked.task()
    later_id = task.task_id if later == "its own" else later
    rules = replace(RULES, confirm="always", can_poll=True)
    pending, ready = (
        CallbackReading(task.task_id, reading) for reading in (Pending("processing"), Ready({"text": "answer"}))
    )
    for reading in (*[pending] * 9, ready, CallbackReading(later_id, Pending("processing"))):
        body = b"the answer" if reading is ready else b"body"
        await clocked.store.write(delivery_to_task(task.ref, reading, body, at=BEGAN, rules=rules))

    def read(_task: TaskRecord, delivery: StoredDelivery) -> Outcome:
        return make_outcome(Ready({"body": (delivery.body or b"").decode()}), Origin("callback", "token", BEGAN))

    await clocked.store.write(ReleaseHeld(now=BEGAN + 11 * SECOND, limit=9, read=read))
    ended = await clocked.store.task(task.ref)

    assert ended is not None
    assert (ended.deliveries, ended.outcome and ended.outcome.solution) == (11, '{"body":"the answer"}')


async def test_a_task_without_its_id_is_not_taken(clocked: Clocked) -> None:
    """There is no id to ask for. A task bound late, so that its age is unknown, is due at once."""
    task = await clocked.task()
    unbound = task.evolve(ref=str(new_ref()), task_id=None, bound_by=None)
    await clocked.store.write(Register(task=unbound, answer=None, idempotency=None))

    assert [taken.ref for taken in await clocked.take(40)] == [task.ref]
    await clocked.store.write(Bind(ref=unbound.ref, task_id="late", now=BEGAN + 61 * SECOND))
    assert [taken.ref for taken in await clocked.take(61)] == [unbound.ref]


async def test_limits_count_from_the_answer_of_create_task(clocked: Clocked) -> None:
    """A task that stood in line for 20 s has its first poll, and its last, 20 s later."""
    clocked.now = BEGAN + 20 * SECOND
    task = await clocked.task()

    assert await clocked.take(54) == []
    (taken,) = await clocked.take(55)
    assert (clocked.seconds(taken.bound_at), clocked.seconds(taken.poll_after)) == (20, 55)
    late = await clocked.finish(taken, Pending("processing"), 310)
    assert clocked.seconds(late.task.next_poll_at) == 310 + LIMITS.interval / SECOND
    last = await clocked.finish((await clocked.take(315))[0], Pending("processing"), 319)
    assert last.task.next_poll_at is None
    assert await clocked.polls(task) == (2, ["Pending", "Pending"])
