"""The log of results by cursor, and the waits on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import RunningReceiver, eventually, running_receiver


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver with a low limit on waits."""
    async with running_receiver(tmp_path / "receiver.db", max_waiters=3) as running:
        yield running


async def finish(api: RunningReceiver, task_id: str, solution: Any = None, **fields: Any) -> Any:
    """Register a task and end it by its callback. Return its registration."""
    registered = await api.register(**fields)
    await api.call_back(registered["callbackUrl"], taskId=task_id, solution=solution or {"text": "44795sds"})
    return registered


def ids(page: Any) -> list[str]:
    """Return the taskIds on a page."""
    return [entry["task"]["taskId"] for entry in page["results"]]


async def read(api: RunningReceiver, **parameters: Any) -> Any:
    """Return a page of the log."""
    answer = await api.send("GET", "/v1/results", params=parameters)
    assert answer.status == 200, answer.body
    return answer.json


async def test_pages_follow_each_other(api: RunningReceiver) -> None:
    """Reading from cursor to cursor gives each result once, in the order of the commits."""
    for number in range(5):
        await finish(api, f"T{number}")

    first = await read(api, after="start", limit=2)
    second = await read(api, after=first["cursor"], limit=2)
    third = await read(api, after=second["cursor"], limit=2)

    assert [ids(page) for page in (first, second, third)] == [["T0", "T1"], ["T2", "T3"], ["T4"]]
    assert [page["more"] for page in (first, second, third)] == [True, True, False]


async def test_without_a_cursor_the_log_is_read_from_now(api: RunningReceiver) -> None:
    """Earlier results are not on the page."""
    await finish(api, "T")

    page = await read(api)

    assert (page["results"], page["more"]) == ([], False)


async def test_reading_from_a_registration_cannot_miss_its_task(api: RunningReceiver) -> None:
    """The cursor of a registration stands before the task's result, and behind all earlier results."""
    await finish(api, "before")
    registered = await finish(api, "T")

    page = await read(api, after=registered["cursor"])

    assert ids(page) == ["T"]


async def test_provider_and_all_tags_or_named_tasks(api: RunningReceiver) -> None:
    """The filter is (provider AND all tags) OR tasks."""
    await finish(api, "both", tags=["a", "b"])
    await finish(api, "one", tags=["a"])
    named = await finish(api, "named")
    await finish(api, "other")

    page = await read(api, after="start", provider="capsolver", tags="b,a", tasks=f"{named['ref']},capsolver:other")

    assert sorted(ids(page)) == ["both", "named", "other"]


async def test_the_cursor_goes_past_what_does_not_match(api: RunningReceiver) -> None:
    """`cursor` is the end of the search, not the last match."""
    await finish(api, "T")

    page = await read(api, after="start", tags="rare")

    assert page["results"] == []
    assert page["cursor"] == (await read(api, after="start"))["cursor"]


async def test_named_tasks_that_are_finished_come_whatever_the_cursor(api: RunningReceiver) -> None:
    """A named task comes even if the cursor is behind its result."""
    registered = await finish(api, "T")
    end = (await read(api, after="start"))["cursor"]

    page = await read(api, after=end, tasks=registered["ref"], wait=20)

    assert ids(page) == ["T"]


async def test_no_named_tasks_means_none_yet(api: RunningReceiver) -> None:
    """An empty `tasks` alone reads nothing, and gets past everything."""
    await finish(api, "T")

    page = await read(api, after="start", tasks="")

    assert page["results"] == []


@pytest.mark.parametrize("after", ["000000000000-0", "000000000000-99"])
async def test_a_cursor_of_another_log_is_a_gap(api: RunningReceiver, after: str) -> None:
    """A useless cursor gets 410 with the reason, and with a cursor of the oldest entry kept."""
    await finish(api, "T")

    answer = await api.send("GET", "/v1/results", params={"after": after})

    assert (answer.status, answer.json["type"]) == (410, "urn:callback-receiver:problem:cursor-gone")
    assert answer.json["reason"] == "other-log"
    assert ids(await read(api, after=answer.json["resumesAt"])) == ["T"]


@pytest.mark.parametrize("after", ["x", "999999999999-99999999999999999999", "-1", "start-0"])
async def test_what_is_no_cursor_is_refused(api: RunningReceiver, after: str) -> None:
    """A malformed cursor gets 422 that names `after`."""
    answer = await api.send("GET", "/v1/results", params={"after": after})

    assert (answer.status, answer.json["detail"].split(",")[0]) == (422, "after")


async def test_a_cursor_beyond_the_end_is_a_gap(api: RunningReceiver) -> None:
    """Readers of a restored database do not wait forever: they go on from the oldest entry kept."""
    await finish(api, "T")
    end = (await read(api, after="start"))["cursor"]
    beyond = f"{end.rpartition('-')[0]}-99"

    answer = await api.send("GET", "/v1/results", params={"after": beyond})

    assert (answer.status, answer.json["reason"]) == (410, "beyond-end")
    assert ids(await read(api, after=answer.json["resumesAt"])) == ["T"]


async def test_a_wait_on_the_log_ends_with_the_next_result(api: RunningReceiver) -> None:
    """The page comes at the commit, not at the end of the wait."""
    registered = await api.register()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        waiting = group.create_task(read(api, wait=40))
        await until_waiting(api)
        await api.call_back(registered["callbackUrl"], taskId="T")

    assert ids(waiting.result()) == ["T"]


