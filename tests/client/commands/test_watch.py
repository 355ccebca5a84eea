"""The command `watch`: results on standard output, everything else on standard error, documented exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.client.receiver_api.streams import result, scripted_streams, subscribed
from tests.support import ADMIN, RunningReceiver, eventually, free_port, running_receiver

_WRONG_KEY = "tests-only-wrong-key-0123456789"


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver."""
    async with running_receiver(tmp_path / "receiver.db") as running:
        yield running


@pytest.fixture
def full_disk() -> Iterator[int]:
    """Open a file without room for a byte."""
    with Path("/dev/full").open("wb") as full:
        yield full.fileno()


@asynccontextmanager
async def watching(
    url: str, *arguments: str, key: str = ADMIN, stdout: int = asyncio.subprocess.PIPE
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Yield the command while it runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "client", "watch", *arguments),
        env={**os.environ, "CALLBACK_RECEIVER_URL": url, "CALLBACK_RECEIVER_KEY": key, "TZ": "UTC"},
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def ran(url: str, *arguments: str, key: str = ADMIN) -> tuple[int | None, str, str]:
    """Return exit code, standard output and standard error of the command."""
    async with watching(url, *arguments, key=key) as process:
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def ended(receiver: RunningReceiver, **fields: Any) -> str:
    """Return the ref of a called-back task."""
    task = await receiver.register()
    await receiver.call_back(task["callbackUrl"], **fields)
    return str(task["ref"])


