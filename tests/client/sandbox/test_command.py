"""The command: ready line, signals, wrong options."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner
from pydantic.alias_generators import to_camel

from client.sandbox import FaultRates, Faults, Sandbox, SandboxSettings
from client.sandbox.command import main, read_settings, sandbox
from client.sandbox.settings import CALLBACK_FAULTS, HTTP_FAULTS
from client.sandbox.wires.profiles import PROFILES, profile_named
from tests.client.sandbox.support import KEY, TOKEN


@asynccontextmanager
async def _process(*options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "client.sandbox", *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_says_where_it_listens_and_stops_by_a_signal(number: signal.Signals) -> None:
    """One line with the URL when it is ready, answers at once, and exit code 0 by SIGINT or SIGTERM."""
    async with _process("--dialect", "capsolver", "--client-key", KEY, "--latency-min", "60", "--seed", "5") as process:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        url = re.fullmatch(r"capsolver sandbox at (http://127\.0\.0\.1:\d+) \(seed 5\)\n", line)
        assert url is not None
        body = {"clientKey": KEY, "task": TOKEN, "callbackUrl": "http://127.0.0.1:9/"}
        async with aiohttp.ClientSession() as session, session.post(f"{url[1]}/createTask", json=body) as response:
            answer = await response.json()
        process.send_signal(number)
        rest, errors = await process.communicate()

    assert answer["status"] == "idle"
    assert (process.returncode, rest, errors) == (0, b"", b"")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            "",
            "--dialect: expected one of anticaptcha, capkill, capmonster, ",
        ),
        ("--dialect nobody", "'nobody' is not one of 'anticaptcha', 'capkill', 'capmonster'"),
        ("--dialect capsolver --port 70000", "'--port': 70000 is not in the range"),
        ("--dialect capsolver --callback-lost 2", "'--callback-lost': 2.0 is not in the range"),
        ("--dialect capsolver --fails nan", "fails: expected a probability"),
        ("--dialect capsolver --window nan", "window_seconds: expected a number"),
        ("--dialect capsolver --http-429 0.6 --html 0.6", "add up to more than 1"),
        ("--dialect capsolver --latency-min 3 --latency-max 1", "latency: expected 0 <= shortest <= longest"),
        ("--dialect capsolver --error-status 200", "error_status: capsolver documents 400 and 401"),
        ("--dialect capsolver --client-key=", "client_keys: a key must not be empty"),
        ("--dialect capsolver --loud", "No such option"),
    ],
)
def test_wrong_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: str, text: str
) -> None:
    """A wrong option is one clear line on standard error and exit code 2."""
    monkeypatch.setattr(sys, "argv", ["sandbox", *options.split()])

    with pytest.raises(SystemExit) as stopped:
        main()

    captured = capsys.readouterr()
    assert (stopped.value.code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert text in captured.err


async def test_a_port_that_is_taken() -> None:
    """A port in use is one clear line and exit code 2."""
    async with Sandbox("capsolver") as taken:
        port = taken.url.rpartition(":")[2]
        async with _process("--dialect", "onecaptcha", "--port", port) as process:
            output, errors = await process.communicate()

    assert (process.returncode, output) == (2, b"")
    assert errors.decode().startswith(f"sandbox: --port: cannot listen on 127.0.0.1:{port}: ")
    assert errors.count(b"\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        "onecaptcha: HTTP status of errors. Unknown; placeholder: 200",
        "capsolver: 120; onecaptcha unknown, placeholder 120",
        "capsolver: 300; onecaptcha unknown, placeholder 330",
        "onecaptcha: 300, its code unknown: ERROR_TASK_TIMEOUT",
        "capsolver: 1000; onecaptcha unknown, placeholder 0",
        "Errors in a minute that block a key. Unknown; placeholder: 0",
        "leave taskId out of callbacks. That it is there is inferred, not documented",
        "Call back for synchronous tasks too. Unknown; placeholder: no",
    ],
)
def test_help_names_what_is_unknown(words: str) -> None:
    """The help names undocumented behaviour as unknown or inferred, with the placeholder."""
    text = " ".join(CliRunner().invoke(sandbox, ["--help"]).output.split())

    assert words in text


def test_help_fits_a_terminal() -> None:
    """No line is longer than 80 columns, not even that of all providers."""
    lines = CliRunner().invoke(sandbox, ["--help"], terminal_width=80).output.splitlines()

    assert [line for line in lines if len(line) > 80] == []
    assert {name for name in PROFILES if name not in " ".join(lines)} == set()


_ORDERED = [to_camel(fault.name) for fault in fields(Faults)]


@pytest.mark.parametrize("fault", [*CALLBACK_FAULTS, *HTTP_FAULTS, "cut", *_ORDERED])
def test_help_lists_every_fault(fault: str) -> None:
    """Each fault of a task stands in the help, with a text."""
    lines = CliRunner().invoke(sandbox, ["--help"]).output.partition("Faults of one task")[2].splitlines()

    assert [line for line in lines if re.fullmatch(rf"  {fault}  +\S.*", line)] != []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {}),
        ("--latency-min 3", {"latency_seconds": (3.0, 3.0)}),
        ("--latency-max 0.2", {"latency_seconds": (0.2, 0.2)}),
        ("--client-key a --client-key b", {"client_keys": frozenset("ab")}),
        ("--balance 0 --cost 0", {"balance": 0.0, "cost": 0.0}),
        ("--no-status --async-images", {"is_status_sent": False, "async_images": True}),
        ("--callback-with-task-id", {"callback_has_task_id": True}),
        ("--callback-without-task-id", {"callback_has_task_id": False}),
        ("--callback-with-task-id --callback-without-task-id", {"callback_has_task_id": None}),
        ("--webhook-secret s", {"webhook_secret": b"s"}),
        ("--registered-host example.com", {"registered_hosts": frozenset({"example.com"})}),
        ("--callback-body solution", {"callback_body": "solution"}),
        ("--fails 0.5 --html 1", {"rates": FaultRates(fails=0.5, html=1.0)}),
    ],
)
def test_options_are_settings(options: str, expected: dict[str, Any]) -> None:
    """An option sets its field; a field without its option keeps its default, and the limits of the provider."""
    context = sandbox.make_context("sandbox", ["--seed", "0", *options.split()])
    limits = profile_named("onecaptcha").limits

    assert read_settings("onecaptcha", context.params) == replace(SandboxSettings(limits=limits), **expected)


def test_options_change_the_limits_of_the_provider() -> None:
    """Only the given limits differ."""
    context = sandbox.make_context("sandbox", ["--window", "9", "--max-polls", "0", "--enforce-interval"])
    limits = replace(profile_named("ezcaptcha").limits, window_seconds=9.0, max_polls=0, is_interval_enforced=True)

    assert read_settings("ezcaptcha", context.params).limits == limits
