"""Frames as bytes. A result is rendered once for many subscribers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from pydantic_core import to_json

from client.protocol.frames import ProblemFrame, StreamFrame, frame_of
from receiver.domain.records import Entry, TaskRecord
from receiver.web.views import log_entry, task_json

__all__ = ["Frames", "RenderedFrame"]

_MOST_BYTES = 8 * 1024 * 1024


class RenderedFrame:
    """One frame: its `type`, the cursor to go on from behind it, and its JSON."""

    __slots__ = ("cursor", "raw", "type")

    def __init__(self, type: str, cursor: str, raw: bytes) -> None:
        self.type = type
        self.cursor = cursor
        self.raw = raw


class Frames:
    """Renders the frames for subscribers. The results rendered last are kept, within a bound of bytes.

    So the same bytes wait in the buffers of all their subscribers.
    """

    def __init__(self, cursor_at: Callable[[int], str], *, most_bytes: int = _MOST_BYTES) -> None:
        self._cursor_at = cursor_at
        self._most_bytes = most_bytes
        self._rendered: OrderedDict[Any, bytes] = OrderedDict()
        self._size = 0

    def render(self, frame: Entry | StreamFrame) -> RenderedFrame:
        """Return the bytes of a frame, or of the frame for an entry of the log."""
        if isinstance(frame, Entry):
            if frame.kind == "result" and frame.task is not None:
                return RenderedFrame("result", frame.cursor, self._result(frame.cursor, frame.task))
            frame = frame_of(log_entry(frame, self._cursor_at))
        cursor = "" if isinstance(frame, ProblemFrame) else frame.cursor
        return RenderedFrame(frame.type, cursor, frame.model_dump_json(by_alias=True).encode())

    def _result(self, cursor: str, task: TaskRecord) -> bytes:
        # The outcome of a place does not change, but these fields do.
        has_solution = task.outcome is not None and task.outcome.solution is not None
        key = (cursor, task.position, task.ref, task.id_text, task.is_disputed, has_solution)
        raw = self._rendered.get(key)
        if raw is None:
            raw = b'{"type":"result","cursor":%b,"task":%b}' % (to_json(cursor), task_json(task, self._cursor_at))
            self._rendered[key] = raw
            self._size += len(raw)
            while self._size > self._most_bytes:
                _, dropped = self._rendered.popitem(last=False)
                self._size -= len(dropped)
        return raw
