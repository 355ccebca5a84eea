"""Messages to a service manager about the state of this process, as in sd_notify(3)."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

__all__ = ["Notifier"]

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_MICROSECONDS = 1_000_000


class Notifier:
    """Sends states to the socket of NOTIFY_SOCKET, or nothing without one. Nothing fails, and nothing waits.

    The variables are removed from `environment`, so that programs started from here do not report for this one.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        path, microseconds, pid = (environment.pop(name, "") for name in _VARIABLES)
        # "@" stands for the zero byte of an abstract socket.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        is_ours = not pid or pid == str(os.getpid())
        is_number = re.fullmatch(r"[1-9][0-9]{0,17}", microseconds, re.ASCII)
        self._watchdog_seconds = int(microseconds) / _MICROSECONDS if is_ours and is_number else None

    def ready(self) -> None:
        """Tell that the receiver answers requests, at first or again after `reloading`."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Tell that settings are being read again. `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Tell that the receiver is about to end."""
        self._send("STOPPING=1")

    def watch(self) -> None:
        """Tell the watchdog, at half its interval from now on, that the event loop runs. Do nothing without one."""
        if self._watchdog_seconds is not None:
            self._send("WATCHDOG=1")
            asyncio.get_running_loop().call_later(self._watchdog_seconds / 2, self.watch)

    def _send(self, state: str) -> None:
        if not self._address:
            return
        # A manager that is gone or slow must not hold up or end the receiver.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            channel.sendto(state.encode(), self._address)
