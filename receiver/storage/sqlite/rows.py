"""Rows of the SQLite store to records and back."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json

from receiver.domain.records import (
    SECOND,
    Delivery,
    Outcome,
    PollRecord,
    StandingUrl,
    TaskRecord,
)
from receiver.domain.shapes import ShapeRecord
from receiver.storage.sqlite.statements import OUTCOME_COLUMNS, TASK_COLUMNS

__all__ = [
    "SLOTS",
    "bare_values",
    "delivery_from",
    "delivery_values",
    "outcome_values",
    "poll_values",
    "shape_values",
    "slots_of",
    "standing_url_from",
    "standing_url_values",
    "task_from",
    "task_state",
    "task_values",
]

_TASK_WIDTH = len(TASK_COLUMNS.split(", "))
SLOTS = 16
_OUTCOME_WIDTH = len(OUTCOME_COLUMNS.split(", "))
_FINISHED_AT = OUTCOME_COLUMNS.split(", ").index("finished_at")


def task_from(row: tuple[Any, ...]) -> TaskRecord:
    """Return the record in a row of TASK_COLUMNS and OUTCOME_COLUMNS."""
    return TaskRecord(
        row=row[0],
        ref=row[1],
        provider=row[2],
        type=row[3],
        tags=() if row[4] == "[]" else tuple(from_json(row[4])),
        metadata=row[5],
        created_by=row[6],
        client_key_id=row[7],
        has_url=bool(row[8]),
        open_to_standing=bool(row[9]),
        standing_id=row[10],
        task_id=int(row[11]) if row[12] and row[11] is not None else row[11],
        bound_by=row[13],
        registered_at=row[14],
        created_at=row[15],
        poll_after=row[16],
        next_poll_at=row[17],
        deadline_at=row[18],
        hinted_at=row[19],
        is_disputed=bool(row[20]),
        deliveries=row[21],
        polls=row[22],
        quota=row[23],
        kept_bytes=row[24],
        joined_ref=row[25],
        position=row[26],
        is_polled_here=bool(row[28]),
        lease=row[29],
        leased_until=row[30],
        polled_at=row[31],
        held_until=row[32],
        bound_at=row[33],
        outcome=None if row[_TASK_WIDTH] is None else Outcome(*row[_TASK_WIDTH:]),
    )


def task_values(task: TaskRecord) -> tuple[Any, ...]:
    """Return all columns of a new task."""
    return (
        task.row,
        task.ref,
        task.provider,
        task.type,
        to_json(task.tags).decode(),
        task.metadata,
        task.created_by,
        task.client_key_id,
        task.has_url,
        task.open_to_standing,
        task.standing_id,
        task.id_text,
        isinstance(task.task_id, int),
        task.bound_by,
        task.registered_at,
        task.created_at,
        task.poll_after,
        task.next_poll_at,
        task.deadline_at,
        task.hinted_at,
        task.is_disputed,
        task.deliveries,
        task.polls,
        task.quota,
        task.kept_bytes,
        task.joined_ref,
        task.position,
        _status(task),
        task.is_polled_here,
        task.lease,
        task.leased_until,
        task.polled_at,
        task.held_until,
        task.bound_at,
    )


def task_state(task: TaskRecord) -> tuple[Any, ...]:
    """Return the columns of UPDATE_TASK."""
    return (
        task.open_to_standing,
        task.id_text,
        isinstance(task.task_id, int),
        task.bound_by,
        task.next_poll_at,
        task.hinted_at,
        task.is_disputed,
        task.deliveries,
        task.polls,
        task.position,
        _status(task),
        task.is_polled_here,
        task.lease,
        task.leased_until,
        task.polled_at,
        task.held_until,
        task.bound_at,
        task.poll_after,
        task.joined_ref,
        task.row,
    )


def outcome_values(outcome: Outcome) -> tuple[Any, ...]:
    """OUTCOME_COLUMNS."""
    return (
        outcome.status,
        outcome.solution,
        outcome.error_id,
        outcome.error_code,
        outcome.error_description,
        outcome.source,
        outcome.trust,
        outcome.finished_at,
        outcome.valid_until,
        outcome.supersedes,
    )


def bare_values(came_at: int | None) -> tuple[Any, ...]:
    """OUTCOME_COLUMNS of a place in the log without an outcome: only the time by which retention goes."""
    return (*[None] * _FINISHED_AT, came_at, *[None] * (_OUTCOME_WIDTH - _FINISHED_AT - 1))


def poll_values(poll: PollRecord) -> tuple[Any, ...]:
    """Return the columns of a poll but its id."""
    row = poll.unlisted
    unlisted = (None, None, None) if row is None else (row.code, row.times, round(row.since * SECOND))
    return poll.started_at, poll.ended_at, poll.lease, poll.said, *unlisted


def slots_of(row: int) -> tuple[int, int]:
    """Return the first and the last id of the deliveries of the task in this row, and of its polls."""
    return row * SLOTS, row * SLOTS + SLOTS - 1


def delivery_values(delivery: Delivery) -> tuple[Any, ...]:
    """Return the columns of a delivery but its id."""
    return (
        delivery.received_at,
        delivery.verdict,
        delivery.method,
        delivery.content_type,
        delivery.body,
        delivery.size,
        delivery.id_text,
        delivery.standing_id,
    )


def delivery_from(row: tuple[Any, ...], slot: int | None = None) -> Delivery:
    """Return the record in a row of SELECT_DELIVERIES."""
    received_at, verdict, method, content_type, body, size, id_text, standing_id = row
    return Delivery(
        received_at=received_at,
        verdict=verdict,
        method=method,
        content_type=content_type,
        body=body,
        size=size,
        id_text=id_text,
        standing_id=standing_id,
        slot=slot,
    )


def standing_url_values(url: StandingUrl) -> tuple[Any, ...]:
    """Return all columns of a standing URL."""
    return url.id, url.provider, url.label, url.created_at, url.revoked_at


def shape_values(record: ShapeRecord) -> tuple[Any, ...]:
    """Return the columns of ADD_SHAPE; the content type is "" where there was none."""
    shape = record.shape
    counts = (record.callbacks, record.readable, record.first_seen, record.last_seen)
    return record.provider, shape.method, shape.content_type or "", shape.fields, *counts


def standing_url_from(row: tuple[Any, ...]) -> StandingUrl:
    """Return the record in a row of SELECT_STANDING_URL."""
    return StandingUrl(*row)


def _status(task: TaskRecord) -> str:
    if task.joined_ref is not None:
        return "joined"
    return "processing" if task.outcome is None else task.outcome.status
