"""The commands beside a receiver on PostgreSQL, and the ones that name what to use there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from receiver.__main__ import main
from receiver.domain.transaction import Forget
from tests.postgres import execute
from tests.receiver.storage.stores import NOW, a_delivery, a_ref, a_registration, delivery_to_task, running_store
from tests.support import free_port

URL = "https://example.com/callbacks"


@pytest.fixture
def database(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set the database of the commands, which run in an empty folder. Return its URL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECEIVER_DATABASE", postgres_url)
    monkeypatch.setenv("RECEIVER_PUBLIC_URL", URL)
    return postgres_url


async def filled(url: str) -> None:
    """Make the tables, a finished task, a deleted one and an unreadable delivery."""
    async with running_store(url) as store:
        for number in (1, 2, 3):
            await store.write(a_registration(number))
        await store.write(a_delivery(1, task_id="a1"))
        await store.write(Forget(ref=a_ref(2), now=NOW))
        await store.write(delivery_to_task(a_ref(3), "unreadable", b"what"))


def run(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Return the exit code of a command, its output and its errors."""
    monkeypatch.setattr("sys.argv", ["callback-receiver", *command.split()])
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    shown = capsys.readouterr()
    assert "hush" not in shown.out + shown.err
    return int(str(code or 0)), shown.out, shown.err


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("explain a1", "capsolver task"),
        ("keys add somebody", "cr_"),
        ("keys list", ""),
        ("keys list --json", ""),
        ("callback-url --list", ""),
        ("providers capsolver", "calls back"),
        ("redeliver --json", '"verdict": "unreadable"'),
        ("copy --to moved.db", "all rows are there"),
        ("callback-url capsolver", f"{URL}/callback/capsolver/"),
        ("providers --observed", "capsolver"),
        ("redeliver", "would become: 1 unreadable"),
        ("redeliver --apply", "became: 1 unreadable"),
        ("prune", "would be removed: 1 finished tasks, 3 places in the log, 1 tombstones"),
        ("prune --apply", "removed: 1 finished tasks, 3 places in the log, 1 tombstones"),
        ("new-signing-key --accept-old 1", "a new key signs"),
    ],
)
def test_a_command_works_beside_the_receiver(
    database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, text: str
) -> None:
    """It opens the same database and ends well."""
    asyncio.run(filled(database))
    code, shown, errors = run(command, capsys, monkeypatch)

    assert (code, errors if code else "") == (0, "")
    assert text in shown


def test_the_doctor_reads_the_same_facts(
    database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds that no receiver answers on this machine, and says nothing of files."""
    asyncio.run(filled(database))
    monkeypatch.setenv("RECEIVER_PORT", str(free_port()))
    code, shown, _ = run("doctor --json", capsys, monkeypatch)

    wrong = [finding["about"] for finding in json.loads(shown)["findings"] if finding["isWrong"]]
    assert code == 1
    assert "server" in wrong
    assert "database" not in wrong


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("backup copy.db", "on PostgreSQL use pg_dump"),
        ("restore copy.db", "on PostgreSQL use pg_restore"),
    ],
)
def test_a_command_for_files_names_what_to_use(
    database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, text: str
) -> None:
    """It refuses with one line, and changes nothing."""
    code, _, errors = run(command, capsys, monkeypatch)

    assert code == 2
    assert text in errors
    assert execute(database, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []


def test_a_restored_copy_gets_a_new_log(
    database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old cursors are told of a gap. While a receiver is connected, the command refuses."""

    async def cursor(*, is_refused: bool = False) -> str:
        async with running_store(database) as store:
            if is_refused:
                assert (await asyncio.to_thread(run, "new-log", capsys, monkeypatch))[0] == 1
            return await store.head()

    before = asyncio.run(cursor(is_refused=True))
    code, _, _ = run("new-log", capsys, monkeypatch)
    after = asyncio.run(cursor())

    assert code == 0
    assert before.partition("-")[0] != after.partition("-")[0]
