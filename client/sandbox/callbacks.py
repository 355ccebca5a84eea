"""The callbacks of a sandbox, with their requested faults.

The profile (`client.sandbox.wires`) writes a callback. This module decides on its time and its repetitions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
from pydantic_core import from_json

from client.sandbox.counts import Counts
from client.sandbox.service import SandboxTask, Service
from client.sandbox.settings import SandboxSettings
from client.sandbox.wires.messages import CallbackContent, Message, low_balance_event, truncated

__all__ = ["Callbacks", "Clock", "SentCallback"]

_MOST_WAITING = 10_000
_MOST_SENT_KEPT = 1_000
_MOST_ANSWER_BYTES = 65_536


class Clock(Protocol):
    """The time of a sandbox."""

    def now(self) -> float:
        """Return seconds on an axis that only grows."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of `now`."""


@dataclass(frozen=True, slots=True)
class SentCallback:
    """A sent callback. `task_id` is the id of its task, even if the body names another. `status` None: no answer."""

    task_id: str
    url: str = field(repr=False)
    body: bytes = field(repr=False)
    status: int | None


class Callbacks:
    """All callbacks of one sandbox. Each waits in a task of `group` until it is due.

    At most 10,000 wait at a time. One more is not sent at all, and counted as the fault `callback.dropped`.
    """

    def __init__(
        self,
        *,
        group: asyncio.TaskGroup,
        session: aiohttp.ClientSession,
        service: Service,
        settings: SandboxSettings,
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
        """Send the callback of the task as soon as it is due. Return at once."""
        if len(self._waiting) >= _MOST_WAITING:
            self._counts.faults["callback.dropped"] += 1
            return
        waiting = self._group.create_task(self._deliver(task))
        self._waiting.add(waiting)
        waiting.add_done_callback(self._waiting.discard)

    async def send_early(self, task: SandboxTask) -> None:
        """Send the callback now. Return once it was answered, or after its time-out."""
        self._counts.faults["callback.early"] += 1
        await self._send(task, self._message(task))

    def fetched(self, task: SandboxTask) -> None:
        """Note that a poll has fetched the outcome. A late callback is due now."""
        task.is_fetched = True
        if task.id in self._fetched:
            self._fetched[task.id].set()

    def cancel(self) -> None:
        """Give up all callbacks that wait or are on their way."""
        for waiting in self._waiting:
            waiting.cancel()

    async def wait_for(self, count: int, limit_seconds: float) -> list[SentCallback]:
        """Return the callbacks sent, oldest first (the newest 1,000), once there are at least `count`.

        Raises:
            TimeoutError: there were fewer within `limit_seconds`.
        """
        async with asyncio.timeout(limit_seconds), self._grown:
            await self._grown.wait_for(lambda: self._finished >= count)
        return list(self._sent)

    async def _deliver(self, task: SandboxTask) -> None:
        fault = task.plan.faults.callback
        delay = task.plan.faults.callback_delay_seconds
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
        if task.plan.faults.is_balance_low and self._service.profile.is_account_wide:
            await self._send(task, low_balance_event(self._secret(task)))
        message = self._message(task)
        for _ in range(2 if fault == "twice" else 1):
            await self._send_until_taken(task, truncated(message) if fault == "truncated" else message)
        self._release_held()

    async def _wait_until_fetched(self, task: SandboxTask) -> None:
        """Wait until a poll has fetched the outcome, but not longer than it can be read."""
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
        """Wait until the callback of a task finished later was sent. Two reordered callbacks change places."""
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

    def _release_held(self) -> None:
        if self._held is not None:
            self._held.set()
            self._held = None

    def _message(self, task: SandboxTask) -> Message:
        profile, settings = self._service.profile, self._settings
        fields: dict[str, Any] = from_json(self._service.outcome(task).body)
        if settings.callback_body == "solution" and task.error_code is None:
            fields = {"solution": task.solution}
        fields.pop("taskId", None)
        is_mixed_up = task.plan.faults.callback == "otherTaskId"
        has_id = settings.callback_has_task_id
        is_named = profile.is_id_in_callback if has_id is None else has_id
        task_id = self._service.other_task_id(task) if is_mixed_up else task.id
        return profile.write(
            CallbackContent(
                task_id=task_id if is_named or is_mixed_up else None,
                wire_id=self._service.wire.wire_id,
                answer=fields,
                solution=task.solution,
                error_code=task.error_code,
                secret=self._secret(task),
            )
        )

    def _secret(self, task: SandboxTask) -> bytes | None:
        match self._service.profile.signed_with:
            case "key":
                return task.client_key.encode()
            case "secret":
                return self._settings.webhook_secret
            case "nothing":
                return None

    async def _send_until_taken(self, task: SandboxTask, message: Message) -> None:
        """Send a callback, with the retries of this provider (providers/README.md, "Envelope callbacks")."""
        profile = self._service.profile
        for tries_left in range(profile.callback_retries, -1, -1):
            status = await self._send(task, message)
            if not tries_left or (status is not None and 200 <= status < 300):
                return
            await self._clock.sleep(profile.callback_retry_seconds)

    async def _send(self, task: SandboxTask, message: Message) -> int | None:
        """Send one request, then count and note its end. Raise nothing but cancellation."""
        url = _with_query(task.callback_url or "", message.query)
        status: int | None = None
        self._counts.callbacks_sent += 1
        try:
            async with self._session.request(
                message.method,
                url,
                data=message.body or None,
                headers=dict(message.headers),
                skip_auto_headers=() if message.has_user_agent else ("User-Agent",),
                allow_redirects=False,
            ) as response:
                await response.content.read(_MOST_ANSWER_BYTES)
                status = response.status
        except (aiohttp.ClientError, OSError, ValueError):
            pass  # no answer
        if status is not None:
            self._counts.callback_answers[status] += 1
        async with self._grown:
            self._sent.append(SentCallback(task.id, url, message.body, status))
            self._finished += 1
            self._grown.notify_all()
        return status


def _with_query(url: str, query: str) -> str:
    """Return the address with `query` behind its own query."""
    if not query:
        return url
    address, _, _fragment = url.partition("#")
    return f"{address}{'&' if '?' in address else '?'}{query}"
