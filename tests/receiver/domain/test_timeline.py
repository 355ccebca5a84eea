"""The timeline of a task: the text of each step, and the event that a waiting task waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from client.protocol.models import NO_ANSWER, TaskTimeline
from client.providers import PollPlan
from receiver.domain.records import IGNORED, SECOND, History, Outcome, PollRecord, StoredDelivery, TaskRecord
from receiver.domain.timeline import timeline_of
from tests.receiver.storage.stores import NOW, a_task
from tests.support import READ_ONLY, SUBMIT_ONLY, Api, eventually, running_receiver

PLAN = PollPlan(
    first_after_seconds=3, first_after_callback_seconds=20, interval_seconds=5, max_polls=10, window_seconds=300
)
READY = Outcome("ready", '{"text":"a secret answer"}', 0, None, None, "callback", "token", NOW + 4 * SECOND, None)
GIVEN_UP = Outcome("failed", None, 1, NO_ANSWER, "none came", "deadline", "reported", NOW + 3 * SECOND, None)


def waiting_task(**fields: Any) -> TaskRecord:
    """Return a task with an id, whose first poll is due in 20 s."""
    due = NOW + 20 * SECOND
    given: dict[str, Any] = {"task_id": "37223a89", "bound_by": "create", "poll_after": due, "next_poll_at": due}
    return a_task("0199", created_at=NOW, deadline_at=NOW + 300 * SECOND, **{**given, **fields})


def timeline_now(task: TaskRecord, history: History | None = None, *, now: int = NOW) -> TaskTimeline:
    """Return the timeline of a task with this history."""
    return timeline_of(task, history or History(), PLAN, now=now)


def a_delivery(verdict: str, **fields: Any) -> StoredDelivery:
    """Return a kept delivery of this verdict."""
    given: dict[str, Any] = {"received_at": NOW + 5 * SECOND, "method": "POST", "content_type": "application/json"}
    return StoredDelivery(
        verdict=verdict, **{**given, "body": b"a secret body", "size": 13, "id_text": "37223a89", **fields}
    )


def texts(timeline: TaskTimeline) -> str:
    """Return the texts of all steps."""
    return "\n".join(step.text for step in timeline.steps)


def test_a_held_callback_says_whether_it_still_is() -> None:
    """An answer that came in another way meanwhile, such as a client's report, ends the hold."""
    history = History((a_delivery("held"),), (), (READY,))

    waiting = timeline_now(waiting_task(deliveries=1, held_until=NOW + SECOND), History((a_delivery("held"),)))
    settled = timeline_now(waiting_task(deliveries=1, outcome=READY), history)

    assert "it is held back until the provider has confirmed it" in texts(waiting)
    assert "meanwhile the answer came by a poll or a report" in texts(settled)


def test_steps_come_in_the_order_of_time() -> None:
    """Registration and id come first, then the events by their time. An outcome stands before its repetitions."""
    polls = (PollRecord(NOW + 2 * SECOND, NOW + 3 * SECOND, 1, "processing"),)
    accepted = a_delivery("accepted", received_at=READY.finished_at)
    history = History((accepted, a_delivery("late")), polls, (READY,))

    timeline = timeline_now(waiting_task(outcome=READY, deliveries=2, polls=1), history)

    assert [step.happened for step in timeline.steps] == [
        "task.registered",
        "task.bound",
        "poll.completed",
        "outcome.stored",
        "callback.stored",
        "callback.stored",
    ]
    assert timeline.waiting is None


def test_an_id_that_became_known_after_the_answer_stands_behind_it() -> None:
    """Its place is behind the answer if the callback was faster than the binding client."""
    task = waiting_task(outcome=READY, deliveries=1, bound_at=READY.finished_at + SECOND)

    timeline = timeline_now(task, History((a_delivery("accepted", received_at=READY.finished_at),), (), (READY,)))

    assert [step.happened for step in timeline.steps][-1] == "task.bound"