async def line_of(process: asyncio.subprocess.Process) -> str:
    """Return the next line of its standard output."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode()


async def test_a_line_for_each_result(receiver: RunningReceiver) -> None:
    """Each line has time, task, status and source; of the solution only the names of its fields."""
    ready = await ended(receiver, taskId="task-1", solution={"text": "44795sds", "confidence": 1})
    await ended(receiver, errorId=1, errorCode="ERROR_CAPTCHA_UNSOLVABLE", status="failed", taskId="task\x1b[2J2")

    code, out, err = await ran(receiver.url, "--since", "start", "--count", "2")

    first, second = out.splitlines()
    assert (code, first.split()[2:]) == (0, ["capsolver", ready, "task-1", "ready", "callback", "confidence,", "text"])
    assert second.split()[4:] == ["task\\x1b[2J2", "ERROR_CAPTCHA_UNSOLVABLE", "callback"]
    assert "44795sds" not in out + err
    assert "reader.connected" in err


async def test_json_is_flushed_line_by_line(receiver: RunningReceiver) -> None:
    """Each line is there as soon as its result is, whole and with its solution."""
    async with watching(receiver.url, "--json", "--since", "start") as process:
        lines = []
        for _ in range(2):
            ref = await ended(receiver)
            lines.append((ref, json.loads(await line_of(process))))
        process.kill()
        await process.communicate()

    assert [line["ref"] for _, line in lines] == [ref for ref, _ in lines]
    assert lines[0][1]["solution"] == {"text": "44795sds"}


async def test_filters(receiver: RunningReceiver) -> None:
    """The options select results by provider, by tags, and by the names of tasks."""
    named = await ended(receiver)
    tagged = await receiver.register(tags=["a", "b"])
    await receiver.call_back(tagged["callbackUrl"])

    _, out, _ = await ran(
        receiver.url,
        *("--json", "--since", "start", "--count", "2"),
        *("--provider", "capsolver", "--tag", "a", "--tag", "b", "--task", named),
    )

    assert {json.loads(line)["ref"] for line in out.splitlines()} == {named, tagged["ref"]}


async def test_a_gap_is_told_and_watching_goes_on(receiver: RunningReceiver) -> None:
    """The gap is reported on standard error, and with `--json` also as a line on standard output."""
    ref = await ended(receiver)

    code, out, err = await ran(receiver.url, "--json", "--since", "0123456789ab-7", "--count", "1")

    gap, result = map(json.loads, out.splitlines())
    assert (code, gap["gap"]["reason"], result["ref"]) == (0, "other-log", ref)
    assert "results may have been missed (other-log)" in err


async def test_interrupted() -> None:
    """After an interrupt, one line names the cursor to go on with."""
    script = [subscribed("c1"), result("c7")]
    async with scripted_streams(script) as server, watching(server.url, "--json") as process:
        await line_of(process)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()

    assert (process.returncode, err.decode().splitlines()[-1]) == (130, "client: interrupted; go on with --since c7")
    assert "Traceback" not in err.decode()


@pytest.mark.parametrize("arguments", [["--json"], []])
async def test_a_closed_pipe_ends_it_quietly(receiver: RunningReceiver, arguments: list[str]) -> None:
    """If the reader of the pipe closes it, as in `watch --json | head -1`, it ends with 0 and without an error."""
    await ended(receiver)
    reading, writing = os.pipe()
    async with watching(receiver.url, "--since", "start", *arguments, stdout=writing) as process:
        os.close(writing)
        os.close(reading)
        _, err = await process.communicate()

    assert (process.returncode, "rror" in err.decode()) == (0, False)


@pytest.mark.parametrize("arguments", [["--json"], []])
async def test_a_full_disk_is_told_in_one_line(receiver: RunningReceiver, full_disk: int, arguments: list[str]) -> None:
    """The command ends with 1 and without a traceback. The line names the cursor before the unwritten result."""
    await ended(receiver)
    async with watching(receiver.url, "--since", "start", *arguments, stdout=full_disk) as process:
        _, err = await process.communicate()

    assert process.returncode == 1
    last = err.decode().splitlines()[-1]
    assert last == "client: cannot write to standard output: No space left on device; go on with --since start"


async def test_a_receiver_that_comes_back(tmp_path: Path) -> None:
    """Watching waits for a lost receiver. Standard error reports its loss and its return."""
    port = free_port()
    async with (
        running_receiver(tmp_path / "receiver.db", port=port) as receiver,
        watching(receiver.url, "--json") as process,
    ):
        await eventually(lambda: receiver.streams == 1)
        await receiver.stop()
        async with running_receiver(tmp_path / "receiver.db", port=port) as again:
            await eventually(lambda: again.streams == 1)
            ref = await ended(again)
            line = await line_of(process)
        process.kill()
        _, err = await process.communicate()

    assert json.loads(line)["ref"] == ref
    assert b"reader.broken" in err


@pytest.mark.parametrize(
    ("arguments", "key", "code", "text"),
    [
        pytest.param([], _WRONG_KEY, 1, "no-key: CALLBACK_RECEIVER_KEY: expected a key", id="wrong-key"),
        pytest.param(["--since", "no cursor"], ADMIN, 1, "422 wrong-field", id="wrong-cursor"),
        pytest.param(["--tag", "a,b"], ADMIN, 2, "tags: ", id="wrong-tag"),
    ],
)
async def test_refusals(receiver: RunningReceiver, arguments: list[str], key: str, code: int, text: str) -> None:
    """A refusal is reported in one line, without the key."""
    exit_code, out, err = await ran(receiver.url, *arguments, key=key)

    last = err.splitlines()[-1]
    assert (exit_code, out, text in last) == (code, "", True)
    assert _WRONG_KEY not in err


async def test_no_receiver() -> None:
    """The missing variable is named."""
    code, _, err = await ran("")

    assert (code, err) == (2, "client: CALLBACK_RECEIVER_URL: expected the address of the receiver in this variable\n")


async def test_help_tells_exit_codes() -> None:
    """The help of `watch` names the exit codes and the variables."""
    _, out, _ = await ran("", "--help")

    text = " ".join(out.split())
    assert "Exit codes: 0 as many results as --count says were shown" in text
    assert "130 interrupted" in text
    assert "CALLBACK_RECEIVER_KEY" in text
