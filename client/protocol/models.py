"""The JSON that client and receiver exchange: the only place for it.

Names are camelCase on the wire, like those of the createTask family. What enters the receiver forbids unknown fields;
what is read from the other half ignores them, so that either half may be newer.
"""

from __future__ import annotations

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
    "Verdict",
    "Waiting",
]

PROBLEM_PREFIX = "urn:callback-receiver:problem:"
"""What the `type` of every problem of the receiver begins with."""

NO_ANSWER = "RECEIVER_NO_ANSWER"
"""`errorCode` of a task whose `deadlineAt` passed without an answer; provisional."""

SUBMIT_UNKNOWN = "RECEIVER_SUBMIT_UNKNOWN"
"""`errorCode` of a task whose `taskId` never became known until its `deadlineAt`; provisional."""
NOT_SUBMITTED = "RECEIVER_NOT_SUBMITTED"
"""The receiver was to submit the task, and the provider could not be reached, or took no tasks then: none was made.
Provisional."""
NOT_CARRIED_OUT = "RECEIVER_NOT_CARRIED_OUT"
"""The receiver was to submit the task, and an HTTP status (3xx, 4xx) said that this was not done: none was made.
Provisional."""

MAX_ANSWER_BYTES = 1024 * 1024
"""The largest answer of a provider that is read, by whoever asked for it."""

MAX_REPORT_BYTES = 2 * MAX_ANSWER_BYTES + 64 * 1024
"""The largest body that the receiver takes under an API key: such an answer, which may be longer when it is written as
JSON again, and what belongs to its task. What a poll has brought can so always be reported."""

API_KEY_MIN_LENGTH = 24

Status = Literal["processing", "ready", "failed"]
Source = Literal["submit", "callback", "poll", "deadline"]
Trust = Literal["token", "standing", "signed", "confirmed", "polled", "reported", "provisional"]
PROVISIONAL: Trust = "provisional"
"""`trust` of an outcome by a poll whose error code is on no list, though it came several times in a row, and of a task
that the receiver was to submit and that was not made, by all that is known."""
Verdict = Literal[
    "accepted",
    "duplicate",
    "late",
    "disagreed",
    "notFinal",
    "held",
    "notice",
    "forgotten",
    "mismatched",
    "badSignature",
    "unreadable",
]

_MAX_METADATA_BYTES = 4096
_LONGEST_TYPE = 128
_MOST_FIELDS = 32
_MAX_TIMEOUT_SECONDS = 7 * 24 * 3600
_OLDEST_FINISH = datetime(2000, 1, 1, tzinfo=UTC)  # years around 1 have no time in UTC


def _known_status(value: object) -> object:
    return value if value in ("ready", "failed") else "processing"


def _not_of_the_wire(value: object) -> object:
    """What Python code gives; an array of JSON is a list."""
    return value if isinstance(value, tuple) else ()


