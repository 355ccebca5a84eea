"""Faults of the machine under a process: a slow disk, one that takes nothing, and steps of the clock."""

from __future__ import annotations

import mmap
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Machine"]

_LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

static volatile struct { double sync_seconds, write_error, clock_seconds; } *faults;

__attribute__((constructor)) static void open_faults(void) {
    int number = open(getenv("MACHINE_FAULTS"), O_RDONLY);
    faults = mmap(0, sizeof *faults, PROT_READ, MAP_SHARED, number, 0);
    close(number);
}

static int fails(int number) {
    struct stat file;
    if (!faults || !faults->write_error || fstat(number, &file) || !S_ISREG(file.st_mode)) return 0;
    errno = (int) faults->write_error;
    return 1;
}

static double seconds_now(void) {
    struct timespec now;
    REAL(clock_gettime)(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static int syncs(int number) {
    double started = seconds_now();
    /* In short steps, so that a test can end it. */
    while (faults && seconds_now() - started < faults->sync_seconds) usleep(5000);
    return !fails(number);
}

int fsync(int number) { return syncs(number) ? REAL(fsync)(number) : -1; }
int fdatasync(int number) { return syncs(number) ? REAL(fdatasync)(number) : -1; }
ssize_t write(int number, const void *bytes, size_t size) {
    return fails(number) ? -1 : REAL(write)(number, bytes, size);
}
ssize_t pwrite(int number, const void *bytes, size_t size, off_t place) {
    return fails(number) ? -1 : REAL(pwrite)(number, bytes, size, place);
}
ssize_t pwrite64(int number, const void *bytes, size_t size, off64_t place) {
    return fails(number) ? -1 : REAL(pwrite64)(number, bytes, size, place);
}
int ftruncate(int number, off_t size) { return fails(number) ? -1 : REAL(ftruncate)(number, size); }
int ftruncate64(int number, off64_t size) { return fails(number) ? -1 : REAL(ftruncate64)(number, size); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    if (!result && faults && clock == CLOCK_REALTIME) now->tv_sec += (time_t) faults->clock_seconds;
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int result = REAL(gettimeofday)(now, zone);
    if (!result && faults) now->tv_sec += (time_t) faults->clock_seconds;
    return result;
}
time_t time(time_t *given) {
    time_t now = REAL(time)(0) + (faults ? (time_t) faults->clock_seconds : 0);
    if (given) *given = now;
    return now;
}
"""
_FAULTS = struct.Struct("ddd")


class Machine:
    """A library, compiled in `folder`, and its faults, which change at once for the processes that have loaded it.

    `variables` loads it into a new process.
    """

    def __init__(self, folder: Path, *, compiler: str) -> None:
        source, library, faults = folder / "machine.c", folder / "machine.so", folder / "faults"
        source.write_text(_LIBRARY)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        faults.write_bytes(bytes(_FAULTS.size))
        with faults.open("r+b") as file:
            self._faults = mmap.mmap(file.fileno(), _FAULTS.size)
        self.variables: Mapping[str, str] = {"LD_PRELOAD": str(library), "MACHINE_FAULTS": str(faults)}

    def set(self, *, sync_seconds: float = 0, write_error: int = 0, clock_seconds: float = 0) -> None:
        """Let each fsync take so long, each write into a file fail with this errno, and the wall clock be ahead."""
        _FAULTS.pack_into(self._faults, 0, sync_seconds, write_error, clock_seconds)
