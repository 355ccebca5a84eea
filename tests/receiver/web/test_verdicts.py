"""Every verdict of a delivery, its HTTP status, and its effects."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from receiver.app import new_ref
from receiver.domain.tokens import Kind, make_token
from tests.dialects import ALL_DIALECTS
from tests.support import Api, running_receiver

SECRET = "what the provider signs with"
SIGNING_KEY = "a key that signs the tokens of these tests"
READY = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}}
OTHER = {"errorId": 0, "status": "ready", "solution": {"text": "other"}}
FAILED = {"errorId": 1, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE", "errorDescription": "no worker could"}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """Yield a receiver with the providers of the tests as well."""
    async with running_receiver(
        tmp_path / "receiver.db",
        dialects=ALL_DIALECTS,
        callback_secrets={"capsolution": SECRET},
        signing_keys=SIGNING_KEY,
        max_body_bytes=4096,
        unreadable_max_bytes=1200,
    ) as running:
        yield running


def is_hinted(log: Any) -> bool:
    """Return True if the log holds a hint."""
    return any(entry.get("hint") for entry in log["results"])


async def test_the_first_answer_is_accepted(api: Api) -> None:
    """A ready answer on the task's URL is 200 and becomes the outcome."""
    registered = await api.register(type="ImageToTextTask", tags=["checkout"], metadata={"order": 7})

    answer = await api.call_back(registered["callbackUrl"], taskId="37223a89")

    assert (answer.status, answer.headers["Cache-Control"], len(answer.body) < 20) == (200, "no-store", True)
    task = await api.task(registered["ref"])
    assert {
        name: task[name] for name in ("status", "errorId", "errorCode", "solution", "taskId", "source", "trust")
    } == {
        "status": "ready",
        "errorId": 0,
        "errorCode": None,
        "solution": {"text": "44795sds"},
        "taskId": "37223a89",
        "source": "callback",
        "trust": "token",
    }
    assert (task["type"], task["tags"], task["metadata"]) == ("ImageToTextTask", ["checkout"], {"order": 7})
    assert task["nextPollAt"] is None
    assert [entry["task"]["ref"] for entry in (await api.log())["results"]] == [registered["ref"]]


async def test_a_failure_is_accepted_with_its_code(api: Api) -> None:
    """A failed task has status failed, errorId of at least 1 and the provider's code."""
    registered = await api.register()

    answer = await api.send("POST", registered["callbackUrl"], key=None, json=FAILED)

    task = await api.task(registered["ref"])
    assert answer.status == 200
    assert (task["status"], task["errorId"], task["errorCode"]) == ("failed", 1, "ERROR_CAPTCHA_UNSOLVABLE")
    assert task["errorDescription"] == "no worker could"
    assert task["solution"] is None


async def test_a_failure_without_a_code_gets_one(api: Api) -> None:
    """A failure without a code gets an errorCode that says so."""
    registered = await api.register()

    await api.send("POST", registered["callbackUrl"], key=None, json={"errorId": 0, "status": "failed"})

    task = await api.task(registered["ref"])
    assert (task["status"], task["errorId"], task["errorCode"]) == ("failed", 1, "RECEIVER_REASON_NOT_GIVEN")


@pytest.mark.parametrize(
    ("second", "verdict"),
    [
        (READY, "duplicate"),
        ({"solution": {"text": "44795sds"}, "x": 1, **READY}, "duplicate"),
        (OTHER, "disagreed"),
        (FAILED, "disagreed"),
    ],
)
async def test_a_second_callback_changes_nothing(api: Api, second: dict[str, Any], verdict: str) -> None:
    """The same outcome again, and another one, are answered like the first and leave the outcome as it is."""
    registered = await api.register()
    await api.send("POST", registered["callbackUrl"], key=None, json=READY)
    before = await api.task(registered["ref"])

    answer = await api.send("POST", registered["callbackUrl"], key=None, json=second)

    assert answer.status == 200
    assert await api.task(registered["ref"]) == before
    assert len((await api.log())["results"]) == 1
    report = await api.send("PUT", f"/v1/tasks/{registered['ref']}/outcome", json={"source": "poll", "answer": second})
    assert report.json["verdict"] == ("late" if verdict == "duplicate" else "disagreed")


