"""The routes for tasks: requests, refusals and answers."""

from __future__ import annotations

import asyncio
import io
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from client.providers import DIALECTS
from tests.support import READ_ONLY, SUBMIT_ONLY, Api, running_receiver

JSON = {"Content-Type": "application/json"}
READY = {"errorId": 0, "errorCode": "", "status": "ready", "solution": {"text": "44795sds"}}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """Yield a receiver with a path in its public URL."""
    async with running_receiver(tmp_path / "receiver.db", public_url="https://hooks.example/in/") as running:
        yield running


async def test_a_registration_tells_how_to_go_on(api: Api) -> None:
    """A registration gets 201 with callback URL, fallback, the provider's limits, deadline and cursor."""
    answer = await api.send("POST", "/v1/tasks", json={"provider": "capsolver", "timeoutSeconds": 60})

    fields = answer.json
    assert answer.status == 201
    assert set(fields) == {"ref", "taskId", "callbackUrl", "fallback", "poll", "deadlineAt", "cursor"}
    assert fields["callbackUrl"].startswith("https://hooks.example/in/callback/capsolver/")
    assert len(fields["callbackUrl"].rsplit("/", 1)[1]) == 64
    assert (fields["fallback"], fields["poll"]["maxPolls"], fields["poll"]["windowSeconds"]) == ("client", 120, 300)
    task = await api.task(fields["ref"])
    lasts = datetime.fromisoformat(task["deadlineAt"]) - datetime.fromisoformat(task["createdAt"])
    assert lasts.total_seconds() == 60


async def test_a_provider_without_callbacks_gets_no_url(api: Api) -> None:
    """`callbackUrl` is null, and the first poll is due by the provider's own times."""
    registered = await api.register(provider="onecaptcha")

    assert registered["callbackUrl"] is None
    assert registered["poll"] == {
        "firstAfterSeconds": 10.0,
        "intervalSeconds": 3.0,
        "maxPolls": None,
        "windowSeconds": 300.0,
    }


async def test_without_a_public_url_there_are_no_callback_urls(tmp_path: Path) -> None:
    """Without a public URL the callback URL is null."""
    async with running_receiver(tmp_path / "receiver.db", public_url=None) as api:
        registered = await api.register()

    assert registered["callbackUrl"] is None
    assert registered["poll"]["firstAfterSeconds"] == 3.0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "provider"),
        ({"provider": "nobody"}, "provider"),
        ({"provider": 1}, "provider"),
        ({"provider": "capsolver", "callback": "x"}, "callback"),
        ({"provider": "capsolver", "tags": ["a,b"]}, "tags.0"),
        ({"provider": "capsolver", "tags": "a"}, "tags"),
        ({"provider": "capsolver", "metadata": {"x": "y" * 5000}}, "metadata"),
        ({"provider": "capsolver", "taskId": True}, "taskId"),
        ({"provider": "capsolver", "taskId": 1.5}, "taskId"),
        ({"provider": "capsolver", "taskId": 0}, "taskId"),
        ({"provider": "capsolver", "timeoutSeconds": 0}, "timeoutSeconds"),
        ({"provider": "capsolver", "clientKeyId": "secret key"}, "clientKeyId"),
        ({"provider": "capsolver", "outcome": {"source": "poll", "answer": READY}}, "taskId"),
        (
            {"provider": "capsolver", "taskId": "T", "outcome": {"source": "callback", "answer": READY}},
            "outcome.source",
        ),
        ({"provider": "capsolver", "taskId": "T", "outcome": {"source": "poll", "answer": []}}, "outcome.answer"),
        ([], "body"),
    ],
)
async def test_a_wrong_field_is_named(api: Api, body: Any, field: str) -> None:
    """A wrong field gets 422 with its name, as problem+json that is also an error of the family."""
    answer = await api.send("POST", "/v1/tasks", json=body)

    assert (answer.status, answer.headers["Content-Type"]) == (422, "application/problem+json")
    assert answer.json["type"] == "urn:callback-receiver:problem:wrong-field"
    assert answer.json["detail"].startswith(f"{field}: ")
    assert (answer.json["errorId"], answer.json["errorCode"]) == (1, "RECEIVER_WRONG_FIELD")


@pytest.mark.parametrize("body", [b"", b"{", b'{"provider": "\\ud800"}', b"[" * 1000, b"\xff", b'{"provider": NaN}'])
async def test_what_is_not_json_is_a_bad_request(api: Api, body: bytes) -> None:
    """A body that is not JSON gets 400."""
    answer = await api.send("POST", "/v1/tasks", data=body, headers=JSON)

    assert (answer.status, answer.json["type"]) == (400, "urn:callback-receiver:problem:not-json")


