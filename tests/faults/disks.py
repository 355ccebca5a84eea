"""Faults of disks under a database: no room, a lock held by another process, and slow writing."""

from __future__ import annotations

import resource
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

__all__ = ["SlowDisk", "full_disk", "locked"]

_SLOW_SYNC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void wait_as_told(void) {
    for (double waited = 0; ; waited += 0.005) {
        double seconds = 0;
        FILE *file = fopen(getenv("SLOW_DISK"), "r");
        if (!file) return;
        if (fscanf(file, "%lf", &seconds) != 1) seconds = 0;
        fclose(file);
        if (waited >= seconds) return;
        usleep(5000);
    }
}

int fsync(int number) {
    wait_as_told();
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(number);
}

int fdatasync(int number) {
    wait_as_told();
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fdatasync"))(number);
}
"""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the right to write with another connection."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Let no file of this process grow beyond the size of the database's log, like a full disk. Any user can run it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = path.with_name(f"{path.name}-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class SlowDisk:
    """A library, compiled in `folder`, that lets each fsync of a process take as long as `set` says.

    `variables` loads it into a new process.
    """

    def __init__(self, folder: Path, *, compiler: str) -> None:
        source, library, self._seconds = (folder / name for name in ("slow.c", "slow.so", "seconds"))
        source.write_text(_SLOW_SYNC)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self.set(0)
        self.variables: Mapping[str, str] = {"LD_PRELOAD": str(library), "SLOW_DISK": str(self._seconds)}

    def set(self, seconds: float) -> None:
        """Let each fsync take so long from now on, the one under way too."""
        written = self._seconds.with_suffix(".new")
        written.write_text(str(seconds))
        written.replace(self._seconds)
