"""Backups and restores that a signal meets at each of their steps, one after another.

`python -m tests.faults.backup_steps backup|restore SIGNAL FOLDER` repeats the work in copies of FOLDER/start. The nth
copy, FOLDER/NUMBER, gets the signal at the nth step. The last one ends without it. Each line of output is the exit
code of one process, negative for a signal.

A step is an audit event of Python, such as to open, lock, link, rename or remove a file. Each part of a copy is one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
from pathlib import Path

from client.signals import interrupts_noted
from receiver.storage.sqlite.backups.copies import back_up
from receiver.storage.sqlite.backups.restoring import restore

__all__ = ["COPY", "DATABASE"]

DATABASE, COPY = "receiver.db", "copy.db"
_STEPS = ("open", "os.", "fcntl.", "sqlite3.", "tests.")
_ALL_SENT = 99


def _work(name: str, folder: Path) -> None:
    with interrupts_noted() as check:

        def show_progress(share: float) -> None:
            sys.audit("tests.copied", share)
            check()

        if name == "backup":
            back_up(folder / DATABASE, folder / COPY, show_progress)
        else:
            restore(folder / COPY, folder / DATABASE, show_progress, time_text="today")


def _run(name: str, folder: Path, number: signal.Signals, step: int) -> int:
    """Do the work and send the signal at this step. Return the exit code."""
    steps = 0
    is_on = True

    def count(event: str, _arguments: object) -> None:
        nonlocal steps
        if is_on and event.startswith(_STEPS) and event != "os.kill":
            steps += 1
            if steps == step:
                os.kill(os.getpid(), number)

    sys.addaudithook(count)
    try:
        _work(name, folder)
    except KeyboardInterrupt:
        return 130
    finally:
        is_on = False
    return 0 if steps >= step else _ALL_SENT


def main(name: str, signal_name: str, folder: Path) -> None:
    """Repeat the work until there is no step left."""
    # Its import would be steps of the first child alone.
    assert fcntl.LOCK_EX
    step, code = 0, 0
    while code != _ALL_SENT:
        step += 1
        place = folder / str(step)
        shutil.copytree(folder / "start", place)
        child = os.fork()
        if child == 0:
            os._exit(_run(name, place, signal.Signals[signal_name], step))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{0 if code == _ALL_SENT else code}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
