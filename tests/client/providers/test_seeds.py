"""Every example of the two documents in seeds/, as strict JSON with the same fields and values, through the dialects.

The examples here differ from the documents in four ways. Comments are left out. Names and strings are quoted. A comma
before a brace is dropped. The base64 text of one example is in one line instead of three, as that document demands
(seed: 1captcha, line 18).
"""

from __future__ import annotations

import json

from client.providers import DIALECTS
from client.providers.readings import Pending, Ready, Submitted
from client.providers.values import parse_json
from tests.client.providers.strategies import asked_in

CAPSOLVER, ONECAPTCHA = DIALECTS["capsolver"], DIALECTS["onecaptcha"]

# seed: CapSolver, line 22
CAPSOLVER_CREATE_TASK = b"""
{
    "clientKey": "YOUR_API_KEY",
    "appId": "APP_ID",
    "task": {
        "type": "ImageToTextTask",
        "body": "BASE64 image"
    }
}
"""

# seed: CapSolver, line 45
CAPSOLVER_ASYNC_ANSWER = b"""
{
    "errorId": 0,
    "errorCode": "",
    "errorDescription": "",
    "taskId": "37223a89-06ed-442c-a0b8-22067b79c5b4"
}
"""

# seed: CapSolver, line 56
CAPSOLVER_SYNC_ANSWER = b"""
{
    "errorId": 0,
    "errorCode": "",
    "errorDescription": "",
    "status": "ready",
    "solution": {
        "text": "44795sds"
    },
    "taskId": "2376919c-1863-11ec-a012-94e6f7355a0b"
}
"""

# seed: 1captcha, line 26
ONECAPTCHA_CREATE_TASK = b"""
{
  "clientKey": "nrfRuRHVkUsGRDirAzSSpASFCS",
  "task": {
    "type": "ImageToTextTask",
    "body": "%s",
    "imageType": "Yandex2025"
  }
}
"""

# seed: 1captcha, lines 30 to 32
ONECAPTCHA_IMAGE = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
    "AQEBAQH/2wBDAQEBAQEBAQEBAQEBAQEBAQE"
    "BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQH/wAARCABSAPgDASIAAhEBAxEB/8QAHQAAAQUBAQEBAAAA"
    "AAAAAAAACAAFBgcJBAoDAv/EADAQAAIDAQACAgICAQUAAQMFA"
    "AMEAQIFBgcIEhMR"
)

# seed: 1captcha, line 40
ONECAPTCHA_CREATE_TASK_ANSWER = b"""
{
    "errorId": 0,
    "errorCode": "",
    "errorDescription": "",
    "taskId": "61138bb6-19fb-11ec-a9c8-0242ac110006"
}
"""

# seed: 1captcha, line 62
ONECAPTCHA_GET_TASK_RESULT = b"""
{
    "clientKey": "cc9c18d3e263515c2c072b36a7125eecc078618f3",
    "taskId": "61138bb6-19fb-11ec-a9c8-0242ac110006"
}
"""

# seed: 1captcha, line 83
ONECAPTCHA_READY = b"""
{
  "errorId": 0,
  "errorCode": null,
  "errorDescription": null,
  "status": "ready",
  "solution": {
    "gRecaptchaResponse": "insensibly unburden"
  }
}
"""


def test_capsolver_request_is_written_as_documented() -> None:
    """A createTask with an `appId` has the fields and values of seed: CapSolver, line 22, and no others."""
    task = {"type": "ImageToTextTask", "body": "BASE64 image"}

    asked = asked_in(CAPSOLVER.create_task("YOUR_API_KEY", task, app_id="APP_ID"))

    assert asked == json.loads(CAPSOLVER_CREATE_TASK)


def test_capsolver_callback_url_stands_beside_the_task() -> None:
    """`callbackUrl` is a field of the request, not of the task (seed: CapSolver, line 37)."""
    task = {"type": "ImageToTextTask", "body": "BASE64 image"}

    call = CAPSOLVER.create_task("YOUR_API_KEY", task, callback_url="https://a.example/callback", app_id="APP_ID")

    assert asked_in(call) == {**json.loads(CAPSOLVER_CREATE_TASK), "callbackUrl": "https://a.example/callback"}


def test_capsolver_asynchronous_answer_gives_the_id() -> None:
    """Without a status the task is pending, with empty strings for "no error" (seed: CapSolver, line 45)."""
    submitted = CAPSOLVER.read_create_task(parse_json(CAPSOLVER_ASYNC_ANSWER))

    assert submitted == Submitted("37223a89-06ed-442c-a0b8-22067b79c5b4", Pending(""))