async def test_a_byte_order_mark_is_skipped(api: Api) -> None:
    """A BOM before the JSON is no error."""
    answer = await api.send("POST", "/v1/tasks", data=b'\xef\xbb\xbf{"provider": "capsolver"}', headers=JSON)

    assert answer.status == 201


async def test_an_api_body_over_the_limit_is_413(api: Api) -> None:
    """A body beyond the limit gets 413 before its end is read."""
    answer = await api.send("POST", "/v1/tasks", data=io.BytesIO(b"x" * 3_000_000), headers=JSON)

    assert (answer.status, answer.json["type"]) == (413, "urn:callback-receiver:problem:body-too-large")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/v1/tasks", 405),
        ("POST", "/v1/results", 405),
        ("HEAD", "/v1/tasks/x", 405),
        ("GET", "/v2", 404),
        ("POST", "/v1/tasks/", 404),
    ],
)
async def test_a_wrong_address_or_method_is_told(api: Api, method: str, path: str, status: int) -> None:
    """An unknown path gets 404, and an unknown method 405 with Allow."""
    answer = await api.send(method, path)

    assert answer.status == status
    assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("key", [None, "wrong-key-wrong-key-wrong-key", "", "Ünïcödé-" * 4])
async def test_without_a_known_key_there_is_401(api: Api, key: str | None) -> None:
    """No key and a wrong one get the same status, and are told how to send one."""
    answer = await api.send("GET", "/v1/tasks", key=key)

    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("method", "path", "key"),
    [
        ("GET", "/v1/tasks", SUBMIT_ONLY),
        ("GET", "/v1/results", SUBMIT_ONLY),
        ("POST", "/v1/tasks", READ_ONLY),
        ("PATCH", "/v1/tasks/x", READ_ONLY),
        ("PUT", "/v1/tasks/x/outcome", READ_ONLY),
        ("DELETE", "/v1/tasks/x", SUBMIT_ONLY),
    ],
)
async def test_a_key_without_the_scope_gets_403(api: Api, method: str, path: str, key: str) -> None:
    """The missing scope is named."""
    answer = await api.send(method, path, key=key)

    assert (answer.status, answer.json["type"]) == (403, "urn:callback-receiver:problem:scope-missing")


async def test_an_idempotency_key_registers_once(api: Api) -> None:
    """The same key and body give the same answer, byte for byte, and one task."""
    body = {"provider": "capsolver", "tags": ["a"]}
    first = await api.send("POST", "/v1/tasks", json=body, headers={"Idempotency-Key": "k1"})

    second = await api.send("POST", "/v1/tasks", json=body, headers={"Idempotency-Key": "k1"})

    assert (second.status, second.body) == (201, first.body)
    assert len((await api.send("GET", "/v1/tasks")).json["tasks"]) == 1


async def test_an_idempotency_key_with_another_body_is_refused(api: Api) -> None:
    """The same Idempotency-Key with another body gets 422."""
    await api.send("POST", "/v1/tasks", json={"provider": "capsolver"}, headers={"Idempotency-Key": "k1"})

    answer = await api.send("POST", "/v1/tasks", json={"provider": "onecaptcha"}, headers={"Idempotency-Key": "k1"})

    assert (answer.status, answer.json["type"]) == (422, "urn:callback-receiver:problem:idempotency-key-reused")


async def test_an_idempotency_key_belongs_to_its_api_key(api: Api) -> None:
    """Two API keys may use the same one for different requests."""
    mine = await api.send("POST", "/v1/tasks", json={"provider": "capsolver"}, headers={"Idempotency-Key": "k1"})

    theirs = await api.send(
        "POST", "/v1/tasks", json={"provider": "onecaptcha"}, headers={"Idempotency-Key": "k1"}, key=SUBMIT_ONLY
    )

    assert (mine.status, theirs.status) == (201, 201)


async def test_concurrent_requests_with_one_idempotency_key_make_one_task(api: Api) -> None:
    """Each request gets the task, or 409 because the first is in flight."""
    async with asyncio.TaskGroup() as group:
        sent = [
            group.create_task(
                api.send("POST", "/v1/tasks", json={"provider": "capsolver"}, headers={"Idempotency-Key": "k1"})
            )
            for _ in range(10)
        ]

    assert {request.result().status for request in sent} <= {201, 409}
    assert len((await api.send("GET", "/v1/tasks")).json["tasks"]) == 1


async def test_a_known_task_id_is_answered_with_its_task(api: Api) -> None:
    """Registering an id again is 200 with the task as it is."""
    first = await api.register(taskId="T", tags=["mine"])

    answer = await api.send("POST", "/v1/tasks", json={"provider": "capsolver", "taskId": "T"})

    assert (answer.status, answer.json["ref"], answer.json["tags"]) == (200, first["ref"], ["mine"])


