"""The JSON between the two halves: strict in requests to the receiver, lenient in answers."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from pydantic import BaseModel, ValidationError

from client.protocol.models import (
    Binding,
    LogEntry,
    OutcomeReport,
    Problem,
    Registered,
    Registration,
    Reported,
    ResultsPage,
    Task,
    TaskList,
)
from tests.client.providers.strategies import MANY, answers, json_values, task_ids

TASK = {
    "ref": "0199",
    "provider": "capsolver",
    "createdAt": "2026-01-02T03:04:05Z",
    "deadlineAt": "2026-01-02T03:09:05Z",
}
POLL = {"firstAfterSeconds": 35.0, "intervalSeconds": 3.0, "maxPolls": 120, "windowSeconds": 300.0}
REGISTERED = {"ref": "0199", "poll": POLL, "deadlineAt": "2026-01-02T03:09:05Z", "cursor": "c1"}
REPORT = {"source": "poll", "answer": {"errorId": 0}}


def _refused_field(model: type[BaseModel], fields: Any) -> tuple[int | str, ...]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(fields, by_alias=True, by_name=False)
    return caught.value.errors()[0]["loc"]


def test_a_registration_needs_only_a_provider() -> None:
    """All other fields have empty defaults."""
    registration = Registration.model_validate({"provider": "capsolver"})

    assert registration == Registration(provider="capsolver", tags=(), metadata={}, task_id=None, outcome=None)


def test_a_full_registration_is_read() -> None:
    """Each field of the contract is read under its own name."""
    registration = Registration.model_validate(
        {
            "provider": "capsolver",
            "type": "ImageToTextTask",
            "tags": ["checkout", "eu"],
            "metadata": {"order": 7},
            "taskId": 72345678901,
            "timeoutSeconds": 90.5,
            "clientKeyId": "01234567",
            "outcome": {"source": "submit", "answer": {"errorId": 0}, "polls": 2, "finishedAt": "2026-01-02T03:04:05Z"},
        }
    )

    assert registration.tags == ("checkout", "eu")
    assert registration.metadata == {"order": 7}
    assert (registration.task_id, registration.timeout_seconds) == (72345678901, 90.5)
    assert registration.client_key_id == "01234567"
    assert registration.outcome is not None
    assert registration.outcome.finished_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("provider", ""),
        ("provider", "p" * 129),
        ("provider", None),
        ("type", ""),
        ("type", "t" * 129),
        ("tags", "checkout"),
        ("tags", ["t"] * 17),
        ("taskId", 0),
        ("taskId", ""),
        ("taskId", True),
        ("taskId", 1.0),
        ("taskId", ["a1"]),
        ("timeoutSeconds", 0),
        ("timeoutSeconds", -1),
        ("timeoutSeconds", 604_801),
        ("timeoutSeconds", float("inf")),
        ("timeoutSeconds", float("nan")),
        ("clientKeyId", "0123456"),
        ("clientKeyId", "0123456G"),
        ("clientKeyId", "01234567\n"),
        ("metadata", []),
        ("metadata", {"a": "m" * 4096}),
        ("metadata", {"a": "\ud800"}),
        ("outcome", {}),
        ("callbackUrl", "https://a.example/"),
        ("task_id", "a1"),
    ],
    ids=lambda value: str(value)[:12].encode("ascii", "backslashreplace").decode(),
)
def test_wrong_fields_of_a_registration_are_named(field: str, value: object) -> None:
    """The error for a value out of range, an unknown field or another spelling names the field."""
    assert _refused_field(Registration, {"provider": "capsolver", field: value})[0] == field


@pytest.mark.parametrize("tag", ["", "a,b", "a\nb", "\x00", "t" * 65, 1, None], ids=repr)
def test_tags_that_could_not_be_asked_for_are_refused(tag: object) -> None:
    """A tag has 1 to 64 characters, no comma (it separates tags in a query) and no control characters."""
    assert _refused_field(Registration, {"provider": "capsolver", "tags": ["good", tag]})[:2] == ("tags", 1)


def test_metadata_may_have_exactly_four_kilobytes() -> None:
    """The limit is on the JSON text, counted in bytes."""
    registration = Registration.model_validate({"provider": "capsolver", "metadata": {"a": "m" * 4088}})

    assert registration.metadata == {"a": "m" * 4088}
    assert _refused_field(Registration, {"provider": "capsolver", "metadata": {"a": "m" * 4089}}) == ("metadata",)
    assert _refused_field(Registration, {"provider": "capsolver", "metadata": {"a": "é" * 2045}}) == ("metadata",)


@MANY
@given(task_id=task_ids)
def test_ids_keep_their_type(task_id: int | str) -> None:
    """An id of any size goes in and comes out as the same JSON value."""
    bound = Binding.model_validate_json(json.dumps({"taskId": task_id}).encode())
    task = Task.model_validate_json(json.dumps({**TASK, "taskId": task_id}).encode())

    assert (type(bound.task_id), bound.task_id) == (type(task_id), task_id)
    assert json.loads(task.model_dump_json(by_alias=True))["taskId"] == task_id
    assert type(task.task_id) is type(task_id)


@pytest.mark.parametrize(
    "value", [{}, {"taskId": None}, {"taskId": 0}, {"taskId": ""}, {"taskId": False}, {"taskId": 1.5}]
)
def test_nothing_else_can_be_bound(value: dict[str, Any]) -> None:
    """A binding without an id of the right type is refused."""
    assert _refused_field(Binding, value)[0] == "taskId"


def test_a_report_holds_the_answer_verbatim() -> None:
    """The provider's JSON is not touched, unknown fields and huge integers included."""
    answer = {"errorId": 0, "status": "ready", "solution": {"n": 10**30}, "new": [None, 1.5]}

    report = OutcomeReport.model_validate({"source": "poll", "answer": answer, "polls": 3, "taskId": "a1"})

    assert report.answer == answer
    assert (report.source, report.polls, report.task_id) == ("poll", 3, "a1")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", "callback"),
        ("source", "deadline"),
        ("answer", []),
        ("answer", "ready"),
        ("polls", -1),
        ("polls", 1_000_001),
        ("finishedAt", "2026-01-02T03:04:05"),
        ("finishedAt", "0001-01-01T00:00:00+14:00"),
        ("finishedAt", "yesterday"),
        ("taskId", 0),
        ("verdict", "accepted"),
    ],
)
def test_wrong_fields_of_a_report_are_named(field: str, value: object) -> None:
    """A report takes only facts that a client can know, and only times with a zone and within UTC's calendar."""
    assert _refused_field(OutcomeReport, {**REPORT, field: value})[0] == field


