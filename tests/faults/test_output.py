"""Texts of others in every encoding and without terminal escapes, in the answers and log lines of all commands."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.output import escape_json, fold, printable
from client.protocol.models import Task
from client.providers import DIALECTS
from receiver.domain.records import StandingUrl
from receiver.domain.registrations import CreateStandingUrl
from tests.client.support import PNG, Reply, scripted_provider
from tests.faults.commands import KEY, SECRET
from tests.faults.streams import started
from tests.receiver.storage.stores import a_registration, running_store
from tests.support import Api, free_port, running_receiver

CLIENT_KEY = {"CAPSOLVER_CLIENT_KEY": "k", "TWOCAPTCHA_CLIENT_KEY": "k"}
GIRAFFE = "жираф 🦒"
ENCODINGS: Mapping[str, Mapping[str, str]] = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "cp1251": {"PYTHONIOENCODING": "cp1251"},
    "latin-1": {"PYTHONIOENCODING": "latin-1:strict"},
    "utf-8": {"PYTHONIOENCODING": "utf-8:strict"},
    "utf-16-le": {"PYTHONIOENCODING": "utf-16-le"},
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}
ODD = "t\x1b]0;owned\x07\x1b[31m\x9b2J\u2028\u202e\u2066\x7f\r8"
"""A taskId with escape sequences: set the title of a terminal, clear its screen, and reverse the rest of the line."""


def decoded(raw: bytes, encoding: str) -> str:
    """Return the text in the encoding of this name of `ENCODINGS`."""
    return raw.decode("ascii" if encoding == "C" else encoding)


def shown_in(text: str, encoding: str) -> str:
    """Return the text with escapes for characters missing from the encoding."""
    codec = "ascii" if encoding == "C" else encoding
    return text.encode(codec, "backslashreplace").decode(codec)


def assert_is_plain(text: str) -> None:
    """Fail if the text has a character to control a terminal."""
    assert [character for character in text if character != "\n" and not character.isprintable()] == []


async def ran(
    folder: Path, module: str, *arguments: str, environ: Mapping[str, str]
) -> tuple[int | None, bytes, bytes]:
    """Return exit code, standard output and standard error."""
    async with started(folder, module, *arguments, environ={**CLIENT_KEY, **environ}, streams={}) as process:
        out, err = await process.communicate()
    return process.returncode, out, err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an image in it."""
    (tmp_path / "image.png").write_bytes(PNG)
    return tmp_path


def solved(text: str) -> Reply:
    """Return a createTask answer with this text."""
    return Reply({"errorId": 0, "status": "ready", "taskId": "[/bold]", "solution": {"text": text}})


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_an_answer_in_any_encoding(folder: Path, encoding: str) -> None:
    """Missing characters are escaped (steamctl#67), and JSON keeps its meaning."""
    async with scripted_provider(createTask=solved(GIRAFFE)) as provider:
        command = ("solve", "image.png", "--provider", "capsolver", "--provider-url", provider.url)
        plain = await ran(folder, "client", *command, environ=ENCODINGS[encoding])
        as_json = await ran(folder, "client", *command, "--json", environ=ENCODINGS[encoding])

    assert (plain[0], decoded(plain[1], encoding), plain[2]) == (0, shown_in(GIRAFFE, encoding) + "\n", b"")
    assert (as_json[0], as_json[2]) == (0, b"")
    assert json.loads(decoded(as_json[1], encoding))["solution"] == {"text": GIRAFFE}


async def called_back(url: str, session: aiohttp.ClientSession, task_id: str, **fields: Any) -> str:
    """Return the ref of a task with this taskId, finished by a callback."""
    api = Api(url, session)
    made = await api.send("POST", "/v1/tasks", key=SECRET, json={"provider": "capsolver", **fields})
    await api.call_back(made.json["callbackUrl"], taskId=task_id, solution={"text": GIRAFFE, GIRAFFE: 1})
    return str(made.json["ref"])


