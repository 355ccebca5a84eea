"""Destination of the client's log lines."""

from __future__ import annotations

import subprocess
import sys

from structlog.testing import capture_logs

from client.logs import Log

SCRIPT = """
from client.logs import Log
Log().info("task.submitted", taskId=1)
Log().warning("report.lost", reports=2)
"""


def test_without_structlog_only_warnings_show_and_not_on_standard_output() -> None:
    """A program without a log configuration keeps its standard output for itself."""
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=30)

    assert (run.stdout, run.stderr) == ("", "report.lost reports=2\n")


def test_structlog_gets_the_lines_where_it_is_configured() -> None:
    """A configured structlog gets the facts as keys."""
    with capture_logs() as lines:
        Log().info("task.submitted", taskId=1)

    assert lines == [{"event": "task.submitted", "taskId": 1, "log_level": "info"}]