@pytest.mark.parametrize("model", [Registration, Binding, OutcomeReport])
@MANY
@given(value=json_values | answers)
def test_what_enters_is_read_or_refused(model: type[BaseModel], value: Any) -> None:
    """Any JSON value is a model or a validation error, and nothing else."""
    with suppress(ValidationError):
        assert isinstance(model.model_validate(value), model)


def test_a_task_is_written_as_a_get_task_result_answer() -> None:
    """A ready task has the fields of the family and ours beside them. Flags are written only if set."""
    task = Task.model_validate({**TASK, "status": "ready", "solution": {"text": "44795sds"}, "taskId": "a1"})

    written = json.loads(task.model_dump_json(by_alias=True))

    assert {name: written[name] for name in ("errorId", "errorCode", "errorDescription", "status", "solution")} == {
        "errorId": 0,
        "errorCode": None,
        "errorDescription": None,
        "status": "ready",
        "solution": {"text": "44795sds"},
    }
    assert (written["taskId"], written["ref"], written["createdAt"]) == ("a1", "0199", "2026-01-02T03:04:05Z")
    assert not written.keys() & {"disputed", "solutionRemoved", "supersedes"}


@pytest.mark.parametrize(("field", "value"), [("disputed", True), ("solutionRemoved", True), ("supersedes", "c1")])
def test_flags_that_hold_are_written(field: str, value: object) -> None:
    """A set flag survives writing and reading."""
    task = Task.model_validate({**TASK, field: value})

    written = task.model_dump_json(by_alias=True)

    assert json.loads(written)[field] == value
    assert Task.model_validate_json(written) == task


