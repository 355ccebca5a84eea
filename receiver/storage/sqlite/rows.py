"""The columns of the SQLite store, made from the fields of the records; rows to records and back.

A field of a record is a column of its table, in the order of the fields. A new one needs its migration besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from pydantic_core import from_json, to_json

from receiver.domain.records import SECOND, Outcome, PollRecord, StandingUrl, StoredDelivery, TaskRecord
from receiver.domain.shapes import ShapeRecord
from receiver.domain.verdicts import UNREAD, VERDICTS

__all__ = [
    "DELIVERY_COLUMNS",
    "LATE_VERDICTS",
    "OUTCOME_COLUMNS",
    "POLL_COLUMNS",
    "SLOTS",
    "SLOTS_OF_TASK",
    "STANDING_URL_COLUMNS",
    "TASK_COLUMNS",
    "TASK_STATE_COLUMNS",
    "UNREAD_VERDICTS",
    "bare_values",
    "delivery_from",
    "delivery_values",
    "outcome_values",
    "poll_from",
    "poll_values",
    "shape_values",
    "slots_of",
    "standing_url_from",
    "standing_url_values",
    "task_from",
    "task_state",
    "task_values",
]

SLOTS = 16
"""Ids of deliveries, and of polls, of each task: its row times this is the first."""

SLOTS_OF_TASK = f"BETWEEN task.id * {SLOTS} AND task.id * {SLOTS} + {SLOTS - 1}"
"""The same in SQL, behind an id."""

UNREAD_VERDICTS = ", ".join(f"'{name}'" for name in sorted(UNREAD))
LATE_VERDICTS = ", ".join(f"'{row.name}'" for row in VERDICTS.values() if row.is_late)
"""Verdicts in SQL, to stand between parentheses."""

_COLUMN_NAMES = {"row": "id", "id_text": "task_id", "summary": "said"}
"""Columns that are called otherwise than their fields."""

_NEVER_CHANGED = frozenset(
    {
        *("id", "ref", "provider", "type", "tags", "metadata", "created_by", "client_key_id", "has_url"),
        *("standing_id", "registered_at", "created_at", "deadline_at", "quota", "kept_bytes"),
    }
)


def _fields(record: type[Any], *, without: str = "") -> tuple[str, ...]:
    return tuple(field.name for field in fields(record) if field.name != without)


def _columns(field_names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_COLUMN_NAMES.get(name, name) for name in field_names)


_TASK_FIELDS = _fields(TaskRecord, without="outcome")
_TASK_FLAGS = tuple(field.name for field in fields(TaskRecord) if field.type == "bool")
_OUTCOME_FIELDS = _fields(Outcome)
_DELIVERY_FIELDS = _fields(StoredDelivery, without="slot")
_POLL_FIELDS = _fields(PollRecord, without="unlisted")
_STANDING_URL_FIELDS = _fields(StandingUrl)

# The type of the provider's id and the status are told by the other fields, and stand in columns of their own.
TASK_COLUMNS = (*_columns(_TASK_FIELDS), "task_id_is_integer", "status")
TASK_STATE_COLUMNS = tuple(name for name in TASK_COLUMNS if name not in _NEVER_CHANGED)
OUTCOME_COLUMNS = _columns(_OUTCOME_FIELDS)
DELIVERY_COLUMNS = _columns(_DELIVERY_FIELDS)
POLL_COLUMNS = (*_columns(_POLL_FIELDS), "unlisted_code", "unlisted_times", "unlisted_since")
STANDING_URL_COLUMNS = _columns(_STANDING_URL_FIELDS)

_FINISHED_AT = OUTCOME_COLUMNS.index("finished_at")


def task_from(row: tuple[Any, ...]) -> TaskRecord:
    """Return the record in a row of TASK_COLUMNS and OUTCOME_COLUMNS."""
    width = len(_TASK_FIELDS)
    values: dict[str, Any] = dict(zip(_TASK_FIELDS, row, strict=False))
    (is_integer, _), outcome = row[width : width + 2], row[width + 2 :]
    for name in _TASK_FLAGS:
        values[name] = bool(values[name])
    values["tags"] = () if values["tags"] == "[]" else tuple(from_json(values["tags"]))
    if is_integer and values["task_id"] is not None:
        values["task_id"] = int(values["task_id"])
    return TaskRecord(**values, outcome=None if outcome[0] is None else Outcome(*outcome))


def _status(task: TaskRecord) -> str:
    if task.joined_ref is not None:
        return "joined"
    return "processing" if task.outcome is None else task.outcome.status


_TASK_GETTERS: dict[str, Callable[[TaskRecord], Any]] = {
    _COLUMN_NAMES.get(name, name): attrgetter(name) for name in _TASK_FIELDS
} | {
    "tags": lambda task: to_json(task.tags).decode(),
    "task_id": attrgetter("id_text"),
    "task_id_is_integer": lambda task: isinstance(task.task_id, int),
    "status": _status,
}
_TASK_VALUES = tuple(_TASK_GETTERS[name] for name in TASK_COLUMNS)
_TASK_STATE = tuple(_TASK_GETTERS[name] for name in (*TASK_STATE_COLUMNS, "id"))


def task_values(task: TaskRecord) -> Sequence[Any]:
    """Return the values of TASK_COLUMNS."""
    return [value_of(task) for value_of in _TASK_VALUES]


def task_state(task: TaskRecord) -> Sequence[Any]:
    """Return the values of TASK_STATE_COLUMNS, and the id."""
    return [value_of(task) for value_of in _TASK_STATE]


outcome_values = attrgetter(*_OUTCOME_FIELDS)
"""Return the values of OUTCOME_COLUMNS."""

delivery_values = attrgetter(*_DELIVERY_FIELDS)
"""Return the values of DELIVERY_COLUMNS."""

standing_url_values = attrgetter(*_STANDING_URL_FIELDS)
"""Return the values of STANDING_URL_COLUMNS."""

_poll_values = attrgetter(*_POLL_FIELDS)


def bare_values(came_at: int | None) -> tuple[Any, ...]:
    """Return OUTCOME_COLUMNS of a place in the log without an outcome: only the time by which retention goes."""
    return (*[None] * _FINISHED_AT, came_at, *[None] * (len(OUTCOME_COLUMNS) - _FINISHED_AT - 1))


def poll_values(poll: PollRecord) -> tuple[Any, ...]:
    """Return the values of POLL_COLUMNS."""
    row = poll.unlisted
    unlisted = (None, None, None) if row is None else (row.code, row.times, round(row.since * SECOND))
    return (*_poll_values(poll), *unlisted)


def poll_from(row: tuple[Any, ...]) -> PollRecord:
    """Return the record in a row of POLL_COLUMNS, without the row of unlisted answers."""
    return PollRecord(*row[: len(_POLL_FIELDS)])


def slots_of(row: int) -> tuple[int, int]:
    """Return the first and the last id of the deliveries of the task in this row, and of its polls."""
    return row * SLOTS, row * SLOTS + SLOTS - 1


def delivery_from(row: tuple[Any, ...], slot: int | None = None) -> StoredDelivery:
    """Return the record in a row of DELIVERY_COLUMNS."""
    return StoredDelivery(**dict(zip(_DELIVERY_FIELDS, row, strict=True)), slot=slot)


def shape_values(record: ShapeRecord) -> tuple[Any, ...]:
    """Return the columns of ADD_SHAPE; the content type is "" where there was none."""
    shape = record.shape
    counts = (record.callbacks, record.readable, record.first_seen, record.last_seen)
    return record.provider, shape.method, shape.content_type or "", shape.fields, *counts


def standing_url_from(row: tuple[Any, ...]) -> StandingUrl:
    """Return the record in a row of STANDING_URL_COLUMNS."""
    return StandingUrl(*row)
