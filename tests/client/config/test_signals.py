"""An interrupt ends a waiting command at any moment."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from client.signals import run_interruptibly


def test_what_is_returned_is_given() -> None:
    """Without an interrupt the value is returned. Afterwards interrupts are Python's again."""

    async def main() -> str:
        return "done"

    assert run_interruptibly(main()) == "done"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_cancels_and_is_told() -> None:
    """The awaited code cleans up before the interrupt is raised."""
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
    """A second interrupt ends a slow clean-up."""
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
    """The loop wakes by its file descriptor. Python's own handler would run only after another event."""

    async def main() -> int:
        descriptor = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(descriptor)
        return descriptor

    assert run_interruptibly(main()) != -1


def test_a_cancellation_of_its_own_is_no_interrupt() -> None:
    """A cancellation from inside stays a cancellation."""

    async def main() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_interruptibly(main())
