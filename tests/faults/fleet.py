"""Three receivers as processes over one PostgreSQL database, behind the real Caddy with the Caddyfile of deploy/."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals

from tests.deploy.proxies import Proxied, running_proxy
from tests.support import Api, ReceiverProcess, free_port, receiver_process

__all__ = ["STOP_DELAY_SECONDS", "Fleet", "running_fleet"]

_RECEIVERS = 3
STOP_DELAY_SECONDS = 6
"""RECEIVER_STOP_DELAY_SECONDS, as in the files of deploy/: more than a health check of Caddy takes."""


@dataclass
class Fleet:
    """Receivers behind a balancer. `public_url` is its port without TLS, where callbacks arrive."""

    database: str
    folder: Path
    ports: list[int]
    balancer: Proxied
    public_url: str
    settings: Mapping[str, str]
    stack: AsyncExitStack
    running: dict[int, ReceiverProcess] = field(default_factory=dict)
    ended: list[ReceiverProcess] = field(default_factory=list)

    @property
    def processes(self) -> list[ReceiverProcess]:
        """All processes, those that have ended too."""
        return [*self.ended, *self.running.values()]

    def api(self, number: int) -> Api:
        """Return requests to one receiver, past the balancer."""
        return Api(f"http://127.0.0.1:{self.ports[number]}", self.balancer.session)

    async def start(self, number: int) -> None:
        """Start a receiver at its port."""
        self.running[number] = await self.stack.enter_async_context(
            receiver_process(
                self.folder / "none.db",
                port=self.ports[number],
                url=self.database,
                public_url=self.public_url,
                stop_delay_seconds=str(STOP_DELAY_SECONDS),
                variables={f"RECEIVER_{name.upper()}": text for name, text in self.settings.items()},
            )
        )

    async def stop(self, number: int, signal: Signals = SIGTERM) -> int:
        """End a receiver. Return its exit code."""
        process = self.running.pop(number)
        self.ended.append(process)
        return await process.stop(signal)


@asynccontextmanager
async def running_fleet(
    database: str, folder: Path, *, balancer: str = "caddy", settings: Mapping[str, str] | None = None
) -> AsyncIterator[Fleet]:
    """Yield three receivers that the balancer knows. `settings` are theirs, without the prefix of the variables."""
    ports = [free_port() for _ in range(_RECEIVERS)]
    async with AsyncExitStack() as stack:
        proxied = await stack.enter_async_context(running_proxy(balancer, ports, folder / "proxy"))
        port = proxied.plain_url.rpartition(":")[2]
        fleet = Fleet(database, folder, ports, proxied, f"http://127.0.0.1:{port}", settings or {}, stack)
        for number in range(_RECEIVERS):
            await fleet.start(number)
        async with proxied.session.get(f"{proxied.url}/readyz") as response:
            assert response.status == 200, await response.text()
        yield fleet
