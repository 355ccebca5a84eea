"""The receiver records the shapes of its callbacks, without delaying them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from receiver.domain.reading import CallbackRequest
from receiver.domain.shapes import Shape, ShapeRecord
from receiver.storage.sqlite.reader import read_shapes
from receiver.upkeep.shapes import Observer
from tests.dialects import ALL_DIALECTS
from tests.receiver.storage.stores import NOW, running_store
from tests.support import eventually, running_receiver

READY = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}}
ANSWER = "JSON {errorId: integer, solution: {text: string}, status: string}"


def stored(database: Path, provider: str = "capsolver") -> Sequence[ShapeRecord]:
    """Return the shapes in a receiver's database, as another process reads them."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return read_shapes(connection, provider)


def counted(database: Path, provider: str = "capsolver") -> dict[str, tuple[int, int]]:
    """Return the number of callbacks of each shape, and the number of readable ones."""
    return {record.shape.fields: (record.callbacks, record.readable) for record in stored(database, provider)}


@pytest.mark.sqlite
async def test_a_new_shape_is_soon_known(tmp_path: Path) -> None:
    """It can be read while the receiver runs, and nothing of the answer's value is in the database's shapes."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        registered = await api.register()
        await api.send("POST", registered["callbackUrl"], key=None, json=READY)
        await eventually(lambda: bool(stored(tmp_path / "receiver.db")))

        (record,) = stored(tmp_path / "receiver.db")

    assert (record.shape, record.callbacks, record.readable) == (Shape("POST", "application/json", ANSWER), 1, 1)
    assert "44795sds" not in repr(record)


@pytest.mark.sqlite
async def test_known_shapes_are_stored_at_the_end(tmp_path: Path) -> None:
    """Every verdict counts: answers, duplicates, and unreadable callbacks."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        registered = await api.register()
        for _ in range(3):
            await api.send("POST", registered["callbackUrl"], key=None, json=READY)
        statuses = [
            (await api.send("POST", registered["callbackUrl"], key=None, data=body)).status for body in ("a", "b")
        ]

    assert statuses == [422, 422]
    assert counted(tmp_path / "receiver.db") == {ANSWER: (3, 3), "text, less than 1 kB": (2, 0)}


@pytest.mark.sqlite
async def test_a_wrong_signature_is_unreadable(tmp_path: Path) -> None:
    """With a secret, a callback that is not signed with it counts as unreadable."""
    settings = {"capsolution": "what the provider signs with"}
    async with running_receiver(tmp_path / "receiver.db", dialects=ALL_DIALECTS, callback_secrets=settings) as api:
        registered = await api.register(provider="capsolution")
        answer = await api.send("POST", registered["callbackUrl"], key=None, json={"event": "task.completed"})

    assert answer.status == 401
    assert counted(tmp_path / "receiver.db", "capsolution") == {"JSON {event: string}": (1, 0)}


@pytest.mark.sqlite
async def test_another_method_than_expected_is_told(tmp_path: Path) -> None:
    """A callback by an unexpected method is refused, and its shape shows the method."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        registered = await api.register()
        refused = await api.send("GET", f"{registered['callbackUrl']}?id=7&code=abc", key=None)
        asked = await api.send("GET", registered["callbackUrl"], key=None)

    assert (refused.status, asked.status) == (405, 204)
    (record,) = stored(tmp_path / "receiver.db")
    assert (record.shape, record.readable) == (Shape("GET", None, "query {code: text, id: text}"), 0)


@pytest.mark.sqlite
async def test_strangers_leave_no_shape(tmp_path: Path) -> None:
    """A callback without a valid token is not counted."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        registered = await api.register()
        refused = await api.send("POST", f"{registered['callbackUrl'][:-1]}!", key=None, json=READY)

    assert refused.status == 404
    assert stored(tmp_path / "receiver.db") == []


@pytest.mark.sqlite
async def test_what_cannot_be_stored_is_stored_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While the store fails, counting goes on, and nothing is raised."""
    database = tmp_path / "receiver.db"
    incoming = CallbackRequest(method="POST", headers={}, query=b"", body=b"id=7&code=x")
    async with running_store(database) as store:
        observer = Observer(store, lambda: NOW)
        observer.note("twocaptcha", incoming, is_readable=False)
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await observer.save()
            other.execute("ROLLBACK")
        observer.note("twocaptcha", incoming, is_readable=False)
        await observer.save()

        (record,) = await store.shapes("twocaptcha")

    assert (record.callbacks, record.readable) == (2, 0)
    assert "shapes.not_kept" in capsys.readouterr().out