@pytest.mark.sqlite
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_results_in_any_encoding(folder: Path, encoding: str) -> None:
    """`watch`, in both formats, `explain` and `doctor` print every text without a traceback."""
    async with running_receiver(folder / "receiver.db", api_keys=f"{KEY}:submit+read+admin") as receiver:
        async with aiohttp.ClientSession() as session:
            ref = await called_back(receiver.url, session, GIRAFFE)
        environ = {
            **ENCODINGS[encoding],
            "CALLBACK_RECEIVER_URL": receiver.url,
            "CALLBACK_RECEIVER_KEY": SECRET,
            "RECEIVER_DATABASE": "receiver.db",
        }
        watch = ("watch", "--since", "start", "--count", "1")
        table = await ran(folder, "client", *watch, environ=environ)
        lines = await ran(folder, "client", *watch, "--json", environ=environ)
        explained = await ran(folder, "receiver", "explain", ref, "--json", environ=environ)
        diagnosed = await ran(folder, "receiver", "doctor", environ=environ)

    assert (table[0], lines[0], explained[0], diagnosed[0]) == (0, 0, 0, 1)
    assert shown_in(GIRAFFE, encoding) in decoded(table[1], encoding)
    assert json.loads(decoded(lines[1], encoding))["solution"] == {"text": GIRAFFE, GIRAFFE: 1}
    assert json.loads(decoded(explained[1], encoding))["ref"] == ref
    assert shown_in("→", encoding) in decoded(diagnosed[1], encoding)
    assert b"Traceback" not in table[2] + lines[2] + explained[2] + diagnosed[2]


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_log_lines_do_not_steer_a_terminal(tmp_path: Path, log_format: str) -> None:
    """The taskId of a caller or a provider is escaped in log lines. In JSON it stays the same text."""
    port = free_port()
    environ = {
        "RECEIVER_DATABASE": "receiver.db",
        "RECEIVER_PORT": str(port),
        "RECEIVER_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "RECEIVER_API_KEYS": KEY,
        "RECEIVER_LOG_FORMAT": log_format,
    }
    async with started(tmp_path, "receiver", "serve", environ=environ, streams={}) as process:
        assert process.stderr is not None
        first = await process.stderr.readline()
        async with aiohttp.ClientSession() as session:
            await called_back(f"http://127.0.0.1:{port}", session, ODD, type=f"Type {GIRAFFE}")
        process.send_signal(signal.SIGTERM)
        _, rest = await process.communicate()

    log = (first + rest).decode()
    assert process.returncode == 0
    assert_is_plain(log)
    if log_format == "json":
        assert ODD in [json.loads(line).get("taskId") for line in log.splitlines()]
    else:
        assert printable(ODD) in log


@pytest.mark.parametrize(
    ("reply", "arguments"),
    [
        pytest.param(
            Reply({"errorId": 1, "errorCode": f"ERROR_{ODD}", "errorDescription": ODD}),
            ("client", "solve", "image.png", "--provider", "capsolver"),
            id="solve",
        ),
        pytest.param(
            Reply({"errorId": 1, "errorCode": f"ERROR_{ODD}", "errorDescription": ODD}),
            ("client", "balance", "--provider", "capsolver"),
            id="balance",
        ),
        pytest.param(
            Reply({"errorId": 1, "errorCode": f"ERROR_{ODD}", "errorDescription": ODD}),
            ("client", "report", "bad", ODD, "--provider", "twocaptcha"),
            id="report",
        ),
        pytest.param(
            Reply({"errorId": 1, "errorCode": f"ERROR_{ODD}", "errorDescription": ODD}),
            ("client", "balance", "--provider", ODD),
            id="argument",
        ),
    ],
)
async def test_refusals_do_not_steer_a_terminal(folder: Path, reply: Reply, arguments: Sequence[str]) -> None:
    """The provider's words and the arguments are escaped in one line, with exit code 1 or 2."""
    async with scripted_provider(createTask=reply, getBalance=reply, reportIncorrect=reply) as provider:
        environ = {"CAPSOLVER_URL": provider.url, "TWOCAPTCHA_URL": provider.url}
        code, out, err = await ran(folder, *arguments, environ=environ)

    assert (code in (1, 2), out) == (True, b"")
    (line,) = [line for line in err.decode().splitlines() if "code.unlisted" not in line]
    assert "\\x1b" in line
    assert_is_plain(err.decode())


@pytest.mark.sqlite
async def test_tables_and_timelines_do_not_steer_a_terminal(folder: Path) -> None:
    """`watch` and `explain` escape texts in their tables and in their JSON."""
    async with running_receiver(folder / "receiver.db", api_keys=KEY) as receiver:
        async with aiohttp.ClientSession() as session:
            ref = await called_back(receiver.url, session, ODD)
        environ = {
            "CALLBACK_RECEIVER_URL": receiver.url,
            "CALLBACK_RECEIVER_KEY": SECRET,
            "RECEIVER_DATABASE": "receiver.db",
        }
        watch = ("client", "watch", "--since", "start", "--count", "1")
        explain = ("receiver", "explain", ref)
        shown_texts = [await ran(folder, *command, environ=environ) for command in (watch, explain)]
        as_json = [await ran(folder, *command, "--json", environ=environ) for command in (watch, explain)]

    for code, out, err in [*shown_texts, *as_json]:
        assert code == 0, err
        assert_is_plain((out + err).decode())
    assert printable(ODD) in shown_texts[0][1].decode()
    assert Task.model_validate_json(as_json[0][1]).task_id == ODD


