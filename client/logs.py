"""Log lines of the client: to structlog if the application has configured it, otherwise to `logging`.

A library must not print unasked, but structlog without configuration writes every line to standard output. Therefore
an application without structlog gets the lines from the logger `callback_receiver`. Python shows only its warnings and
errors by default.
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
    """Log lines as in structlog: an event, and facts as keys. A failing log never changes the behaviour."""

    def info(self, happened: str, **facts: Any) -> None:
        """Log an expected event."""
        self._write(logging.INFO, happened, facts)

    def warning(self, happened: str, **facts: Any) -> None:
        """Log a fault of someone else."""
        self._write(logging.WARNING, happened, facts)

    def error(self, happened: str, **facts: Any) -> None:
        """Log a fault of the client."""
        self._write(logging.ERROR, happened, facts)

    @staticmethod
    def _write(level: int, happened: str, facts: dict[str, Any]) -> None:
        if structlog.is_configured():
            # These are the application's processors and streams. A full disk there must not end a paid task.
            with suppress(Exception):
                structlog.get_logger().log(level, happened, **facts)
        elif _STANDARD.isEnabledFor(level):
            _STANDARD.log(level, " ".join([happened, *(f"{name}={value!r}" for name, value in facts.items())]))


def log_to_terminal(level: int = logging.NOTSET) -> None:
    """Configure structlog for a command: readable lines on standard error, with texts of others escaped."""
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
    # By default the library shows the values of local variables, and solutions are among them.
    lines = StringIO()
    structlog.dev.plain_traceback(lines, exc_info)
    stream.write("\n".join(map(printable, lines.getvalue().split("\n"))))
