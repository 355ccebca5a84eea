"""Frames as bytes: a result that many subscribers get is rendered once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from client.protocol.frames import Deleted, GapFrame, Goodbye, Heartbeat, Hint
from receiver.domain.records import Entry, Gap, TaskRecord
from receiver.web.views import task_view

__all__ = ["Frame", "Frames"]

_MOST_BYTES = 8 * 1024 * 1024


class Frame:
    """One frame: its `type`, where to go on behind it, and its JSON."""

    __slots__ = ("cursor", "raw", "type")

    def __init__(self, type: str, cursor: str, raw: bytes) -> None:
        self.type = type
        self.cursor = cursor
        self.raw = raw


class Frames:
    """Renders what subscribers get; the results that were rendered last are kept, within a bound of bytes.

    So the same bytes wait in the buffers of all that get them.
    """

    def __init__(self, cursor_at: Callable[[int], str], *, most_bytes: int = _MOST_BYTES) -> None:
        self._cursor_at = cursor_at
        self._most_bytes = most_bytes
        self._rendered: OrderedDict[Any, bytes] = OrderedDict()
        self._size = 0

    def of(self, told: Entry | Gap) -> Frame:
        """Return the frame that tells a subscriber of it."""
        if isinstance(told, Gap):
            return _frame(GapFrame(reason=told.reason, resumes_at=told.resumes_at), told.resumes_at)
        if told.kind == "result" and told.task is not None:
            return Frame("result", told.cursor, self._result(told.cursor, told.task))
        kind = Deleted if told.kind == "deleted" else Hint
        return _frame(kind(cursor=told.cursor, ref=told.ref), told.cursor)

    @staticmethod
    def heartbeat(cursor: str) -> Frame:
        """That there is nothing up to the cursor."""
        return _frame(Heartbeat(cursor=cursor), cursor)

    @staticmethod
    def goodbye(cursor: str) -> Frame:
        """That the receiver shuts down."""
        return _frame(Goodbye(cursor=cursor), cursor)

    def _result(self, cursor: str, task: TaskRecord) -> bytes:
        # The outcome of a place does not change, but these do.
        has_solution = task.outcome is not None and task.outcome.solution is not None
        key = (cursor, task.position, task.ref, task.id_text, task.is_disputed, has_solution)
        raw = self._rendered.get(key)
        if raw is None:
            view = task_view(task, self._cursor_at).model_dump_json(by_alias=True).encode()
            raw = b"".join((b'{"type":"result","cursor":', to_json(cursor), b',"task":', view, b"}"))
            self._rendered[key] = raw
            self._size += len(raw)
            while self._size > self._most_bytes:
                _, dropped = self._rendered.popitem(last=False)
                self._size -= len(dropped)
        return raw


def _frame(frame: BaseModel, cursor: str) -> Frame:
    raw = frame.model_dump_json(by_alias=True).encode()
    return Frame(str(getattr(frame, "type", "")), cursor, raw)
