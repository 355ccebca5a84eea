"""The columns of the SQLite store, made from the fields of the records, and records as rows.

A field of a record is a column of its table, in the order of the fields. A new field needs its migration besides. An
update has the changed columns alone, and never a field of the type `Constant`. Reading, inserting and updating are all
made from the tuples of columns here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any, get_origin, get_type_hints

from pydantic_core import from_json, to_json

from client.provider_api.unlisted import UnlistedRow
from receiver.domain.access.tickets import StoredTicket
from receiver.domain.records import SECOND, Outcome, PollRecord, StandingUrl, StoredDelivery, TaskRecord, UnlistedCode
from receiver.domain.shapes import Shape, ShapeRecord
from receiver.domain.sharing.budgets import SharedBudget
from receiver.domain.sharing.leases import Lease
from receiver.domain.transaction import IdempotencyRecord
from receiver.domain.verdicts import UNREAD, VERDICTS

__all__ = [
    "BUDGET_COLUMNS",
    "DELIVERY_COLUMNS",
    "IDEMPOTENCY_COLUMNS",
    "LATE_VERDICTS",
    "LEASE_COLUMNS",
    "LOG_DELIVERY_COLUMNS",
    "NO_DELIVERY",
    "OUTCOME_COLUMNS",
    "POLL_COLUMNS",
    "SHAPE_COLUMNS",
    "SHAPE_KEY",
    "SLOTS",
    "STANDING_URL_COLUMNS",
    "TASK_COLUMNS",
    "TICKET_COLUMNS",
    "UNLISTED_CODE_COLUMNS",
    "UNLISTED_ROW_COLUMNS",
    "UNREAD_VERDICTS",
    "budget_from",
    "budget_values",
    "changed_columns",
    "delivery_from",
    "delivery_values",
    "idempotency_from",
    "idempotency_values",
    "lease_from",
    "lease_values",
    "log_delivery_values",
    "outcome_values",
    "poll_from",
    "poll_values",
    "shape_from",
    "shape_values",
    "slots_of",
    "slots_range",
    "standing_url_from",
    "standing_url_values",
    "task_from",
    "task_values",
    "ticket_from",
    "ticket_values",
    "time_values",
    "unlisted_row_from",
    "update_values",
]

SLOTS = 16
"""Ids of deliveries, and of polls, for each task. The first one is the row of the task times this number.

