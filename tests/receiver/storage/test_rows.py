"""The columns of the records, compared with the migrated schema."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import fields
from typing import Annotated, get_origin, get_type_hints

import pytest

from receiver.domain.records import DELIVERIES_KEPT, POLLS_KEPT, TaskRecord
from receiver.storage.sqlite import rows
from receiver.storage.sqlite.schema import MIGRATIONS
from tests.receiver.storage.stores import a_task

TABLES = {
    "task": ((), rows.TASK_COLUMNS),
    "log": (("position", "kind", "task", "ref"), (*rows.OUTCOME_COLUMNS, *rows.LOG_DELIVERY_COLUMNS)),
    "delivery": (("id",), rows.DELIVERY_COLUMNS),
    "stray_delivery": (("id",), rows.DELIVERY_COLUMNS),
    "poll": (("id",), rows.POLL_COLUMNS),
    "standing_url": ((), rows.STANDING_URL_COLUMNS),
    "idempotency": (("owner", "key"), rows.IDEMPOTENCY_COLUMNS),
    "shape": (("id",), rows.SHAPE_COLUMNS),
    "unlisted_code": ((), rows.UNLISTED_CODE_COLUMNS),
}
"""The columns of each table: keys of its own, then the fields of its record."""


FOLLOWING = {"task_id": ["task_id_is_integer"], "outcome": ["status"], "joined_ref": ["status"]}
CONSTANT = {
    name for name, kind in get_type_hints(TaskRecord, include_extras=True).items() if get_origin(kind) is Annotated
}


@pytest.mark.parametrize("table", TABLES)
def test_a_record_has_exactly_the_columns_of_its_table(table: str) -> None:
    """A new field without its migration fails here, and so does a column without a field."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript("".join(f"{step};" for step in MIGRATIONS))
        columns = [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
    keys, fields = TABLES[table]

    assert sorted(columns) == sorted((*keys, *fields))


@pytest.mark.parametrize("field", [field.name for field in fields(TaskRecord) if field.name not in CONSTANT])
def test_a_changed_field_is_written(field: str) -> None:
    """Every field that may change has its column, or the columns that follow from it."""
    before = a_task("ref", row=1)
    after = before.evolve(**{field: object()})

    columns = rows.changed_columns(before, after)

    assert (field in columns) is (field in rows.TASK_COLUMNS)
    assert set(columns) - {field} == set(FOLLOWING.get(field, ()))


def test_the_slots_of_a_task_hold_everything_kept() -> None:
    """Slot 0 stays free, and the newest delivery and poll have a slot behind the first ones."""
    assert max(DELIVERIES_KEPT, POLLS_KEPT) + 1 < rows.SLOTS