def _small_metadata(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    size = len(to_json(value))
    if size > _MAX_METADATA_BYTES:
        raise ValueError(f"at most {_MAX_METADATA_BYTES} bytes as JSON, got {size}")
    return value


def _some_task_id(value: int | str) -> int | str:
    if not value:
        raise ValueError('0 and "" are no ids')
    if is_too_long(value):
        raise ValueError(f"expected at most {MAX_TASK_ID_LENGTH} characters")
    return value


def _typed_task(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get("type"), str) or not 0 < len(value["type"]) <= _LONGEST_TYPE:
        raise ValueError(f"expected a type of 1 to {_LONGEST_TYPE} characters in it")
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
    """What enters the receiver: unknown fields are refused by name."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, value: Any) -> Any:
        # Each unknown field is an error of its own, and a million of them would take seconds to be told.
        if isinstance(value, dict) and len(value) > _MOST_FIELDS:
            raise ValueError(f"expected at most {_MOST_FIELDS} fields, got {len(value)}")
        return value


class _Read(BaseModel):
    """What the other half answers: unknown fields are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class FirstOutcome(Sent):
    """The outcome in a report after the fact: `answer` is the provider's JSON, verbatim.

    `finishedAt` is when the caller got it, if that is not now; it makes `validUntil` true after an outage.
    """

    source: Literal["submit", "poll"]
    answer: dict[str, JsonValue]
    polls: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    finished_at: Annotated[AwareDatetime, Field(ge=_OLDEST_FINISH)] | None = None


class OutcomeReport(FirstOutcome):
    """`PUT /v1/tasks/{ref}/outcome`; `taskId`, where given, is bound as the createTask id."""

    task_id: TaskIdField | None = None


class Registration(Sent):
    """`POST /v1/tasks`. With `task`, the receiver submits it with its own key; `type` is that of `task` then."""

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
            raise ValueError("task: what is to be submitted has neither taskId nor outcome yet")
        if self.task is None and self.app_id is not None:
            raise ValueError("appId: is for a task that is to be submitted")
        return self


class Binding(Sent):
    """`PATCH /v1/tasks/{ref}`."""

    task_id: TaskIdField


class PollPlanView(_Read):
    """How the task may be polled; `max_polls` None means that no limit is known."""

    first_after_seconds: float
    interval_seconds: float
    max_polls: int | None = None
    window_seconds: float


class Registered(_Read):
    """The answer to a registration: submit with `callback_url` (None: without one), read results from `cursor`.

    `taskId` is there where the receiver submitted the task; null even then: it is not known whether a task was made.
    """

    ref: str
    task_id: int | str | None = None
    callback_url: str | None = None
    fallback: str = "client"
    poll: PollPlanView
    deadline_at: datetime
    cursor: str


class Task(_Read):
    """A task and how far it is: a superset of a getTaskResult answer.

    `disputed` (the createTask id differs from the one the outcome came with), `supersedes` (the cursor of the outcome
    of ours that this one replaced) and `solutionRemoved` are written only where they hold. `discarded` is never
    written: a client that threw answers away because they were too old names their tasks there, by ref or id.
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
        """True if it has an outcome; a provisional one may still be replaced, once."""
        return self.status != "processing"

    @property
    def is_provisional(self) -> bool:
        """True for an outcome of ours, which the first one of the provider replaces."""
        return self.source == "deadline" or self.trust == PROVISIONAL

    @model_serializer(mode="wrap")
    def _without_what_does_not_hold(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        for name in ("disputed", "solutionRemoved", "solution_removed", "supersedes"):
            if name in fields and not fields[name]:
                del fields[name]
        return fields


class Reported(_Read):
    """The answer to a report: what became of it, and the task with the outcome that won."""

    verdict: str
    task: Task


class LogEntry(_Read):
    """One place in the log: a result (`task`), a deletion (`ref`, `deleted`) or, if asked for, a `hint` (`ref`)."""

    cursor: str
    task: Task | None = None
    ref: str | None = None
    deleted: bool = False
    hint: bool = False


class ResultsPage(_Read):
    """A page of the log, oldest first; `cursor` is how far it has looked, not the last match."""

    results: tuple[LogEntry, ...] = ()
    cursor: str
    more: bool = False


class TaskList(_Read):
    """A page of tasks, newest first; `next_page` is None on the last one."""

    tasks: tuple[Task, ...] = ()
    next_page: str | None = None


class Ticket(_Read):
    """The answer to `POST /v1/tickets`: good until `ends_at`, for one websocket, or for server-sent events."""

    ticket: str
    ends_at: datetime


class Problem(_Read):
    """An error of the receiver (RFC 9457), readable as an error of the family too.

    `ref` names the task that it is about: under `task-id-taken` the one that has the id.
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
    """One thing that happened to a task: `text` says it in words, the rest in words of this protocol.

    `at` is None where nobody noted the time. `origin` is who or what did it: the name of an API key, `createTask`, a
    kind of callback URL, `receiver`, `client`. `verdict` is that of a delivery, `source` and `status` those of an
    outcome, whose `supersedes` is the `errorCode` of the one that it replaced.
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
    """What a task that is not settled waits for, and what comes next; `text` says it in words.

    `polls_left` None means that no limit is known; `leased_until` is set while somebody polls it for this receiver.
    """

    polled_by: str
    next_poll_at: datetime | None = None
    why_then: str
    polls_left: int | None = None
    leased_until: datetime | None = None
    text: str


class TaskTimeline(_Read):
    """`GET /v1/tasks/{id}/timeline`: what happened to a task so far, oldest first, and what it waits for.

    `deliveries` and `polls` count all of them; the first few and the newest are steps. `wakes` is how often this
    process woke somebody who waited for it over a long poll, None where that is not known (any more). `waiting` is None
    where nothing more is waited for.
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
