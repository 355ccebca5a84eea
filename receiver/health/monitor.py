"""The loop that judges a running receiver once a minute, as `doctor` does, and sends notices of its problems."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

import structlog
from pydantic_core import from_json, to_json

from client.providers import Dialect
from receiver.domain.polls import Remember
from receiver.errors import CannotStartError, ReceiverError
from receiver.health.balances import Balances
from receiver.health.facts import OBSERVED, observed_json, read_local_facts
from receiver.health.findings import CanaryFailure, Facts, Observed, ProbeResult, judge
from receiver.health.notices import Notices
from receiver.health.services import NoticeService
from receiver.health.threads import SideThread
from receiver.settings import Settings
from receiver.storage.store import Store

__all__ = ["Monitor", "receiver_name"]

_ROUND_SECONDS = 60.0
_READ_SECONDS = 30.0
_NOTICES = "notices"

_log = structlog.get_logger()


class Monitor:
    """The observations of a running receiver, and the notices of its problems.

    `canary` is set by the one that sends callbacks to this receiver itself: the last failure, or None. `count` gets
    "sent" or "lost" for each notice and service. `now` returns microseconds since 1970.
    """

    def __init__(
        self,
        settings: Settings,
        dialects: Mapping[str, Dialect],
        store: Store,
        *,
        balances: Balances,
        services: Sequence[NoticeService],
        count: Callable[[str], None],
        now: Callable[[], int],
    ) -> None:
        self.canary: CanaryFailure | None = None
        self._settings = settings
        self._dialects = dialects
        self._store = store
        self.balances = balances
        self._services = services
        self._count = count
        self._now = now
        self._notices = Notices(receiver_name(settings))
        self._thread = SideThread("health")
        self._kept: dict[str, str] = {}
        self.restored = asyncio.Event()

    async def run(self) -> None:
        """Look once a minute and send what is new, until cancelled."""
        await self._restore()
        self.restored.set()
        async with asyncio.TaskGroup() as owner:
            owner.create_task(self.balances.run(), name="balances")
            for service in self._services:
                owner.create_task(service.run(self._count), name=f"notices {service.name}")
            while True:
                await asyncio.sleep(_ROUND_SECONDS)
                try:
                    await self.look()
                except Exception:
                    # Nothing that this loop does is worth the end of the receiver.
                    _log.exception("health.not_judged")

    async def look(self) -> None:
        """Keep the observations, and put out a notice if there is news."""
        await self._keep(OBSERVED, observed_json(self._observed))
        if not self._services:
            return
        facts, is_whole = await self._facts()
        message = self._notices.look(judge(facts), facts.now, is_whole=is_whole)
        if message is not None:
            for service in self._services:
                service.put(message, self._count)
            await self._keep(_NOTICES, to_json(self._notices.as_json()).decode())

    @property
    def _observed(self) -> Observed:
        return Observed(tuple(self.balances.known.values()), self.canary)

    async def _facts(self) -> tuple[Facts, bool]:
        """Return the facts of `doctor`, and False if the database could not be read: that is a failing store, too."""
        now = self._now()
        failure, is_whole = self._store.failure, True
        try:
            facts, _ = await self._thread.run(
                lambda: read_local_facts(self._settings, self._dialects, now=now), within_seconds=_READ_SECONDS
            )
        except TimeoutError:
            failure, is_whole = failure or f"its files were not read within {_READ_SECONDS:g} s", False
        except (CannotStartError, OSError) as error:
            failure, is_whole = failure or str(error), False
        if not is_whole:
            facts = _unread(now)
        ready = ProbeResult(200, "") if failure is None else ProbeResult(503, failure)
        return replace(facts, ready=ready, observed=self._observed), is_whole

    async def _restore(self) -> None:
        try:
            text = await self._store.remembered(_NOTICES)
            if text is not None:
                self._kept[_NOTICES] = text
                self._notices.restore(from_json(text))
        except (ReceiverError, TypeError, ValueError) as error:
            _log.warning("notices.not_restored", reason=type(error).__name__)

    async def _keep(self, name: str, text: str) -> None:
        if self._kept.get(name) == text:
            return
        try:
            await self._store.write(Remember(name=name, text=text))
        except ReceiverError:
            # The store says so itself, and the next round tries again.
            return
        self._kept[name] = text


def receiver_name(settings: Settings) -> str:
    """Return a name of this receiver for its notices: that of its public host."""
    return urlsplit(settings.public_url or "").hostname or "callback-receiver"


def _unread(now: int) -> Facts:
    return Facts(
        now=now,
        is_writable=True,
        is_private=True,
        wal_bytes=0,
        free_bytes=2**62,
        newest_task=None,
        public_url=None,
        is_public_url_local=False,
        scopes=None,
    )
