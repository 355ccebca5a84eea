"""A key that is limited to providers: it uses and sees these alone, on every route and stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from receiver.web.routes import ROUTES
from tests.receiver.keys import new_key
from tests.receiver.web.sockets import open_events, open_socket, problem_of
from tests.support import RunningReceiver, running_receiver

MINE, OTHER, THIRD = "capsolver", "twocaptcha", "anticaptcha"
REPORT = {"source": "poll", "answer": {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}}}

CHECKED = {
    ("POST", "/v1/tasks"),
    ("GET", "/v1/tasks"),
    ("GET", "/v1/tasks/{id}"),
    ("PATCH", "/v1/tasks/{id}"),
    ("DELETE", "/v1/tasks/{id}"),
    ("GET", "/v1/tasks/{id}/timeline"),
    ("PUT", "/v1/tasks/{id}/outcome"),
    ("GET", "/v1/results"),
    ("GET", "/v1/results/stream"),
    ("GET", "/v1/subscribe"),
    ("POST", "/v1/tickets"),
    ("GET", "/metrics"),
}
"""The routes that this file checks."""


class Limited:
    """A receiver with tasks of three providers, and a key for one of them, with all scopes."""

    def __init__(self, api: RunningReceiver, secret: str, refs: dict[str, str]) -> None:
        self.api = api
        self.secret = secret
        self.refs = refs

    async def send(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Return the status and the slug of the problem, or else the JSON."""
        answer = await self.api.send(method, path, key=self.secret, **options)
        body: Any = answer.json if answer.body.startswith(b"{") else None
        return answer.status, body["type"].rpartition(":")[2] if answer.status >= 400 else body

    async def finish(self, provider: str) -> None:
        """Give the task of a provider an outcome."""
        assert (await self.api.send("PUT", f"/v1/tasks/{self.refs[provider]}/outcome", json=REPORT)).status == 200


@pytest.fixture(params=[True, False], ids=["front", "application"])
async def limited(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Limited]:
    """Yield the receiver, with the front for plain requests and without it."""
    database = tmp_path / "receiver.db"
    async with running_receiver(database, has_front=request.param) as api:
        _, secret = await new_key(api, database, scopes=("submit", "read", "admin"), providers=(MINE,))
        refs = {
            provider: (await api.register(provider=provider, taskId="t-1"))["ref"] for provider in (OTHER, THIRD, MINE)
        }
        yield Limited(api, secret, refs)


def test_every_route_is_checked() -> None:
    """A new route with a key needs its checks here."""
    assert {(route.method, route.path) for route in ROUTES if route.scope is not None} == CHECKED


async def test_it_registers_tasks_of_its_provider_alone(limited: Limited) -> None:
    """Another provider, known or not, is refused with 403 before anything is stored."""
    mine, *others = [
        await limited.send("POST", "/v1/tasks", json={"provider": provider, "tags": ["new"]})
        for provider in (MINE, OTHER, "unheardof")
    ]

    assert mine[0] == 201
    assert others == [(403, "provider-not-allowed")] * 2
    assert [task["provider"] for task in (await limited.api.send("GET", "/v1/tasks?tag=new")).json["tasks"]] == [MINE]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/tasks/{ref}", None),
        ("GET", "/v1/tasks/{ref}?wait=0.1", None),
        ("GET", "/v1/tasks/{ref}/timeline", None),
        ("PATCH", "/v1/tasks/{ref}", {"taskId": "t-2"}),
        ("PUT", "/v1/tasks/{ref}/outcome", REPORT),
        ("DELETE", "/v1/tasks/{ref}", None),
    ],
)
async def test_tasks_of_other_providers_are_unknown(
    limited: Limited, method: str, path: str, body: dict[str, Any] | None
) -> None:
    """The answer to their refs is that to a ref of no task, and nothing is changed."""
    before = await limited.api.task(limited.refs[OTHER])
    answers = [
        await limited.api.send(method, path.format(ref=ref), key=limited.secret, json=body)
        for ref in (limited.refs[OTHER], "01890a5d-ac96-774b-bcce-b302099a8057")
    ]

    assert [answer.status for answer in answers] == [404, 404]
    assert answers[0].body == answers[1].body
    assert await limited.api.task(limited.refs[OTHER]) == before


