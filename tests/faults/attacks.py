"""`python -m tests.faults.attacks [--only NAME] [--seconds N] [--json FILE]`: an honest provider beside attackers.

For each attack: a receiver and an attacker, each a process, and ten honest callbacks a second over new connections.
Printed are the latencies of the honest acknowledgements, the growth of the receiver's memory, and the attacker's
answers. An attack fails if one of these is 500 or shows a trace, or if the receiver keeps files or sockets open.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import click
from rich.console import Console

from tests.benchmarks.goals import table
from tests.benchmarks.load import percentile
from tests.benchmarks.servers import kilobytes
from tests.faults.attackers import ATTACKS, FINISHED_TASKS, LENGTHS, SOLUTION_BYTES
from tests.support import Api, ReceiverProcess, eventually, receiver_process

__all__ = ["Suffered", "answers_to", "open_files", "run_attack", "start_attacker"]

_PER_SECOND = 10
_WARM_UP_SECONDS = 2.0
_ANSWER_SECONDS = 20.0
_END_SECONDS = 30.0
_MOST_MS = 2000.0
_MOST_MEGABYTES = 96.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Suffered:
    """Observations of an honest provider during one attack. `statuses` counts its answers, 0 for none at all.

    `attacker` counts the answers to the attacker by their HTTP status. `files` are those that the receiver has opened
    since the attack began, and not closed 30 s after it.

    Latencies are in milliseconds, from the due time of the callback. Memory is the receiver's resident
    set in megabytes: before the attack, and its growth at the highest point from then until two seconds after it.
    """

    attack: str
    callbacks: int
    statuses: Mapping[str, int]
    p50_ms: float
    p99_ms: float
    max_ms: float
    memory_before_mb: float
    memory_growth_mb: float
    attacker: Mapping[str, int]
    files: int

    @property
    def is_harmless(self) -> bool:
        """True if every callback was acknowledged within 2 s, memory grew by at most 96 MB, and no file is left."""
        return (
            self.statuses == {"200": self.callbacks}
            and self.max_ms <= _MOST_MS
            and self.memory_growth_mb <= _MOST_MEGABYTES
            and self.files == 0
        )


async def run_attack(name: str, folder: Path, *, seconds: float) -> Suffered:
    """Return the observations of `seconds` of this attack on a new receiver. Its database lies in `folder`."""
    async with receiver_process(folder / "receiver.db", port=0) as receiver, AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            # A provider opens a connection for each callback.
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        )
        honest = _Honest(Api(receiver.url, session))
        await honest.prepare(round(_PER_SECOND * (2 * _WARM_UP_SECONDS + seconds)) + 1)
        await honest.call_back(_WARM_UP_SECONDS)
        before, files = kilobytes(receiver.process), open_files(receiver.process)
        honest.forget()
        watch = _MemoryWatch(receiver)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch.run())
            attacker = await start_attacker(name, receiver.url, seconds)
            attacking = group.create_task(answers_to(attacker))
            await honest.call_back(seconds)
            answers = await attacking
            await honest.call_back(_WARM_UP_SECONDS)
            watching.cancel()
        with suppress(TimeoutError):
            await eventually(lambda: open_files(receiver.process) <= files, seconds=_END_SECONDS)
        return Suffered(
            attack=name,
            callbacks=len(honest.latencies),
            statuses=dict(honest.statuses),
            p50_ms=percentile(honest.latencies, 50) * 1000,
            p99_ms=percentile(honest.latencies, 99) * 1000,
            max_ms=max(honest.latencies) * 1000,
            memory_before_mb=before / 1024,
            memory_growth_mb=(watch.most - before) / 1024,
            attacker=answers,
            files=max(0, open_files(receiver.process) - files),
        )


class _Honest:
    """A provider with deliveries for registered tasks at a fixed rate, however slow the answers are."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._urls: list[str] = []
        self.latencies: list[float] = []
        self.statuses: Counter[str] = Counter()

    async def prepare(self, tasks: int) -> None:
        """Register the tasks, and finish a few more with large solutions."""
        self._urls = [await self._new_url() for _ in range(tasks)]
        solution = {"text": "x" * SOLUTION_BYTES}
        for _ in range(FINISHED_TASKS):
            await self._api.call_back(await self._new_url(), solution=solution)

    def forget(self) -> None:
        """Drop the observations so far."""
        self.latencies.clear()
        self.statuses.clear()

    async def call_back(self, seconds: float) -> None:
        """Deliver ten answers a second for `seconds`, and wait for the acknowledgements."""
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(round(seconds * _PER_SECOND)):
                due = started + number / _PER_SECOND
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(self._deliver(self._urls.pop(), due))

    async def _new_url(self) -> str:
        # The receiver chose a free port, unknown to its public URL.
        registered = await self._api.register()
        return f"{self._api.url}{urlsplit(registered['callbackUrl']).path}"

    async def _deliver(self, url: str, due: float) -> None:
        status = 0
        with suppress(OSError, aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                status = (await self._api.call_back(url)).status
        self.latencies.append(time.perf_counter() - due)
        self.statuses[str(status)] += 1


class _MemoryWatch:
    """The highest resident set of the receiver in kilobytes, looked at ten times a second."""

    def __init__(self, receiver: ReceiverProcess) -> None:
        self._receiver = receiver
        self.most = 0

    async def run(self) -> None:
        """Watch until it is cancelled."""
        while True:
            self.most = max(self.most, kilobytes(self._receiver.process))
            await asyncio.sleep(0.1)


async def start_attacker(names: str, url: str, seconds: float) -> asyncio.subprocess.Process:
    """Start the process of attacks, separated by commas, on the receiver at `url` for `seconds`."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.attackers", names, url, str(seconds)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )


async def answers_to(attacker: asyncio.subprocess.Process) -> Mapping[str, int]:
    """Wait for the end of the attack. Return the number of answers by HTTP status.

    Raises:
        RuntimeError: the attacker failed, or has seen a failure of the receiver. The reason is on standard error.
    """
    try:
        counted, _ = await attacker.communicate()
    finally:
        if attacker.returncode is None:
            attacker.kill()
            await attacker.wait()
    if attacker.returncode != 0:
        raise RuntimeError(f"the attacker ended with {attacker.returncode}")
    answers: Mapping[str, int] = json.loads(counted)
    return answers


def open_files(process: asyncio.subprocess.Process) -> int:
    """Return the number of open files and sockets of the process."""
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


@click.command()
@click.option("--only", type=click.Choice(list(ATTACKS)), help="Run this attack alone.")
@click.option("--seconds", type=click.FloatRange(1, 60), default=5.0, show_default=True, help="Length of most attacks.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures to this file.")
def main(*, only: str | None, seconds: float, json_file: Path | None) -> None:
    """Attack a receiver and print the effects on an honest provider. Exit with 1 if an attack does harm."""
    suffered = asyncio.run(_run_all([only] if only else list(ATTACKS), seconds))
    console = Console(width=120)
    title = f"ten honest callbacks a second under {seconds:g} s of attack"
    shown = table(title, "answers", "p50 ms", "p99 ms", "max ms", "+ MB", "+ files", "answers to the attacker")
    for observed in suffered:
        shown.add_row(
            observed.attack,
            _counts(observed.statuses),
            *(
                f"{value:.1f}"
                for value in (observed.p50_ms, observed.p99_ms, observed.max_ms, observed.memory_growth_mb)
            ),
            str(observed.files),
            _counts(observed.attacker),
        )
    console.print(shown)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(observed) for observed in suffered], indent=2) + "\n")
    sys.exit(0 if all(observed.is_harmless for observed in suffered) else 1)


async def _run_all(names: Sequence[str], seconds: float) -> Sequence[Suffered]:
    suffered = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="attack-") as folder:
            suffered.append(await run_attack(name, Path(folder), seconds=seconds * LENGTHS.get(name, 1)))
    return suffered


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{status}: {count}" for status, count in sorted(counted.items()))


if __name__ == "__main__":
    main()
