"""The load generator: raw HTTP/1.1 with keep-alive, so cheap that the server is the limit. It runs in its own process.

`python -m tests.benchmarks.load PORTS CONNECTIONS FILE` sends each request of FILE once. A connection sends its next
request as soon as the last one is answered. A `LoadReport` is written to standard output.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import uvloop

__all__ = ["PERCENTS", "LoadReport", "Target", "distribution", "percentile", "run_load", "write_targets"]

_LIMIT_SECONDS = 60.0
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *([0-9]+)")
_HEAD_END = b"\r\n\r\n"
PERCENTS = (1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9)
"""The percentages of a `distribution`."""


@dataclass(frozen=True, slots=True)
class Target:
    """One request: POST if it has a JSON body, GET otherwise, unless `method` is set; `key` is a bearer key."""

    path: str
    body: str | None = None
    key: str | None = None
    method: str | None = None

    def request(self) -> bytes:
        """Return the bytes on the wire."""
        method = self.method or ("GET" if self.body is None else "POST")
        lines = [f"{method} {self.path} HTTP/1.1", "Host: 127.0.0.1"]
        if self.key is not None:
            lines.append(f"Authorization: Bearer {self.key}")
        if self.body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(self.body)}"]
        return "\r\n".join([*lines, "", self.body or ""] if self.body else [*lines, "", ""]).encode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """Figures of one load.

    `busy` is the share of the time in which the load generator itself computed. Near 1 it was the limit, and not the
    server.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    distribution_ms: Sequence[float]
    busy: float
    statuses: dict[str, int]

    @property
    def per_second(self) -> float:
        """The answers in a second."""
        return self.requests / self.seconds


def write_targets(file: Path, targets: Sequence[Target]) -> Path:
    """Write the requests of a load to `file`, and return it."""
    file.write_text(json.dumps([asdict(target) for target in targets]))
    return file


async def run_load(ports: int | Sequence[int], connections: int, targets: Path) -> LoadReport:
    """Run a load in its own process, and return its report. The connections lead to all ports in turn.

    Raises:
        RuntimeError: the process failed, or an answer was not a 200.
    """
    named = str(ports) if isinstance(ports, int) else ",".join(map(str, ports))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, named, str(connections), str(targets), stdout=asyncio.subprocess.PIPE
    )
    written, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load ended with {process.returncode}")
    report = LoadReport(**json.loads(written))
    if report.statuses != {"200": report.requests}:
        raise RuntimeError(f"expected 200 alone, got {report.statuses}")
    return report


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, round(len(ordered) * percent / 100) - 1))]


def distribution(values: Sequence[float]) -> Sequence[float]:
    """Return the percentile at each of PERCENTS, rounded to four digits."""
    ordered = sorted(values)
    return [float(f"{percentile(ordered, percent):.4g}") for percent in PERCENTS]


class _Run:
    """State shared by the connections."""

    def __init__(self, requests: Iterator[bytes], connections: int) -> None:
        self.requests = requests
        self.latencies: list[float] = []
        self.statuses: Counter[bytes] = Counter()
        self.open = connections
        self.ended = asyncio.get_running_loop().create_future()

    def end_one(self, error: Exception | None = None) -> None:
        self.open -= 1
        if self.ended.done():
            return
        if error is not None:
            self.ended.set_exception(error)
        elif self.open == 0:
            self.ended.set_result(None)


class _Connection(asyncio.Protocol):
    """A connection with one request at a time: it sends the next one after the whole answer to the last."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._transport: asyncio.WriteTransport | None = None
        self._rest = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast without a check, because uvloop's transports are not instances of asyncio.Transport.
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._run.end_one(exc or ConnectionError("the server hung up"))

    def send_next(self) -> None:
        """Send the next request, or close the connection if none is left."""
        assert self._transport is not None
        request = next(self._run.requests, None)
        if request is None:
            self._transport.close()
            self._transport = None
            self._run.end_one()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        received_at = time.perf_counter()
        answer = self._rest + data if self._rest else data
        end = answer.find(_HEAD_END)
        length = _LENGTH.search(answer, 0, end) if end >= 0 else None
        if end < 0 or (length is not None and len(answer) < end + len(_HEAD_END) + int(length[1])):
            self._rest = answer
            return
        self._rest = b""
        run = self._run
        run.latencies.append(received_at - self._sent_at)
        run.statuses[answer[9:12]] += 1
        self.send_next()


async def _load(ports: Sequence[int], connections: int, requests: Sequence[bytes]) -> LoadReport:
    loop = asyncio.get_running_loop()
    run = _Run(iter(requests), connections)
    opened = [
        await loop.create_connection(lambda: _Connection(run), "127.0.0.1", ports[number % len(ports)])
        for number in range(connections)
    ]
    started, computed = time.perf_counter(), time.process_time()
    for _, connection in opened:
        connection.send_next()
    async with asyncio.timeout(_LIMIT_SECONDS):
        await run.ended
    seconds = time.perf_counter() - started
    return LoadReport(
        requests=len(requests),
        seconds=seconds,
        p50_ms=percentile(run.latencies, 50) * 1000,
        p99_ms=percentile(run.latencies, 99) * 1000,
        distribution_ms=distribution([latency * 1000 for latency in run.latencies]),
        busy=(time.process_time() - computed) / seconds,
        statuses={status.decode(): count for status, count in run.statuses.items()},
    )


def main() -> None:
    """Run the load that the arguments describe, and print its report."""
    ports, connections, file = [int(port) for port in sys.argv[1].split(",")], int(sys.argv[2]), Path(sys.argv[3])
    requests = [Target(**fields).request() for fields in json.loads(file.read_text())]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(_load(ports, connections, requests))
    sys.stdout.write(json.dumps(asdict(report)))


if __name__ == "__main__":
    main()