def test_a_replaced_outcome_is_named() -> None:
    """An answer after the deadline names the outcome that it replaced."""
    timeline = timeline_now(waiting_task(outcome=READY), History(outcomes=(GIVEN_UP, READY)))

    assert [(step.source, step.origin, step.supersedes) for step in timeline.steps[2:]] == [
        ("deadline", "receiver", None),
        ("callback", "callback", NO_ANSWER),
    ]


@pytest.mark.parametrize(
    ("delivery", "reason"),
    [
        (a_delivery("foreignAddress"), "refused (403): it came from an address outside"),
        (a_delivery("badSignature"), "refused (401): it was not signed"),
        (a_delivery("unreadable", content_type="text/html"), "refused (422): 13 bytes of 'text/html'"),
        (a_delivery("mismatched", id_text="other\x1b[2J"), r"refused (409): it names the taskId 'other\x1b[2J'"),
        (a_delivery("mismatched", standing_id="7"), "refused (409): the task has a URL of its own"),
        (a_delivery("duplicate"), "it repeats the outcome, which an earlier callback brought"),
        (a_delivery("disagreed"), "it contradicts the outcome"),
    ],
)
def test_a_delivery_says_why(delivery: StoredDelivery, reason: str) -> None:
    """Each verdict has its reason, and a stranger's text is escaped."""
    timeline = timeline_now(waiting_task(), History(deliveries=(delivery,)))

    assert reason in timeline.steps[-1].text
    assert timeline.steps[-1].verdict == delivery.verdict


def test_a_providers_text_is_escaped() -> None:
    """Codes and states come from outside. None of them moves the cursor of a terminal."""
    failed = Outcome("failed", None, 1, "ERROR\x1b[2J", None, "callback", "token", NOW, None)
    poll = PollRecord(NOW, NOW, 1, "processing idle\x07")

    timeline = timeline_now(waiting_task(outcome=failed), History(polls=(poll,), outcomes=(failed,)))

    assert texts(timeline).replace("\n", "").isprintable()


def test_an_ignored_answer_is_shown_as_ignored() -> None:
    """A poll about an id that createTask replaced meanwhile brought the task nothing."""
    poll = PollRecord(NOW, NOW, 1, IGNORED + "ready")

    timeline = timeline_now(waiting_task(), History(polls=(poll,)))

    assert timeline.steps[-1].text.endswith("createTask replaced meanwhile; the answer was ignored: ready")


def test_no_secret_is_shown() -> None:
    """A timeline holds neither solutions nor bodies."""
    timeline = timeline_now(waiting_task(outcome=READY), History((a_delivery("accepted"),), (), (READY,)))

    assert "secret" not in timeline.model_dump_json()


@pytest.mark.parametrize(
    ("fields", "now", "text"),
    [
        ({}, NOW, "its client, if it still runs, polls it next in 20 s; that is when a callback is overdue"),
        ({"is_polled_here": True}, NOW + 25 * SECOND, "this receiver should have polled it 5 s ago"),
        ({"is_polled_here": True, "leased_until": NOW + SECOND}, NOW, "this receiver is polling it now"),
        ({"task_id": None}, NOW, "its taskId is not known yet, so nobody can ask for it"),
        ({"polls": 10}, NOW, "all 10 polls that the provider allows are used up"),
        ({"hinted_at": NOW, "next_poll_at": NOW}, NOW, "a hint made it due at once"),
        ({"polled_at": NOW, "next_poll_at": NOW + 5 * SECOND}, NOW, "the provider wants 5 s between two polls"),
        ({"polled_at": NOW, "next_poll_at": NOW + 16 * SECOND}, NOW, "the waits grow with each poll"),
        ({"polled_at": NOW, "next_poll_at": NOW + 330 * SECOND}, NOW, "tells if it still knows the id"),
        ({"polled_at": NOW, "next_poll_at": None}, NOW, "no further poll fits into the 300 s"),
        ({"has_url": False}, NOW, "only a poll can end it"),
        ({"held_until": NOW + SECOND}, NOW, "a callback came, and is held back"),
        (
            {"open_to_standing": True},
            NOW,
            "it waits for a callback on its own URL, or on a standing URL, or for a poll",
        ),
        ({"outcome": READY, "is_disputed": True}, NOW, "a poll has to settle it"),
    ],
)
def test_a_waiting_task_gives_its_reason(fields: dict[str, Any], now: int, text: str) -> None:
    """The text names the poller, the time of the next poll and its reason."""
    waiting = timeline_now(waiting_task(**fields), now=now).waiting

    assert waiting is not None
    assert text in waiting.text