async def test_a_report_after_the_fact_is_one_request(api: Api) -> None:
    """With `taskId` and `outcome` the task is registered and ended at once; sent again it changes nothing."""
    # Not longer ago than results are kept.
    finished_at = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    body = {
        "provider": "onecaptcha",
        "taskId": "T",
        "outcome": {"source": "poll", "answer": READY, "polls": 4, "finishedAt": finished_at.isoformat()},
    }
    first = await api.send("POST", "/v1/tasks", json=body)

    second = await api.send("POST", "/v1/tasks", json=body)

    task = await api.task("T")
    assert (first.status, second.status, second.json) == (201, 200, task)
    assert (task["status"], task["source"], task["trust"]) == ("ready", "poll", "reported")
    times = [datetime.fromisoformat(task[name]) for name in ("finishedAt", "validUntil")]
    assert times == [finished_at, finished_at + timedelta(minutes=2)]
    assert len((await api.log())["results"]) == 1


async def test_a_synchronous_answer_is_reported_as_submitted(api: Api) -> None:
    """A createTask answer with the solution in it binds the id and ends the task, source `submit`."""
    registered = await api.register()

    answer = await api.send(
        "PUT",
        f"/v1/tasks/{registered['ref']}/outcome",
        json={"source": "submit", "answer": {**READY, "taskId": "2376919c"}},
    )

    assert answer.json["verdict"] == "accepted"
    assert (answer.json["task"]["source"], answer.json["task"]["taskId"]) == ("submit", "2376919c")


@pytest.mark.parametrize(
    ("source", "answer", "verdict"),
    [
        ("submit", {"errorId": 1, "errorCode": "ERROR_KEY_DENIED_ACCESS"}, "accepted"),
        ("submit", {"errorId": 0, "taskId": "T"}, "notFinal"),
        ("poll", {"errorId": 0, "status": "processing"}, "notFinal"),
        ("poll", {"errorId": 1, "errorCode": "ERROR_KEY_DENIED_ACCESS"}, "notFinal"),
        ("poll", {"errorId": 1, "errorCode": "ERROR_ZERO_BALANCE"}, "notFinal"),
        ("poll", {"errorId": 1, "errorCode": "ERROR_TASKID_INVALID"}, "notFinal"),
        ("poll", {"errorId": 1, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE"}, "accepted"),
        ("poll", {"errorId": 1, "errorCode": "A_CODE_THAT_NOBODY_KNOWS"}, "accepted"),
    ],
)
async def test_only_an_error_about_the_task_is_an_outcome(
    api: Api, source: str, answer: dict[str, Any], verdict: str
) -> None:
    """Errors about the request end a task at submit only; an unknown id, only after the provider's window."""
    registered = await api.register()

    reported = await api.send(
        "PUT", f"/v1/tasks/{registered['ref']}/outcome", json={"source": source, "answer": answer}
    )

    assert reported.json["verdict"] == verdict
    assert reported.json["task"]["status"] == ("failed" if verdict == "accepted" else "processing")


async def test_an_answer_that_is_none_of_the_providers_is_refused(api: Api) -> None:
    """422 `unreadable-answer`, and nothing is stored."""
    registered = await api.register()

    answer = await api.send(
        "PUT", f"/v1/tasks/{registered['ref']}/outcome", json={"source": "poll", "answer": {"errorId": [1]}}
    )

    assert (answer.status, answer.json["type"]) == (422, "urn:callback-receiver:problem:unreadable-answer")
    assert (await api.task(registered["ref"]))["status"] == "processing"


async def test_a_report_of_a_provider_that_is_not_declared_any_more_is_refused(tmp_path: Path) -> None:
    """The report gets 422 `unreadable-answer`, because no dialect can read it. The task stays."""
    database = tmp_path / "receiver.db"
    async with running_receiver(database) as api:
        registered = await api.register()
    others = {name: dialect for name, dialect in DIALECTS.items() if name != "capsolver"}
    async with running_receiver(database, dialects=others) as api:
        answer = await api.send(
            "PUT", f"/v1/tasks/{registered['ref']}/outcome", json={"source": "poll", "answer": READY}
        )
        task = await api.task(registered["ref"])

    assert (answer.status, answer.json["type"]) == (422, "urn:callback-receiver:problem:unreadable-answer")
    assert "capsolver" in answer.json["detail"]
    assert task["status"] == "processing"


@pytest.mark.parametrize("ref", ["nothing", "%00", "%FF", "a" * 3000, "0199%2F..", "%F0%9F%92%A9"])
@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("PATCH", ""), ("PUT", "/outcome"), ("DELETE", "")])
async def test_an_unknown_task_is_404(api: Api, ref: str, method: str, suffix: str) -> None:
    """An unknown task gets 404, whatever the path contains."""
    body = {"PATCH": {"taskId": "T"}, "PUT": {"source": "poll", "answer": READY}}.get(method)

    answer = await api.send(method, f"/v1/tasks/{ref}{suffix}", json=body)

    assert (answer.status, answer.json["type"]) == (404, "urn:callback-receiver:problem:unknown-task")


