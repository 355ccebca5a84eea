"""Listening sockets that a service manager has opened and passed on: socket activation, as in sd_listen_fds(3).

The manager keeps such a socket open. While no receiver runs, the system holds connections back instead of refusing
them, and the next receiver accepts them.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from array import array
from collections.abc import MutableMapping, Sequence
from contextlib import ExitStack, suppress

import structlog

from receiver.errors import CannotStartError
from receiver.settings import is_loopback

__all__ = ["check_local", "has_unread", "passed_sockets", "shown_address"]

_FIRST = 3
_VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_FAMILIES = {socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", socket.AF_INET)}
_SHOWN_CHARS = 40


def passed_sockets(environment: MutableMapping[str, str] = os.environ) -> Sequence[socket.socket]:
    """Return the sockets passed to this process, none if there are none. Remove the variables that announce them.

    Sockets for another process are none, as in sd_listen_fds(3), and a log line says so.

    Raises:
        CannotStartError: the variables are malformed, or a file descriptor is no listening socket.
    """
    count_text, pid_text, *_ = (environment.pop(name, "") for name in _VARIABLES)
    if not count_text and not pid_text:
        return ()
    count = _number("LISTEN_FDS", count_text, "the number of sockets")
    pid = _number("LISTEN_PID", pid_text, "the id of the process that gets them")
    if pid != os.getpid():
        structlog.get_logger().warning("sockets.ignored", listenPid=pid, pid=os.getpid(), reason="for another process")
        return ()
    with ExitStack() as stack:
        sockets = [stack.enter_context(_listening_socket(number)) for number in range(_FIRST, _FIRST + count)]
        stack.pop_all()
    return sockets


def check_local(sockets: Sequence[socket.socket]) -> None:
    """Check that only this machine reaches the sockets, which a receiver without keys needs.

    Raises:
        CannotStartError: a socket listens at an address that is not loopback.
    """
    for listener in sockets:
        name = listener.getsockname()
        if isinstance(name, tuple) and not is_loopback(name[0]):
            raise CannotStartError(
                f"RECEIVER_ALLOW_ANONYMOUS: LISTEN_FDS has a socket at {name[0]}, expected a loopback address"
            )


def shown_address(address: object) -> tuple[str, int | None]:
    """Return host and port of a socket's address; of a Unix socket its path, and None."""
    if isinstance(address, tuple):
        return str(address[0]), int(address[1])
    return (os.fsdecode(address) if isinstance(address, bytes) else str(address)), None


def has_unread(transport: asyncio.Transport) -> bool:
    """Return True if bytes of the peer have come that the event loop has not read yet."""
    try:
        from fcntl import ioctl
        from termios import FIONREAD
    except ImportError:
        return False
    unread = array("i", [0])
    with suppress(OSError):
        ioctl(transport.get_extra_info("socket").fileno(), FIONREAD, unread)
    return unread[0] > 0


def _number(variable: str, text: str, meaning: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        raise CannotStartError(f"{variable}: expected {meaning}, got {text[:_SHOWN_CHARS]!r}")
    return int(text)


def _listening_socket(number: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=number)
    except OSError as error:
        raise CannotStartError(f"LISTEN_FDS: file descriptor {number}: {error.strerror}") from None
    is_stream = listener.family in _FAMILIES and listener.type == socket.SOCK_STREAM
    if not is_stream or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.close()
        raise CannotStartError(f"LISTEN_FDS: file descriptor {number}: expected a listening TCP or Unix socket")
    listener.set_inheritable(False)
    return listener
