"""Blocking calls on threads that nothing has to wait for, not even the end of the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["SideThread"]

Answer = TypeVar("Answer")


class SideThread:
    """Runs one blocking call at a time. A call that hangs keeps later ones from starting, and nothing else.

    A pool of asyncio would wait for its threads at the end of the process, and a hanging disk or server would fill it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_busy = False

    async def run(self, call: Callable[[], Answer], *, within_seconds: float) -> Answer:
        """Return the answer of the call, or raise its error. Cancelling the wait does not stop the call.

        Raises:
            TimeoutError: it took too long, or an earlier call still hangs.
        """
        if self._is_busy:
            raise TimeoutError
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()

        def settle(value: Answer | None, error: Exception | None) -> None:
            self._is_busy = False
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)  # type: ignore[arg-type]

        def work() -> None:
            value: Answer | None = None
            error: Exception | None = None
            try:
                value = call()
            except Exception as raised:
                error = raised
            except BaseException as raised:
                # It would end the loop instead of this thread.
                error = RuntimeError(type(raised).__name__)
            # The loop may be closed by now. Then nobody waits.
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, value, error)

        threading.Thread(target=work, name=self._name, daemon=True).start()
        self._is_busy = True
        async with asyncio.timeout(within_seconds):
            return await answer
