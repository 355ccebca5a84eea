"""Services that take notices to the operator: webhooks, ntfy, e-mail and all others that Apprise knows.

Their URLs hold passwords and topics, so no text shows one: a service is named by its number and its kind.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog
from pydantic_core import from_json, to_json

from receiver.errors import CannotStartError
from receiver.health.notices import Message
from receiver.health.sending import MISSING, UNKNOWN

__all__ = ["NoticeService", "open_services"]

_TRIES_AFTER_SECONDS = (0.0, 10.0, 60.0, 300.0)
_SEND_SECONDS = 30.0
_MOST_QUEUED = 20
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]{0,20}(?=://)")

_log = structlog.get_logger()


class NoticeService:
    """One service. `name` stands for it in logs and answers; it holds no secret."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._url = url
        self._queue: asyncio.Queue[Message] = asyncio.Queue(_MOST_QUEUED)

    def put(self, message: Message, count: Callable[[str], None]) -> None:
        """Let `run` send the message. If too many wait, it is lost, and logged as lost."""
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self._lose(message, "too many notices wait", count)

    async def run(self, count: Callable[[str], None]) -> None:
        """Send messages in order, each up to four times within some eight minutes, until cancelled.

        `count` gets "sent" or "lost" for each of them.
        """
        while True:
            message = await self._queue.get()
            reason: str | None = None
            for seconds in _TRIES_AFTER_SECONDS:
                await asyncio.sleep(seconds)
                reason = await self.send(message)
                if reason is None:
                    break
                _log.warning("notice.failed", service=self.name, reason=reason)
            if reason is None:
                count("sent")
                _log.info("notice.sent", service=self.name, title=message.title)
            else:
                self._lose(message, reason, count)

    async def send(self, message: Message) -> str | None:
        """Send it once, within 30 s. Return None, or the reason of a failure, without secrets."""
        kind = "failure" if message.is_problem else "success"
        try:
            (reason,) = await _ask([self._url], {"title": message.title, "body": message.body, "notify_type": kind})
        except _NoAnswerError as error:
            return str(error)
        except Exception as error:
            # Nothing that a notice does is worth the end of the receiver.
            return type(error).__name__
        return reason

    def _lose(self, message: Message, reason: str, count: Callable[[str], None]) -> None:
        count("lost")
        _log.error("notice.lost", service=self.name, title=message.title, reason=reason)


async def open_services(urls: Sequence[str]) -> list[NoticeService]:
    """Return the services behind these URLs. Nothing is sent yet.

    Raises:
        CannotStartError: Apprise is not installed, or does not know a URL. The text names no URL.
    """
    if not urls:
        return []
    names = [f"{number} ({_kind(url)})" for number, url in enumerate(urls, start=1)]
    try:
        reasons = await _ask(urls, None)
    except _NoAnswerError as error:
        # A machine that is busy while it starts is no reason to stay down.
        _log.warning("notices.not_checked", reason=str(error))
        reasons = []
    if MISSING in reasons:
        raise CannotStartError("RECEIVER_NOTICES: the package apprise is missing; install callback-receiver[notices]")
    for name, reason in zip(names, reasons, strict=False):
        if reason == UNKNOWN:
            expected = "expected a URL that Apprise knows, such as jsons://host/path, ntfys://host/topic or mailtos://"
            raise CannotStartError(f"RECEIVER_NOTICES: number {name}: {expected}")
    return [NoticeService(name, url) for name, url in zip(names, urls, strict=True)]


class _NoAnswerError(Exception):
    """The process that sends gave no answer. The text has no secret."""


async def _ask(urls: Sequence[str], message: dict[str, str] | None) -> list[str | None]:
    """Return the answers of `receiver.health.sending`. Its process is gone when this returns or is cancelled."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "receiver.health.sending"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=_environment(),
        )
    except OSError as error:
        raise _NoAnswerError(f"no process could be started: {error.strerror}") from None
    try:
        async with asyncio.timeout(_SEND_SECONDS):
            answer, _ = await process.communicate(to_json({"urls": urls, "message": message}))
        reasons: list[str | None] = from_json(answer)
    except TimeoutError:
        raise _NoAnswerError(f"no answer within {_SEND_SECONDS:g} s") from None
    except (OSError, ValueError):
        raise _NoAnswerError("Apprise failed") from None
    finally:
        if process.returncode is None:
            # It may have ended just now.
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return reasons


def _environment() -> dict[str, str]:
    """Return the environment without our settings, and with the packages of here, also if this one is not installed."""
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("RECEIVER_")}
    return {**environment, "PYTHONPATH": os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)}


def _kind(url: str) -> str:
    found = _KIND.match(url)
    return "no scheme" if found is None else found[0].lower()