def test_capsolver_synchronous_answer_gives_id_and_solution() -> None:
    """With `status` "ready" the createTask answer holds the solution (seed: CapSolver, line 56)."""
    submitted = CAPSOLVER.read_create_task(parse_json(CAPSOLVER_SYNC_ANSWER))

    assert submitted == Submitted("2376919c-1863-11ec-a012-94e6f7355a0b", Ready({"text": "44795sds"}))


def test_capsolver_null_status_is_pending() -> None:
    """The documented other value of `status` in a createTask answer is null (seed: CapSolver, line 75)."""
    answer = {**json.loads(CAPSOLVER_ASYNC_ANSWER), "status": None}

    assert CAPSOLVER.read_create_task(answer).reading == Pending("")


def test_onecaptcha_request_is_written_as_documented() -> None:
    """A createTask with an image has the fields and values of seed: 1captcha, line 26, and no others."""
    task = {"type": "ImageToTextTask", "body": ONECAPTCHA_IMAGE, "imageType": "Yandex2025"}

    asked = asked_in(ONECAPTCHA.create_task("nrfRuRHVkUsGRDirAzSSpASFCS", task))

    assert asked == json.loads(ONECAPTCHA_CREATE_TASK % ONECAPTCHA_IMAGE.encode())


def test_onecaptcha_create_task_answer_gives_the_id() -> None:
    """An image task is pending too: its answer is always fetched (seed: 1captcha, line 40)."""
    submitted = ONECAPTCHA.read_create_task(parse_json(ONECAPTCHA_CREATE_TASK_ANSWER))

    assert submitted == Submitted("61138bb6-19fb-11ec-a9c8-0242ac110006", Pending(""))


def test_onecaptcha_question_is_written_as_documented() -> None:
    """A getTaskResult has the fields and values of seed: 1captcha, line 62, and no others."""
    key, task_id = "cc9c18d3e263515c2c072b36a7125eecc078618f3", "61138bb6-19fb-11ec-a9c8-0242ac110006"

    asked = asked_in(ONECAPTCHA.get_task_result(key, task_id))

    assert asked == json.loads(ONECAPTCHA_GET_TASK_RESULT)


def test_onecaptcha_result_is_ready() -> None:
    """Nulls for "no error", and the text of the image as `gRecaptchaResponse` (seed: 1captcha, line 83)."""
    reading = ONECAPTCHA.read_task_result(parse_json(ONECAPTCHA_READY))

    assert reading == Ready({"gRecaptchaResponse": "insensibly unburden"})


def test_onecaptcha_integer_resp_key_is_kept() -> None:
    """`respKey`, an integer by the table, comes through beside the response (seed: 1captcha, line 77)."""
    answer = json.loads(ONECAPTCHA_READY)
    answer["solution"]["respKey"] = 7

    assert ONECAPTCHA.read_task_result(answer) == Ready({"gRecaptchaResponse": "insensibly unburden", "respKey": 7})


def test_onecaptcha_processing_is_pending() -> None:
    """`status` "processing" means asking again after 3 s (seed: 1captcha, lines 74 and 97)."""
    reading = ONECAPTCHA.read_task_result(parse_json(b'{"errorId": 0, "status": "processing"}'))

    assert reading == Pending("processing")
    assert ONECAPTCHA.polls.interval_seconds == 3.0


def test_onecaptcha_facts_are_those_of_the_document() -> None:
    """Host, first wait, time-out and life of an answer (seed: 1captcha, lines 6, 58 and 76); no callback in it."""
    polls = ONECAPTCHA.polls

    assert ONECAPTCHA.base_url == "https://api.1captcha.vip"
    assert (polls.first_after_seconds, polls.window_seconds, polls.max_polls) == (10.0, 300.0, None)
    assert ONECAPTCHA.answer_life_seconds == 120.0
    assert ONECAPTCHA.callback is None


def test_capsolver_facts_are_those_of_the_documents() -> None:
    """Host, 120 queries and 5 minutes; it is called back by POST.

    Seed: CapSolver, line 18; providers/README.md, "CapSolver".
    """
    polls = CAPSOLVER.polls

    assert CAPSOLVER.base_url == "https://api.capsolver.com"
    assert (polls.interval_seconds, polls.max_polls, polls.window_seconds) == (3.0, 120, 300.0)
    assert CAPSOLVER.callback is not None
    assert CAPSOLVER.callback.methods == {"POST"}
