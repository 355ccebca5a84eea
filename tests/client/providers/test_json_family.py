"""The JSON shapes of the family, for both providers (providers/README.md, "JSON requests", "Error codes")."""

from __future__ import annotations

import json
from typing import Any

import pytest

from client.errors import BadArgumentError, UnreadableError
from client.providers import DIALECTS, Dialect
from client.providers.readings import Failed, Pending, Ready, Refused, Submitted
from client.providers.values import parse_json
from tests.client.providers.strategies import asked_in

CAPSOLVER, ONECAPTCHA = DIALECTS["capsolver"], DIALECTS["onecaptcha"]

both = pytest.mark.parametrize("dialect", [CAPSOLVER, ONECAPTCHA], ids=lambda dialect: dialect.provider)


@both
@pytest.mark.parametrize(
    ("answer", "submitted"),
    [
        (
            b'{"errorId":0,"errorCode":"","errorDescription":"","taskId":"a1b2-c3"}',
            Submitted("a1b2-c3", Pending("")),
        ),
        (b'{"errorId":0,"taskId":72345678901}', Submitted(72345678901, Pending(""))),
        (
            b'{"errorId":0,"errorCode":null,"errorDescription":null,"taskId":"a1","status":"idle"}',
            Submitted("a1", Pending("idle")),
        ),
        (
            b'{"errorId":0,"errorCode":"","errorDescription":"","taskId":"a1","status":"ready","solution":{"text":"t"}}',
            Submitted("a1", Ready({"text": "t"})),
        ),
        (
            b'{"errorId":1,"errorCode":"ERROR_CAPTCHA_UNSOLVABLE","errorDescription":"no","taskId":0}',
            Submitted(None, Failed(1, "ERROR_CAPTCHA_UNSOLVABLE", "no")),
        ),
        (b"{}", Submitted(None, Pending(""))),
    ],
    ids=["async", "integer id", "idle", "sync", "error with taskId 0", "nothing at all"],
)
def test_create_task_answers(dialect: Dialect, answer: bytes, submitted: Submitted) -> None:
    """Each documented or observed createTask answer gives the id, if there is one, and how far the task is."""
    assert dialect.read_create_task(parse_json(answer)) == submitted


@both
@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        (b'{"errorId":0,"status":"processing"}', Pending("processing")),
        (b'{"errorId":0,"errorCode":null,"errorDescription":null,"status":"processing"}', Pending("processing")),
        (b'{"errorId":0,"errorCode":"","errorDescription":"","status":"idle"}', Pending("idle")),
        (b'{"errorId":0,"status":"queued since Tuesday"}', Pending("queued since Tuesday")),
        (b'{"errorId":0,"status":null}', Pending("")),
        (
            b'{"errorId":0,"errorCode":null,"errorDescription":null,"status":"ready","solution":{"text":"t"}}',
            Ready({"text": "t"}),
        ),
        (
            b"""{"errorId":0,"status":"ready","solution":{"text":"t"},"cost":"0.0007","ip":"192.0.2.1",
            "createTime":1472205564,"endTime":1472205570,"solveCount":"0"}""",
            Ready({"text": "t"}),
        ),
        (b'{"errorId":0,"status":"ready","solution":"a bare string"}', Ready("a bare string")),
        (b'{"errorId":0,"status":"ready","solution":{"answers":[null,"t"]}}', Ready({"answers": [None, "t"]})),
        (b'{"errorId":0,"status":"ready","solution":{}}', Ready({})),
        (b'{"errorId":0,"status":"ready","solution":""}', Ready("")),
        (b'{"errorId":null,"status":"ready","solution":{"text":"t"}}', Ready({"text": "t"})),
        (b'{"errorId":0,"status":"ready","solution":null}', Pending("ready")),
        (b'{"errorId":0,"status":"ready"}', Pending("ready")),
        (b'{"errorId":0,"solution":{"text":"t"}}', Pending("")),
        (
            b'{"errorId":12,"errorCode":"ERROR_CAPTCHA_UNSOLVABLE","errorDescription":"no"}',
            Failed(12, "ERROR_CAPTCHA_UNSOLVABLE", "no"),
        ),
        (
            b'{"errorId":"1","errorCode":"ERROR_CAPTCHA_UNSOLVABLE"}',
            Failed(1, "ERROR_CAPTCHA_UNSOLVABLE"),
        ),
        (b'{"errorId":1,"errorCode":"CAPTCHA_NOT_READY"}', Pending("CAPTCHA_NOT_READY")),
    ],
    ids=[
        "processing, short",
        "processing, nulls",
        "idle",
        "a status nobody knows",
        "status null",
        "ready, nulls",
        "ready with the extra fields of relatives",
        "ready with a bare string",
        "ready with a list in it",
        "ready with an empty object",
        "ready with an empty string",
        "ready with errorId null",
        "ready with a null solution",
        "ready without a solution",
        "a solution without a status",
        "an error without a status",
        "errorId as digits in text",
        "an error that means still working",
    ],
)
def test_task_results(dialect: Dialect, answer: bytes, reading: object) -> None:
    """Only `ready` with a solution is an answer; unknown states mean wait; an error needs no status."""
    assert dialect.read_task_result(parse_json(answer)) == reading


