"""Commands that run for long, and are to end at once when the terminal or the system asks them to."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["on_signals", "run_interruptibly"]

Answer = TypeVar("Answer")


def on_signals(call: Callable[[], object], *numbers: signal.Signals) -> None:
    """Has the running loop call this at each of the signals, even if it is about to sleep.

    Where loops take no signal handlers (Windows), Python's own stay.
    """
    for number in numbers:
        with suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(number, call)


def run_interruptibly(main: Coroutine[Any, Any, Answer]) -> Answer:
    """Run `main` to its end and return its value; the first interrupt cancels it, a second one ends it at once.

    With `asyncio.run` alone an interrupt that comes in the moment before the loop goes to sleep waits until something
    else wakes the loop, since only Python sees it; a signal handler of the loop's wakes it by a file descriptor.

    Raises:
        KeyboardInterrupt: it was interrupted.
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
