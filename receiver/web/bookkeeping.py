"""Counts, statistics and log lines of stored callbacks, made after their acknowledgement."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

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

_log = structlog.get_logger()


class Bookkeeping:
    """The records of all callbacks that were acknowledged in one turn of the event loop, made in the next turn.

    For many callbacks in a row it takes a third of the time of one after each answer, and no answer waits for it.
    Errors in it change nothing, not even those of a log that cannot be written.
    """

    def __init__(self, metrics: Metrics, observer: Observer, tracing: Tracing | None = None) -> None:
        self._metrics = metrics
        self._observer = observer
        self._tracing = tracing
        self._stored: list[tuple[str, CallbackRequest, DeliveryResult, float]] = []

    def add(self, provider: str, incoming: CallbackRequest, delivered: DeliveryResult, started: float) -> None:
        """Record a stored callback. `started` is the time of its arrival, of `time.perf_counter`."""
        self._stored.append((provider, incoming, delivered, time.perf_counter() - started))
        if len(self._stored) == 1:
            asyncio.get_running_loop().call_soon(self._record)

    def _record(self) -> None:
        stored, self._stored = self._stored, []
        for provider, incoming, delivered, seconds in stored:
            task = delivered.task
            with suppress(Exception):
                if provider != CANARY:
                    self._metrics.delivered(provider, delivered.verdict, task)
                    if self._tracing is not None:
                        self._tracing.delivered(provider, delivered.verdict, task, seconds)
                    self._observer.note(provider, incoming, is_readable=delivered.verdict not in UNREAD)
                refused = {} if incoming.address is None else {"address": incoming.address}
                _log.info(
                    "callback.stored",
                    provider=provider,
                    verdict=delivered.verdict,
                    ref=None if task is None else task.ref,
                    taskId=None if task is None or task.id_text is None else task.id_text[:_LONGEST_LOGGED],
                    milliseconds=round(seconds * 1000, 2),
                    **refused,
                )
