"""An unwritable database: nothing is acknowledged, the reason is shown, and it recovers by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.faults.disks import full_disk, locked
from tests.support import Api, running_receiver


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return the path of the database."""
    return tmp_path / "receiver.db"


@pytest.fixture
async def api(database: Path) -> AsyncIterator[Api]:
    """Yield a receiver."""
    async with running_receiver(database) as running:
        yield running


@pytest.mark.sqlite
@pytest.mark.parametrize("trouble", [full_disk, locked])
async def test_a_callback_that_cannot_be_stored_is_not_acknowledged(
    api: Api, database: Path, trouble: Callable[[Path], AbstractContextManager[None]]
) -> None:
    """It gets 503 with Retry-After, `/readyz` has the reason, and reads go on. Afterwards the delivery is accepted."""
    registered = await api.register()
    with trouble(database):
        refused = await api.call_back(registered["callbackUrl"])
        registration = await api.send("POST", "/v1/tasks", json={"provider": "capsolver"})
        not_ready = await api.send("GET", "/readyz")
        alive = await api.send("GET", "/healthz")
        task = await api.task(registered["ref"])

    accepted = await api.call_back(registered["callbackUrl"])
    ready = await api.send("GET", "/readyz")

    assert (refused.status, registration.status, not_ready.status, alive.status) == (503, 503, 503, 200)
    assert min(int(answer.headers["Retry-After"]) for answer in (refused, registration)) > 0
    assert registration.json["type"] == "urn:callback-receiver:problem:not-stored"
    assert (task["status"], accepted.status, ready.status) == ("processing", 200, 200)
    assert len((await api.log())["results"]) == 1


@pytest.mark.sqlite
@pytest.mark.parametrize("replace", [False, True])
async def test_a_database_that_is_taken_away_acknowledges_nothing(tmp_path: Path, replace: bool) -> None:
    """If the file is removed or replaced under the receiver, callbacks get 503, and `/readyz` has the reason."""
    database = tmp_path / "receiver.db"
    async with running_receiver(database) as api:
        registered = await api.register()
        database.rename(tmp_path / "away.db")
        if replace:
            database.write_bytes(b"")
        callback = await api.call_back(registered["callbackUrl"])
        ready = await api.send("GET", "/readyz", key=None)

    assert (callback.status, ready.status) == (503, 503)
    assert ready.json["reason"].startswith("the database file")
