"""Restarts and signals of `callback-receiver serve`: nobody is refused, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.faults.commands import KEY, SECRET, run_command
from tests.faults.disks import locked
from tests.faults.machine import Machine
from tests.faults.restarts import PER_SECOND, restart_under_load
from tests.faults.wire import ANSWER, request, wired
from tests.support import Api, eventually, free_port, receiver_process, running_receiver

OTHER_SECRET = "a-second-secret-of-the-tests-0123"


async def test_a_restart_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """With a passed socket, 200 callbacks a second over three restarts are answered 200, and each is stored once.

    On a busy machine the disk may take too long for one: then 503 asks the sender to repeat it.
    """
    callbacks = await restart_under_load(tmp_path, restarts=3, is_passed=True)

    assert set(callbacks.answers) <= {"200", "503"}
    assert callbacks.answers["200"] == len(callbacks.acknowledged) > 3 * PER_SECOND
    assert (callbacks.missing, callbacks.doubled) == (set(), set())


def passed(family: socket.AddressFamily, folder: Path) -> socket.socket:
    """Return a listening socket."""
    listener = socket.socket(family)
    listener.bind(str(folder / "socket") if family == socket.AF_UNIX else ("127.0.0.1", 0))
    listener.listen()
    return listener


async def test_it_serves_several_sockets(tmp_path: Path) -> None:
    """A TCP and a Unix socket are served alike. The variables are gone from the environment of the receiver."""
    inherited = (
        "import os, sys; from receiver.web.server.sockets import passed_sockets;"
        "print([listener.family.name for listener in passed_sockets()]);"
        "print([name for name in os.environ if name.startswith('LISTEN_')])"
    )
    script = 'exec 3<&{} 4<&{}; LISTEN_FDS=2 LISTEN_FDNAMES=a:b LISTEN_PID=$$ exec "$@"'
    with passed(socket.AF_INET, tmp_path) as first, passed(socket.AF_UNIX, tmp_path) as second:
        numbers = first.fileno(), second.fileno()
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", script.format(*numbers), "bash", sys.executable, "-c", inherited),
            pass_fds=numbers,
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()

    assert out.decode().splitlines() == ["['AF_INET', 'AF_UNIX']", "[]"]


async def test_a_unix_socket_takes_callbacks(tmp_path: Path) -> None:
    """The log line of the start names its path. It is there after the end, too, for the next receiver."""
    with passed(socket.AF_UNIX, tmp_path) as listener:
        connector = aiohttp.UnixConnector(str(tmp_path / "socket"))
        async with (
            receiver_process(tmp_path / "receiver.db", port=0, listener=listener) as receiver,
            aiohttp.ClientSession(connector=connector) as session,
        ):
            api = Api("http://127.0.0.1:0", session)
            task = await api.register()
            stored = await api.call_back(task["callbackUrl"])

    assert (receiver.first_line["host"], receiver.first_line["port"]) == (str(tmp_path / "socket"), None)
    assert stored.status == 200
    assert (tmp_path / "socket").is_socket()


async def test_connections_are_served_until_they_end(tmp_path: Path) -> None:
    """While it drains, requests on open connections are answered, and each answer closes its connection."""
    async with (
        running_receiver(tmp_path / "receiver.db") as api,
        wired(api.url) as fresh,
        wired(api.url) as used,
        wired(api.url) as sending,
        wired(api.url) as idle,
    ):
        tasks = [await api.register() for _ in range(3)]
        callbacks = [request("POST", task["callbackUrl"], ANSWER) for task in tasks]
        await used.send(request("GET", f"{api.url}/healthz"))
        await used.response()
        await sending.send(callbacks[0][:-10])
        async with asyncio.TaskGroup() as group:
            group.create_task(api.drain())
            await asyncio.sleep(0.1)
            for wire, rest in ((sending, callbacks[0][-10:]), (fresh, callbacks[1]), (used, callbacks[2])):
                await wire.send(rest)
            answers = [await wire.response() for wire in (sending, fresh, used)]
            rests = [await wire.rest() for wire in (sending, fresh, used, idle)]

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [answer.headers.get("connection") for answer in answers[1:]] == ["close", "close"]
    assert rests == [b""] * 4


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ("LISTEN_FDS=x LISTEN_PID=$$", "LISTEN_FDS: expected the number of sockets, got 'x'"),
        ("LISTEN_PID=$$", "LISTEN_FDS: expected the number of sockets, got ''"),
        ("LISTEN_FDS=1", "LISTEN_PID: expected the id of the process that gets them, got ''"),
        ("LISTEN_FDS=1 LISTEN_PID=-1", "LISTEN_PID: expected the id of the process that gets them, got '-1'"),
        (
            "LISTEN_FDS=2 LISTEN_PID=$$",
            f"LISTEN_FDS: file descriptor 4: {os.strerror(9)}",
        ),
        (
            "exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$",
            "LISTEN_FDS: file descriptor 3: Socket operation on non-socket",
        ),
        (
            "RECEIVER_API_KEYS= RECEIVER_ALLOW_ANONYMOUS=true LISTEN_FDS=1 LISTEN_PID=$$",
            "RECEIVER_ALLOW_ANONYMOUS: LISTEN_FDS has a socket at 0.0.0.0, expected a loopback address",
        ),
    ],
)
async def test_wrong_sockets_are_refused(tmp_path: Path, variables: str, line: str) -> None:
    """One line names the variable, and the exit code is 2."""
    with socket.create_server(("0.0.0.0", 0)) as listener:  # noqa: S104  (nothing accepts)
        setup, _, assignments = variables.rpartition("; ")
        script = (
            f"exec 3<&{listener.fileno()} 4<&-; {setup or ':'}; {assignments} exec {sys.executable} -m receiver serve"
        )
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", script),
            cwd=tmp_path,
            env={**os.environ, "RECEIVER_API_KEYS": KEY},
            pass_fds=(listener.fileno(),),
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            _, err = await process.communicate()

    assert (process.returncode, err.decode()) == (2, f"callback-receiver: {line}\n")


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """One right after the first does not count: `timeout` signals a process, and then its group. The exit code is 0."""
    async with (
        receiver_process(tmp_path / "receiver.db", port=free_port(), stop_delay_seconds="100") as receiver,
        aiohttp.ClientSession() as session,
        wired(receiver.url) as sending,
    ):
        api = Api(receiver.url, session)
        task, other = await api.register(), await api.register()
        await sending.send(request("POST", other["callbackUrl"], ANSWER)[:-10])
        stored = await api.call_back(task["callbackUrl"])
        for number in (signal.SIGTERM, signal.SIGINT):
            receiver.process.send_signal(number)
        await eventually(lambda: bool(receiver.events("receiver.stopping")))
        await asyncio.sleep(0.6)
        is_still_there = receiver.process.returncode is None
        code = await receiver.stop()
    async with receiver_process(tmp_path / "receiver.db", port=0) as again, aiohttp.ClientSession() as session:
        kept = await Api(again.url, session).task(task["ref"])

    assert (stored.status, is_still_there, code, kept["status"]) == (200, True, 0, "ready")
    assert [line["reason"] for line in receiver.events("receiver.cut_off")] == ["a second signal"]
    assert receiver.events("receiver.stopped") == []


async def test_a_balancer_can_take_out_a_receiver_that_stops(tmp_path: Path) -> None:
    """During the delay `/readyz` and `/healthz` are 503, but new connections are served. A second signal ends it."""
    async with (
        receiver_process(tmp_path / "receiver.db", port=free_port(), stop_delay_seconds="100") as receiver,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
    ):
        api = Api(receiver.url, session)
        task = await api.register()
        before = await api.send("GET", "/readyz", key=None)
        receiver.process.send_signal(signal.SIGTERM)
        await eventually(lambda: bool(receiver.events("receiver.stopping")))
        during = await api.send("GET", "/readyz", key=None)
        alive = await api.send("GET", "/healthz", key=None)
        stored = await api.call_back(task["callbackUrl"])
        await asyncio.sleep(0.6)
        code = await receiver.stop()

    assert (before.status, during.status, alive.status, stored.status) == (200, 503, 503, 200)
    assert during.json["reason"] == "the receiver is stopping"
    assert code == 0


@pytest.mark.sqlite
async def test_a_hanging_disk_does_not_hold_up_the_end(tmp_path: Path, machine: Machine) -> None:
    """After 9 s, before Docker kills it, the process ends itself with the exit code 1."""
    async with (
        receiver_process(tmp_path / "receiver.db", port=free_port(), variables=machine.variables) as receiver,
        aiohttp.ClientSession() as session,
    ):
        api = Api(receiver.url, session)
        task = await api.register()
        machine.set(sync_seconds=60.0)
        refused = await api.call_back(task["callbackUrl"])
        started = time.monotonic()
        code = await receiver.stop()
        seconds = time.monotonic() - started

    assert (refused.status, code) == (503, 1)
    assert [line["reason"] for line in receiver.events("receiver.cut_off")] == ["not done after 9 s"]
    assert seconds > 8


async def test_a_hangup_reads_the_keys_again(tmp_path: Path) -> None:
    """A new key of the secrets folder holds at once, and the old one no more. Other changes are named."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "RECEIVER_API_KEYS").write_text(f"first:{SECRET}")
    async with (
        receiver_process(tmp_path / "receiver.db", port=0, secrets_dir=str(secrets), api_keys=None) as receiver,
        aiohttp.ClientSession() as session,
    ):
        api = Api(receiver.url, session)
        before = [(await api.send("GET", "/v1/tasks", key=key)).status for key in (SECRET, OTHER_SECRET)]
        (secrets / "RECEIVER_API_KEYS").write_text(f"second:{OTHER_SECRET}")
        (secrets / "RECEIVER_MAX_WAITERS").write_text("7")
        receiver.process.send_signal(signal.SIGHUP)
        await eventually(lambda: bool(receiver.events("keys.reloaded")))
        after = [(await api.send("GET", "/v1/tasks", key=key)).status for key in (SECRET, OTHER_SECRET)]

    (line,) = receiver.events("settings.changed")
    assert (before, after) == ([200, 401], [401, 200])
    assert line["names"] == ["RECEIVER_MAX_WAITERS"]
    assert not any(SECRET[:9].encode() in line or OTHER_SECRET.encode() in line for line in receiver.lines)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("RECEIVER_API_KEYS", "short:x", "RECEIVER_API_KEYS: key 1 (short): the secret needs at least 24 characters"),
        ("RECEIVER_API_KEYS", "", "RECEIVER_API_KEYS: at least one key is needed"),
        ("RECEIVER_API_KEY", "x", "RECEIVER_API_KEY: there is no such setting"),
    ],
)
async def test_a_wrong_setting_changes_nothing(tmp_path: Path, name: str, text: str, reason: str) -> None:
    """One line of the log names it, and the keys stay as they were."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "RECEIVER_API_KEYS").write_text(KEY)
    async with (
        receiver_process(tmp_path / "receiver.db", port=0, secrets_dir=str(secrets), api_keys=None) as receiver,
        aiohttp.ClientSession() as session,
    ):
        (secrets / name).write_text(text)
        receiver.process.send_signal(signal.SIGHUP)
        await eventually(lambda: bool(receiver.events("keys.not_reloaded")))
        status = (await Api(receiver.url, session).send("GET", "/v1/tasks", key=SECRET)).status
        code = await receiver.stop()

    (line,) = receiver.events("keys.not_reloaded")
    assert (status, code) == (200, 0)
    assert line["reason"].startswith(reason)


async def test_a_hangup_never_ends_it(tmp_path: Path) -> None:
    """Not one of hundreds, at any moment from the start to the end."""
    async with receiver_process(tmp_path / "receiver.db", port=0) as receiver, asyncio.TaskGroup() as group:

        async def hang_up() -> None:
            while receiver.process.returncode is None:
                # Not by the process object, which may collect the exit code instead of the event loop.
                with suppress(ProcessLookupError):
                    os.kill(receiver.process.pid, signal.SIGHUP)
                await asyncio.sleep(0.001)

        group.create_task(hang_up())
        await eventually(lambda: len(receiver.events("keys.reloaded")) > 5)
        code = await receiver.stop()

    assert code == 0
    assert receiver.events("receiver.stopped")


async def test_the_service_manager_is_told(tmp_path: Path) -> None:
    """It learns of the start, of signs of life, of a reload and of the end."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        told: list[str] = []

        async def hear(state: str) -> None:
            async with asyncio.timeout(60):
                while not told or not told[-1].startswith(state):
                    told.append((await loop.sock_recv(manager, 1000)).decode())

        variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        async with receiver_process(tmp_path / "receiver.db", port=0, variables=variables) as receiver:
            await hear("READY=1")
            for _ in range(3):
                await hear("WATCHDOG=1")
                told.append("")
            receiver.process.send_signal(signal.SIGHUP)
            await hear("RELOADING=1\nMONOTONIC_USEC=")
            await hear("READY=1")
            code = await receiver.stop()
            await hear("STOPPING=1")

    assert code == 0
    assert told[0] == "READY=1"


@pytest.mark.sqlite
async def test_a_healthcheck_asks_the_receiver(tmp_path: Path) -> None:
    """It ends with 0 if the receiver can store, and with 1 and the reason if not. The process may be alive then."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        port = str(urlsplit(api.url).port)
        task = await api.register()
        well = await run_command(tmp_path, "healthcheck", PORT=port)
        with locked(tmp_path / "receiver.db"):
            await api.call_back(task["callbackUrl"])
            unwell = await run_command(tmp_path, "healthcheck", PORT=port)
            alive = await run_command(tmp_path, "healthcheck", "--alive", PORT=port)
    gone = await run_command(tmp_path, "healthcheck", PORT=str(free_port()))
    nowhere = await run_command(tmp_path, "healthcheck", PORT="0")

    assert (well.code, well.out, well.err) == (0, f"127.0.0.1:{port} is well\n", "")
    assert (unwell.code, unwell.out) == (1, "")
    assert unwell.err == f"callback-receiver: 127.0.0.1:{port} answers 503: database is locked\n"
    assert (alive.code, gone.code) == (0, 1)
    assert gone.err.endswith("cannot connect (Connection refused)\n")
    assert nowhere.refusal == "RECEIVER_PORT: expected the port of a running receiver, got 0"