async def test_an_answer_that_was_polled_before_makes_the_callback_late(api: Api) -> None:
    """The same outcome by a callback after a poll is late. It gets 200, and the source stays `poll`."""
    registered = await api.register()
    report = {"source": "poll", "taskId": "T", "answer": READY, "polls": 3}
    first = await api.send("PUT", f"/v1/tasks/{registered['ref']}/outcome", json=report)

    answer = await api.send("POST", registered["callbackUrl"], key=None, json={**READY, "taskId": "T"})

    assert (first.json["verdict"], answer.status) == ("accepted", 200)
    task = await api.task(registered["ref"])
    assert (task["source"], task["trust"]) == ("poll", "reported")


async def test_still_processing_is_not_final(api: Api) -> None:
    """A delivery with idle or processing gets 200, binds the id, and leaves the task waiting."""
    registered = await api.register()

    answer = await api.send(
        "POST", registered["callbackUrl"], key=None, json={"errorId": 0, "status": "idle", "taskId": "T"}
    )

    task = await api.task(registered["ref"])
    assert (answer.status, task["status"], task["taskId"]) == (200, "processing", "T")
    assert not is_hinted(await api.log())


async def test_another_tasks_id_is_mismatched(api: Api) -> None:
    """Another id than the bound one is 409 and a hint; nothing of it becomes the outcome."""
    registered = await api.register()
    await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": 12})

    answer = await api.call_back(registered["callbackUrl"], taskId=13)

    assert answer.status == 409
    assert (await api.task(registered["ref"]))["status"] == "processing"
    assert is_hinted(await api.log())


async def test_an_id_that_another_task_has_is_mismatched(api: Api) -> None:
    """A delivery cannot take the id of another task."""
    first = await api.register()
    await api.send("PATCH", f"/v1/tasks/{first['ref']}", json={"taskId": "T"})
    second = await api.register()

    answer = await api.call_back(second["callbackUrl"], taskId="T")

    assert answer.status == 409
    assert (await api.task(second["ref"]))["taskId"] is None
    assert (await api.task("T"))["ref"] == first["ref"]


async def test_ids_are_compared_as_text_and_keep_their_type(api: Api) -> None:
    """A number and the same digits as text are one id, shown with the type from createTask."""
    registered = await api.register()
    await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": 73141234567890})

    answer = await api.call_back(registered["callbackUrl"], taskId="73141234567890")

    assert answer.status == 200
    assert (await api.task("73141234567890"))["taskId"] == 73141234567890


@pytest.mark.parametrize("none", [0, "", None])
async def test_an_id_of_none_is_no_id(api: Api, none: object) -> None:
    """0, "" and null in a delivery mean that it names no id, and its URL alone tells the task."""
    registered = await api.register()
    await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "T"})

    answer = await api.call_back(registered["callbackUrl"], taskId=none)

    assert answer.status == 200
    assert (await api.task(registered["ref"]))["status"] == "ready"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[1, 2]",
        b'{"hello": "world"}',
        b'{"errorId": 0, "status": "ready", "solution": {"x": 1e999}}',
        b'{"errorId": NaN}',
        b"\xff\xfe",
        b'{"errorId": 1, "errorCode": "ERROR_KEY_DENIED_ACCESS"}',
        b'{"status": "ready", "solution": "x", "taskId": 1.5}',
        b'{"status": "ready", "solution": ' + b"[" * 150 + b"]" * 150 + b"}",
    ],
)
async def test_what_is_not_the_dialect_is_unreadable(api: Api, body: bytes) -> None:
    """Unreadable bytes get 422 and are a hint. The task goes on waiting."""
    registered = await api.register()

    answer = await api.send("POST", registered["callbackUrl"], key=None, data=body)

    assert answer.status == 422
    assert (await api.task(registered["ref"]))["status"] == "processing"
    assert is_hinted(await api.log())