@pytest.mark.parametrize("by", ["ref", "taskId", "taskId that is not known yet"])
async def test_a_wait_for_one_task_ends_with_its_outcome(api: RunningReceiver, by: str) -> None:
    """A wait by ref or by taskId ends at the commit, even for an id that is not bound yet."""
    registered = await api.register()
    if by == "taskId":
        await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "T"})
    wanted = registered["ref"] if by == "ref" else "T"
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        waiting = group.create_task(api.send("GET", f"/v1/tasks/{wanted}", headers={"Prefer": "wait=40"}))
        await until_waiting(api)
        await api.call_back(registered["callbackUrl"], taskId="T")

    answer = waiting.result()
    assert (answer.status, answer.json["taskId"]) == (200, "T")
    assert answer.headers["Preference-Applied"] == "wait=40"


@pytest.mark.parametrize(("solution", "status"), [({"text": "x"}, 200), (None, 202)])
async def test_a_wait_for_an_id_ends_when_the_id_is_bound(
    api: RunningReceiver, solution: dict[str, str] | None, status: int
) -> None:
    """A wait by taskId ends when the id is bound to a finished task, and goes on for an unfinished one."""
    registered = await api.register()
    await api.call_back(registered["callbackUrl"], solution=solution, status="ready" if solution else "processing")
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        waiting = group.create_task(api.send("GET", f"/v1/tasks/T?wait={40 if solution else 0.5}"))
        await until_waiting(api)
        await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "T"})

    assert (waiting.result().status, waiting.result().json["ref"]) == (status, registered["ref"])


async def test_a_wait_tells_what_became_of_a_task_since_its_outcome(api: RunningReceiver) -> None:
    """The wait returns the id of createTask, bound after the callback, and the dispute, as a plain read does."""
    registered = await api.register()
    await api.call_back(registered["callbackUrl"], taskId="of the callback")
    await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "of createTask"})

    task = (await api.send("GET", f"/v1/tasks/{registered['ref']}?wait=50")).json

    assert (task["taskId"], task["disputed"]) == ("of createTask", True)
    assert task == await api.task(registered["ref"])


async def test_a_wait_for_a_task_that_is_deleted_ends(api: RunningReceiver) -> None:
    """A deletion ends the wait with 404 at once."""
    registered = await api.register()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        waiting = group.create_task(api.send("GET", f"/v1/tasks/{registered['ref']}?wait=40"))
        await until_waiting(api)
        await api.send("DELETE", f"/v1/tasks/{registered['ref']}")

    assert waiting.result().status == 404


async def test_large_answers_make_short_pages(api: RunningReceiver) -> None:
    """A page ends where its solutions take more than a megabyte; reading on misses nothing."""
    for number in range(12):
        await finish(api, f"T{number}", solution={"text": str(number % 10) * 200_000})

    first = await read(api, after="start", limit=1000)
    second = await read(api, after=first["cursor"], limit=1000)
    listed = (await api.send("GET", "/v1/tasks?limit=1000")).json
    rest = (await api.send("GET", f"/v1/tasks?limit=1000&page={listed['nextPage']}")).json

    assert ids(first) + ids(second) == [f"T{number}" for number in range(12)]
    assert (first["more"], second["more"]) == (True, False)
    assert [task["taskId"] for task in listed["tasks"] + rest["tasks"]] == [
        f"T{number}" for number in range(11, -1, -1)
    ]


async def test_a_wait_that_ends_in_vain_says_so(api: RunningReceiver) -> None:
    """After the wait the answer is 202 with the task, or 404 if there is none."""
    registered = await api.register()

    processing = await api.send("GET", f"/v1/tasks/{registered['ref']}?wait=0.1")
    unknown = await api.send("GET", "/v1/tasks/nobody?wait=0.1")

    assert (processing.status, processing.json["status"], unknown.status) == (202, "processing", 404)


@pytest.mark.parametrize("wait", ["-1", "nan", "inf", "soon"])
async def test_a_wait_that_is_no_time_is_refused(api: RunningReceiver, wait: str) -> None:
    """A malformed wait gets 422 that names `wait`."""
    answer = await api.send("GET", f"/v1/results?wait={wait}")

    assert (answer.status, answer.json["detail"][:5]) == (422, "wait:")


async def test_more_waits_than_the_limit_are_refused(api: RunningReceiver) -> None:
    """A wait beyond the limit gets 503 with Retry-After. Other waits and plain reads go on."""
    registered = await api.register()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        held = [group.create_task(api.send("GET", f"/v1/tasks/{registered['ref']}?wait=40")) for _ in range(3)]
        refused = await until_refused(api)
        unwaited = await api.send("GET", "/v1/results")
        await api.call_back(registered["callbackUrl"])

    assert int(refused.headers["Retry-After"]) > 0
    assert unwaited.status == 200
    assert [wait.result().status for wait in held] == [200, 200, 200]


async def test_shutdown_releases_who_waits(tmp_path: Path) -> None:
    """Waits are answered, 202 and an empty page, instead of being cut."""
    async with asyncio.timeout(30), asyncio.TaskGroup() as group, running_receiver(tmp_path / "receiver.db") as api:
        registered = await api.register()
        one = group.create_task(api.send("GET", f"/v1/tasks/{registered['ref']}?wait=40"))
        log = group.create_task(api.send("GET", "/v1/results?wait=40"))
        await eventually(lambda: api.waiting == 2)
        await api.stop()
        await eventually(lambda: one.done() and log.done())

    assert (one.result().status, log.result().status, log.result().json["results"]) == (202, 200, [])


async def until_waiting(api: RunningReceiver) -> None:
    """Return once a request waits."""
    await eventually(lambda: api.waiting == 1)


async def until_refused(api: RunningReceiver) -> Any:
    """Return the first refusal of a further wait."""
    await eventually(lambda: api.waiting == 3)
    answer = await api.send("GET", "/v1/results?wait=40")
    assert (answer.status, answer.json["type"].rpartition(":")[2]) == (503, "receiver-full")
    return answer
