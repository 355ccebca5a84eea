"""The origin of the figures: the machine, the versions, and the time this disk takes to make a write durable."""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.load import percentile

__all__ = ["describe_machine"]

_SYNCS = 200
_PAGE = bytes(4096)


def describe_machine(folder: Path) -> dict[str, str | int | float]:
    """Return facts to print beside the figures; `folder` holds the databases."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in ("aiohttp", "aiosqlite", "uvloop", "pydantic", "structlog")},
        **_sync_times(folder),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _sync_times(folder: Path) -> dict[str, float]:
    """Return the times to append a page and sync it, as a commit to a WAL does."""
    sync = getattr(os, "fdatasync", os.fsync)
    file = folder / "sync"
    durations = []
    with file.open("wb", buffering=0) as stream:
        for _ in range(_SYNCS):
            stream.write(_PAGE)
            started = time.perf_counter()
            sync(stream.fileno())
            durations.append(time.perf_counter() - started)
    file.unlink()
    return {f"fdatasyncP{percent}Ms": round(percentile(durations, percent) * 1000, 3) for percent in (50, 99)}
