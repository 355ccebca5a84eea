"""Log lines: one JSON object each on standard error, by a chain short enough for one line a callback."""

from __future__ import annotations

import sys
from typing import Any

import orjson
import structlog

__all__ = ["configure_logs"]


def configure_logs(log_format: str) -> None:
    """Sets up structlog for this process: `json` for machines, `console` for eyes."""
    if log_format == "console":
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
            ],
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
            cache_logger_on_first_use=True,
        )
        return
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )


def _render(_logger: Any, _name: str, event_dict: structlog.typing.EventDict) -> bytes:
    return orjson.dumps(event_dict, default=str, option=orjson.OPT_NON_STR_KEYS)
