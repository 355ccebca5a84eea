"""The frames of a subscription: what a websocket carries both ways, and server-sent events one way.

Frames that enter the receiver forbid unknown fields; of those that are read here, unknown fields and unknown types are
ignored, so that either half may be newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, StringConstraints, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from client.protocol.models import PROBLEM_PREFIX, LogEntry, Sent, ShortText, Tags, Task, TaskIdField

__all__ = [
    "ANSWERS",
    "EVENTS",
    "MAX_FRAME_BYTES",
    "MAX_NAMED",
    "MAX_NAME_BYTES",
    "MAX_NAME_BYTES_EACH",
    "NAMES_AT_ONCE",
    "NAME_BYTES",
    "NO_ROOM",
    "REQUESTS",
    "SUBPROTOCOL",
    "Add",
    "Added",
    "Answer",
    "Deleted",
    "Event",
    "GapFrame",
    "Goodbye",
    "Heartbeat",
    "Hint",
    "NamedTask",
    "ProblemFrame",
    "Remove",
    "Removed",
    "Request",
    "ResultFrame",
    "StreamFrame",
    "Subscribe",
    "Subscribed",
    "frame_of",
    "read_frame",
    "read_request",
    "type_of",
]

SUBPROTOCOL = "callback-receiver.v1"
"""The websocket subprotocol of these frames."""

MAX_NAMED = 50_000
"""So many tasks may be named in one subscription."""

NAME_BYTES = 250
"""A named task counts with so many bytes, and those of its text."""

MAX_NAME_BYTES = 48 * 1024 * 1024
"""So much all named tasks of a receiver may take: 175,000 refs."""

MAX_NAME_BYTES_EACH = 32 * 1024 * 1024
"""The same for each API key: 117,000 refs."""

MAX_FRAME_BYTES = 1024 * 1024
"""A frame that enters the receiver has at most so many bytes: room for `NAMES_AT_ONCE` refs, and more."""

NO_ROOM = ("too-many-names", "receiver-full")
"""The problems of an `add` that may be repeated later: the names of others, or of other sockets, take all the room."""

NAMES_AT_ONCE = 5000
"""So many tasks are named in one frame at most."""

FrameId = Annotated[
    StrictInt | Annotated[StrictStr, StringConstraints(max_length=64)], Field(union_mode="left_to_right")
]


class _Read(BaseModel):
    """What leaves it."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class NamedTask(Sent):
    """A task by the provider's id."""

    provider: ShortText
    task_id: TaskIdField


# The first wrong name ends the reading. A frame of wrong ones would otherwise hold the loop for seconds.
TaskNames = Annotated[tuple[ShortText | NamedTask, ...], Field(max_length=NAMES_AT_ONCE, fail_fast=True)]


class Subscribe(Sent):
    """Begins the one subscription of a websocket; `id` comes back in the answer.

    Read is (provider AND all tags) OR tasks; none given: all; `tasks: []` alone: none yet. Without `cursor`: from now;
    `start`: from the oldest kept. Named tasks that are finished come at once, whatever the cursor. `hints`: also that
    something came which could not be trusted or read, so that polling the task now is worth it.
    """

    type: Literal["subscribe"] = "subscribe"
    id: FrameId
    cursor: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    provider: ShortText | None = None
    tags: Tags = ()
    tasks: TaskNames | None = None
    hints: bool = False


class Add(Sent):
    """Names further tasks; those that are finished come at once."""

    type: Literal["add"] = "add"
    id: FrameId
    tasks: TaskNames


class Remove(Sent):
    """Names tasks no more; one that was not named is no error."""

    type: Literal["remove"] = "remove"
    id: FrameId
    tasks: TaskNames


class Subscribed(_Read):
    """The subscription has begun; nothing behind `cursor` will be missed."""

    type: Literal["subscribed"] = "subscribed"
    id: FrameId
    cursor: str


