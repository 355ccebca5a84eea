"""Standard streams for the commands of both halves: answers are written whole, notes never fail or block.

Texts of others (providers, callers) are escaped, so they cannot control a terminal.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import select
import shutil
import stat
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, TextIO, cast

from client.errors import CallbackReceiverError

__all__ = [
    "CannotShowError",
    "check_output",
    "escape_json",
    "fold",
    "printable",
    "show",
    "show_exactly",
    "show_json",
    "standard_streams",
    "tell",
]

_COLUMN = re.compile(r"^ +|(?<=\S)  +")
_COMMAND = re.compile(r"callback-receiver [a-z-]+(?: --?[\w-]+| [A-Z]+\b)*")
# `printable` has escaped it in everything that is folded, and textwrap does not break there.
_NO_BREAK = "\N{NO-BREAK SPACE}"
_NOT_PLAIN = re.compile(r"[^\n -~]")
_MAX_WAITING_BYTES = 1024 * 1024
"""Room for lines while standard error is blocked, some 4,000. Further lines are lost and counted."""
_RETRY_SECONDS = 0.2
# A writable pipe takes at least this many bytes without blocking (POSIX).
_CHUNK_BYTES = getattr(select, "PIPE_BUF", 512)


class CannotShowError(CallbackReceiverError):
    """Standard output takes no more. `is_closed_pipe`: its reader has closed it."""

    def __init__(self, reason: str, *, is_closed_pipe: bool = False) -> None:
        super().__init__(f"cannot write to standard output: {reason}")
        self.is_closed_pipe = is_closed_pipe


@contextmanager
def standard_streams() -> Iterator[None]:
    """Replace the standard streams of a command inside the block. Use them by their names in `sys`.

    Characters missing in a stream's encoding are escaped. Standard output writes all or raises `CannotShowError`.
    Standard error never fails and never blocks, because its lines must not change the behaviour.
    """
    _open_missing()
    before = sys.stdout, sys.stderr
    sys.stdout = _text_stream(_Answers(_raw_of(sys.stdout)), sys.stdout)
    sys.stderr = _text_stream(_Notes(_raw_of(sys.stderr)), sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def show(line: str) -> None:
    """Print a line of the command's answer, at once. A terminal gets it folded at its width.

    Anywhere else it stays one line, because other programs read lines.

    Raises:
        CannotShowError: standard output takes no more.
    """
    line = printable(line)
    _print(fold(line, shutil.get_terminal_size().columns) if sys.stdout.isatty() else line)


def show_exactly(text: str) -> None:
    """Print an answer for other programs unchanged. A terminal gets it as one escaped line.

    Raises:
        CannotShowError: standard output takes no more.
    """
    _print(printable(text) if sys.stdout.isatty() else text)


def show_json(text: str) -> None:
    """Print a line of JSON. It stays valid in every encoding.

    Raises:
        CannotShowError: standard output takes no more.
    """
    _print(escape_json(text, is_ascii=not sys.stdout.encoding.lower().startswith("utf")))


def tell(note: str) -> None:
    """Print a line beside the answer, on standard error. A closed stream is ignored.

    It is never folded: an error is one line, which logs of services and of other programs keep as one.
    """
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{printable(note)}\n")
        sys.stderr.flush()


def check_output() -> None:
    """Check that standard output has a reader, before an answer is paid for.

    Raises:
        CannotShowError: standard output is closed, or a pipe without a reader.
    """
    buffer: Any = getattr(sys.stdout, "buffer", None)
    if isinstance(buffer, _Answers):
        buffer.check()


def printable(text: str) -> str:
    """Return the text as one line, with Python's escapes for control characters and invisible ones."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def fold(line: str, width: int) -> str:
    """Return the line on several lines of at most `width`, the further ones below a column of the first.

    Words stay whole, and so do URLs and commands to copy.
    """
    if len(line) <= width:
        return line
    columns = [found.end() for found in _COLUMN.finditer(line) if found.end() <= width // 2]
    indent = max(columns, default=0)
    if not line[:indent].strip():
        indent += 2
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", _NO_BREAK), line)
    lines = textwrap.wrap(
        whole,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    return "\n".join(lines).replace(_NO_BREAK, " ")


def escape_json(text: str, *, is_ascii: bool = False) -> str:
    """Return the JSON with escapes for control characters and invisible ones, or for all characters beyond ASCII."""
    return _NOT_PLAIN.sub(lambda found: found[0] if found[0].isprintable() and not is_ascii else _units(found[0]), text)


def _units(character: str) -> str:
    raw = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{raw[at : at + 2].hex()}" for at in range(0, len(raw), 2))


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _open_missing() -> None:
    """Open the null device for each of the file descriptors 0 to 2 that is closed.

    Otherwise the next file or socket gets one of them, and lines for standard error are written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _raw_of(stream: TextIO | None) -> Any:
    """Return the file below the stream's buffers; None if it was closed when Python started."""
    buffer: Any = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _text_stream(buffer: _Stream, model: TextIO | None) -> TextIO:
    encoding = getattr(model, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        cast("IO[bytes]", buffer),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=True,
        write_through=True,
    )


class _Stream(io.BufferedIOBase):
    """A stream without a buffer of its own, so nothing is left in it when the process ends."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        if self._raw is None:
            raise io.UnsupportedOperation("fileno")
        number: int = self._raw.fileno()
        return number

    def isatty(self) -> bool:
        return self._raw is not None and bool(self._raw.isatty())


class _Answers(_Stream):
    """Standard output."""

    def check(self) -> None:
        """See `check_output`."""
        if self._raw is None:
            raise CannotShowError("it is closed")
        poll = _poll_of(self._raw, 0)
        if poll is not None and poll.poll(0):
            raise CannotShowError("its reader has closed it", is_closed_pipe=True)

    def write(self, data: Any) -> int:
        if self._raw is None:
            raise CannotShowError("it is closed")
        left = memoryview(data).cast("B")
        count = len(left)
        while left:
            try:
                written = self._raw.write(left)
            except BrokenPipeError as error:
                raise CannotShowError(str(error.strerror), is_closed_pipe=True) from None
            except (OSError, ValueError) as error:
                raise CannotShowError(getattr(error, "strerror", None) or str(error)) from None
            if written is None:
                # The stream is full, and another process made it non-blocking.
                select.select([], [self._raw], [])
            else:
                left = left[written:]
        return count


class _Notes(_Stream):
    """Standard error. Lines wait while it is blocked, up to a limit. Lines that it refuses are lost."""

    def __init__(self, raw: Any) -> None:
        super().__init__(raw)
        self._waiting = bytearray()
        self._lost = 0
        self._retrying: asyncio.AbstractEventLoop | None = None
        self._lock = threading.RLock()
        # Files never block. Anything else may be full.
        self._poll = None if raw is None or _is_file(raw) else _poll_of(raw, getattr(select, "POLLOUT", 0))

    def write(self, data: Any) -> int:
        with self._lock:
            if len(self._waiting) + len(data) > _MAX_WAITING_BYTES:
                self._send()
            if len(self._waiting) + len(data) > _MAX_WAITING_BYTES:
                self._lost += 1
            else:
                self._waiting += data
            self._send()
        return len(data)

    def _send(self) -> None:
        if self._raw is None:
            self._waiting.clear()
            return
        try:
            while self._waiting and (self._poll is None or self._poll.poll(0)):
                size = len(self._waiting) if self._poll is None else _CHUNK_BYTES
                written = self._raw.write(self._waiting[:size])
                if written is None:
                    break
                del self._waiting[:written]
                if not self._waiting and self._lost:
                    self._waiting += b'{"event":"log.lost","lines":%d,"level":"warning"}\n' % self._lost
                    self._lost = 0
        except (OSError, ValueError):
            self._lost += self._waiting.count(b"\n")
            self._waiting.clear()
        if self._waiting:
            self._retry()

    def _retry(self) -> None:
        """Try again soon if a loop runs, otherwise with the next line."""
        with suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            if self._retrying is not loop:
                self._retrying = loop
                loop.call_later(_RETRY_SECONDS, self._send_again)

    def _send_again(self) -> None:
        with self._lock:
            self._retrying = None
            self._send()


def _is_file(raw: Any) -> bool:
    try:
        return stat.S_ISREG(os.fstat(raw.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):
        return True


def _poll_of(raw: Any, events: int) -> Any:
    """Return a poll object for the state of the stream; None on Windows and for streams in memory."""
    try:
        poll = select.poll()
        poll.register(raw.fileno(), events)
    except (AttributeError, OSError, ValueError):
        return None
    return poll