async def test_tasks_are_listed_newest_first_by_page(api: Api) -> None:
    """Pages hold each task once; filters by status, provider and tag hold together."""
    refs = [(await api.register(tags=["odd" if number % 2 else "even"]))["ref"] for number in range(7)]
    await api.register(provider="onecaptcha", tags=["odd"])

    first = (await api.send("GET", "/v1/tasks?provider=capsolver&tag=odd&limit=2")).json
    second = (await api.send("GET", f"/v1/tasks?provider=capsolver&tag=odd&limit=2&page={first['nextPage']}")).json

    assert [task["ref"] for task in first["tasks"]] == [refs[5], refs[3]]
    assert [task["ref"] for task in second["tasks"]] == [refs[1]]
    assert second["nextPage"] is None


async def test_tasks_are_listed_by_status(api: Api) -> None:
    """`processing`, `ready` and `failed` are the words of the task itself."""
    waiting = await api.register()
    done = await api.register(taskId="T", outcome={"source": "poll", "answer": READY})

    listed = {
        status: (await api.send("GET", f"/v1/tasks?status={status}")).json["tasks"]
        for status in ("processing", "ready", "failed")
    }

    assert {status: [task["ref"] for task in tasks] for status, tasks in listed.items()} == {
        "processing": [waiting["ref"]],
        "ready": [done["ref"]],
        "failed": [],
    }


@pytest.mark.parametrize(
    "query", ["status=done", "page=x", "limit=0", "limit=1001", "limit=x", "nonsense=1", "tag=a&tag=b", "tag=%00"]
)
async def test_a_wrong_parameter_is_named(api: Api, query: str) -> None:
    """A wrong parameter gets 422 with its name."""
    answer = await api.send("GET", f"/v1/tasks?{query}")

    assert answer.status == 422
    assert answer.json["detail"].startswith(query.partition("=")[0])


async def test_health_needs_no_key(api: Api) -> None:
    """`/healthz` and `/readyz` need no key."""
    alive = await api.send("GET", "/healthz", key=None)
    ready = await api.send("GET", "/readyz", key=None)

    assert (alive.status, ready.status) == (200, 200)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "["},
        *(
            {name: "203.0.113.7"}
            for name in (
                *("Forwarded", "Via", "X-Forwarded-For", "x-forwarded-host", "X-Forwarded-Proto", "X-Forwarded-Port"),
                *("X-Real-IP", "X-Client-IP", "X-Cluster-Client-IP", "True-Client-IP", "CF-Connecting-IP", "CF-Ray"),
                *("CDN-Loop", "Fly-Client-IP", "Fastly-Client-IP", "X-Original-URL", "X-Original-Forwarded-For"),
                *(
                    "X-Rewrite-URL",
                    "X-Envoy-External-Address",
                    "X-Azure-ClientIP",
                    "X-Amzn-Trace-Id",
                    "DO-Connecting-IP",
                ),
            )
        ),
    ],
    ids=lambda headers: next(iter(headers.items()))[0],
)
async def test_without_keys_only_this_machine_may_ask(tmp_path: Path, headers: dict[str, str]) -> None:
    """Anonymous access ends at a proxy and at another host name (DNS rebinding)."""
    async with running_receiver(tmp_path / "receiver.db", api_keys="", allow_anonymous=True) as api:
        direct = await api.send("GET", "/v1/tasks", key=None)
        refused = await api.send("GET", "/v1/tasks", key=None, headers=headers)

    assert direct.status == 200
    assert refused.status in (400, 401)


@pytest.mark.sqlite
async def test_a_database_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Reads get 503 with Retry-After, for one task and for pages alike. The process lives on."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        registered = await api.register()
        # Another program destroys the tables under the running receiver.
        with closing(sqlite3.connect(tmp_path / "receiver.db")) as other:
            other.execute("DROP TABLE task")
            other.commit()
        answers = [await api.send("GET", path) for path in (f"/v1/tasks/{registered['ref']}", "/v1/tasks")]

        assert [answer.status for answer in answers] == [503, 503]
        assert all("Retry-After" in answer.headers for answer in answers)
        assert (await api.send("GET", "/healthz")).status == 200
