"""The queue of commands in front of a writer: its bounds, the limits of its callers, and their release.

Further commands arrive during a commit. Commands in requests that the event loop has already read join them. So the
batch grows with the load, and nothing waits by the clock for it to fill.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from receiver.domain.records import Growth
from receiver.domain.transaction import Command, Operation
from receiver.errors import ReceiverError, StoreBusyError, StoreFailedError
from receiver.storage.lateness import Lateness

__all__ = ["CommandQueue", "Decision", "Queued", "end_wait"]

Answer = TypeVar("Answer")

_MAX_BATCH = 256
_QUIET_TURNS = 2
_MAX_QUEUED = 8192
_MAX_QUEUED_BYTES = 64 * 1024 * 1024
_LIMIT_SECONDS = 0.05

Decision = tuple[Any, ReceiverError | None]
"""An answer, or the reason why there is none."""


# Not frozen, as one is made for each callback. Nothing changes it.
@dataclass(slots=True)
class Queued:
    """A command, its size, the future of its caller, and the end of the caller's patience by the clock of the loop."""

    command: Command[Any] | Operation[Any]
    weight: int
    answer: asyncio.Future[Any]
    until: float


class CommandQueue:
    """Commands that wait for a writer. The writer is a subclass, and takes one batch after another.

    `failure` is the reason of the last failed commit or probe. `lateness` notes the time that the commands have left.
    `listener` takes the growth of the log.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.failure: str | None = None
        self.lateness = Lateness(clock)
        self.listener: Callable[[Growth], None] | None = None
        self._queue: deque[Queued] = deque()
        self._queued_bytes = 0
        self._batch: Sequence[Queued] = ()
        self._was_alone = False
        self._arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._limits: asyncio.TimerHandle | None = None
        self._is_stopping = False
        self._given_up: str | None = None

    def begin(self, command: Command[Answer] | Operation[Answer], within_seconds: float) -> asyncio.Future[Answer]:
        """See `Store.begin`."""
        if self._is_stopping:
            raise ReceiverError("shutting-down", "the receiver is shutting down", retry_after_seconds=5)
        if self._given_up is not None:
            raise StoreFailedError(self._given_up)
        weight = command.weight
        if len(self._queue) >= _MAX_QUEUED or self._queued_bytes + weight > _MAX_QUEUED_BYTES:
            self.lateness.waiting(0)
            raise StoreBusyError("too much is waiting to be stored")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._queue.append(Queued(command, weight, answer, loop.time() + within_seconds))
        self._queued_bytes += weight
        end_wait(self._arrived)
        # One timer for all commands. A timer for each is a tenth of the work on a callback.
        if self._limits is None:
            self._limits = loop.call_later(_LIMIT_SECONDS, self._check_limits, loop)
        return answer

    @property
    def queued(self) -> int:
        """The number of commands that wait."""
        return len(self._queue)

    def stop(self) -> None:
        """Refuse new commands, and let `run` end after it has stored the queued ones."""
        self._is_stopping = True
        end_wait(self._arrived)

    async def _gather(self) -> None:
        """Wait while the next turns of the event loop bring more commands. Without any it takes microseconds.

        The committing thread and the reading loop share the GIL. Letting them compete for it costs more than to read
        all requests first and to commit them together. Behind a command that came alone, none is waited for.
        """
        if self._was_alone and len(self._queue) == 1:
            return
        queued, quiet_turns = len(self._queue), 0
        while quiet_turns < _QUIET_TURNS and queued < _MAX_BATCH:
            await asyncio.sleep(0)
            quiet_turns = quiet_turns + 1 if len(self._queue) == queued else 0
            queued = len(self._queue)

    def _take(self) -> Sequence[Queued]:
        self._batch = [self._queue.popleft() for _ in range(min(len(self._queue), _MAX_BATCH))]
        self._queued_bytes -= sum(queued.weight for queued in self._batch)
        self._was_alone = len(self._batch) == 1
        return self._batch

    def _check_limits(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give up waiting for commands beyond their time."""
        now = loop.time()
        waiting = [queued for queued in (*self._batch, *self._queue) if not queued.answer.done()]
        if waiting:
            self.lateness.waiting(min(queued.until for queued in waiting) - now)
        for queued in waiting:
            if queued.until <= now:
                queued.answer.set_exception(StoreBusyError("it was not stored in time, and may still be stored"))
        self._limits = loop.call_later(_LIMIT_SECONDS, self._check_limits, loop) if waiting else None

    async def _wait_for_command(self, seconds: float) -> bool:
        """Wait for a command for some time. Return True if there is nothing to store then, and no end."""
        loop = asyncio.get_running_loop()
        self._arrived = loop.create_future()
        tick = loop.call_later(seconds, end_wait, self._arrived)
        await self._arrived
        tick.cancel()
        return not self._queue and not self._is_stopping

    @staticmethod
    def _release(batch: Sequence[Queued], answers: Sequence[Decision]) -> None:
        for entry, (answer, error) in zip(batch, answers, strict=True):
            if entry.answer.done():
                continue
            if error is None:
                entry.answer.set_result(answer)
            else:
                entry.answer.set_exception(error)


def end_wait(wait: asyncio.Future[None]) -> None:
    """End a wait, unless it has ended."""
    if not wait.done():
        wait.set_result(None)
