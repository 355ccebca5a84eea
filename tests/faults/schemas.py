"""Runs of schemathesis, which makes requests from the API document and checks the answers against it."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SchemaReport", "run_schemathesis"]

_RUN_SECONDS = 120.0
_OPTIONS = (
    # Other rules than the schema's decide which tasks and cursors exist.
    *("--exclude-checks", "positive_data_acceptance"),
    # Streams have no end. The document of AsyncAPI describes them.
    *("--exclude-path-regex", "/stream$|/subscribe$"),
    *("--request-timeout", "20", "--continue-on-failure", "--warnings", "off", "--report", "json"),
)


@dataclass(frozen=True, slots=True)
class SchemaReport:
    """The text of a run, and the numbers of its requests: all, and those with a finding."""

    text: str
    cases: int
    findings: int


async def run_schemathesis(url: str, key: str | None, *options: str) -> SchemaReport:
    """Run schemathesis over the API document of the receiver, with this API key or without one.

    Raises:
        RuntimeError: it did not come to its end. The text is its own.
    """
    header = () if key is None else ("--header", f"Authorization: Bearer {key}")
    with tempfile.TemporaryDirectory(prefix="schemathesis-") as folder:
        report = Path(folder) / "report.json"
        process = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).with_name("schemathesis")), "--no-color", "run", f"{url}/openapi.json", *header),
            *(*_OPTIONS, "--report-json-path", str(report), *options),
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(_RUN_SECONDS):
                text, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        # 1 means findings.
        if process.returncode not in (0, 1) or not report.exists():
            raise RuntimeError(text.decode())
        counts = json.loads(report.read_text())["test_cases"]
        return SchemaReport(text.decode(), counts["generated"], counts["with_failures"] + counts["errored"])