@pytest.mark.parametrize("path", ["/v1/tasks/t-1", "/v1/tasks/t-1?wait=0.1"])
async def test_an_id_of_several_providers_means_that_of_its_own(limited: Limited, path: str) -> None:
    """Other tasks with the same id neither hide it nor make it ambiguous."""
    status, task = await limited.send("GET", path)

    assert (status, task["ref"]) == (202, limited.refs[MINE])
    assert (await limited.send("GET", "/v1/tasks/t-1/timeline"))[0] == 200


async def test_an_id_of_another_provider_is_unknown(limited: Limited) -> None:
    """An id is found only among its own tasks."""
    await limited.api.register(provider=OTHER, taskId="t-9")

    assert await limited.send("GET", "/v1/tasks/t-9") == (404, "unknown-task")


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/tasks/t-1?provider={OTHER}",
        f"/v1/tasks/t-1/timeline?provider={OTHER}",
        f"/v1/tasks?provider={OTHER}",
        f"/v1/results?provider={OTHER}",
        f"/v1/results?tasks={OTHER}:t-1",
        f"/v1/results/stream?provider={OTHER}",
        f"/v1/results/stream?tasks={MINE}:t-1,{OTHER}:t-1",
        "/metrics",
    ],
)
async def test_another_provider_is_refused_by_its_name(limited: Limited, path: str) -> None:
    """A request that names another provider gets 403, and metrics are of all providers."""
    assert await limited.send("GET", path) == (403, "provider-not-allowed")


async def test_its_own_tasks_take_everything(limited: Limited) -> None:
    """The limit takes nothing away from its own provider."""
    path = f"/v1/tasks/{limited.refs[MINE]}"
    answers = [
        await limited.send("GET", f"/v1/tasks/t-1?provider={MINE}"),
        await limited.send("PATCH", path, json={"taskId": "t-1"}),
        await limited.send("PUT", f"{path}/outcome", json=REPORT),
        await limited.send("GET", path),
        await limited.send("DELETE", path),
    ]

    assert [status for status, _ in answers] == [202, 200, 200, 200, 204]


async def test_lists_hold_its_own_tasks(limited: Limited) -> None:
    """A list without a provider is a list of its own tasks, by tag as well."""
    for provider in (MINE, OTHER):
        await limited.api.register(provider=provider, tags=["night"])
    (_, everything), (_, tagged) = [
        await limited.send("GET", path) for path in ("/v1/tasks?limit=10", "/v1/tasks?tag=night")
    ]

    assert {task["provider"] for task in everything["tasks"] + tagged["tasks"]} == {MINE}
    assert (len(everything["tasks"]), len(tagged["tasks"])) == (2, 1)


async def test_pages_hold_its_own_results(limited: Limited) -> None:
    """Results, hints and deletions of other providers are not in them, though they are named by their refs."""
    for provider in (OTHER, MINE):
        await limited.finish(provider)
    for provider in (OTHER, THIRD, MINE):
        await limited.api.send("DELETE", f"/v1/tasks/{limited.refs[provider]}")
    again = (await limited.api.register(provider=OTHER, taskId="t-7"))["ref"]
    await limited.api.send("PUT", f"/v1/tasks/{again}/outcome", json=REPORT)
    pages = [
        (await limited.send("GET", f"/v1/results?after=start&hints=true{more}"))[1]["results"]
        for more in ("", f"&tasks={again}", f"&tasks={again},{limited.refs[MINE]}&provider={MINE}")
    ]

    assert [[(entry["ref"], entry["deleted"]) for entry in page] for page in pages] == [
        [(limited.refs[MINE], True)]
    ] * 3


async def test_a_wait_for_a_page_ends_with_its_own_result(limited: Limited) -> None:
    """A result of another provider does not end the wait."""
    _, page = await limited.send("GET", "/v1/results?after=start")
    await limited.finish(OTHER)
    _, waited = await limited.send("GET", f"/v1/results?after={page['cursor']}&wait=0.3")
    await limited.finish(MINE)
    _, last = await limited.send("GET", f"/v1/results?after={waited['cursor']}&wait=30")

    assert waited["results"] == []
    assert [entry["task"]["ref"] for entry in last["results"]] == [limited.refs[MINE]]


