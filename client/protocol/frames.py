"""The table of frames of a subscription. A websocket carries them both ways, and server-sent events one way.

Frames to the receiver must not have unknown fields. In frames from the receiver, unknown fields and types are ignored,
so that either half may be newer.
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
"""The most tasks that one subscription may name."""

NAME_BYTES = 250
"""The bytes that a named task counts for, beside the bytes of its text."""

MAX_NAME_BYTES = 48 * 1024 * 1024
"""The bytes for all named tasks of a receiver: 175,000 refs."""

MAX_NAME_BYTES_EACH = 32 * 1024 * 1024
"""The bytes for the named tasks of each API key: 117,000 refs."""

MAX_FRAME_BYTES = 1024 * 1024
"""The most bytes of a frame to the receiver: enough for `NAMES_AT_ONCE` refs, and more."""

NO_ROOM = ("too-many-names", "receiver-full")
"""The problems of an `add` that may be repeated later: names of other sockets or keys take all the room."""

NAMES_AT_ONCE = 5000
"""The most tasks that one frame may name."""

FrameId = Annotated[
    StrictInt | Annotated[StrictStr, StringConstraints(max_length=64)], Field(union_mode="left_to_right")
]


class _Read(BaseModel):
    """A frame from the receiver."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class NamedTask(Sent):
    """A task, named by the provider's id."""

    provider: ShortText
    task_id: TaskIdField


# The first wrong name ends the reading. A frame of wrong ones would otherwise hold the loop for seconds.
TaskNames = Annotated[tuple[ShortText | NamedTask, ...], Field(max_length=NAMES_AT_ONCE, fail_fast=True)]


class Subscribe(Sent):
    """The request that begins the one subscription of a websocket. `id` comes back in the answer.

    The subscription brings (provider AND all tags) OR tasks. Without these fields it brings everything, and with
    `tasks: []` alone nothing yet. It begins at `cursor`; without one now, and with `start` at the oldest result kept.
    Named tasks that have ended come at once, whatever the cursor. With `hints` it also brings hints. Something came for
    a task then, and could not be trusted or read: polling the task now may bring its answer.
    """

    type: Literal["subscribe"] = "subscribe"
    id: FrameId
    cursor: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    provider: ShortText | None = None
    tags: Tags = ()
    tasks: TaskNames | None = None
    hints: bool = False


class Add(Sent):
    """The request to name further tasks. Tasks that have ended come at once."""

    type: Literal["add"] = "add"
    id: FrameId
    tasks: TaskNames


class Remove(Sent):
    """The request to stop naming tasks. A task that was not named is no error."""

    type: Literal["remove"] = "remove"
    id: FrameId
    tasks: TaskNames


class Subscribed(_Read):
    """The subscription has begun. It misses nothing behind `cursor`."""

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
    """The request changed nothing. `id` is null if it could not be read. `problem` is as over HTTP (RFC 9457)."""

    type: Literal["problem"] = "problem"
    id: FrameId | None = None
    problem: dict[str, Any]

    @property
    def slug(self) -> str:
        """The last part of the problem's `type`."""
        return str(self.problem.get("type", "")).removeprefix(PROBLEM_PREFIX)


class ResultFrame(_Read):
    """A task has ended. A subscription from `cursor` on misses nothing and gets nothing twice.

    `task.cursor` is the place of the outcome itself. For a task that was named after its end, it may be earlier or
    later than `cursor`.
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
    """Something came for the task, and could not be trusted or read. Only a subscription with `hints` gets it."""

    type: Literal["hint"] = "hint"
    cursor: str
    ref: str


class GapFrame(_Read):
    """The cursor is not valid (any more), so results may have been missed. The log goes on from `resumesAt`."""

    type: Literal["gap"] = "gap"
    reason: str
    resumes_at: str

    @property
    def cursor(self) -> str:
        """The place to go on from, as every frame of the log has it."""
        return self.resumes_at


class Heartbeat(_Read):
    """Nothing more passed the filter up to `cursor`: go on from there."""

    type: Literal["heartbeat"] = "heartbeat"
    cursor: str


class Goodbye(_Read):
    """The receiver shuts down. Go on from `cursor` once it is back."""

    type: Literal["goodbye"] = "goodbye"
    cursor: str


Request = Subscribe | Add | Remove
"""A frame to the receiver."""

Answer = Subscribed | Added | Removed | ProblemFrame
"""A frame that answers a request. Only a websocket carries it."""

Event = ResultFrame | Deleted | Hint | GapFrame | Heartbeat | Goodbye
"""A frame of the log. Websockets and server-sent events carry it."""

StreamFrame = Answer | Event
"""A frame from the receiver."""

REQUESTS: tuple[type[Request], ...] = get_args(Request)
ANSWERS: tuple[type[Answer], ...] = get_args(Answer)
EVENTS: tuple[type[Event], ...] = get_args(Event)

_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="type")])
_STREAM_FRAME: TypeAdapter[StreamFrame] = TypeAdapter(Annotated[StreamFrame, Field(discriminator="type")])


def type_of(frame: type[Request | StreamFrame]) -> str:
    """Return the `type` that a frame of this class has on the wire."""
    return str(frame.model_fields["type"].default)


def read_request(fields: Mapping[str, Any]) -> Request:
    """Return the frame from a subscriber.

    Raises:
        ValidationError: these are not the fields of a request.
    """
    return _REQUEST.validate_python(fields, by_alias=True, by_name=False)


def read_frame(raw: str | bytes) -> StreamFrame | None:
    """Return the frame from a receiver; None for a type that this version does not know."""
    try:
        return _STREAM_FRAME.validate_json(raw)
    except ValidationError:
        return None


def frame_of(entry: LogEntry) -> Event:
    """Return the frame for a place in the log. A place of an unknown kind gives a heartbeat: go on from there."""
    if entry.task is not None:
        return ResultFrame(cursor=entry.cursor, task=entry.task)
    if entry.ref is None or not (entry.hint or entry.deleted):
        return Heartbeat(cursor=entry.cursor)
    return (Hint if entry.hint else Deleted)(cursor=entry.cursor, ref=entry.ref)