@both
@pytest.mark.parametrize("status", ["failed", "FAILED", "Failed"])
def test_failed_with_error_id_zero(dialect: Dialect, status: str) -> None:
    """`status` "failed" ends the task although `errorId` is 0, as uCaptcha documents it; the number becomes 1."""
    answer = {"errorId": 0, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE", "errorDescription": "", "status": status}

    assert dialect.read_task_result(answer) == Failed(1, "ERROR_CAPTCHA_UNSOLVABLE", None)


@both
@pytest.mark.parametrize("silence", [{}, {"errorCode": None}, {"errorCode": ""}], ids=["absent", "null", "empty"])
def test_failure_without_a_code(dialect: Dialect, silence: dict[str, Any]) -> None:
    """A failure without a code from the provider gets the receiver's own code, never an empty one."""
    reading = dialect.read_task_result({"errorId": 0, "status": "failed", **silence})

    assert reading == Failed(1, "RECEIVER_REASON_NOT_GIVEN", None)


@both
@pytest.mark.parametrize("error_id", [-1, 2**31, 10**30], ids=["negative", "over 31 bits", "huge"])
def test_error_ids_out_of_range_become_one(dialect: Dialect, error_id: int) -> None:
    """Any `errorId` but 0 is an error. Outside the positive 31-bit numbers it becomes 1."""
    reading = dialect.read_task_result({"errorId": error_id, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE"})

    assert reading == Failed(1, "ERROR_CAPTCHA_UNSOLVABLE", None)


@both
@pytest.mark.parametrize(
    "answer",
    [
        b"[]",
        b'"ready"',
        b"null",
        b'{"errorId":true}',
        b'{"errorId":0.0}',
        b'{"errorId":"none"}',
        b'{"errorId":[]}',
        b'{"errorId":1,"errorCode":false}',
        b'{"errorId":1,"errorCode":{}}',
        b'{"errorId":0,"status":["ready"]}',
        b'{"errorId":1,"errorDescription":[1]}',
    ],
)
def test_answers_that_are_not_of_the_family(dialect: Dialect, answer: bytes) -> None:
    """Another value than an object, or a field of another type, is unreadable by either method."""
    value = parse_json(answer)

    with pytest.raises(UnreadableError):
        dialect.read_task_result(value)
    with pytest.raises(UnreadableError):
        dialect.read_create_task(value)


@both
@pytest.mark.parametrize("task_id", [True, False, 1.0, 1.5, [], {}], ids=repr)
def test_ids_of_other_types_are_unreadable(dialect: Dialect, task_id: object) -> None:
    """An id is an integer or a string; a boolean is no integer here, although Python thinks so."""
    with pytest.raises(UnreadableError, match="taskId"):
        dialect.read_create_task({"errorId": 0, "taskId": task_id})


@both
@pytest.mark.parametrize("none", [None, 0, ""], ids=repr)
def test_ids_that_mean_none(dialect: Dialect, none: object) -> None:
    """Null, 0 and "" mean that there is no id."""
    assert dialect.read_create_task({"errorId": 0, "taskId": none}) == Submitted(None, Pending(""))


@both
@pytest.mark.parametrize("task_id", [1, 2**31, 2**63, 10**40, "1", "task_9f", "0"], ids=repr)
def test_ids_go_back_with_their_type(dialect: Dialect, task_id: int | str) -> None:
    """The poll sends the id with its JSON type from createTask, for any size."""
    given = dialect.read_create_task(parse_json(b'{"errorId":0,"taskId":%s}' % json.dumps(task_id).encode())).task_id
    assert given is not None

    asked = asked_in(dialect.get_task_result("k", given))

    assert asked == {"clientKey": "k", "taskId": task_id}
    assert type(asked["taskId"]) is type(task_id)


@both
def test_create_task_leaves_out_what_is_not_given(dialect: Dialect) -> None:
    """Without an app id and a callback URL the request has neither field; null would be another message."""
    asked = asked_in(dialect.create_task("k", {"type": "ImageToTextTask", "body": "QUJD", "case": None}))

    assert asked == {"clientKey": "k", "task": {"type": "ImageToTextTask", "body": "QUJD", "case": None}}


@both
@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"\xff", "\ud800", 1j, {1, 2}], ids=repr)
def test_tasks_that_are_not_json_are_refused(dialect: Dialect, value: object) -> None:
    """A task beyond JSON is the caller's error, before anything is sent."""
    with pytest.raises(BadArgumentError, match="cannot be written as JSON"):
        dialect.create_task("k", {"type": "ImageToTextTask", "body": value})


@both
@pytest.mark.parametrize(
    ("answer", "shown"),
    [({"errorId": 0, "balance": 12.5}, "12.5"), ({"balance": -1.5}, "-1.5"), ({"errorId": 0, "balance": 12}, "12.0")],
)
def test_balance(dialect: Dialect, answer: dict[str, Any], shown: str) -> None:
    """The balance is a float, also where the provider writes a whole number."""
    assert repr(dialect.read_balance(answer)) == shown


@both
@pytest.mark.parametrize(
    "balance",
    [b"null", b'"12"', b"true", b"{}", b"1" + 400 * b"0"],
    ids=["null", "a string", "a boolean", "an object", "an integer beyond any float"],
)
def test_balance_that_is_no_amount(dialect: Dialect, balance: bytes) -> None:
    """A balance has to be a finite number; anything else is unreadable."""
    with pytest.raises(UnreadableError, match="balance"):
        dialect.read_balance(parse_json(b'{"errorId":0,"balance":%s}' % balance))


@both
def test_balance_is_refused_with_the_error(dialect: Dialect) -> None:
    """An error in the place of a balance is read as any error."""
    reading = dialect.read_balance({"errorId": 1, "errorCode": "ERROR_KEY_DENIED_ACCESS", "errorDescription": "no"})

    assert isinstance(reading, Refused)
    assert reading.about == "key"


@both
def test_balance_asks_with_the_key_alone(dialect: Dialect) -> None:
    """A getBalance request takes the client key and nothing else."""
    assert asked_in(dialect.get_balance("k")) == {"clientKey": "k"}


@both
@pytest.mark.parametrize(
    ("answer", "is_refusal"),
    [
        (
            {"errorId": 1, "errorCode": "ERROR_INVALID_TASK_DATA", "errorDescription": "callbackUrl is not allowed"},
            True,
        ),
        ({"errorId": 1, "errorCode": "ERROR_BAD_REQUEST", "errorDescription": "CALLBACK address"}, True),
        ({"errorId": 1, "errorCode": "ERROR_PINGBACK_DOMAIN", "errorDescription": None}, True),
        ({"errorId": 1, "errorCode": "ERROR_INVALID_TASK_DATA", "errorDescription": "body is empty"}, False),
        ({"errorId": 0, "taskId": "callback"}, False),
    ],
)
def test_refusal_of_the_callback_url(dialect: Dialect, answer: dict[str, Any], is_refusal: bool) -> None:
    """Only an error with the word callback or pingback allows another submission without one."""
    assert dialect.refuses_callback_url(dialect.read_create_task(answer).reading) is is_refusal


def test_only_capsolver_takes_an_app_id() -> None:
    """`appId` is documented by CapSolver alone."""
    assert [name for name, dialect in DIALECTS.items() if dialect.has_app_id] == ["capsolver"]
