"""Where the client's log lines go."""

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
    """A program that configured nothing keeps its standard output for itself."""
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=30)

    assert (said.stdout, said.stderr) == ("", "report.lost reports=2\n")


def test_structlog_gets_the_lines_where_it_is_configured() -> None:
    """Facts stay keys."""
    with capture_logs() as lines:
        Log().info("task.submitted", taskId=1)

    assert lines == [{"event": "task.submitted", "taskId": 1, "log_level": "info"}]
