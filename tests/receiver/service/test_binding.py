"""Binding of ids to tasks: by createTask, by callbacks, and by both if they differ."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from receiver.app import new_ref
from receiver.domain.tokens import Kind, make_token
from tests.support import Api, running_receiver

SIGNING_KEY = "a key that signs the tokens of these tests"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """Yield a receiver."""
    async with running_receiver(tmp_path / "receiver.db", signing_keys=SIGNING_KEY, standing_max_tasks=3) as running:
        yield running


def standing_path() -> str:
    """Return a standing URL for CapSolver, signed by the receiver, but unknown to its database."""
    return f"/callback/capsolver/{make_token(Kind.STANDING, new_ref(), 'capsolver', SIGNING_KEY.encode())}"


async def test_binding_the_bound_id_again_answers_the_task(api: Api) -> None:
    """PATCH with the bound id changes nothing and answers the task, with its outcome if there is one."""
    registered = await api.register()
    await api.call_back(registered["callbackUrl"], taskId="T")

    answer = await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "T"})

    assert (answer.status, answer.json["status"], answer.json["taskId"]) == (200, "ready", "T")
    assert "disputed" not in answer.json


async def test_create_task_cannot_name_two_ids(api: Api) -> None:
    """A second createTask id for one task is 409 and leaves the first."""
    registered = await api.register()
    await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "T"})

    answer = await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "U"})

    assert (answer.status, answer.json["type"]) == (409, "urn:callback-receiver:problem:task-id-mismatch")
    assert (await api.task(registered["ref"]))["taskId"] == "T"


async def test_an_id_that_is_taken_is_refused(api: Api) -> None:
    """PATCH with the id of another task of this provider is 409 `task-id-taken` with the ref of that task."""
    first, second = await api.register(), await api.register()
    await api.send("PATCH", f"/v1/tasks/{first['ref']}", json={"taskId": "T"})

    answer = await api.send("PATCH", f"/v1/tasks/{second['ref']}", json={"taskId": "T"})

    assert (answer.status, answer.json["type"]) == (409, "urn:callback-receiver:problem:task-id-taken")
    assert answer.json["ref"] == first["ref"]


async def test_two_providers_may_use_one_id(api: Api) -> None:
    """An id is unique within its provider. If two providers have it, the caller has to name one."""
    await api.register(taskId="T")
    other = await api.register(provider="onecaptcha", taskId="T")

    ambiguous = await api.send("GET", "/v1/tasks/T")
    chosen = await api.send("GET", "/v1/tasks/T?provider=onecaptcha")

    assert (ambiguous.status, ambiguous.json["type"]) == (409, "urn:callback-receiver:problem:ambiguous-task-id")
    assert (chosen.status, chosen.json["ref"]) == (202, other["ref"])


async def test_create_task_beats_an_id_that_only_a_callback_had_bound(api: Api) -> None:
    """The createTask id is stored, the published outcome stays and is disputed, and one poll is due now."""
    registered = await api.register()
    await api.call_back(registered["callbackUrl"], taskId="wrong")

    answer = await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "right"})

    task = answer.json
    assert (task["taskId"], task["status"], task["disputed"]) == ("right", "ready", True)
    assert task["nextPollAt"] is not None
    assert [bool(entry.get("hint")) for entry in (await api.log())["results"]] == [False, True]
    assert (await api.send("GET", "/v1/tasks/wrong")).status == 404


async def test_a_poll_that_agrees_ends_the_dispute(api: Api) -> None:
    """The provider's answer under the right id, the same as the published one, clears `disputed`."""
    registered = await api.register()
    await api.call_back(registered["callbackUrl"], taskId="wrong")
    await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "right"})
    answer = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}}

    report = await api.send("PUT", f"/v1/tasks/{registered['ref']}/outcome", json={"source": "poll", "answer": answer})

    assert report.json["verdict"] == "late"
    assert "disputed" not in report.json["task"]


