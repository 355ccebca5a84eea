"""The outcome of one task, shared by everyone who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from client.errors import CallbackReceiverError, ClientClosedError
from client.protocol.models import Task
from client.provider_api.errors import failure_of
from client.providers.codes import Code

__all__ = ["MakeError", "OutcomeFuture"]

MakeError = Callable[[], CallbackReceiverError]
"""A factory of errors. Each waiter gets an instance of its own, because a shared one would mix their tracebacks."""


class OutcomeFuture:
    """The future outcome of one task. It is set once and read by any number of waiters; each of them may go away."""

    def __init__(self) -> None:
        self._outcome: Task | MakeError | None = None
        self._listeners: set[Callable[[], None]] = set()
        self.finished = asyncio.Event()

    def settle(self, outcome: Task | MakeError) -> bool:
        """Set the final state of the task, or an error that is not about the task. Return False if one was set."""
        if self._outcome is not None:
            return False
        self._outcome = outcome
        self.finished.set()
        listeners, self._listeners = self._listeners, set()
        for listener in listeners:
            listener()
        return True

    def answer(self, codes: Mapping[str, Code]) -> Task:
        """Return the task if it ended as ready, else raise its error. Call this only once `finished` is set."""
        match self._outcome:
            case Task() as task if task.status == "ready":
                return task
            case Task() as task:
                raise failure_of(task, codes)
            case None:
                raise ClientClosedError("the task has not ended")
            case make_error:
                raise make_error()

    def when_finished(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` once, at the end or now if that has passed. Return a function that takes the call back."""
        if self.finished.is_set():
            listener()
            return lambda: None
        self._listeners.add(listener)
        return partial(self._listeners.discard, listener)
