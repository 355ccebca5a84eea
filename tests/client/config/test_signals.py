"""An interrupt ends what waits, at whatever moment it comes."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from client.signals import run_interruptibly


def test_what_is_returned_is_given() -> None:
    """Without an interrupt it is a run like any other; afterwards interrupts are Python's again."""

    async def main() -> str:
        return "done"

    assert run_interruptibly(main()) == "done"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_cancels_and_is_told() -> None:
    """What is awaited is cleaned up before the interrupt is raised."""
    seen: list[str] = []

    async def main() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("cleaned up")

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(main())
    assert seen == ["cleaned up"]


def test_a_second_interrupt_does_not_wait_for_the_first() -> None:
    """It ends a cleaning up that takes too long."""
    seen: list[str] = []

    async def main() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("cleaned up")

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(main())
    assert seen == []


def test_an_interrupt_wakes_a_loop_that_is_about_to_sleep() -> None:
    """Python's own handler would not run before the loop has something else to do; the file descriptor wakes it."""

    async def main() -> int:
        descriptor = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(descriptor)
        return descriptor

    assert run_interruptibly(main()) != -1


def test_a_cancellation_of_its_own_is_no_interrupt() -> None:
    """What cancels itself ends as cancelled."""

    async def main() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_interruptibly(main())
