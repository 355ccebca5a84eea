"""Synchronous functions over an asynchronous driver, so that both stores share the functions that run statements.

Such a function runs in a greenlet on the event loop. Each statement switches to the coroutine around it, which awaits
the driver, and back with the rows. SQLAlchemy's asyncio extension works in the same way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from greenlet import getcurrent, greenlet

__all__ = ["run_bridged", "wait_here"]

Answer = TypeVar("Answer")


async def run_bridged(function: Callable[[], Answer]) -> Answer:
    """Run a function that calls `wait_here`. A cancellation is raised in the function, at its statement."""
    runner = greenlet(function)
    waited = runner.switch()
    while not runner.dead:
        try:
            result = await waited
        except BaseException as error:
            waited = runner.throw(error)
        else:
            waited = runner.switch(result)
    return cast("Answer", waited)


def wait_here(awaitable: Awaitable[Answer]) -> Answer:
    """Return the result of `awaitable`, inside a function that `run_bridged` runs."""
    around: Any = getcurrent().parent
    return cast("Answer", around.switch(awaitable))
