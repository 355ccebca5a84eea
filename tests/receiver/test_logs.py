"""Log lines as they are written."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys

import pytest
import structlog

from receiver.logs import configure_logs


class Broken:
    """A value without a text."""

    def __str__(self) -> str:
        raise ZeroDivisionError


async def test_a_line_that_cannot_be_written_is_dropped_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other lines of the same turn of the event loop are written."""
    stream = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr("sys.stderr", stream)
    before = structlog.get_config()
    try:
        configure_logs("json")
        log = structlog.get_logger()
        log.info("first")
        log.info("broken", value=Broken())
        log.info("whole", number=7)
        await asyncio.sleep(0)
    finally:
        structlog.configure(**before)

    lines = stream.buffer.getvalue().decode()
    assert [event in lines for event in ("first", "broken", "whole")] == [True, False, True]


def test_a_log_record_of_a_library_is_one_line() -> None:
    """Its trace is in the same line, so that a reader of lines finds no other text."""
    program = (
        "import logging; from receiver.logs import configure_logs; configure_logs('json')\n"
        "logging.getLogger('asyncio').info('not shown')\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logging.getLogger('asyncio').exception('never %s', 'retrieved')"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    (line,) = map(json.loads, finished.stderr.splitlines())
    assert (line["event"], line["level"], line["library"]) == ("library.logged", "error", "asyncio")
    assert line["reason"] == "never retrieved"
    assert "ZeroDivisionError" in line["exception"]
