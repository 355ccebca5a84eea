"""The JSON that client and receiver exchange, defined only here.

Names are camelCase on the wire, as in the createTask family. Models of requests forbid unknown fields. Models of
answers ignore them, so that either half may be newer.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StrictInt,
    StrictStr,
    StringConstraints,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import to_json

from client.providers.values import MAX_TASK_ID_LENGTH, is_too_long, task_id_text

__all__ = [
    "API_KEY_MIN_LENGTH",
    "MAX_ANSWER_BYTES",
    "MAX_REPORT_BYTES",
    "NOT_CARRIED_OUT",
    "NOT_SUBMITTED",
    "NO_ANSWER",
    "PROBLEM_PREFIX",
    "PROVISIONAL",
    "SUBMIT_UNKNOWN",
    "Binding",
    "LogEntry",
    "OutcomeReport",
    "PollPlanView",
    "Problem",
    "Registered",
    "Registration",
    "Reported",
    "ResultsPage",
    "Sent",
    "Source",
    "Status",
    "Step",
    "Task",
    "TaskList",
    "TaskTimeline",
    "Ticket",
    "Trust",
    "Waiting",
    "client_key_id",
]

PROBLEM_PREFIX = "urn:callback-receiver:problem:"
"""Prefix of the `type` of every problem of the receiver."""

NO_ANSWER = "RECEIVER_NO_ANSWER"
"""`errorCode` of a task without an answer until its `deadlineAt`; provisional."""

SUBMIT_UNKNOWN = "RECEIVER_SUBMIT_UNKNOWN"
"""`errorCode` of a task without a known `taskId` until its `deadlineAt`; provisional."""

NOT_SUBMITTED = "RECEIVER_NOT_SUBMITTED"
"""`errorCode` of a task that the receiver could not submit: the provider was unreachable or took no tasks. No task was
made; provisional."""

NOT_CARRIED_OUT = "RECEIVER_NOT_CARRIED_OUT"
"""`errorCode` of a task that the receiver could not submit: an HTTP status (3xx, 4xx) said so. No task was made;
provisional."""

MAX_ANSWER_BYTES = 1024 * 1024
"""The largest answer of a provider that client and receiver read."""

MAX_REPORT_BYTES = 2 * MAX_ANSWER_BYTES + 64 * 1024
"""The largest body that the receiver takes under an API key.

It has room for the largest answer, written as JSON again and perhaps longer so, and for the fields of its task.
Therefore the answer to a poll can always be reported."""

API_KEY_MIN_LENGTH = 24

Status = Literal["processing", "ready", "failed"]
Source = Literal["submit", "callback", "poll", "deadline"]
Trust = Literal["token", "standing", "signed", "confirmed", "polled", "reported", "provisional"]
PROVISIONAL: Trust = "provisional"
"""`trust` of two kinds of outcome. One comes from repeated polls with an unlisted error code. The other is the end of a
task that the receiver could not submit."""

_MAX_METADATA_BYTES = 4096
_LONGEST_TYPE = 128
_MOST_FIELDS = 32
_MAX_TIMEOUT_SECONDS = 7 * 24 * 3600
_OLDEST_FINISH = datetime(2000, 1, 1, tzinfo=UTC)  # years around 1 have no time in UTC


def _known_status(value: object) -> object:
    return value if value in ("ready", "failed") else "processing"


def _not_of_the_wire(value: object) -> object:
    # Python code gives a tuple, JSON a list.
    return value if isinstance(value, tuple) else ()


def _small_metadata(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    size = len(to_json(value))
    if size > _MAX_METADATA_BYTES:
        raise ValueError(f"expected at most {_MAX_METADATA_BYTES} bytes as JSON, got {size}")
    return value


def _some_task_id(value: int | str) -> int | str:
    if not value:
        raise ValueError(f"expected an id, got {value!r}")
    if is_too_long(value):
        raise ValueError(f"expected at most {MAX_TASK_ID_LENGTH} characters")
    return value


def _typed_task(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get("type"), str) or not 0 < len(value["type"]) <= _LONGEST_TYPE:
        raise ValueError(f"type: expected a text of 1 to {_LONGEST_TYPE} characters")
    return value


Tag = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^,\x00-\x1f]+$")]
Tags = Annotated[tuple[Tag, ...], Field(max_length=16, fail_fast=True)]
TaskIdField = Annotated[
    StrictInt | StrictStr,
    AfterValidator(_some_task_id),
    Field(json_schema_extra={"maxLength": MAX_TASK_ID_LENGTH}),
]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Sent(BaseModel):
    """Base of requests to the receiver. Unknown fields are refused by name."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, value: Any) -> Any:
        # Each unknown field makes an error of its own. Writing a million of them would take seconds.
        if isinstance(value, dict) and len(value) > _MOST_FIELDS:
            raise ValueError(f"expected at most {_MOST_FIELDS} fields, got {len(value)}")
        return value


