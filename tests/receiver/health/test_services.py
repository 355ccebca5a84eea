"""Services for notices: sent within limits, repeated a few times, and named without their secrets."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from receiver.errors import CannotStartError
from receiver.health import services
from receiver.health.notices import Message
from receiver.health.services import NoticeService, open_services
from receiver.health.threads import SideThread
from receiver.settings import Settings
from tests.receiver.health.webhook import TOPIC, Webhook, running_webhook
from tests.support import eventually, free_port

MESSAGE = Message("host.example: action needed", "wrong: all of it\n→ Mend it.", is_problem=True)
SECRETS = (TOPIC, "operator", "hunter2")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat at once: the pauses are minutes."""
    monkeypatch.setattr(services, "_TRIES_AFTER_SECONDS", (0.0,) * 4)


@pytest.fixture
def root_records() -> Iterator[io.StringIO]:
    """Return the lines of the root logger, as an application with logs of its own writes them."""
    stream = io.StringIO()
    handler, root = logging.StreamHandler(stream), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    # A library's own lines of this level may show everything.
    root.setLevel(logging.INFO)
    yield stream
    root.setLevel(before)
    root.removeHandler(handler)


async def delivered(service: NoticeService, *messages: Message) -> tuple[Counter[str], list[str]]:
    """Return the counts and the events of the log after these messages are sent or lost."""
    counts = Counter[str]()

    def count(what: str) -> None:
        counts[what] += 1

    with capture_logs() as lines:
        async with asyncio.TaskGroup() as owner:
            running = owner.create_task(service.run(count))
            for message in messages:
                service.put(message, count)
            await eventually(lambda: counts.total() == len(messages))
            running.cancel()
    assert not [secret for secret in SECRETS if secret in str(lines)], lines
    return counts, [str(line["event"]) for line in lines]


async def test_a_webhook_gets_the_message() -> None:
    """The title and the text come as they are. A log line tells that it was sent, without the URL."""
    async with running_webhook() as webhook:
        (service,) = await open_services([webhook.url])
        counts, events = await delivered(service, MESSAGE)

    (message,) = webhook.messages
    assert (message["title"], message["message"]) == (MESSAGE.title, MESSAGE.body)
    assert message["type"] == "failure"
    assert (counts, events) == ({"sent": 1}, ["notice.sent"])


async def test_a_failing_service_is_tried_again() -> None:
    """Two refusals, and the third try brings the message. The next one follows in order."""
    async with running_webhook() as webhook:
        webhook.statuses = [500, 503]
        (service,) = await open_services([webhook.url])
        counts, events = await delivered(service, MESSAGE, Message("second", "over", is_problem=False))

    assert [message["title"] for message in webhook.messages] == [MESSAGE.title, "second"]
    assert events == ["notice.failed", "notice.failed", "notice.sent", "notice.sent"]
    assert counts == {"sent": 2}


async def test_a_dead_service_is_given_up(capfd: pytest.CaptureFixture[str], root_records: io.StringIO) -> None:
    """After four tries the message is lost and logged as lost. No text shows a part of the URL."""
    (service,) = await open_services([Webhook(free_port()).url])
    counts, events = await delivered(service, MESSAGE)

    assert (counts, events) == ({"lost": 1}, ["notice.failed"] * 4 + ["notice.lost"])
    assert not [secret for secret in SECRETS if secret in f"{capfd.readouterr()} {root_records.getvalue()}"]


async def test_too_many_waiting_notices_are_lost() -> None:
    """A service that takes nothing holds twenty messages, and no memory beyond."""
    counts = Counter[str]()
    (service,) = await open_services([Webhook(free_port()).url])

    with capture_logs() as lines:
        for _ in range(23):
            service.put(MESSAGE, lambda what: counts.update([what]))

    assert counts == {"lost": 3}
    assert {line["event"] for line in lines} == {"notice.lost"}


async def test_the_reason_of_a_refusal_has_no_secret() -> None:
    """Apprise tells the status. Parts of the URL in its text are hidden."""
    async with running_webhook() as webhook:
        webhook.statuses = [403]
        (service,) = await open_services([webhook.url])
        reason = await service.send(MESSAGE)

    assert reason is not None
    assert "403" in reason
    assert not [secret for secret in SECRETS if secret in reason]
    assert service.name == "1 (json)"


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("https://host.example/hunter2", "number 2 (https): expected a URL that Apprise knows"),
        ("hunter2", "number 2 (no scheme): expected a URL that Apprise knows"),
        ("hunter2-hunter2-hunter2-hunter2://x", "number 2 (no scheme): expected"),
        ("discord://hunter2", "number 2 (discord): expected"),
    ],
)
async def test_an_unknown_url_is_refused_without_showing_it(
    url: str, named: str, capfd: pytest.CaptureFixture[str], root_records: io.StringIO
) -> None:
    """The line names the place of the URL in the setting, and its scheme."""
    with pytest.raises(CannotStartError) as caught:
        await open_services(["jsons://host.example/path", url])

    assert named in str(caught.value)
    assert "hunter2" not in f"{caught.value} {capfd.readouterr()} {root_records.getvalue()}"