@pytest.mark.sqlite
async def test_labels_of_an_older_database_do_not_steer_a_terminal(folder: Path) -> None:
    """The list of `callback-url` escapes a label stored by other means."""
    async with running_store(folder / "receiver.db") as store:
        await store.write(a_registration(1))
        await store.write(labelled(f"label {ODD}"))

    code, out, _ = await ran(folder, "receiver", "callback-url", "--list", environ={"RECEIVER_DATABASE": "receiver.db"})

    assert (code, printable(ODD) in out.decode()) == (0, True)
    assert_is_plain(out.decode())


def labelled(label: str) -> Any:
    """Return the command for a standing URL with this label."""
    return CreateStandingUrl(
        url=StandingUrl("01890a5d-ac96-774b-bcce-b302099a8057", "capsolver", label, 1_700_000_000_000_000, None)
    )


async def test_an_answer_is_exact_in_a_pipe_and_escaped_in_a_terminal(folder: Path) -> None:
    """Programs get the exact text of the provider. A terminal shows it as one harmless line."""
    text = "one\u200d\x1b[2J\ntwo"
    async with scripted_provider(createTask=solved(text)) as provider:
        command = ("solve", "image.png", "--provider", "capsolver", "--provider-url", provider.url)
        _, piped, _ = await ran(folder, "client", *command, environ={})
        master, slave = pty.openpty()
        try:
            environ = {**CLIENT_KEY, "PYTHONIOENCODING": "utf-8"}
            async with started(folder, "client", *command, environ=environ, streams={1: slave}) as process:
                code = await process.wait()
            seen = await asyncio.to_thread(os.read, master, 4096)
        finally:
            os.close(slave)
            os.close(master)

    assert piped.decode() == f"{text}\n"
    assert (code, seen.decode()) == (0, f"{printable(text)}\r\n")


async def test_lines_are_folded_in_a_terminal_only(folder: Path) -> None:
    """A terminal of unknown width gets at most 80 columns. In a pipe each provider has one line."""
    _, piped, _ = await ran(folder, "receiver", "providers", environ={})
    master, slave = pty.openpty()
    try:
        environ = {"PYTHONIOENCODING": "utf-8"}
        async with started(folder, "receiver", "providers", environ=environ, streams={1: slave}) as process:
            code = await process.wait()
        seen = await asyncio.to_thread(os.read, master, 16384)
    finally:
        os.close(slave)
        os.close(master)

    assert len(piped.splitlines()) == len(DIALECTS)
    assert (code, max(map(len, seen.decode().splitlines())) <= 80) == (0, True)
    assert seen.split() == piped.split()


@pytest.mark.parametrize(
    ("line", "folded"),
    [
        ("a line that fits", "a line that fits"),
        ("wrong  the disk is full, so callbacks fail", "wrong  the disk is full, so\n       callbacks fail"),
        ("       → Free some space on it, please", "       → Free some space on\n         it, please"),
        ("see https://callbacks.example.org/docs", "see\n  https://callbacks.example.org/docs"),
        ("start: callback-receiver redeliver --apply", "start:\n  callback-receiver redeliver --apply"),
    ],
)
def test_a_line_is_folded_between_words(line: str, folded: str) -> None:
    """The rest stands below the text of the first line. URLs and commands can be copied whole."""
    assert fold(line, 28) == folded


@given(st.text(st.sampled_from("ab  →-"), max_size=60), st.integers(1, 40))
def test_folding_keeps_all_words(line: str, width: int) -> None:
    """Only words longer than the width make a line longer."""
    folded = fold(line, width)

    assert folded.split() == line.split()
    assert all(len(part) <= width or len(part.split()) <= 1 for part in folded.split("\n"))


@pytest.mark.parametrize("is_ascii", [False, True])
def test_json_is_the_same_with_escapes(is_ascii: bool) -> None:
    """All characters outside ASCII are escaped, or only invisible ones. Half a surrogate pair is escaped, too."""
    value = {GIRAFFE: [ODD, "\ud800", "é", "\U000e0001", '"\\']}
    text = escape_json(json.dumps(value, ensure_ascii=False), is_ascii=is_ascii)

    assert json.loads(text) == value
    assert text.isascii() is is_ascii
    assert_is_plain(text)
