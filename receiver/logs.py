"""Log lines: one JSON object each on standard error. The chain is short enough for one line per callback."""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO

import orjson
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from client.logs import log_to_terminal
from client.output import escape_json

__all__ = ["configure_logs", "server_logger"]


def configure_logs(log_format: str) -> None:
    """Set up structlog for this process: `json` for machines, `console` for people.

    Log records of libraries become lines, too, from warnings on.
    """
    logging.basicConfig(handlers=[_LibraryRecords()])
    if log_format == "console":
        log_to_terminal()
        return
    lines = _Lines(sys.stderr.buffer)
    atexit.register(lines.flush)
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.format_exc_info, _stamp],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )


def server_logger() -> logging.Logger:
    """Return a logger for aiohttp's server. Its records become lines like ours.

    A malformed request is logged by the kind of its error only. The text of aiohttp shows the request line, and the
    request line of a callback holds its token.
    """
    # Without logging.getLogger, handlers of the root logger do not see these records.
    logger = logging.Logger("aiohttp.server", logging.WARNING)
    logger.addHandler(_ServerRecords())
    return logger


class _ServerRecords(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError | web.RequestPayloadError):
            log.warning("request.malformed", reason=type(error).__name__)
        else:
            log.error("server.failed", reason=record.getMessage(), exc_info=error)


class _LibraryRecords(logging.Handler):
    """Makes lines like ours of what libraries log, such as asyncio of an exception that nobody took."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        write = log.error if record.levelno >= logging.ERROR else log.warning
        try:
            error = record.exc_info[1] if record.exc_info else None
            write("library.logged", library=record.name, reason=record.getMessage(), exc_info=error)
        except Exception:
            self.handleError(record)


def _stamp(_logger: Any, _name: str, event_dict: structlog.typing.EventDict) -> tuple[Any, Any]:
    """Return the fields with the time, as arguments of `_Lines`."""
    event_dict["timestamp"] = datetime.now(UTC)
    return (event_dict,), {}


def _render(event_dict: structlog.typing.EventDict) -> bytes:
    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
    try:
        line = orjson.dumps(event_dict, default=str, option=options)
    except TypeError:
        # orjson refuses numbers of more than 64 bits, and texts with half of a surrogate pair.
        line = f"{json.dumps(event_dict, default=str, skipkeys=True)}\n".encode()
    return line if line.isascii() and b"\x7f" not in line else escape_json(line.decode()).encode()


class _Lines:
    """A buffer of log lines with one write at the end of each turn of the event loop: one write per batch.

    They are rendered then too: that many at once take half the time of one after each callback.

    Errors are written at once, because the process may end right after one. Lines from outside a loop are written at
    once too. Lines are dropped silently if the stream is closed or full.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: list[structlog.typing.EventDict] = []

    def info(self, line: structlog.typing.EventDict) -> None:
        """Write the line at the end of this turn of the loop."""
        self._lines.append(line)
        if len(self._lines) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:
                self.flush()

    def error(self, line: structlog.typing.EventDict) -> None:
        """Write the line now."""
        self._lines.append(line)
        self.flush()

    warning = info
    critical = error

    def flush(self) -> None:
        """Write the buffered lines."""
        lines, self._lines = self._lines, []
        rendered = []
        for line in lines:
            # A line with a value that cannot be written is dropped alone.
            with suppress(Exception):
                rendered.append(_render(line))
        with suppress(OSError, ValueError):
            self._stream.write(b"".join(rendered))
            self._stream.flush()
