"""The command `keys`: it makes, lists and revokes API keys beside a running receiver or without one."""

from __future__ import annotations

import json
from pathlib import Path

import aiohttp
import pytest

from tests.faults.commands import KEY, SECRET, run_command
from tests.receiver.storage.stores import running_store
from tests.support import receiver_process


async def test_the_secret_alone_is_the_answer(tmp_path: Path) -> None:
    """It can be piped. The rest is a note, and the secret is never shown again."""
    limits = ("--scope", "read", "--provider", "twocaptcha", "--provider", "capsolver", "--expires", "90d")
    made = await run_command(tmp_path, "keys", "add", "worker", *limits)
    listed = await run_command(tmp_path, "keys", "list")
    (line,) = (await run_command(tmp_path, "keys", "list", "--json")).out.splitlines()
    key = json.loads(line)
    secret = made.out.rstrip("\n")

    assert (made.code, listed.code, listed.err) == (0, 0, "")
    assert secret.startswith("cr_")
    assert len(secret) == 46
    assert secret not in made.err + listed.out + line
    assert (key["name"], key["scopes"], key["providers"]) == ("worker", ["read"], ["capsolver", "twocaptcha"])
    assert (key["revokedAt"], key["lastUsedAt"], key["state"]) == (None, None, "valid")
    assert key["createdAt"] < key["expiresAt"]
    assert listed.out.startswith(f"{key['id']}  worker  read  capsolver,twocaptcha  expires 20")
    assert f"keys revoke {key['id']}" in made.err


async def test_a_running_receiver_follows(tmp_path: Path) -> None:
    """A key works and ends without a restart, and its last use is listed at the latest after the end."""
    database = tmp_path / "receiver.db"
    async with receiver_process(database, port=0) as receiver, aiohttp.ClientSession() as session:
        secret = (await run_command(tmp_path, "keys", "add", "worker", DATABASE=str(database))).out.strip()

        async def status() -> int:
            headers = {"Authorization": f"Bearer {secret}"}
            async with session.get(f"{receiver.url}/v1/tasks", headers=headers) as response:
                return response.status

        statuses = [await status()]
        while statuses[-1] == 401 and len(statuses) < 100:
            statuses.append(await status())
        revoked = await run_command(tmp_path, "keys", "revoke", "worker", DATABASE=str(database))
        while statuses[-1] == 200 and len(statuses) < 10_000:
            statuses.append(await status())
        await receiver.stop()
    listed = (await run_command(tmp_path, "keys", "list", "--json", DATABASE=str(database))).out

    assert 200 in statuses
    assert statuses[-1] == 401
    assert "revoked 20" in revoked.out
    assert json.loads(listed)["lastUsedAt"] is not None


async def test_a_name_of_two_keys_needs_a_decision(tmp_path: Path) -> None:
    """In the middle of a rotation, a name alone does not end both."""
    for _ in range(2):
        await run_command(tmp_path, "keys", "add", "worker")
    refused = await run_command(tmp_path, "keys", "revoke", "worker")
    first = json.loads((await run_command(tmp_path, "keys", "list", "--json")).out.splitlines()[0])
    by_id = await run_command(tmp_path, "keys", "revoke", first["id"])
    by_name = await run_command(tmp_path, "keys", "revoke", "worker")
    again = await run_command(tmp_path, "keys", "revoke", "worker", "--all")

    assert refused.refusal == "worker: expected an id or --all, because 2 keys have this name"
    assert [(done.code, done.out.count("\n")) for done in (by_id, by_name, again)] == [(0, 1), (0, 1), (0, 2)]
    assert by_id.out in again.out


async def test_keys_of_the_settings_are_listed(tmp_path: Path) -> None:
    """Those are changed in the settings, and without the secret."""
    await run_command(tmp_path, "keys", "add", "worker")
    listed = [
        (await run_command(tmp_path, "keys", "list", *options, API_KEYS=KEY)).out.splitlines()[-1]
        for options in ((), ("--json",))
    ]
    refused = await run_command(tmp_path, "keys", "revoke", "tests", API_KEYS=KEY)

    assert listed[0] == "RECEIVER_API_KEYS  tests  submit+read  all providers  expires never  valid"
    assert json.loads(listed[1])["id"] is None
    assert SECRET not in "".join(listed)
    assert refused.refusal == "tests: this key is in RECEIVER_API_KEYS; remove it there"


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        *((("add", name), "Invalid value for 'NAME': expected 1 to 64") for name in ("two words", "x" * 65, "")),
        (("add", "worker", "--scope", "write"), "Invalid value for '--scope': 'write' is not one of"),
        (("add", "worker", "--provider", "unheardof"), "unknown provider 'unheardof': expected one of"),
        *(
            (("add", "worker", "--expires", time), "Invalid value for '--expires': expected a time such as 90d")
            for time in ("0d", "90", "-1d", "90 d", "1y", "4000d", "\u0661d")
        ),
        (("list",), "receiver.db: there is no database; start the receiver once, or set RECEIVER_DATABASE"),
        (("revoke", "worker"), "receiver.db: there is no database; start the receiver once, or set RECEIVER_DATABASE"),
    ],
)
async def test_a_wrong_value_is_named(tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    """The one line says which value is wrong and what was expected, and nothing is made."""
    assert (await run_command(tmp_path, "keys", *arguments)).refusal.startswith(text)
    assert list(tmp_path.glob("*")) == []  # noqa: ASYNC240  (a small folder)


async def test_the_doctor_knows_the_keys_of_the_database(tmp_path: Path) -> None:
    """It tells of their end, and misses the scopes that neither they nor the settings have."""
    await run_command(tmp_path, "keys", "add", "worker", "--scope", "read", "--expires", "1d")
    told = (await run_command(tmp_path, "doctor", API_KEYS=f"{KEY}:submit")).out

    assert "the API key worker expires on 20" in told
    assert "no key has the scope admin" in told
    assert "no key has the scope read" not in told


async def test_a_database_without_keys_is_not_served(tmp_path: Path) -> None:
    """The one line says how to make the first key. The settings cannot know what the database holds."""
    async with running_store(tmp_path / "receiver.db"):
        pass
    refused = await run_command(tmp_path, "serve", PORT="0")

    assert refused.refusal.startswith("RECEIVER_API_KEYS: at least one key is needed, as name:secret or made by")


async def test_an_unknown_key_is_no_success(tmp_path: Path) -> None:
    """A misspelt name must not look like a revocation."""
    await run_command(tmp_path, "keys", "add", "worker")

    assert (await run_command(tmp_path, "keys", "revoke", "wroker")).refusal == (
        "wroker: there is no key with this id or name"
    )
