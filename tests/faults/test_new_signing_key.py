"""`callback-receiver new-signing-key`: the leaked key ends, and what it signed before goes on as the operator chose."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from receiver.app import new_ref
from receiver.domain.tokens import Kind, make_token
from tests.faults.commands import KEY, Finished, run_command
from tests.receiver.storage.stores import running_store
from tests.support import RunningReceiver, running_receiver

DATABASE = "receiver.db"
NOTICED_SECONDS = 20.0


async def new_key(folder: Path, hours: str) -> Finished:
    """Run the command."""
    finished = await run_command(folder, "new-signing-key", "--accept-old", hours, API_KEYS=KEY)
    assert finished.code == 0, finished
    return finished


async def leaked_key(folder: Path) -> bytes:
    """Return the key that signs, as a thief of a backup would know it."""
    async with running_store(folder / DATABASE) as store:
        return store.signing_keys[0]


def forged(api: RunningReceiver, key: bytes, kind: Kind, token_id: str | UUID) -> str:
    """Return a callback URL that the key signs."""
    token = make_token(kind, UUID(str(token_id)), "capsolver", key)
    return f"{api.url}/callback/capsolver/{token}"


async def until_signed_anew(api: RunningReceiver, key: bytes) -> None:
    """Wait until the receiver signs with another key."""
    async with asyncio.timeout(NOTICED_SECONDS):
        while True:
            task = await api.register()
            if task["callbackUrl"] != forged(api, key, Kind.TASK, task["ref"]):
                return
            await asyncio.sleep(0.1)


async def test_at_once_the_old_key_counts_for_nothing(tmp_path: Path) -> None:
    """With 0 hours, URLs of open tasks and standing URLs with the old key get 404, without a restart."""
    key = await leaked_key(tmp_path)
    async with running_receiver(tmp_path / DATABASE) as api:
        task = await api.register()
        environment = {"API_KEYS": KEY, "PUBLIC_URL": api.url}
        standing = (await run_command(tmp_path, "callback-url", "capsolver", **environment)).out.strip()
        finished = await new_key(tmp_path, "0")
        await until_signed_anew(api, key)
        old = await api.call_back(task["callbackUrl"])
        to_standing = await api.call_back(standing, taskId="some-id")
        renewed = (await run_command(tmp_path, "callback-url", "capsolver", **environment)).out.strip()
        to_renewed = await api.call_back(renewed, taskId="some-id")
        later = await api.register()
        new = await api.call_back(later["callbackUrl"])

    assert "URLs of the old one are refused now" in finished.out
    assert "renew the standing URL" in finished.err
    assert (old.status, to_standing.status) == (404, 404)
    assert (to_renewed.status, new.status) == (200, 200)


async def test_for_a_while_the_old_key_counts_for_what_was_there(tmp_path: Path) -> None:
    """URLs from before are accepted. Forged ones for later tasks, unknown tasks and unknown standing URLs are not."""
    key = await leaked_key(tmp_path)
    async with running_receiver(tmp_path / DATABASE) as api:
        task = await api.register()
        standing = (
            await run_command(tmp_path, "callback-url", "capsolver", API_KEYS=KEY, PUBLIC_URL=api.url)
        ).out.strip()
        unknown = new_ref()
        await new_key(tmp_path, "2")
        await until_signed_anew(api, key)
        old = await api.call_back(task["callbackUrl"])
        to_standing = await api.call_back(standing, taskId="some-id")
        of_unknown = await api.call_back(forged(api, key, Kind.TASK, unknown))
        never_made = await api.call_back(forged(api, key, Kind.STANDING, unknown), taskId="third")
        # A UUIDv7 begins with its time, in milliseconds.
        in_a_day = UUID(int=new_ref().int + (24 * 3600 * 1000 << 80))
        of_later = await api.call_back(forged(api, key, Kind.STANDING, in_a_day), taskId="other")
        listed = (await api.send("GET", "/v1/tasks")).json["tasks"]

    assert (old.status, to_standing.status) == (200, 200)
    assert (of_unknown.status, never_made.status, of_later.status) == (404, 404, 404)
    assert str(unknown) not in {entry["ref"] for entry in listed}


async def test_the_end_comes_without_a_restart(tmp_path: Path) -> None:
    """Once the time is over, the running receiver refuses the old key."""
    key = await leaked_key(tmp_path)
    async with running_receiver(tmp_path / DATABASE) as api:
        tasks = [await api.register() for _ in range(2)]
        await new_key(tmp_path, str(3 / 3600))
        await until_signed_anew(api, key)
        async with asyncio.timeout(NOTICED_SECONDS):
            while (await api.call_back(tasks[1]["callbackUrl"])).status != 404:
                await asyncio.sleep(0.1)
    async with running_receiver(tmp_path / DATABASE) as api:
        path = urlsplit(tasks[0]["callbackUrl"]).path
        after_restart = await api.call_back(api.url + path)

    assert after_restart.status == 404


async def test_a_second_change_prolongs_nothing(tmp_path: Path) -> None:
    """An end that was set stays, whatever a later command allows."""
    async with running_store(tmp_path / DATABASE):
        pass
    await new_key(tmp_path, "0")
    await new_key(tmp_path, "5")

    async with running_store(tmp_path / DATABASE) as store:
        newest, second, first = await store.read_signing_keys()
    assert newest.accepted_until is None
    assert first.accepted_until == second.created_at
    assert second.accepted_until == newest.created_at + 5 * 3600 * 1_000_000


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "Missing option '--accept-old'"),
        (["--accept-old", "-1"], "Invalid value for '--accept-old'"),
        (["--accept-old", "nan"], "Invalid value for '--accept-old'"),
    ],
)
async def test_the_choice_is_the_operators(tmp_path: Path, arguments: list[str], text: str) -> None:
    """Without a choice nothing changes."""
    key = await leaked_key(tmp_path)

    assert text in (await run_command(tmp_path, "new-signing-key", *arguments, API_KEYS=KEY)).refusal
    assert await leaked_key(tmp_path) == key


@pytest.mark.sqlite
async def test_without_a_database_it_refuses(tmp_path: Path) -> None:
    """The command makes no database."""
    finished = await run_command(tmp_path, "new-signing-key", "--accept-old", "0", API_KEYS=KEY)

    assert "there is no database" in finished.refusal