async def test_a_header_that_is_no_utf_8_is_no_reason_to_lose_an_answer(api: Api) -> None:
    """Odd bytes in Content-Type are replaced, and the delivery is stored."""
    registered = await api.register()
    headers = {"Content-Type": b"application/json\xff".decode("utf-8", "surrogateescape")}

    answer = await api.send(
        "POST", registered["callbackUrl"], key=None, data=json.dumps(READY).encode(), headers=headers
    )

    assert answer.status == 200


async def test_a_hint_is_given_once(api: Api) -> None:
    """However many bad deliveries come, the next poll is brought to now once."""
    registered = await api.register()

    for _ in range(3):
        await api.send("POST", registered["callbackUrl"], key=None, data=b"x" * 500)

    assert len((await api.log())["results"]) == 1
    task = await api.task(registered["ref"])
    assert task["nextPollAt"] < task["pollAfter"]


async def test_hints_show_only_to_those_who_ask(api: Api) -> None:
    """A reader that asks for no hints gets none, and moves past them."""
    registered = await api.register()
    await api.send("POST", registered["callbackUrl"], key=None, data=b"x")

    page = (await api.send("GET", "/v1/results?after=start")).json

    assert page["results"] == []
    assert page["cursor"] == (await api.log())["cursor"]


async def test_a_bad_signature_is_refused(api: Api) -> None:
    """With a secret, an unsigned or wrongly signed body gets 401 and is a hint."""
    registered = await api.register(provider="capsolution")

    unsigned = await api.send("POST", registered["callbackUrl"], key=None, json=READY)
    wrong = await api.send(
        "POST", registered["callbackUrl"], key=None, json=READY, headers={"X-Webhook-Signature": "00" * 32}
    )

    assert (unsigned.status, wrong.status) == (401, 401)
    assert (await api.task(registered["ref"]))["status"] == "processing"
    assert is_hinted(await api.log())


async def test_a_signed_body_is_trusted_as_signed(api: Api) -> None:
    """A body with a valid HMAC over its raw bytes becomes the outcome with trust `signed`."""
    registered = await api.register(provider="capsolution")
    body = json.dumps({**READY, "taskId": "task_1"}, indent=3).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()

    answer = await api.send(
        "POST", registered["callbackUrl"], key=None, data=body, headers={"X-Webhook-Signature": signature}
    )

    assert answer.status == 200
    assert (await api.task(registered["ref"]))["trust"] == "signed"


async def test_a_notice_of_the_account_is_taken(api: Api) -> None:
    """An event without a task in it is 200 and touches no task."""
    registered = await api.register(provider="capsolution")
    body = b'{"event": "balance.low"}'
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()

    answer = await api.send(
        "POST", registered["callbackUrl"], key=None, data=body, headers={"X-Webhook-Signature": signature}
    )

    assert answer.status == 200
    assert (await api.task(registered["ref"]))["status"] == "processing"


async def test_a_callback_by_get_counts_where_the_dialect_calls_so(api: Api) -> None:
    """The query of a GET is the delivery; a POST to such a provider's URL is 405."""
    registered = await api.register(provider="ucaptcha")

    posted = await api.send("POST", registered["callbackUrl"], key=None, json=READY)
    answer = await api.send("GET", registered["callbackUrl"] + "?captcha_id=U&status=1&code=token", key=None)

    assert (posted.status, posted.headers["Allow"], answer.status) == (405, "GET", 200)
    assert (await api.task("U"))["solution"] == {"token": "token"}


async def test_a_get_with_a_query_is_refused_elsewhere(api: Api) -> None:
    """A GET with a query is refused if the dialect does not call back by GET."""
    registered = await api.register()

    answer = await api.send("GET", registered["callbackUrl"] + "?id=1&code=x", key=None)

    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert (await api.task(registered["ref"]))["status"] == "processing"