async def test_the_documented_services_are_known() -> None:
    """Webhook, ntfy and e-mail, as the operator's pages and the table of settings write them."""
    deploy = Path(__file__).parents[3] / "deploy"
    text = "".join((deploy / name).read_text() for name in ("OPERATING.md", "README.md", "environment.example"))
    documented = set(re.findall(r"\b(?:jsons|ntfys|mailtos)://[^\s`',]+[\w]", text))

    names = {service.name.partition(" ")[2] for service in await open_services(sorted(documented))}

    assert names == {"(jsons)", "(mailtos)", "(ntfys)"}


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without URLs it is not missed."""
    (tmp_path / "apprise.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)

    assert await open_services([]) == []
    with pytest.raises(CannotStartError, match=r"RECEIVER_NOTICES: the package apprise is missing; install"):
        await open_services(["jsons://host.example/path"])


def is_closed(connection: socket.socket) -> bool:
    """Return True once the peer is gone. Until then this waits, up to ten seconds."""
    connection.settimeout(10)
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


async def test_a_service_that_hangs_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is killed, so that not even the end of the receiver waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (service,) = await open_services([f"json://127.0.0.1:{silent.getsockname()[1]}/{TOPIC}?rto=600"])
        monkeypatch.setattr(services, "_SEND_SECONDS", 10.0)
        async with asyncio.TaskGroup() as owner:
            sending = owner.create_task(service.send(MESSAGE))
            connection, _ = await asyncio.to_thread(silent.accept)

        assert sending.result() == "no answer within 10 s"
        with connection:
            assert await asyncio.to_thread(is_closed, connection)


async def test_a_cancelled_sending_leaves_no_process() -> None:
    """The receiver stops while a notice is on its way."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (service,) = await open_services([f"json://127.0.0.1:{silent.getsockname()[1]}/{TOPIC}?rto=600"])
        async with asyncio.TaskGroup() as owner:
            sending = owner.create_task(service.send(MESSAGE))
            connection, _ = await asyncio.to_thread(silent.accept)
            sending.cancel()

        with connection:
            assert await asyncio.to_thread(is_closed, connection)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('no JSON', flush=True)", "Apprise failed"),
        ("print('[]', flush=True)", "ValueError"),
        ("raise SystemExit(3)", "Apprise failed"),
    ],
)
async def test_a_broken_apprise_is_a_failure_like_any_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, reason: str
) -> None:
    """The receiver goes on, and the log names the kind of the fault."""
    (service,) = await open_services([f"jsons://host.example/{TOPIC}"])
    (tmp_path / "apprise.py").write_text(f"{program}\nimport os\nos._exit(0)")
    monkeypatch.syspath_prepend(tmp_path)

    counts, events = await delivered(service, MESSAGE)

    assert await service.send(MESSAGE) == reason
    assert (counts, events[-1]) == ({"lost": 1}, "notice.lost")


async def test_settings_do_not_reach_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It gets the message and one URL, and no other secret of the receiver."""
    seen = tmp_path / "seen"
    (tmp_path / "apprise.py").write_text(
        f"import os, pathlib, sys\npathlib.Path({str(seen)!r}).write_text(str((sys.argv, dict(os.environ))))\n"
        "raise ImportError"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("RECEIVER_API_KEYS", "name:hunter2")

    with pytest.raises(CannotStartError):
        await open_services([f"jsons://host.example/{TOPIC}"])

    assert "PYTHONPATH" in seen.read_text()
    assert "hunter2" not in seen.read_text()


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("", []),
        ("jsons://a/b", ["jsons://a/b"]),
        ("jsons://a/b,ntfys://c/d", ["jsons://a/b", "ntfys://c/d"]),
        (
            " jsons://a/b ,\n mailtos://u:p@h?to=x@y,z@y , ntfy://t,",
            ["jsons://a/b", "mailtos://u:p@h?to=x@y,z@y", "ntfy://t"],
        ),
        ("nonsense", ["nonsense"]),
    ],
)
def test_the_urls_of_the_setting(text: str, urls: list[str]) -> None:
    """Commas separate URLs, and a URL may have commas of its own."""
    settings = Settings(notices=text, _env_file=None)

    assert settings.notice_urls == urls
    assert not text or text not in repr(settings)


async def test_a_hanging_call_delays_only_its_successor() -> None:
    """The wait ends at its limit. Until the call ends, the thread takes no other one."""
    thread, release = SideThread("test"), threading.Event()
    try:
        with pytest.raises(TimeoutError):
            await thread.run(release.wait, within_seconds=0.05)
        with pytest.raises(TimeoutError):
            await thread.run(lambda: True, within_seconds=5)
    finally:
        release.set()

    async def is_free() -> bool:
        try:
            return await thread.run(lambda: True, within_seconds=5)
        except TimeoutError:
            return False

    async with asyncio.timeout(10):
        while not await is_free():
            await asyncio.sleep(0.01)


async def test_an_error_on_the_thread_is_raised_here() -> None:
    """One that would end the loop becomes an ordinary error."""

    def leave() -> None:
        raise SystemExit(3)

    thread = SideThread("test")
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 / 0, within_seconds=5)
    with pytest.raises(RuntimeError, match="SystemExit"):
        await thread.run(leave, within_seconds=5)


async def test_the_thread_is_free_as_soon_as_its_call_has_answered() -> None:
    """The next call may come in the same turn of the loop."""
    thread = SideThread("test")

    assert [await thread.run(partial(abs, number), within_seconds=5) for number in range(500)] == list(range(500))
