"""Where the client's log lines go: to structlog where the application has configured it, else to `logging`.

A library must not print what nobody asked for: left alone, structlog would write every line to standard output. So an
application without it finds them under the logger `callback_receiver`, of which Python shows only warnings and errors.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from io import StringIO
from typing import Any, TextIO

import structlog

from client.output import printable

__all__ = ["Log", "log_to_terminal"]

_STANDARD = logging.getLogger("callback_receiver")


class Log:
    """Log lines as structlog has them: what happened, and facts as keys. They decide about nothing."""

    def info(self, happened: str, **facts: Any) -> None:
        """Something went as it should."""
        self._write(logging.INFO, happened, facts)

    def warning(self, happened: str, **facts: Any) -> None:
        """Someone else misbehaved."""
        self._write(logging.WARNING, happened, facts)

    def error(self, happened: str, **facts: Any) -> None:
        """The client did."""
        self._write(logging.ERROR, happened, facts)

    @staticmethod
    def _write(level: int, happened: str, facts: dict[str, Any]) -> None:
        if structlog.is_configured():
            # The application's processors and streams: a full disk there must not end a task that was paid for.
            with suppress(Exception):
                structlog.get_logger().log(level, happened, **facts)
        elif _STANDARD.isEnabledFor(level):
            _STANDARD.log(level, " ".join([happened, *(f"{name}={value!r}" for name, value in facts.items())]))


def log_to_terminal(level: int = logging.NOTSET) -> None:
    """Configure structlog for a command: lines for eyes on standard error, in which texts of others are escaped."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _escape,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _escape(_logger: Any, _name: str, event_dict: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name, value in event_dict.items():
        if isinstance(value, str):
            event_dict[name] = printable(value)
    return event_dict


def _plain_traceback(stream: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    # The library's own choice shows the values of local variables, and solutions are among them.
    lines = StringIO()
    structlog.dev.plain_traceback(lines, exc_info)
    stream.write("\n".join(map(printable, lines.getvalue().split("\n"))))
