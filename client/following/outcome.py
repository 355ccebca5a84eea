"""How a task ended, for all that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from client.errors import CallbackReceiverError, ClientClosedError
from client.protocol.models import Task
from client.provider_api.errors import failure_of
from client.providers.codes import Code

__all__ = ["Ending", "MakeError"]

MakeError = Callable[[], CallbackReceiverError]
"""Errors are made anew for each that waits: one instance raised in several places would mix their tracebacks."""


class Ending:
    """The end of one task: set once, read by any number of waiters, each of which may go away."""

    def __init__(self) -> None:
        self._how: Task | MakeError | None = None
        self._listeners: set[Callable[[], None]] = set()
        self.finished = asyncio.Event()

    def settle(self, how: Task | MakeError) -> bool:
        """End the task with its final state, or with an error that is none of the task; the first one stays."""
        if self._how is not None:
            return False
        self._how = how
        self.finished.set()
        listeners, self._listeners = self._listeners, set()
        for listener in listeners:
            listener()
        return True

    def answer(self, codes: Mapping[str, Code]) -> Task:
        """Return the task, if it ended as ready; raises how else it ended. To be called once `finished` is set."""
        match self._how:
            case Task() as task if task.status == "ready":
                return task
            case Task() as task:
                raise failure_of(task, codes)
            case None:
                raise ClientClosedError("the task has not ended")
            case make_error:
                raise make_error()

    def when_finished(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` once, at the end or now if that was before; calling the answer takes it back."""
        if self.finished.is_set():
            listener()
            return lambda: None
        self._listeners.add(listener)
        return partial(self._listeners.discard, listener)