def test_polls_left_are_counted() -> None:
    """They are the allowed polls less the used ones. A client's polls are only a number."""
    timeline = timeline_now(waiting_task(polls=4))

    assert timeline.waiting is not None
    assert timeline.waiting.polls_left == 6
    assert "4 polls made by a client, as it reported" in texts(timeline)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """Yield a receiver."""
    async with running_receiver(tmp_path / "receiver.db") as running:
        yield running


async def test_the_timeline_of_a_task_is_served(api: Api) -> None:
    """It has refused, accepted and repeated deliveries, the hint and the outcome, each with its origin."""
    registered = await api.register()
    await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "37223a89"})
    await api.send("POST", registered["callbackUrl"], key=None, data=b"<html>")
    await api.call_back(registered["callbackUrl"], taskId="37223a89")
    await api.call_back(registered["callbackUrl"], taskId="37223a89")

    answer = await api.send("GET", "/v1/tasks/37223a89/timeline", params={"provider": "capsolver"})

    assert answer.status == 200
    assert b"44795sds" not in answer.body
    assert None not in [step["at"] for step in answer.json["steps"]]
    assert [(step["happened"], step["origin"], step["verdict"]) for step in answer.json["steps"]] == [
        ("task.registered", "admin", None),
        ("task.bound", "createTask", None),
        ("callback.stored", "task URL", "unreadable"),
        ("task.hinted", "receiver", None),
        ("outcome.stored", "callback", None),
        ("callback.stored", "task URL", "accepted"),
        ("callback.stored", "task URL", "duplicate"),
    ]
    assert (answer.json["deliveries"], answer.json["waiting"]) == (3, None)


async def test_wakes_are_counted(tmp_path: Path) -> None:
    """A long poll woken by the answer is one wake."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        registered = await api.register()
        before = (await api.send("GET", f"/v1/tasks/{registered['ref']}/timeline")).json
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(api.send("GET", f"/v1/tasks/{registered['ref']}?wait=50"))
            await eventually(lambda: api.waiting == 1)
            await api.call_back(registered["callbackUrl"])
        after = (await api.send("GET", f"/v1/tasks/{registered['ref']}/timeline")).json

    assert waiting.result().status == 200
    assert (before["wakes"], after["wakes"]) == (None, 1)


async def test_an_answer_after_the_deadline_is_a_step(api: Api) -> None:
    """The outcome of ours and the callback that replaced it are both in the log, and both are steps."""
    registered = await api.register(timeoutSeconds=0.05)
    await api.send("GET", f"/v1/tasks/{registered['ref']}?wait=50")
    await api.call_back(registered["callbackUrl"])

    steps = (await api.send("GET", f"/v1/tasks/{registered['ref']}/timeline")).json["steps"]

    outcomes = [step for step in steps if step["happened"] == "outcome.stored"]
    assert [(step["source"], step["supersedes"]) for step in outcomes] == [
        ("deadline", None),
        ("callback", "RECEIVER_SUBMIT_UNKNOWN"),
    ]


async def test_a_key_without_the_scope_is_refused(api: Api) -> None:
    """The scope is read. An unknown task gets 404."""
    registered = await api.register()
    path = f"/v1/tasks/{registered['ref']}/timeline"

    statuses = [(await api.send("GET", path, key=key)).status for key in (None, SUBMIT_ONLY, READ_ONLY)]

    assert statuses == [401, 403, 200]
    assert (await api.send("GET", "/v1/tasks/unknown/timeline")).json["type"].endswith(":unknown-task")