class _Read(BaseModel):
    """Base of answers. Unknown fields are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class FirstOutcome(Sent):
    """The outcome in a late report. `answer` is the provider's JSON, verbatim.

    `finishedAt` is the time at which the caller got it, by default now. It makes `validUntil` true after an outage.
    """

    source: Literal["submit", "poll"]
    answer: dict[str, JsonValue]
    polls: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    finished_at: Annotated[AwareDatetime, Field(ge=_OLDEST_FINISH)] | None = None


class OutcomeReport(FirstOutcome):
    """`PUT /v1/tasks/{ref}/outcome`. A `taskId` is bound as the id from createTask."""

    task_id: TaskIdField | None = None


class Registration(Sent):
    """`POST /v1/tasks`. The receiver submits `task`, if given, with its own key; then `type` is the type of `task`."""

    provider: ShortText
    type: ShortText | None = None
    tags: Tags = ()
    metadata: Annotated[dict[str, JsonValue], AfterValidator(_small_metadata)] = Field(default_factory=dict)
    task_id: TaskIdField | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=_MAX_TIMEOUT_SECONDS, allow_inf_nan=False)] | None = None
    client_key_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")] | None = None
    outcome: FirstOutcome | None = None
    task: Annotated[dict[str, JsonValue], AfterValidator(_typed_task)] | None = None
    app_id: ShortText | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if self.task is not None and (self.task_id is not None or self.outcome is not None):
            raise ValueError("task: expected no taskId and no outcome beside a task to submit")
        if self.task is None and self.app_id is not None:
            raise ValueError("appId: expected a task to submit beside it")
        return self


class Binding(Sent):
    """`PATCH /v1/tasks/{ref}`."""

    task_id: TaskIdField


class PollPlanView(_Read):
    """The provider's limits on polls of the task. No limit is known if `max_polls` is None."""

    first_after_seconds: float
    interval_seconds: float
    max_polls: int | None = None
    window_seconds: float


class Registered(_Read):
    """The answer to a registration: submit with `callback_url` (None: without one), read results from `cursor`.

    `taskId` is set if the receiver submitted the task. If it is null then, a task may have been made.
    """

    ref: str
    task_id: int | str | None = None
    callback_url: str | None = None
    fallback: str = "client"
    poll: PollPlanView
    deadline_at: datetime
    cursor: str