async def test_a_poll_that_disagrees_leaves_the_dispute(api: Api) -> None:
    """The published outcome stays, and so does the dispute."""
    registered = await api.register()
    await api.call_back(registered["callbackUrl"], taskId="wrong")
    await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "right"})
    answer = {"errorId": 0, "status": "ready", "solution": {"text": "something else"}}

    report = await api.send("PUT", f"/v1/tasks/{registered['ref']}/outcome", json={"source": "poll", "answer": answer})

    assert report.json["verdict"] == "disagreed"
    assert report.json["task"]["disputed"] is True
    assert report.json["task"]["solution"] == {"text": "44795sds"}


async def test_a_standing_url_makes_the_task_it_does_not_know(api: Api) -> None:
    """An unknown id on a standing URL makes the task with its outcome and its log entry."""
    answer = await api.call_back(standing_path(), taskId="T")

    task = await api.task("T")
    assert (answer.status, task["status"], task["trust"]) == (200, "ready", "standing")
    assert [entry["task"]["taskId"] for entry in (await api.log())["results"]] == ["T"]


async def test_a_standing_url_cannot_end_a_task_with_a_url_of_its_own(api: Api) -> None:
    """Ids can be guessed: the delivery is 409 and a hint."""
    registered = await api.register()
    await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "T"})

    answer = await api.call_back(standing_path(), taskId="T")

    assert answer.status == 409
    assert (await api.task("T"))["status"] == "processing"
    assert [entry.get("hint") for entry in (await api.log())["results"]] == [True]


async def test_a_standing_url_ends_a_task_that_was_attached(api: Api) -> None:
    """A task registered by its id has no URL of its own, and a callback on a standing URL ends it."""
    attached = await api.register(taskId="T")

    answer = await api.call_back(standing_path(), taskId="T")

    assert (attached["callbackUrl"], answer.status) == (None, 200)
    assert (await api.task(attached["ref"]))["status"] == "ready"


async def test_a_standing_url_that_nobody_revoked_can_be_checked(api: Api) -> None:
    """GET without a query is 204 on it, as on a task's URL."""
    answer = await api.send("GET", standing_path(), key=None)

    assert answer.status == 204


async def test_a_standing_delivery_without_an_id_is_unreadable(api: Api) -> None:
    """The callback is refused, because only an id could name its task."""
    answer = await api.call_back(standing_path())

    assert answer.status == 422


async def test_a_standing_delivery_that_is_not_final_makes_nothing(api: Api) -> None:
    """A callback of an unfinished task gets 200, and makes no task."""
    answer = await api.call_back(standing_path(), taskId="T", status="processing", solution=None)

    assert answer.status == 200
    assert (await api.send("GET", "/v1/tasks/T")).status == 404


async def test_the_quota_of_a_standing_url_is_a_bound(api: Api) -> None:
    """Beyond its quota a standing URL answers 503 with Retry-After; deleting a task gives its place back."""
    path = standing_path()
    for number in range(3):
        await api.call_back(path, taskId=f"T{number}")

    full = await api.call_back(path, taskId="T3")
    await api.send("DELETE", f"/v1/tasks/{(await api.task('T0'))['ref']}")
    again = await api.call_back(path, taskId="T3")

    assert (full.status, again.status) == (503, 200)
    assert int(full.headers["Retry-After"]) > 0


async def test_binding_an_id_that_a_standing_url_had_made_joins_the_two(api: Api) -> None:
    """The outcome is copied to the ref with an entry of its own, and both refs lead to one task."""
    await api.call_back(standing_path(), taskId="T")
    made = await api.task("T")
    registered = await api.register()

    answer = await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "T"})

    assert (answer.json["status"], answer.json["solution"]) == ("ready", {"text": "44795sds"})
    assert (await api.task("T"))["ref"] == registered["ref"]
    assert (await api.task(made["ref"]))["ref"] == registered["ref"]
    assert [entry["task"]["ref"] for entry in (await api.log())["results"]] == [made["ref"], registered["ref"]]


