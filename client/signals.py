"""Signals for long-running commands: end at once when the terminal or the system asks for it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

__all__ = ["interrupts_noted", "on_signals", "run_interruptibly"]

Answer = TypeVar("Answer")


def on_signals(call: Callable[[], object], *numbers: signal.Signals) -> None:
    """Let the running loop call `call` once at each of the signals, even if it is about to sleep.

    On Windows loops take no signal handlers, and Python's own stay.
    """
    loop = asyncio.get_running_loop()

    def handle(*_: object) -> None:
        # The loop may be closed.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(call)

    for number in numbers:
        with suppress(NotImplementedError):
            # The loop's handler wakes it. uvloop 0.23 may call it twice for one signal if another one comes just
            # before it. Python calls its own handler once.
            loop.add_signal_handler(number, _do_nothing)
            signal.signal(number, handle)
            # As the loop does it: system calls go on after the signal.
            signal.siginterrupt(number, False)


def _do_nothing() -> None:
    pass


def run_interruptibly(main: Coroutine[Any, Any, Answer]) -> Answer:
    """Run `main` to its end and return its value. The first interrupt cancels it, a second one ends it at once.

    `asyncio.run` alone is not enough. If the interrupt comes just before the loop goes to sleep, only Python sees it,
    and the loop sleeps on until something else wakes it. A signal handler of the loop wakes it by a file descriptor.

    Raises:
        KeyboardInterrupt: `main` was interrupted.
    """
    interrupts: list[int] = []

    async def supervised() -> Answer:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def interrupt() -> None:
            interrupts.append(signal.SIGINT)
            loop.remove_signal_handler(signal.SIGINT)
            if task is not None:
                task.cancel()

        on_signals(interrupt, signal.SIGINT)
        return await main

    try:
        return asyncio.run(supervised())
    except asyncio.CancelledError:
        if interrupts:
            raise KeyboardInterrupt from None
        raise


@contextmanager
def interrupts_noted() -> Iterator[Callable[[], None]]:
    """Let SIGINT, SIGTERM and SIGHUP only be noted in the body, so that nothing is left half done.

    Yield a function that raises KeyboardInterrupt after such a signal. Call it where stopping is safe.
    """
    noted: list[int] = []
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = [signal.signal(number, lambda number, _frame: noted.append(number)) for number in numbers]

    def check() -> None:
        if noted:
            raise KeyboardInterrupt

    try:
        yield check
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
