"""Commands that wait for long, and are to end at once when the terminal interrupts them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["run_interruptibly"]

Answer = TypeVar("Answer")


def run_interruptibly(main: Coroutine[Any, Any, Answer]) -> Answer:
    """Runs `main` to its end and gives what it returns; the first interrupt cancels it, a second one ends it at once.

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

        # Where loops take no signal handlers (Windows), asyncio.run does what it can.
        with suppress(NotImplementedError):
            loop.add_signal_handler(signal.SIGINT, interrupt)
        return await main

    try:
        return asyncio.run(supervised())
    except asyncio.CancelledError:
        if interrupts:
            raise KeyboardInterrupt from None
        raise