It stands in the ids of every database, so it never changes.
"""

UNREAD_VERDICTS = ", ".join(f"'{name}'" for name in sorted(UNREAD))
"""Verdicts in SQL, between parentheses: bodies without an answer, under the quota of unreadable bytes."""
LATE_VERDICTS = ", ".join(f"'{row.name}'" for row in VERDICTS.values() if row.is_late)
"""Verdicts in SQL, between parentheses: callbacks after the outcome."""

_COLUMN_NAMES = {"row": "id", "id_text": "task_id", "summary": "said"}
"""Columns with another name than their fields."""


def _fields(record: type[Any], *without: str) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record) if field.name not in without)


def _columns(field_names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_COLUMN_NAMES.get(name, name) for name in field_names)


_TASK_FIELDS = _fields(TaskRecord, "outcome")
# SQLite has no booleans.
_TASK_FLAGS = tuple(name for name, kind in get_type_hints(TaskRecord).items() if kind is bool)
_CONSTANT_FIELDS = tuple(
    name for name, kind in get_type_hints(TaskRecord, include_extras=True).items() if get_origin(kind) is Annotated
)
_OUTCOME_FIELDS = _fields(Outcome)
_DELIVERY_FIELDS = _fields(StoredDelivery, "slot")
_POLL_FIELDS = _fields(PollRecord, "unlisted")

# The type of the provider's id and the status follow from other fields. They have columns of their own.
TASK_COLUMNS = (*_columns(_TASK_FIELDS), "task_id_is_integer", "status")
OUTCOME_COLUMNS = _columns(_OUTCOME_FIELDS)
DELIVERY_COLUMNS = _columns(_DELIVERY_FIELDS)
# The delivery kept with an outcome was received when the task was finished.
_LOG_DELIVERY_FIELDS = tuple(name for name in _DELIVERY_FIELDS if name != "received_at")
LOG_DELIVERY_COLUMNS = ("slot", *_columns(_LOG_DELIVERY_FIELDS))
NO_DELIVERY = (None,) * len(LOG_DELIVERY_COLUMNS)
UNLISTED_ROW_COLUMNS = tuple(f"unlisted_{name}" for name in _fields(UnlistedRow))
POLL_COLUMNS = (*_columns(_POLL_FIELDS), *UNLISTED_ROW_COLUMNS)
STANDING_URL_COLUMNS = _fields(StandingUrl)
IDEMPOTENCY_COLUMNS = _fields(IdempotencyRecord)
LEASE_COLUMNS = _fields(Lease)
BUDGET_COLUMNS = _fields(SharedBudget)
TICKET_COLUMNS = _fields(StoredTicket)
SHAPE_KEY = ("provider", *_fields(Shape))
SHAPE_COLUMNS = (*SHAPE_KEY, *_fields(ShapeRecord, "provider", "shape"))
UNLISTED_CODE_COLUMNS = UnlistedCode._fields

_STATE_FIELDS = tuple(name for name in (*_TASK_FIELDS, "outcome") if name not in _CONSTANT_FIELDS)
_FOLLOWING = {"task_id": ("task_id_is_integer",), "joined_ref": ("status",), "outcome": ("status",)}
"""Columns that follow from a field of another name."""

_IS_INTEGER = TASK_COLUMNS.index("task_id_is_integer")
_FIRST_OF_OUTCOME = len(TASK_COLUMNS)
_FINISHED_AT = OUTCOME_COLUMNS.index("finished_at")


def task_from(row: tuple[Any, ...]) -> TaskRecord:
    """Return the record in a row of TASK_COLUMNS and OUTCOME_COLUMNS."""
    values: dict[str, Any] = dict(zip(_TASK_FIELDS, row, strict=False))
    for name in _TASK_FLAGS:
        values[name] = values[name] != 0
    values["tags"] = () if values["tags"] == "[]" else tuple(from_json(values["tags"]))
    if row[_IS_INTEGER] and values["task_id"] is not None:
        values["task_id"] = int(values["task_id"])
    values["outcome"] = None if row[_FIRST_OF_OUTCOME] is None else Outcome(*row[_FIRST_OF_OUTCOME:])
    return TaskRecord.of(values)


_TASK_ATTRIBUTES = {"id": "row", "task_id": "id_text"}
_task_values = attrgetter(*(_TASK_ATTRIBUTES.get(name, name) for name in TASK_COLUMNS))
_TAGS = TASK_COLUMNS.index("tags")


def task_values(task: TaskRecord) -> Sequence[Any]:
    """Return the values of TASK_COLUMNS."""
    values = list(_task_values(task))
    values[_TAGS] = to_json(task.tags).decode()
    return values


def changed_columns(before: TaskRecord, after: TaskRecord) -> tuple[str, ...]:
    """Return the columns of a task to write. Writing a column again costs as much as its index, if it has one."""
    old, new = vars(before), vars(after)
    return _columns_of(tuple([name for name in _STATE_FIELDS if new[name] is not old[name]]))


@lru_cache
def _columns_of(field_names: tuple[str, ...]) -> tuple[str, ...]:
    following = chain.from_iterable(_FOLLOWING.get(name, ()) for name in field_names)
    own = (name for name in field_names if name != "outcome")
    return tuple(dict.fromkeys((*own, *following)))


@lru_cache
def update_values(columns: tuple[str, ...]) -> Callable[[TaskRecord], Sequence[Any]]:
    """Return the function for the values of these columns, and the id."""
    return attrgetter(*(_TASK_ATTRIBUTES.get(name, name) for name in (*columns, "id")))


outcome_values = attrgetter(*_OUTCOME_FIELDS)
"""Return the values of OUTCOME_COLUMNS."""

delivery_values = attrgetter(*_DELIVERY_FIELDS)
"""Return the values of DELIVERY_COLUMNS."""

_log_delivery_values = attrgetter(*_LOG_DELIVERY_FIELDS)

standing_url_values = attrgetter(*STANDING_URL_COLUMNS)
"""Return the values of STANDING_URL_COLUMNS."""

idempotency_values = attrgetter(*IDEMPOTENCY_COLUMNS)
"""Return the values of IDEMPOTENCY_COLUMNS."""

lease_values = attrgetter(*LEASE_COLUMNS)
"""Return the values of LEASE_COLUMNS."""

ticket_values = attrgetter(*TICKET_COLUMNS)
"""Return the values of TICKET_COLUMNS."""

_budget_values = attrgetter(*BUDGET_COLUMNS)
_poll_values = attrgetter(*_POLL_FIELDS)
_shape_values = attrgetter(*(f"shape.{name}" if name in _fields(Shape) else name for name in SHAPE_COLUMNS))


def log_delivery_values(task: TaskRecord, delivery: StoredDelivery | None) -> tuple[Any, ...]:
    """Return the values of LOG_DELIVERY_COLUMNS. The delivery is the newest of the task, in the slot of its number."""
    return NO_DELIVERY if delivery is None else (task.deliveries, *_log_delivery_values(delivery))


def time_values(time: int | None) -> tuple[Any, ...]:
    """Return OUTCOME_COLUMNS of a log entry without an outcome. It has only its time, because retention needs that."""
    return (*[None] * _FINISHED_AT, time, *[None] * (len(OUTCOME_COLUMNS) - _FINISHED_AT - 1))


def poll_values(poll: PollRecord) -> tuple[Any, ...]:
    """Return the values of POLL_COLUMNS."""
    row = poll.unlisted
    unlisted = (None, None, None) if row is None else (row.code, row.times, round(row.since * SECOND))
    return (*_poll_values(poll), *unlisted)


def poll_from(row: tuple[Any, ...]) -> PollRecord:
    """Return the record in a row of POLL_COLUMNS, without the row of unlisted answers."""
    return PollRecord(*row[: len(_POLL_FIELDS)])


def unlisted_row_from(row: tuple[Any, ...]) -> UnlistedRow | None:
    """Return the row of unlisted answers in a row of UNLISTED_ROW_COLUMNS, if there is one."""
    code, times, since = row
    return None if code is None else UnlistedRow(code, times, since / SECOND)


def slots_of(row: int) -> tuple[int, int]:
    """Return the first and the last id of the deliveries of the task in this row, and of its polls."""
    return row * SLOTS, row * SLOTS + SLOTS - 1


def slots_range(row: str) -> str:
    """Return the same range in SQL, to stand behind an id. `row` is an expression for the row of the task."""
    return f"BETWEEN {row} * {SLOTS} AND {row} * {SLOTS} + {SLOTS - 1}"


def delivery_from(row: tuple[Any, ...], slot: int | None = None) -> StoredDelivery:
    """Return the record in a row of DELIVERY_COLUMNS."""
    return StoredDelivery(**dict(zip(_DELIVERY_FIELDS, row, strict=True)), slot=slot)


def shape_values(record: ShapeRecord) -> Sequence[Any]:
    """Return the values of SHAPE_COLUMNS. A missing content type is stored as ""."""
    return ["" if value is None else value for value in _shape_values(record)]


def shape_from(row: tuple[Any, ...]) -> ShapeRecord:
    """Return the record in a row of SHAPE_COLUMNS."""
    provider, method, content_type, names, *counts = row
    return ShapeRecord(provider, Shape(method, content_type or None, names), *counts)


def standing_url_from(row: tuple[Any, ...]) -> StandingUrl:
    """Return the record in a row of STANDING_URL_COLUMNS."""
    return StandingUrl(*row)


def idempotency_from(row: tuple[Any, ...]) -> IdempotencyRecord:
    """Return the record in a row of IDEMPOTENCY_COLUMNS."""
    body_digest, ref, is_new = row
    return IdempotencyRecord(body_digest, ref, bool(is_new))


def lease_from(row: tuple[Any, ...]) -> Lease:
    """Return the record in a row of LEASE_COLUMNS."""
    return Lease(*row)


def budget_values(budget: SharedBudget) -> Sequence[Any]:
    """Return the values of BUDGET_COLUMNS."""
    *numbers, errors, receivers = _budget_values(budget)
    return (*map(int, numbers), to_json(errors).decode(), to_json(receivers).decode())


def budget_from(row: tuple[Any, ...]) -> SharedBudget:
    """Return the record in a row of BUDGET_COLUMNS."""
    values: dict[str, Any] = dict(zip(BUDGET_COLUMNS, row, strict=True))
    values["was_banned"] = values["was_banned"] != 0
    values["errors"] = [(at, count) for at, count in from_json(values["errors"])]
    values["receivers"] = from_json(values["receivers"])
    return SharedBudget(**values)


def ticket_from(row: tuple[Any, ...]) -> StoredTicket:
    """Return the record in a row of TICKET_COLUMNS."""
    return StoredTicket(*row)
