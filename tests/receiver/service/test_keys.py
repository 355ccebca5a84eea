"""API keys that change while the receiver runs: streams, waits and tickets of a key end with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from receiver.app import create_app, microseconds_now
from receiver.domain.records import SECOND
from receiver.errors import CannotStartError
from receiver.settings import ApiKey, Settings
from tests.receiver.keys import a_key, add_key, new_key, revoke_key
from tests.receiver.storage.stores import running_store
from tests.receiver.web.sockets import open_events, open_socket
from tests.support import ADMIN, READ_ONLY, RunningReceiver, eventually, running_receiver

OTHER = "tests-only-other-key-0123456789"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return the place of the database."""
    return tmp_path / "receiver.db"


@pytest.fixture
async def api(database: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver."""
    async with running_receiver(database) as running:
        yield running


async def status(api: RunningReceiver, secret: str) -> int:
    """Return the status of a read with this secret."""
    return (await api.send("GET", "/v1/tasks", key=secret)).status


async def test_a_key_of_another_process_is_known_and_revoked_within_seconds(
    api: RunningReceiver, database: Path
) -> None:
    """The receiver is not restarted. The key has the scopes that it was made with."""
    key, secret = await new_key(api, database, scopes=("read",))
    before = await status(api, secret), (await api.send("POST", "/v1/tasks", key=secret, json={})).status
    await revoke_key(database, key)
    await eventually(lambda: api.keys.find(secret) is None, seconds=10)

    assert (before, await status(api, secret), await status(api, ADMIN)) == ((200, 403), 401, 200)


async def test_a_key_that_was_made_before_the_start_is_known_at_once(database: Path) -> None:
    """Keys in the database are enough to start."""
    key, secret = a_key()
    await add_key(database, key)
    async with running_receiver(database, api_keys="") as api:
        assert (await status(api, secret), await status(api, ADMIN)) == (200, 401)


async def test_without_any_key_it_does_not_start(database: Path) -> None:
    """A database without keys does not replace those in the settings."""
    async with running_store(database):
        pass
    with pytest.raises(CannotStartError, match="RECEIVER_API_KEYS: at least one key is needed"):
        async with running_receiver(database, api_keys=""):
            pass


async def test_revoked_keys_do_not_open_a_receiver_without_keys(database: Path) -> None:
    """Once there was a key, an anonymous receiver needs one for ever."""
    async with running_receiver(database, api_keys="", allow_anonymous=True) as api:
        before = (await api.send("GET", "/v1/tasks", key=None)).status
        key, secret = await new_key(api, database)
        with_key = (await api.send("GET", "/v1/tasks", key=None)).status, await status(api, secret)
        await revoke_key(database, key)
        await eventually(lambda: api.keys.find(secret) is None)

        assert (before, with_key, (await api.send("GET", "/v1/tasks", key=None)).status) == (200, (401, 200), 401)


async def test_a_key_ends_its_websockets(api: RunningReceiver, database: Path) -> None:
    """A revoked key's socket is closed with 1008, subscribed or not. The others of the same name stay."""
    key, secret = await new_key(api, database)
    _, other = await new_key(api, database)
    async with (
        open_socket(api, key=secret) as idle,
        open_socket(api, key=secret) as socket,
        open_socket(api, key=other) as stays,
    ):
        for opened in (socket, stays):
            await opened.ask(type="subscribe", id=1)
        await revoke_key(database, key)

        assert (await socket.close_code(), await idle.close_code()) == (1008, 1008)
        assert (await stays.ask(type="add", id=2, tasks=[]))["type"] == "added"


async def test_a_key_ends_its_events(api: RunningReceiver, database: Path) -> None:
    """A revoked key's stream ends without a goodbye, so that nothing more is read with it."""
    key, secret = await new_key(api, database)
    async with open_events(api, key=secret) as events:
        await events.next()
        await revoke_key(database, key)

        assert b"goodbye" not in await events.end()


async def test_a_stream_ends_when_its_key_expires(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that was fixed before is kept as well."""
    passed_seconds = 0
    monkeypatch.setattr("receiver.app.microseconds_now", lambda: microseconds_now() + passed_seconds * SECOND)
    key, secret = a_key(expires_at=microseconds_now() + 3600 * SECOND)
    await add_key(database, key)
    async with running_receiver(database) as api, open_socket(api, key=secret) as socket:
        await socket.ask(type="subscribe", id=1)
        passed_seconds = 3600

        assert await socket.close_code() == 1008
        assert await status(api, secret) == 401


async def test_the_receiver_that_becomes_closed_ends_anonymous_streams(database: Path) -> None:
    """With the first key, streams without one end."""
    async with (
        running_receiver(database, api_keys="", allow_anonymous=True) as api,
        open_socket(api, key=None) as socket,
    ):
        await socket.ask(type="subscribe", id=1)
        await add_key(database, a_key()[0])

        assert await socket.close_code() == 1008


@pytest.mark.parametrize("target", ["/v1/tasks/nothing?wait=50", "/v1/results?wait=50"])
async def test_a_wait_brings_nothing_to_a_revoked_key(api: RunningReceiver, database: Path, target: str) -> None:
    """A key that is revoked during a request gets 401 instead of the answer."""
    key, secret = await new_key(api, database)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(api.send("GET", target, key=secret))
        await eventually(lambda: api.waiting == 1)
        await revoke_key(database, key)
        await eventually(lambda: api.keys.find(secret) is None)
        task = await api.register(taskId="nothing", provider="capsolver")
        outcome = {"source": "poll", "answer": {"errorId": 0, "status": "ready", "solution": {"text": "secret"}}}
        await api.send("PUT", f"/v1/tasks/{task['ref']}/outcome", json=outcome)

    assert waiting.result().status == 401


async def test_tickets_end_with_their_key(api: RunningReceiver, database: Path) -> None:
    """A ticket is refused once the key that made it is revoked, though the key's name is still in use."""
    key, secret = await new_key(api, database)
    await new_key(api, database)
    ticket = (await api.send("POST", "/v1/tickets", key=secret)).json["ticket"]
    async with open_events(api, key=None, ticket=ticket) as events:
        before = events.response.status
    await revoke_key(database, key)
    await eventually(lambda: api.keys.find(secret) is None)

    async with open_events(api, key=None, ticket=ticket) as events:
        assert (before, events.response.status) == (200, 401)


async def test_a_stream_opened_by_a_ticket_ends_with_the_key(api: RunningReceiver, database: Path) -> None:
    """A page's stream belongs to the key that made its ticket."""
    key, secret = await new_key(api, database)
    ticket = (await api.send("POST", "/v1/tickets", key=secret)).json["ticket"]
    async with open_socket(api, key=None, protocols=(f"ticket.{ticket}",)) as socket:
        await socket.ask(type="subscribe", id=1)
        await revoke_key(database, key)

        assert await socket.close_code() == 1008


async def test_an_idempotency_key_holds_over_a_rotation(database: Path) -> None:
    """Two secrets of one name, in the settings or the database, share the Idempotency-Keys: no task is made twice."""
    keys = f"worker:{ADMIN}:submit+read,worker:{OTHER}:submit+read"
    async with running_receiver(database, api_keys=keys) as api:
        _, third = await new_key(api, database)
        answers = [
            await api.send(
                "POST", "/v1/tasks", key=key, json={"provider": "capsolver"}, headers={"Idempotency-Key": "once"}
            )
            for key in (ADMIN, OTHER, third)
        ]

    assert len({answer.json["ref"] for answer in answers}) == 1


async def test_the_last_use_is_kept(database: Path) -> None:
    """It is stored at the shutdown at the latest."""
    key, secret = a_key()
    await add_key(database, key)
    before = microseconds_now()
    async with running_receiver(database) as api:
        await status(api, secret)
    async with running_store(database) as store:
        (kept,) = await store.api_keys()

    assert kept.last_used_at is not None
    assert before <= kept.last_used_at <= microseconds_now()


def keys_of(text: str) -> Sequence[ApiKey]:
    """Return the keys of a setting."""
    return Settings(api_keys=text, _env_file=None).keys


async def test_a_reload_replaces_the_keys_of_the_settings(api: RunningReceiver, database: Path) -> None:
    """The new ones are known at once, and the others end with their streams. Those of the store stay."""
    _, stored = await new_key(api, database)
    async with open_socket(api, key=READ_ONLY) as socket:
        await api.runtime.keys.reload(lambda: keys_of(f"admin:{ADMIN}:submit+read+admin,other:{OTHER}"))
        after = [await status(api, secret) for secret in (ADMIN, OTHER, stored, READ_ONLY)]

        assert (after, await socket.close_code()) == ([200, 200, 200, 401], 1008)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("admin:short", "RECEIVER_API_KEYS: key 1 (admin): the secret needs at least 24 characters"),
        ("", "RECEIVER_API_KEYS: at least one key is needed"),
    ],
)
async def test_a_wrong_value_keeps_the_keys(api: RunningReceiver, text: str, reason: str) -> None:
    """One line of the log names the fault."""
    with capture_logs() as logs:
        await api.runtime.keys.reload(lambda: keys_of(text))

    (line,) = logs
    assert (line["event"], line["reason"].startswith(reason)) == ("keys.not_reloaded", True)
    assert await status(api, READ_ONLY) == 200


def test_the_application_is_made_before_its_database_is_opened(tmp_path: Path) -> None:
    """A malformed key is refused when the application is made."""
    with pytest.raises(CannotStartError, match="key 1"):
        create_app(Settings(database=tmp_path / "receiver.db", api_keys="admin:short", _env_file=None))
