"""An interrupt ends a waiting command at any moment."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable

import pytest
import uvloop

from client.signals import on_signals, run_interruptibly


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


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_signal_beside_another_one_is_told_once(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """The loop `uvloop` sees it twice: by Python's handler, and by a byte that it reads a moment later."""
    calls: list[int] = []

    async def main() -> None:
        on_signals(lambda: calls.append(signal.SIGTERM), signal.SIGTERM)
        # From another thread, so that it comes while the loop sleeps.
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGHUP)).start()
        async with asyncio.timeout(30):
            while not calls:
                await asyncio.sleep(0.2)
        await asyncio.sleep(0.2)

    numbers = (signal.SIGHUP, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

    assert calls == [signal.SIGTERM]


def test_a_cancellation_of_its_own_is_no_interrupt() -> None:
    """A cancellation from inside stays a cancellation."""

    async def main() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_interruptibly(main())