def test_what_was_thrown_away_is_not_on_the_wire() -> None:
    """The ids of discarded answers stay in the client: not written, not read, and in no schema."""
    task = Task(**TASK, discarded=("0198",))

    assert task.discarded == ("0198",)
    assert "discarded" not in task.model_dump_json(by_alias=True)
    assert "discarded" not in Task.model_json_schema()["properties"]
    assert [Task.model_validate({**TASK, "discarded": ids}).discarded for ids in (["0198"], 7)] == [(), ()]


@pytest.mark.parametrize(
    ("status", "read", "is_final"),
    [
        ("processing", "processing", False),
        ("ready", "ready", True),
        ("failed", "failed", True),
        ("paused", "processing", False),
        (None, "processing", False),
        (["ready"], "processing", False),
    ],
)
def test_unknown_statuses_are_processing(status: object, read: str, is_final: bool) -> None:
    """An unknown status of a newer receiver means that the task is still processing."""
    task = Task.model_validate({**TASK, "status": status})

    assert (task.status, task.is_final) == (read, is_final)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (Task, TASK),
        (Registered, REGISTERED),
        (Reported, {"verdict": "accepted", "task": TASK}),
        (LogEntry, {"cursor": "c1", "task": TASK}),
        (ResultsPage, {"cursor": "c1", "results": [{"cursor": "c1", "task": TASK}], "more": True}),
        (TaskList, {"tasks": [TASK], "nextPage": None}),
        (Problem, {"type": "urn:callback-receiver:problem:not-found", "status": 404}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_unknown_fields_of_answers_are_ignored(model: type[BaseModel], fields: dict[str, Any]) -> None:
    """Additional fields of a newer half change nothing."""
    assert model.model_validate({**fields, "fromNextYear": {"a": 1}}) == model.model_validate(fields)


def test_unknown_trust_source_fallback_and_verdict_are_kept() -> None:
    """Answers with new words of a newer receiver stay readable."""
    task = Task.model_validate({**TASK, "source": "telepathy", "trust": "blind"})
    registered = Registered.model_validate({**REGISTERED, "fallback": "moon"})
    reported = Reported.model_validate({"verdict": "pondered", "task": TASK})

    assert (task.source, task.trust) == ("telepathy", "blind")
    assert registered.fallback == "moon"
    assert reported.verdict == "pondered"


def test_a_registration_answer_tells_how_to_poll() -> None:
    """The plan is in seconds. A missing limit on polls is null, and so is a missing callback URL."""
    registered = Registered.model_validate({**REGISTERED, "poll": {**POLL, "maxPolls": None}})

    assert registered.callback_url is None
    assert registered.poll.max_polls is None
    assert (registered.poll.first_after_seconds, registered.poll.window_seconds) == (35.0, 300.0)


def test_a_page_of_the_log_holds_results_deletions_and_hints() -> None:
    """Each entry has its cursor. A deletion and a hint have only the ref."""
    page = ResultsPage.model_validate(
        {
            "results": [
                {"cursor": "c1", "task": TASK},
                {"cursor": "c2", "ref": "0199", "deleted": True},
                {"cursor": "c3", "ref": "0200", "hint": True},
            ],
            "cursor": "c9",
        }
    )

    assert [(entry.cursor, entry.ref, entry.deleted, entry.hint) for entry in page.results] == [
        ("c1", None, False, False),
        ("c2", "0199", True, False),
        ("c3", "0200", False, True),
    ]
    assert (page.cursor, page.more) == ("c9", False)


@pytest.mark.parametrize(
    ("kind", "slug"),
    [("urn:callback-receiver:problem:task-id-taken", "task-id-taken"), ("about:blank", "about:blank")],
)
def test_a_problem_has_a_slug(kind: str, slug: str) -> None:
    """Our problems end in their slug. The problem of a proxy keeps its type."""
    assert Problem.model_validate({"type": kind}).slug == slug


def test_a_problem_of_anybody_is_read() -> None:
    """An empty object is a problem without details."""
    problem = Problem.model_validate({})

    assert (problem.slug, problem.status, problem.error_id) == ("about:blank", 0, 1)
