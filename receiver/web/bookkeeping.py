"""Counts, statistics and log lines of stored callbacks and fetched tasks, made after their answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from client.protocol.filters import CANARY
from receiver.domain.deliveries import DeliveryResult
from receiver.domain.reading import CallbackRequest
from receiver.domain.verdicts import UNREAD
from receiver.metrics import Metrics
from receiver.tracing import Tracing
from receiver.upkeep.shapes import Observer

__all__ = ["Bookkeeping"]

_LONGEST_LOGGED = 100


class Bookkeeping:
    """The records of all requests that were answered in one turn of the event loop, made in the next turn.

    For many requests in a row they take a third of the time of one after each answer, and no answer waits for them.
    Errors in them change nothing, not even those of a log that cannot be written.
    """

    def __init__(self, metrics: Metrics, observer: Observer, tracing: Tracing | None = None) -> None:
        self._metrics = metrics
        self._observer = observer
        self._tracing = tracing
        # `get_logger` returns a proxy, which costs a fifth of a line.
        self._write_line = structlog.get_logger().bind().info
        self._waiting: list[Callable[[], None]] = []

    def stored(self, provider: str, incoming: CallbackRequest, delivered: DeliveryResult, started: float) -> None:
        """Record a stored callback. `started` is the time of its arrival, of `time.perf_counter`."""
        self._soon(partial(self._stored, provider, incoming, delivered, time.perf_counter() - started))

    def completed(self, facts: Mapping[str, Any]) -> None:
        """Record an answered request by its log line, with `facts` as `receiver.web.middleware` makes them."""
        self._soon(partial(self._write_line, "request.completed", **facts))

    def _soon(self, record: Callable[[], None]) -> None:
        self._waiting.append(record)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._record)

    def _record(self) -> None:
        waiting, self._waiting = self._waiting, []
        for record in waiting:
            with suppress(Exception):
                record()

    def _stored(self, provider: str, incoming: CallbackRequest, delivered: DeliveryResult, seconds: float) -> None:
        task = delivered.task
        if provider != CANARY:
            self._metrics.delivered(provider, delivered.verdict, task)
            if self._tracing is not None:
                self._tracing.delivered(provider, delivered.verdict, task, seconds)
            self._observer.note(provider, incoming, is_readable=delivered.verdict not in UNREAD)
        refused = {} if incoming.address is None else {"address": incoming.address}
        self._write_line(
            "callback.stored",
            provider=provider,
            verdict=delivered.verdict,
            ref=None if task is None else task.ref,
            taskId=None if task is None or task.id_text is None else task.id_text[:_LONGEST_LOGGED],
            milliseconds=round(seconds * 1000, 2),
            **refused,
        )