class Task(_Read):
    """A task and its state: a superset of a getTaskResult answer.

    Three fields are written only if they are set. `disputed`: the outcome came with another id than createTask's.
    `supersedes`: the cursor of the provisional outcome that this one replaced. `solutionRemoved`: retention removed it.
    `discarded` is never written. There a client names the tasks, by ref or id, with answers that were too old.
    """

    error_id: int = 0
    error_code: str | None = None
    error_description: str | None = None
    status: Annotated[Status, BeforeValidator(_known_status)] = "processing"
    solution: Any = None
    task_id: int | str | None = None
    ref: str
    provider: str
    type: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = Field(default_factory=dict)
    source: str | None = None
    trust: str | None = None
    created_at: datetime
    finished_at: datetime | None = None
    valid_until: datetime | None = None
    poll_after: datetime | None = None
    next_poll_at: datetime | None = None
    deadline_at: datetime
    cursor: str | None = None
    disputed: bool = False
    solution_removed: bool = False
    supersedes: str | None = None
    discarded: Annotated[SkipJsonSchema[tuple[str, ...]], BeforeValidator(_not_of_the_wire), Field(exclude=True)] = ()

    @property
    def id_text(self) -> str | None:
        """The provider's id as text, as ids are compared."""
        return None if self.task_id is None else task_id_text(self.task_id)

    @property
    def is_final(self) -> bool:
        """True if the task has an outcome. A provisional one may still be replaced, once."""
        return self.status != "processing"

    @property
    def is_provisional(self) -> bool:
        """True for a provisional outcome, to be replaced by the provider's first one."""
        return self.source == "deadline" or self.trust == PROVISIONAL

    @model_serializer(mode="wrap")
    def _without_what_does_not_hold(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        for name in ("disputed", "solutionRemoved", "solution_removed", "supersedes"):
            if name in fields and not fields[name]:
                del fields[name]
        return fields


class Reported(_Read):
    """The answer to a report: its verdict, and the task with the outcome that won."""

    verdict: str
    task: Task


class LogEntry(_Read):
    """One entry of the log: a result (`task`), a deletion (`ref`, `deleted`) or, if asked for, a `hint` (`ref`)."""

    cursor: str
    task: Task | None = None
    ref: str | None = None
    deleted: bool = False
    hint: bool = False


class ResultsPage(_Read):
    """A page of the log, oldest first. `cursor` is the end of the page, which may lie beyond the last match."""

    results: tuple[LogEntry, ...] = ()
    cursor: str
    more: bool = False


class TaskList(_Read):
    """A page of tasks, newest first. `next_page` is None on the last one."""

    tasks: tuple[Task, ...] = ()
    next_page: str | None = None


class Ticket(_Read):
    """The answer to `POST /v1/tickets`: valid until `ends_at`, for one websocket or for server-sent events."""

    ticket: str
    ends_at: datetime


class Problem(_Read):
    """An error of the receiver (RFC 9457), readable as an error of the createTask family too.

    `ref` names the task of the error: under `task-id-taken` the owner of the id.
    """

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    error_id: int = 1
    error_code: str = ""
    ref: str | None = None

    @property
    def slug(self) -> str:
        """The last part of `type`."""
        return self.type.removeprefix(PROBLEM_PREFIX)


class Step(_Read):
    """One event of a task: `text` says it in words, the other fields in the terms of this protocol.

    `at` is None if the time was not recorded. `origin` is the cause: the name of an API key, `createTask`, a kind of
    callback URL, `receiver` or `client`. Deliveries have a `verdict`. Outcomes have `source` and `status`, and in
    `supersedes` the `errorCode` of the outcome they replaced.
    """

    at: datetime | None
    happened: str
    text: str
    origin: str | None = None
    verdict: str | None = None
    status: str | None = None
    source: str | None = None
    trust: str | None = None
    error_code: str | None = None
    supersedes: str | None = None


class Waiting(_Read):
    """The next event that an unsettled task waits for; `text` says it in words.

    No limit is known if `polls_left` is None. `leased_until` is set while the receiver polls the task.
    """

    polled_by: str
    next_poll_at: datetime | None = None
    why_then: str
    polls_left: int | None = None
    leased_until: datetime | None = None
    text: str


class TaskTimeline(_Read):
    """`GET /v1/tasks/{id}/timeline`: the events of a task so far, oldest first, and the one it waits for.

    `deliveries` and `polls` are total counts; the steps hold the first few and the newest. `wakes` counts the long
    polls that this process woke for the task, or is None if the count is not known. `waiting` is None if nothing more
    is expected.
    """

    ref: str
    provider: str
    task_id: int | str | None = None
    status: Annotated[Status, BeforeValidator(_known_status)] = "processing"
    disputed: bool = False
    deadline_at: datetime
    steps: tuple[Step, ...] = ()
    deliveries: int = 0
    polls: int = 0
    wakes: int | None = None
    waiting: Waiting | None = None


def client_key_id(client_key: str) -> str:
    """Return the id of a client key on the wire and in logs: the first 8 hex digits of its SHA-256."""
    return hashlib.sha256(client_key.encode()).hexdigest()[:8]
