"""Sends the callbacks of a sandbox, and goes wrong with them as ordered.

CapSolver documents one sentence about its callbacks: the token is POSTed to the address (PROVIDERS.md 2.1). That the
body is what getTaskResult answers, with the `taskId` in it, is inferred; no retry is known, so there is none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
from pydantic_core import from_json, to_json

from client.sandbox.counts import Counts
from client.sandbox.service import SandboxTask, Service
from client.sandbox.settings import Settings

__all__ = ["Callbacks", "Clock", "SentCallback"]

_MOST_WAITING = 10_000
_MOST_SENT_KEPT = 1_000
_MOST_ANSWER_BYTES = 65_536


class Clock(Protocol):
    """Time, as the sandbox knows it."""

    def now(self) -> float:
        """Seconds on an axis that only grows."""

    async def sleep(self, seconds: float) -> None:
        """Returns after so many seconds of `now`."""


@dataclass(frozen=True, slots=True)
class SentCallback:
    """A callback that was sent: `task_id` is that of its task, whatever the body says; `status` None: no answer."""

    task_id: str
    url: str = field(repr=False)
    body: bytes = field(repr=False)
    status: int | None


class Callbacks:
    """All callbacks of one sandbox; each waits in a task of `group` until it is due.

    At most 10,000 wait at a time; one more is not sent at all and counted as the fault `callback.dropped`.
    """

    def __init__(
        self,
        *,
        group: asyncio.TaskGroup,
        session: aiohttp.ClientSession,
        service: Service,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._group = group
        self._session = session
        self._service = service
        self._settings = settings
        self._clock = clock
        self._waiting: set[asyncio.Task[None]] = set()
        self._fetched: dict[str, asyncio.Event] = {}
        self._held: asyncio.Event | None = None
        self._sent: deque[SentCallback] = deque(maxlen=_MOST_SENT_KEPT)
        self._finished = 0
        self._grown = asyncio.Condition()

    @property
    def _counts(self) -> Counts:
        return self._service.counts

    def start(self, task: SandboxTask) -> None:
        """Sees to it that the callback of the task is sent when it is due; returns at once."""
        if len(self._waiting) >= _MOST_WAITING:
            self._counts.faults["callback.dropped"] += 1
            return
        waiting = self._group.create_task(self._deliver(task))
        self._waiting.add(waiting)
        waiting.add_done_callback(self._waiting.discard)

    async def send_early(self, task: SandboxTask) -> None:
        """Sends the callback now and returns when it was answered, or was not within its time-out."""
        self._counts.faults["callback.early"] += 1
        await self._send(task, self._body(task))

    def fetched(self, task: SandboxTask) -> None:
        """Notes that a poll has fetched the outcome: a late callback is due now."""
        task.is_fetched = True
        if task.id in self._fetched:
            self._fetched[task.id].set()

    def cancel(self) -> None:
        """Gives up all callbacks that wait or are on their way."""
        for waiting in self._waiting:
            waiting.cancel()

    async def wait_for(self, count: int, limit_seconds: float) -> list[SentCallback]:
        """The callbacks sent, oldest first (the newest 1,000), once there are at least `count`.

        Raises:
            TimeoutError: there were fewer within `limit_seconds`.
        """
        async with asyncio.timeout(limit_seconds), self._grown:
            await self._grown.wait_for(lambda: self._finished >= count)
        return list(self._sent)

    async def _deliver(self, task: SandboxTask) -> None:
        fault = task.fate.faults.callback
        delay = task.fate.faults.callback_delay_seconds
        await self._clock.sleep(max(0.0, task.finished_at + delay - self._clock.now()))
        if fault is not None:
            self._counts.faults[f"callback.{fault}"] += 1
        match fault:
            case "lost":
                return
            case "late":
                await self._wait_until_fetched(task)
            case "reordered":
                await self._wait_for_another()
        body = self._body(task)
        for _ in range(2 if fault == "twice" else 1):
            await self._send(task, body[: len(body) // 2] if fault == "truncated" else body)
        self._let_held_go()

    async def _wait_until_fetched(self, task: SandboxTask) -> None:
        """Until a poll has brought the outcome home, but not longer than it can be read."""
        if task.is_fetched:
            return
        self._fetched[task.id] = fetched = asyncio.Event()
        try:
            async with asyncio.timeout(max(0.0, task.created_at + self._service.window_seconds - self._clock.now())):
                await fetched.wait()
        except TimeoutError:
            return
        finally:
            del self._fetched[task.id]

    async def _wait_for_another(self) -> None:
        """Until the callback of a task that finished later was sent; two reordered ones change places."""
        if self._held is not None:
            return
        self._held = held = asyncio.Event()
        try:
            async with asyncio.timeout(self._settings.reorder_seconds):
                await held.wait()
        except TimeoutError:
            return
        finally:
            if self._held is held:
                self._held = None

    def _let_held_go(self) -> None:
        if self._held is not None:
            self._held.set()
            self._held = None

    def _body(self, task: SandboxTask) -> bytes:
        fields: dict[str, Any] = from_json(self._service.outcome(task).body)
        if self._settings.callback_body == "solution" and task.error_code is None:
            fields = {"solution": task.solution}
        fields.pop("taskId", None)
        is_id_sent = self._settings.callback_has_task_id
        if self._service.profile.is_id_in_callback if is_id_sent is None else is_id_sent:
            is_mixed_up = task.fate.faults.callback == "otherTaskId"
            task_id = self._service.other_task_id(task) if is_mixed_up else task.id
            fields["taskId"] = self._service.wire.wire_id(task_id)
        return to_json(fields)

    async def _send(self, task: SandboxTask, body: bytes) -> None:
        """One POST; whatever becomes of it is counted and noted, and nothing is raised but cancellation."""
        url = task.callback_url or ""
        status: int | None = None
        self._counts.callbacks_sent += 1
        try:
            headers = {"Content-Type": "application/json"}
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                await response.content.read(_MOST_ANSWER_BYTES)
                status = response.status
        except (aiohttp.ClientError, OSError, ValueError):
            pass  # no answer: the real service is not known to try again
        if status is not None:
            self._counts.callback_answers[status] += 1
        async with self._grown:
            self._sent.append(SentCallback(task.id, url, body, status))
            self._finished += 1
            self._grown.notify_all()
