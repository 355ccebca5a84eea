"""Storing the shapes of callbacks."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from receiver.domain.shapes import SHAPES_KEPT, Shape, ShapeRecord
from receiver.storage.sqlite.reader import read_shapes
from receiver.upkeep.shapes import AddShapes
from tests.receiver.storage.stores import running_store

FORM = Shape("POST", None, "form {code: text, id: text}")


def a_record(shape: Shape = FORM, *, provider: str = "twocaptcha", at: int = 1, readable: int = 1) -> ShapeRecord:
    """Return the record of two callbacks with this shape."""
    return ShapeRecord(provider, shape, 2, readable, at, at + 1)


async def test_counts_are_added_up(database: Path | str) -> None:
    """Each shape has one row. Its counts grow and its times widen. Other providers have shapes of their own."""
    async with running_store(database) as store:
        await store.write(AddShapes(records=[a_record(at=10), a_record(provider="rucaptcha")]))
        await store.write(AddShapes(records=[a_record(at=20, readable=0)]))
        await store.write(AddShapes(records=[a_record(at=5, readable=2)]))

        assert await store.shapes("twocaptcha") == [ShapeRecord("twocaptcha", FORM, 6, 3, 5, 21)]
        assert await store.shapes("rucaptcha") == [a_record(provider="rucaptcha")]
        assert await store.shapes("capsolver") == []


async def test_method_and_content_type_make_a_shape(database: Path | str) -> None:
    """The same fields under another type or method are another shape. The one seen last comes first."""
    shapes = [FORM, Shape("GET", None, FORM.fields), Shape("POST", "text/plain", FORM.fields)]
    async with running_store(database) as store:
        await store.write(AddShapes(records=[a_record(shape, at=at) for at, shape in enumerate(shapes)]))

        assert [record.shape for record in await store.shapes("twocaptcha")] == shapes[::-1]


async def test_the_oldest_make_room(database: Path | str) -> None:
    """The 50 shapes of each provider seen last stay."""
    shapes = [Shape("POST", None, f"form {{f{number}: text}}") for number in range(SHAPES_KEPT + 2)]
    async with running_store(database) as store:
        await store.write(AddShapes(records=[a_record(provider="capsolver")]))
        await store.write(AddShapes(records=[a_record(shape, at=at) for at, shape in enumerate(shapes)]))

        assert [record.shape for record in await store.shapes("twocaptcha")] == shapes[:1:-1]
        assert len(await store.shapes("capsolver")) == 1


@pytest.mark.sqlite
async def test_a_database_that_is_only_read_will_do(tmp_path: Path) -> None:
    """A read-only connection reads the same."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as store:
        await store.write(AddShapes(records=[a_record()]))

    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        assert read_shapes(connection, "twocaptcha") == [a_record()]
