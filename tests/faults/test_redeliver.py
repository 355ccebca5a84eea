"""`callback-receiver redeliver`: on trial and for good, beside a running receiver and without one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from client.providers import DIALECTS
from receiver.storage.sqlite.database import make_file
from tests.faults.commands import KEY, run_command
from tests.receiver.domain.test_redelivery import body, kept_for_task
from tests.receiver.storage.stores import a_registration, running_store
from tests.support import Api, free_port, receiver_process

BEFORE = """
[mine]
like = "capsolver"
[mine.callback]
shape = "code"
idField = "id"
codeField = "answer"
[mine.solutions]
ImageToTextTask = ["text"]
"""
"""A wrong declaration: the answers come under another name."""

AFTER = BEFORE.replace('"answer"', '"code"')
"""The same, put right."""

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    """Return the file of providers, still wrong."""
    path = tmp_path / "providers.toml"
    path.write_text(BEFORE)
    return path


async def test_a_long_poll_of_a_running_receiver_wakes(tmp_path: Path, declared: Path) -> None:
    """The dry run only shows the verdicts. --apply ends the task and wakes its waiter, and then nothing is left."""
    here = {"API_KEYS": KEY, "PROVIDERS_FILE": str(declared)}
    async with (
        receiver_process(tmp_path / "receiver.db", port=free_port(), providers_file=str(declared)) as receiver,
        aiohttp.ClientSession() as session,
        asyncio.TaskGroup() as owner,
    ):
        api = Api(receiver.url, session)
        task = await api.register(provider="mine", type="ImageToTextTask")
        refused = await api.send("POST", task["callbackUrl"], key=None, headers=FORM, data=b"id=7&code=44795sds")
        path = f"/v1/tasks/{task['ref']}?wait=50"
        waiting = owner.create_task(api.send("GET", path))
        declared.write_text(AFTER)  # noqa: ASYNC240  (a few bytes, of a test)

        trial = await run_command(tmp_path, "redeliver", "--json", **here)
        still = await api.task(task["ref"])
        applied = await run_command(tmp_path, "redeliver", "--apply", **here)
        woken = (await waiting).json
        again = await run_command(tmp_path, "redeliver", "--apply", **here)

    line = json.loads(trial.out)
    assert refused.status == 422
    assert (line["ref"], line["provider"], line["verdict"]) == (task["ref"], "mine", "accepted")
    assert still["status"] == "processing"
    assert (applied.code, applied.out.splitlines()[-1]) == (0, "became: 1 accepted")
    assert (woken["status"], woken["source"], woken["trust"]) == ("ready", "callback", "token")
    assert again.out == "became: nothing; no unreadable body is kept\n"
    assert "44795sds" not in trial.out + trial.err + applied.out + applied.err


@pytest.mark.sqlite
async def test_a_trial_needs_no_receiver_and_may_write_nothing(tmp_path: Path, declared: Path) -> None:
    """The database of a stopped receiver is read and keeps its bytes."""
    async with running_store(tmp_path / "receiver.db"):
        pass
    before = (tmp_path / "receiver.db").read_bytes()

    finished = await run_command(tmp_path, "redeliver", PROVIDERS_FILE=str(declared))

    assert (finished.code, finished.err) == (0, "")
    assert finished.out == "would become: nothing; no unreadable body is kept\n"
    assert (tmp_path / "receiver.db").read_bytes() == before


@pytest.mark.sqlite
@pytest.mark.parametrize("arguments", [[], ["--apply"]])
async def test_without_a_database_it_refuses(tmp_path: Path, arguments: list[str]) -> None:
    """The command makes no database."""
    finished = await run_command(tmp_path, "redeliver", *arguments)

    assert finished.refusal.startswith("receiver.db: there is no database")
    assert not (tmp_path / "receiver.db").exists()


async def test_only_one_provider_is_taken(tmp_path: Path) -> None:
    """With --provider, bodies of other providers are not delivered again."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1))
        await store.write(kept_for_task(1, body()))

    others = await run_command(tmp_path, "redeliver", "--apply", "--provider", "capmonster")
    its_own = await run_command(tmp_path, "redeliver", "--apply", "--provider", "capsolver")

    assert others.out == "became: nothing; no unreadable body is kept\n"
    assert its_own.out.splitlines()[-1] == "became: 1 accepted"
    assert its_own.err == "1 body read\n"


async def test_an_unknown_provider_is_refused(tmp_path: Path) -> None:
    """One line names the known providers."""
    finished = await run_command(tmp_path, "redeliver", "--provider", "capsolvr")

    assert finished.refusal == f"unknown provider 'capsolvr': expected one of {', '.join(sorted(DIALECTS))}"


@pytest.mark.sqlite
async def test_a_trial_on_an_older_database_is_refused(tmp_path: Path) -> None:
    """Only a writing command can migrate the database."""
    make_file(tmp_path / "receiver.db")

    finished = await run_command(tmp_path, "redeliver")

    assert finished.refusal.endswith("; start the receiver once to update it")
