"""Ends of tasks: the class of error for a caller, and the final task."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from client.errors import (
    CallbackReceiverError,
    NoBalanceError,
    ProviderRefusedError,
    SlowDownError,
    SubmitUnknownError,
    TaskFailedError,
    TaskParametersError,
    TaskTimedOutError,
    UnsolvableError,
    WrongKeyError,
)
from client.following.outcome import OutcomeFuture
from client.protocol.models import NO_ANSWER, SUBMIT_UNKNOWN, Task
from client.provider_api.errors import LocalTask, failure_of, refusal_of
from client.providers import DIALECTS
from client.providers.codes import FAMILY_CODES, read_error
from client.providers.readings import Failed, Ready, Refused, TaskId

_NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _local(provider: str = "capsolver", task_id: TaskId | None = "task-1") -> LocalTask:
    return LocalTask(
        dialect=DIALECTS[provider],
        ref="",
        task_id=task_id,
        type="ImageToTextTask",
        tags=("checkout",),
        metadata={"order": 7},
        created_at=_NOW,
        deadline_at=_NOW + timedelta(seconds=330),
    )


@pytest.mark.parametrize(
    ("error_code", "error"),
    [
        ("ERROR_CAPTCHA_UNSOLVABLE", UnsolvableError),
        ("ERROR_TASKID_INVALID", UnsolvableError),
        ("ERROR_PROXY_BANNED", TaskParametersError),
        ("ERROR_ZERO_CAPTCHA_FILESIZE", TaskParametersError),
        ("ERROR_INVALID_TASK_DATA", TaskFailedError),
        ("ERROR_NOBODY_KNOWS", TaskFailedError),
        (NO_ANSWER, TaskTimedOutError),
        (SUBMIT_UNKNOWN, SubmitUnknownError),
    ],
)
def test_failures(error_code: str, error: type[TaskFailedError]) -> None:
    """A failed task is raised as the error for the caller's reaction, with the task in it."""
    task = _local().ended(Failed(1, error_code, "in words"), "poll", _NOW)

    raised = failure_of(task, FAMILY_CODES)

    assert type(raised) is error
    assert raised.task == task
    assert error_code in str(raised)


@pytest.mark.parametrize(
    ("error_code", "error"),
    [
        ("ERROR_KEY_DOES_NOT_EXIST", WrongKeyError),
        ("ERROR_ZERO_BALANCE", NoBalanceError),
        ("ERROR_IP_NOT_ALLOWED", ProviderRefusedError),
        ("ERROR_RATE_LIMIT", SlowDownError),
    ],
)
def test_refusals(error_code: str, error: type[ProviderRefusedError]) -> None:
    """A refused request is raised as the error for the change that a person has to make."""
    refusal = read_error(FAMILY_CODES, 1, error_code, "in words")
    assert isinstance(refusal, Refused)

    raised = refusal_of("capsolver", refusal)

    assert type(raised) is error
    assert (raised.provider, raised.error_code, raised.description) == ("capsolver", error_code, "in words")


def test_local_answer_has_the_providers_life() -> None:
    """An answer known only to this client has the documented time of its validity."""
    task = _local("onecaptcha").ended(Ready({"gRecaptchaResponse": "text"}), "poll", _NOW)

    assert task.status == "ready"
    assert task.valid_until == _NOW + timedelta(seconds=120)
    assert (task.tags, task.metadata, task.source) == (("checkout",), {"order": 7}, "poll")


def test_given_up_without_an_id() -> None:
    """At the deadline a task without an id ends as unknown, any other without an answer."""
    assert _local(task_id=None).given_up(_NOW).error_code == SUBMIT_UNKNOWN
    assert _local().given_up(_NOW).error_code == NO_ANSWER


def _ended_as_failed() -> Task:
    return _local().ended(Failed(1, "ERROR_CAPTCHA_UNSOLVABLE"), "poll", _NOW)


def test_first_ending_stays() -> None:
    """The first end of a task stays, and later ones change nothing."""
    ending = OutcomeFuture()
    solved = _local().ended(Ready({"text": "a"}), "callback", _NOW)

    assert ending.settle(solved)
    assert not ending.settle(_ended_as_failed())
    assert ending.answer(FAMILY_CODES) is solved


def test_each_waiter_gets_an_error_of_its_own() -> None:
    """Each waiter for a failed task gets its own exception, because a shared one would mix their tracebacks."""
    ending = OutcomeFuture()
    ending.settle(_ended_as_failed())
    raised: list[CallbackReceiverError] = []

    for _ in range(2):
        with pytest.raises(UnsolvableError) as caught:
            ending.answer(FAMILY_CODES)
        raised.append(caught.value)

    assert raised[0] is not raised[1]
    assert str(raised[0]) == str(raised[1])


def test_listeners() -> None:
    """A listener is called once at the end, or now if it is late. A removed listener is not called."""
    ending = OutcomeFuture()
    called: list[str] = []
    ending.when_finished(lambda: called.append("early"))
    ending.when_finished(lambda: called.append("gone"))()

    ending.settle(_ended_as_failed())
    ending.when_finished(lambda: called.append("late"))

    assert called == ["early", "late"]