class Added(_Read):
    """The tasks are named now."""

    type: Literal["added"] = "added"
    id: FrameId
    cursor: str


class Removed(_Read):
    """The tasks are named no more."""

    type: Literal["removed"] = "removed"
    id: FrameId
    cursor: str


class ProblemFrame(_Read):
    """What was sent changed nothing; `id` is null where it could not be read. `problem` is as over HTTP (RFC 9457)."""

    type: Literal["problem"] = "problem"
    id: FrameId | None = None
    problem: dict[str, Any]

    @property
    def slug(self) -> str:
        """The last part of the problem's `type`."""
        return str(self.problem.get("type", "")).removeprefix(PROBLEM_PREFIX)


class ResultFrame(_Read):
    """A task has ended. A subscription that goes on from `cursor` misses nothing and gets nothing twice.

    `task.cursor` is the place of the outcome itself; for a task that was named after it had ended, it may be earlier
    or later than `cursor`.
    """

    type: Literal["result"] = "result"
    cursor: str
    task: Task


class Deleted(_Read):
    """The task was deleted, or a named ref is not known (any more)."""

    type: Literal["deleted"] = "deleted"
    cursor: str
    ref: str


class Hint(_Read):
    """Something came for the task that could not be trusted or read; only where `hints` was asked for."""

    type: Literal["hint"] = "hint"
    cursor: str
    ref: str


class GapFrame(_Read):
    """The cursor is of no use (any more), so results may have been missed; what follows begins at `resumesAt`."""

    type: Literal["gap"] = "gap"
    reason: str
    resumes_at: str

    @property
    def cursor(self) -> str:
        """The place to go on from, as every frame of the log has it."""
        return self.resumes_at


class Heartbeat(_Read):
    """There is nothing (of this filter) up to `cursor`: go on from there."""

    type: Literal["heartbeat"] = "heartbeat"
    cursor: str


class Goodbye(_Read):
    """The receiver shuts down; go on from `cursor` once it is back."""

    type: Literal["goodbye"] = "goodbye"
    cursor: str


Request = Subscribe | Add | Remove
"""A frame that a subscriber sends."""

Answer = Subscribed | Added | Removed | ProblemFrame
"""A frame that answers a request. Only a websocket carries it."""

Event = ResultFrame | Deleted | Hint | GapFrame | Heartbeat | Goodbye
"""A frame of the log. Websockets and server-sent events carry it."""

StreamFrame = Answer | Event
"""A frame that a subscriber gets."""

REQUESTS: tuple[type[Request], ...] = get_args(Request)
ANSWERS: tuple[type[Answer], ...] = get_args(Answer)
EVENTS: tuple[type[Event], ...] = get_args(Event)

_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="type")])
_STREAM_FRAME: TypeAdapter[StreamFrame] = TypeAdapter(Annotated[StreamFrame, Field(discriminator="type")])


def type_of(frame: type[Request | StreamFrame]) -> str:
    """Return the `type` that a frame of this class has on the wire."""
    return str(frame.model_fields["type"].default)


def read_request(fields: Mapping[str, Any]) -> Request:
    """Return the frame that a subscriber sent.

    Raises:
        ValidationError: these are not the fields of a request.
    """
    return _REQUEST.validate_python(fields, by_alias=True, by_name=False)


def read_frame(raw: str | bytes) -> StreamFrame | None:
    """Return the frame that a receiver sent; None for what this version does not know."""
    try:
        return _STREAM_FRAME.validate_json(raw)
    except ValidationError:
        return None


def frame_of(entry: LogEntry) -> Event:
    """Return the frame that tells of a place in the log; of a kind that this version does not know, a heartbeat."""
    if entry.task is not None:
        return ResultFrame(cursor=entry.cursor, task=entry.task)
    if entry.ref is None or not (entry.hint or entry.deleted):
        return Heartbeat(cursor=entry.cursor)
    return (Hint if entry.hint else Deleted)(cursor=entry.cursor, ref=entry.ref)
