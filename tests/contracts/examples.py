"""One example of each frame, for the contract of the streams. Tests check each against the contract."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from client.protocol.frames import (
    Add,
    Added,
    Deleted,
    GapFrame,
    Goodbye,
    Heartbeat,
    Hint,
    NamedTask,
    ProblemFrame,
    Remove,
    Removed,
    Request,
    ResultFrame,
    StreamFrame,
    Subscribe,
    Subscribed,
)
from client.protocol.models import Task
from receiver.errors import ReceiverError
from receiver.web.middleware import problem_fields

__all__ = ["EXAMPLES", "PROBLEM", "TASK"]

_REF = "0199f6a2-5c1e-7c6b-8f39-2a7d4be01c55"
_BEFORE, _CURSOR = "3f9a02c7d41e-41", "3f9a02c7d41e-42"
_CREATED = datetime(2026, 1, 15, 9, 30, tzinfo=UTC)

TASK = Task(
    ref=_REF,
    provider="capsolver",
    type="ImageToTextTask",
    task_id="37223a89-06ed-442c-a0b8-22067b79c5b4",
    tags=("checkout",),
    status="ready",
    solution={"text": "44795sds"},
    source="callback",
    trust="token",
    created_at=_CREATED,
    finished_at=_CREATED + timedelta(seconds=4.2),
    poll_after=_CREATED + timedelta(seconds=20),
    deadline_at=_CREATED + timedelta(minutes=5),
    cursor=_CURSOR,
)
"""A finished task."""

PROBLEM = problem_fields(ReceiverError("wrong-field", "type: expected subscribe, add or remove"))
"""The problem for a frame of an unknown type."""

_EXAMPLES: tuple[Request | StreamFrame, ...] = (
    Subscribe(type="subscribe", id=1, cursor=_BEFORE, provider="capsolver", tags=("checkout",)),
    Add(type="add", id=2, tasks=(_REF, NamedTask(provider="onecaptcha", task_id=90210))),
    Remove(type="remove", id=3, tasks=(_REF,)),
    Subscribed(id=1, cursor=_BEFORE),
    Added(id=2, cursor=_BEFORE),
    Removed(id=3, cursor=_BEFORE),
    ProblemFrame(id=4, problem=PROBLEM),
    ResultFrame(cursor=_CURSOR, task=TASK),
    Deleted(cursor=_CURSOR, ref=_REF),
    Hint(cursor=_CURSOR, ref=_REF),
    GapFrame(reason="other-log", resumes_at=_BEFORE),
    Heartbeat(cursor=_CURSOR),
    Goodbye(cursor=_CURSOR),
)

EXAMPLES: Mapping[type[BaseModel], Request | StreamFrame] = {type(frame): frame for frame in _EXAMPLES}
"""One frame of each class in the table of frames."""