async def deleted_and_finished(limited: Limited) -> None:
    """End the tasks of all providers: two by results, one by its deletion."""
    await limited.finish(OTHER)
    await limited.api.send("DELETE", f"/v1/tasks/{limited.refs[THIRD]}")
    await limited.finish(MINE)


@pytest.mark.parametrize("is_behind", [False, True], ids=["from the tail", "from the store"])
async def test_a_websocket_brings_its_own_results(limited: Limited, is_behind: bool) -> None:
    """Results and deletions of other providers are passed over, as they come and from the past."""
    if is_behind:
        await deleted_and_finished(limited)
    async with open_socket(limited.api, key=limited.secret) as socket:
        await socket.ask(type="subscribe", id=1, hints=True, cursor="start")
        if not is_behind:
            await deleted_and_finished(limited)
        first = await socket.next()
        await limited.api.send("DELETE", f"/v1/tasks/{limited.refs[MINE]}")
        second = await socket.next()

    assert (first["type"], first["task"]["ref"]) == ("result", limited.refs[MINE])
    assert (second["type"], second["ref"]) == ("deleted", limited.refs[MINE])


@pytest.mark.parametrize(
    "frame",
    [{"type": "subscribe", "provider": OTHER}, {"type": "subscribe", "tasks": [{"provider": OTHER, "taskId": "t-1"}]}],
)
async def test_a_websocket_refuses_another_provider(limited: Limited, frame: dict[str, Any]) -> None:
    """A frame that names one changes nothing."""
    async with open_socket(limited.api, key=limited.secret) as socket:
        refused = problem_of(await socket.ask(id=1, **frame))
        await socket.ask(type="subscribe", id=2, tasks=[])
        added = problem_of(await socket.ask(type="add", id=3, tasks=[{"provider": OTHER, "taskId": "t-1"}]))

    assert (refused, added) == ((1, "provider-not-allowed"), (3, "provider-not-allowed"))


async def test_the_ref_of_another_provider_is_that_of_no_task(limited: Limited) -> None:
    """A websocket answers both as deleted, and gets nothing when the task ends."""
    unknown = "01890a5d-ac96-774b-bcce-b302099a8057"
    async with open_socket(limited.api, key=limited.secret) as socket:
        await socket.ask(type="subscribe", id=1, tasks=[limited.refs[OTHER], unknown, limited.refs[MINE]])
        frames = [await socket.next() for _ in range(2)]
        await deleted_and_finished(limited)
        frames.append(await socket.next())

    assert [(frame["type"], frame.get("ref") or frame["task"]["ref"]) for frame in frames] == [
        ("deleted", limited.refs[OTHER]),
        ("deleted", unknown),
        ("result", limited.refs[MINE]),
    ]


async def test_events_bring_its_own_results(limited: Limited) -> None:
    """Server-sent events are limited, too, also by a ticket of the key."""
    _, ticket = await limited.send("POST", "/v1/tickets")
    async with (
        open_events(limited.api, key=limited.secret) as by_key,
        open_events(limited.api, key=None, ticket=ticket["ticket"]) as by_ticket,
    ):
        for events in (by_key, by_ticket):
            assert (await events.next())[0] == "heartbeat"
        await deleted_and_finished(limited)
        seen = [await events.next() for events in (by_key, by_ticket)]

    assert [(name, frame["task"]["ref"]) for name, _, frame in seen] == [("result", limited.refs[MINE])] * 2


async def test_a_websocket_by_a_ticket_is_limited(limited: Limited) -> None:
    """A ticket opens no more than its key."""
    _, ticket = await limited.send("POST", "/v1/tickets")
    async with open_socket(limited.api, key=None, protocols=(f"ticket.{ticket['ticket']}",)) as socket:
        assert problem_of(await socket.ask(type="subscribe", id=1, provider=OTHER)) == (1, "provider-not-allowed")