async def test_a_joined_task_is_listed_once(api: Api) -> None:
    """The list shows the registered ref."""
    await api.call_back(standing_path(), taskId="T")
    registered = await api.register()
    await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "T"})

    listed = (await api.send("GET", "/v1/tasks")).json["tasks"]

    assert [task["ref"] for task in listed] == [registered["ref"]]


async def test_deleting_a_joined_task_forgets_both(api: Api) -> None:
    """Nothing of the answer stays under either ref, and the quota of the standing URL is given back."""
    path = standing_path()
    await api.call_back(path, taskId="T")
    made = await api.task("T")
    registered = await api.register()
    await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "T"})

    await api.send("DELETE", f"/v1/tasks/{registered['ref']}")
    later = [(await api.call_back(path, taskId=f"U{number}")).status for number in range(4)]

    assert (await api.send("GET", f"/v1/tasks/{made['ref']}")).status == 404
    assert [entry["ref"] for entry in (await api.log())["results"][:2]] == [made["ref"], registered["ref"]]
    assert later == [200, 200, 200, 503]


async def test_a_standing_url_still_serves_a_joined_task(api: Api) -> None:
    """The provider's repetition on the standing URL is a duplicate, not another task's answer."""
    path = standing_path()
    await api.call_back(path, taskId="T")
    registered = await api.register()
    await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "T"})

    answer = await api.call_back(path, taskId="T")

    assert answer.status == 200


async def test_create_task_undoes_a_join_that_only_a_callback_had_made(api: Api) -> None:
    """The other task has its id and its outcome again. Here the outcome stays, disputed as after any wrong id."""
    await api.call_back(standing_path(), taskId="wrong", solution={"text": "another task's"})
    made = await api.task("wrong")
    registered = await api.register()
    await api.call_back(registered["callbackUrl"], taskId="wrong")

    bound = (await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "right"})).json

    assert (bound["taskId"], bound["solution"], bound["disputed"]) == ("right", {"text": "another task's"}, True)
    assert bound["nextPollAt"] is not None
    assert await api.task("wrong") == made
    assert (await api.task(made["ref"]))["solution"] == {"text": "another task's"}


async def test_the_callback_behind_an_undone_join_is_mismatched(api: Api) -> None:
    """Its verdict says that it was about another task, and so does the answer to its repetition."""
    await api.call_back(standing_path(), taskId="wrong")
    registered = await api.register()
    await api.call_back(registered["callbackUrl"], taskId="wrong")
    await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "right"})

    timeline = (await api.send("GET", f"/v1/tasks/{registered['ref']}/timeline")).json
    again = await api.call_back(registered["callbackUrl"], taskId="wrong")

    assert [step["verdict"] for step in timeline["steps"] if step["verdict"]] == ["mismatched"]
    assert again.status == 409


async def test_an_undone_join_leaves_an_outcome_of_the_tasks_own(api: Api) -> None:
    """An outcome from before the join stays, and is disputed like any other of a callback."""
    await api.call_back(standing_path(), taskId="wrong", solution={"text": "another task's"})
    registered = await api.register()
    await api.call_back(registered["callbackUrl"])
    await api.call_back(registered["callbackUrl"], taskId="wrong")

    bound = (await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "right"})).json

    assert (bound["solution"], bound["disputed"]) == ({"text": "44795sds"}, True)
    assert (await api.task("wrong"))["solution"] == {"text": "another task's"}


async def test_a_callback_that_is_not_final_joins_nothing(api: Api) -> None:
    """The task takes no outcome from it, and the other keeps its id."""
    await api.call_back(standing_path(), taskId="T")
    made = await api.task("T")
    registered = await api.register()

    answer = await api.call_back(registered["callbackUrl"], taskId="T", status="processing", solution=None)

    assert answer.status == 200
    assert (await api.task("T"))["ref"] == made["ref"]
    assert (await api.task(registered["ref"]))["status"] == "processing"
