"""Where the client's log lines go: to structlog where the application has configured it, else to `logging`.

A library must not print what nobody asked for: left alone, structlog would write every line to standard output. So an
application without it finds them under the logger `callback_receiver`, of which Python shows only warnings and errors.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog

__all__ = ["Log"]

_STANDARD = logging.getLogger("callback_receiver")


class Log:
    """Log lines as structlog has them: what happened, and facts as keys."""

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
            structlog.get_logger().log(level, happened, **facts)
        elif _STANDARD.isEnabledFor(level):
            _STANDARD.log(level, " ".join([happened, *(f"{name}={value!r}" for name, value in facts.items())]))
