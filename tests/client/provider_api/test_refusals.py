"""Repeated refusals: after five in a row nothing is sent, for a growing time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from client import CallbackReceiverError, NoBalanceError, TaskFailedError, WrongKeyError
from client.provider_api.http import ProviderAnswer
from client.provider_api.refusals import IN_A_ROW, RepeatedRefusals
from client.providers import DIALECTS
from client.providers.codes import FAMILY_CODES, Code, read_error
from client.providers.readings import Pending, Submitted
from tests.client.support import CREATED, Reply, image_task, open_client, scripted_provider

_TASK = {"type": "ImageToTextTask", "body": "AAAA"}
_OTHER = {"type": "ImageToTextTask", "body": "BBBB"}
_KEY, _BALANCE, _BAD_TASK = "ERROR_KEY_DOES_NOT_EXIST", "ERROR_ZERO_BALANCE", "ERROR_PROXY_FORMAT"


def _answer(code: str | None, codes: Mapping[str, Code] = FAMILY_CODES) -> ProviderAnswer[Submitted]:
    """Return an answer to createTask: an error, or a new task."""
    reading = Pending("") if code is None else read_error(codes, 1, code, None)
    return ProviderAnswer({"errorCode": code}, Submitted("t" if code is None else None, reading))


def _refused(code: str, times: int = IN_A_ROW, task: dict[str, Any] = _TASK) -> RepeatedRefusals:
    """Return the refusals after `times` refusals at second 0."""
    refusals = RepeatedRefusals(FAMILY_CODES)
    for _ in range(times):
        refusals.take(task, _answer(code), 0.0)
    return refusals


def _is_held(refusals: RepeatedRefusals, now: float, task: dict[str, Any] = _TASK) -> bool:
    return refusals.answer_to(task, now) is not None


@pytest.mark.parametrize("code", [_KEY, _BALANCE, "ERROR_BAD_REQUEST", "ERROR_IP_NOT_ALLOWED"])
def test_refusals_of_the_request_hold_for_every_task(code: str) -> None:
    """After five refusals the last one is the answer for all tasks, for ten seconds."""
    refusals = _refused(code)

    assert refusals.answer_to(_OTHER, 9.9) == _answer(code)
    assert not _is_held(refusals, 10.0)


def test_a_documented_pause_begins_with_the_first_refusal() -> None:
    """2captcha asks for a pause of 60 seconds if there is no balance.

    Source: providers/README.md, "2captcha and ruCaptcha".
    """
    codes = DIALECTS["twocaptcha"].codes
    refusals = RepeatedRefusals(codes)

    refusals.take(_TASK, _answer(_BALANCE, codes), 0.0)

    assert refusals.answer_to(_OTHER, 59.9) == _answer(_BALANCE, codes)
    assert not _is_held(refusals, 60.0)


@pytest.mark.parametrize("code", [_BAD_TASK, "ERROR_INVALID_TASK_DATA", "ERROR_OF_TOMORROW"])
def test_refusals_of_a_task_hold_for_that_task_alone(code: str) -> None:
    """The same faulty task is not sent a sixth time. Other tasks are sent."""
    refusals = _refused(code)

    assert _is_held(refusals, 1.0)
    assert not _is_held(refusals, 1.0, _OTHER)


@pytest.mark.parametrize(
    "code", ["ERROR_CAPTCHA_UNSOLVABLE", "ERROR_RATE_LIMIT", "ERROR_REQUEST_LIMIT", "ERROR_IP_BANNED", None]
)
def test_a_task_that_may_work_again_is_never_held(code: str | None) -> None:
    """A refused task that may work again, at once or after a pause, is always sent."""
    refusals = RepeatedRefusals(FAMILY_CODES)
    for _ in range(50):
        refusals.take(_TASK, _answer(code), 0.0)

    assert not _is_held(refusals, 1.0)


@pytest.mark.parametrize("between", [None, _BALANCE, _BAD_TASK])
def test_only_the_same_code_in_a_row_counts(between: str | None) -> None:
    """Any other answer in between restarts the count."""
    refusals = _refused(_KEY, IN_A_ROW - 1)
    refusals.take(_OTHER, _answer(between), 0.0)
    refusals.take(_TASK, _answer(_KEY), 0.0)

    assert not _is_held(refusals, 1.0)


def test_a_busy_answer_ends_nothing() -> None:
    """A busy answer says nothing about the key, so earlier refusals still count."""
    refusals = _refused(_KEY, IN_A_ROW - 1)
    refusals.take(_TASK, _answer("ERROR_RATE_LIMIT"), 0.0)
    refusals.take(_TASK, _answer(_KEY), 0.0)

    assert _is_held(refusals, 1.0)


def test_time_doubles_with_each_trial() -> None:
    """After the time one request is sent as a trial. Each refused trial doubles it, up to ten minutes."""
    refusals = _refused(_KEY)
    waited = []
    now = 10.0
    for _ in range(8):
        assert not _is_held(refusals, now)
        refusals.send(_TASK, now)
        assert _is_held(refusals, now)
        refusals.take(_TASK, _answer(_KEY), now)
        waited.append(next(seconds for seconds in range(10, 700, 10) if not _is_held(refusals, now + seconds)))
        now += waited[-1]

    assert waited == [20, 40, 80, 160, 320, 600, 600, 600]


def test_a_trial_that_works_ends_it() -> None:
    """Another answer to the trial ends it: all requests are sent, and the count restarts."""
    refusals = _refused(_KEY)
    refusals.send(_TASK, 10.0)
    refusals.take(_TASK, _answer(None), 10.5)
    for _ in range(IN_A_ROW - 1):
        refusals.take(_TASK, _answer(_KEY), 11.0)

    assert not _is_held(refusals, 12.0)


def test_a_trial_without_an_answer_is_followed_by_another() -> None:
    """After a trial without an answer, the next one may be sent after the same time."""
    refusals = _refused(_KEY)
    refusals.send(_TASK, 10.0)

    assert _is_held(refusals, 19.9)
    assert not _is_held(refusals, 20.0)


def test_a_crowd_that_was_under_way_counts_once() -> None:
    """A hundred requests sent and refused together do not lengthen the time."""
    refusals = _refused(_KEY, 100)

    assert not _is_held(refusals, 10.0)


def test_many_faulty_tasks_are_forgotten_in_turn() -> None:
    """The number of remembered faulty tasks is bounded, and the oldest is forgotten first."""
    refusals = _refused(_BAD_TASK)
    for number in range(1000):
        refusals.take({**_OTHER, "number": number}, _answer(_BAD_TASK), 0.0)

    assert not _is_held(refusals, 1.0)


@pytest.mark.parametrize(("code", "error"), [(_KEY, WrongKeyError), (_BALANCE, NoBalanceError)])
async def test_client_stops_asking(code: str, error: type[CallbackReceiverError]) -> None:
    """The sixth task fails with the same error, without a request."""
    refusal = Reply({"errorId": 1, "errorCode": code}, 400)
    async with scripted_provider(createTask=refusal) as provider, open_client(provider.url) as tasks:
        for number in range(2 * IN_A_ROW):
            with pytest.raises(error, match=code):
                await tasks.submit(image_task(number))

    assert len(provider.calls["createTask"]) == IN_A_ROW


async def test_the_same_faulty_task() -> None:
    """The same faulty task fails without a request from the sixth time on. Another task is submitted."""
    bad = Reply({"errorId": 1, "errorCode": _BAD_TASK})
    async with (
        scripted_provider(createTask=[bad] * IN_A_ROW + [Reply(CREATED)]) as provider,
        open_client(provider.url) as tasks,
    ):
        for _ in range(IN_A_ROW + 3):
            with pytest.raises(TaskFailedError, match=_BAD_TASK):
                await tasks.submit(image_task())
        other = await tasks.submit(image_task(1))

    assert other.task_id == "task-1"
    assert len(provider.calls["createTask"]) == IN_A_ROW + 1
