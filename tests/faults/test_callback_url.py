"""`callback-receiver callback-url`: make, list and revoke standing URLs, whether a receiver runs or not."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from client.providers import DIALECTS
from tests.faults.commands import KEY, run_command
from tests.receiver.storage.stores import running_store
from tests.support import Api, receiver_process

HERE = {"API_KEYS": KEY, "PUBLIC_URL": "https://callbacks.example.com"}
NO_ID = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """Return a folder with a database in it."""
    async with running_store(tmp_path / "receiver.db"):
        return tmp_path


@pytest.mark.sqlite
async def test_without_a_database_it_refuses(tmp_path: Path) -> None:
    """A URL without a receiver would be useless, so nothing is made."""
    finished = await run_command(tmp_path, "callback-url", "capsolver", **HERE)

    assert finished.refusal.startswith("receiver.db: there is no database")
    assert not (tmp_path / "receiver.db").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["onecaptcha"], "onecaptcha documents no callback: its tasks are polled"),
        (["capsolvr"], f"unknown provider 'capsolvr': expected one of {', '.join(sorted(DIALECTS))}"),
        ([], "expected a PROVIDER, --list, or --revoke ID"),
        (["capsolver", "--list"], "expected a PROVIDER, --list, or --revoke ID"),
        (["--revoke", "no id"], "--revoke: expected an id as --list shows it"),
        (["--revoke", NO_ID], f"--revoke: there is no standing URL {NO_ID}"),
    ],
)
async def test_what_it_cannot_do_is_refused(folder: Path, arguments: list[str], line: str) -> None:
    """Providers without callbacks, unknown providers and wrong arguments get one line."""
    assert (await run_command(folder, "callback-url", *arguments, **HERE)).refusal == line


async def test_an_empty_list_says_so(folder: Path) -> None:
    """Standard output stays empty for programs, and standard error has a note."""
    finished = await run_command(folder, "callback-url", "--list", **HERE)

    assert (finished.code, finished.out) == (0, "")
    assert finished.err == "there is no standing URL; make one with: callback-receiver callback-url PROVIDER\n"


async def test_without_a_public_url_it_refuses(folder: Path) -> None:
    """There is no address to give out."""
    finished = await run_command(folder, "callback-url", "capsolver", API_KEYS=KEY)

    assert finished.refusal == "RECEIVER_PUBLIC_URL: expected the address by which providers reach this receiver"


async def test_a_running_receiver_sees_at_once_what_is_made_and_revoked(tmp_path: Path) -> None:
    """A new URL takes a callback; a revoked one answers 404 with the next request; the list shows ids, not tokens."""
    async with receiver_process(tmp_path / "receiver.db", port=0) as receiver, aiohttp.ClientSession() as session:
        api = Api(receiver.url, session)
        here = {"API_KEYS": KEY, "PUBLIC_URL": receiver.url}

        made = await run_command(tmp_path, "callback-url", "capsolver", "--label", "nightly", **here)
        url = made.out.strip()
        accepted = await api.call_back(url, taskId="T")
        listed = await run_command(tmp_path, "callback-url", "--list", **here)
        url_id = listed.out.split()[0]
        revoked = await run_command(tmp_path, "callback-url", "--revoke", url_id, **here)
        refused = await api.call_back(url, taskId="U")
        unknown = await api.send("GET", "/v1/tasks/U")

    assert url.startswith(f"{receiver.url}/callback/capsolver/")
    assert url_id in made.err
    assert (accepted.status, refused.status, unknown.status) == (200, 404, 404)
    assert listed.out.split("  ")[-1] == "nightly\n"
    assert "  valid  " in listed.out
    assert "  revoked " in revoked.out
    assert url.rpartition("/")[2] not in made.err + listed.out + revoked.out