async def test_a_bare_get_checks_that_the_url_is_reachable(api: Api) -> None:
    """GET without a query on a valid token is 204 and stores nothing."""
    registered = await api.register()

    answer = await api.send("GET", registered["callbackUrl"], key=None)

    assert (answer.status, answer.body) == (204, b"")
    assert (await api.log())["results"] == []


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "PATCH"])
async def test_other_methods_are_refused(api: Api, method: str) -> None:
    """HEAD gets 405 always, and so do methods that no provider uses."""
    registered = await api.register()

    answer = await api.send(method, registered["callbackUrl"], key=None)

    assert answer.status == 405
    assert "POST" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "path",
    [
        "/callback/capsolver/" + "A" * 64,
        "/callback/nobody/" + "A" * 64,
        "/callback/capsolver/x",
        "/callback/capsolver/%FF%00%F0%9F%92%A9",
        "/callback/onecaptcha/" + "A" * 64,
    ],
)
async def test_a_bad_token_and_an_unknown_provider_get_the_same_answer(api: Api, path: str) -> None:
    """Both get 404 with the same headers and body, so that a stranger cannot tell them apart."""
    reference = await api.send("POST", "/callback/capsolver/" + "B" * 64, key=None, json=READY)

    answer = await api.send("POST", path, key=None, json=READY)

    assert (answer.status, answer.body, set(answer.headers)) == (404, reference.body, set(reference.headers))


async def test_a_token_is_good_for_its_provider_only(api: Api) -> None:
    """The same token under another provider's name is 404."""
    registered = await api.register()

    answer = await api.call_back(registered["callbackUrl"].replace("/capsolver/", "/ucaptcha/"))

    assert answer.status == 404


async def test_a_path_with_a_slash_behind_it_is_no_redirect(api: Api) -> None:
    """A redirect would be a failure for some providers and lose the body for others."""
    registered = await api.register()

    answer = await api.call_back(registered["callbackUrl"] + "/")

    assert answer.status == 200


async def test_a_body_over_the_limit_is_a_hint(api: Api) -> None:
    """A body over the limit gets 413. Nothing of it is kept, and the next poll is due now."""
    registered = await api.register()

    answer = await api.send("POST", registered["callbackUrl"], key=None, data=b"x" * 5000)

    assert answer.status == 413
    assert is_hinted(await api.log())


async def test_a_body_that_cannot_be_decoded_is_a_hint(api: Api) -> None:
    """A body that does not fit its Content-Encoding gets 400, and is a hint."""
    registered = await api.register()

    answer = await api.send(
        "POST", registered["callbackUrl"], key=None, data=b"garbage", headers={"Content-Encoding": "gzip"}
    )

    assert answer.status == 400
    assert is_hinted(await api.log())


async def test_a_compressed_body_is_read(api: Api) -> None:
    """A compressed body is inflated, and its inflated size counts against the limit."""
    registered = await api.register()
    headers = {"Content-Encoding": "gzip"}

    bomb = await api.send(
        "POST", registered["callbackUrl"], key=None, data=gzip.compress(bytes(1_000_000)), headers=headers
    )
    answer = await api.send(
        "POST", registered["callbackUrl"], key=None, data=gzip.compress(json.dumps(READY).encode()), headers=headers
    )

    assert (bomb.status, answer.status) == (413, 200)


async def test_a_deleted_task_is_forgotten(api: Api) -> None:
    """After DELETE a delivery is 200, changes nothing, and the log says that the task is gone."""
    registered = await api.register()
    await api.call_back(registered["callbackUrl"], taskId="T")
    await api.send("DELETE", f"/v1/tasks/{registered['ref']}")

    answer = await api.call_back(registered["callbackUrl"], taskId="T")

    assert answer.status == 200
    assert (await api.send("GET", f"/v1/tasks/{registered['ref']}")).status == 404
    assert [(entry["ref"], entry["deleted"]) for entry in (await api.log())["results"]] == [(registered["ref"], True)]


async def test_a_task_that_a_backup_lost_is_made_again(api: Api) -> None:
    """A valid token of an unknown task makes the task with its outcome, under its ref."""
    lost = new_ref()
    token = make_token(Kind.TASK, lost, "capsolver", SIGNING_KEY.encode())

    answer = await api.call_back(f"/callback/capsolver/{token}", taskId="T")

    assert answer.status == 200
    task = await api.task(lost)
    assert (task["status"], task["taskId"], task["trust"]) == ("ready", "T", "token")
