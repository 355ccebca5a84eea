"""A page of another origin follows the results by websocket and by server-sent events, and misses nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import BrowserContext

from tests.browser.chromium import browsing
from tests.browser.pages import Backend, Shown, backend, opened
from tests.client.support import reserved_port
from tests.proxy import Proxy, running_proxy
from tests.support import RunningReceiver, eventually, running_receiver

pytestmark = [pytest.mark.browser, pytest.mark.parametrize("way", ["websocket", "events"])]

LOST = {"websocket": "closed 1006", "events": "reconnecting"}
REFUSED = {"websocket": "closed 1006", "events": "closed"}


@dataclass
class World:
    """A receiver, the network between it and a browser, and the backend of an allowed page."""

    browser: BrowserContext
    backend: Backend
    api: RunningReceiver
    network: Proxy

    async def opened(self, way: str, backend: Backend) -> Shown:
        """Return the page of this backend."""
        return await opened(self.browser, backend.origin, way=way, receiver=self.network.url)

    async def ended(self, number: int = 1) -> list[str]:
        """Return the refs of this number of ended tasks."""
        return [await ended(self.api) for _ in range(number)]

    def lose_network(self) -> None:
        """Cut all connections, and refuse new ones until `network.refuses` is taken back."""
        self.network.refuses = True
        self.network.cut()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Yield a receiver, its network and an allowed page's backend, all running."""
    with reserved_port() as port:
        async with (
            browsing() as browser,
            backend(f"http://127.0.0.1:{port}") as allowed,
            running_receiver(tmp_path / "receiver.db", port=port, allowed_origins=allowed.origin) as api,
            running_proxy(api.url) as network,
        ):
            yield World(browser, allowed, api, network)


async def ended(api: RunningReceiver) -> str:
    """Return the ref of an ended task."""
    registered = await api.register()
    await api.call_back(registered["callbackUrl"])
    return str(registered["ref"])


async def result_refs(page: Shown) -> list[str]:
    """Return the refs of all results in the order of the page, with repetitions."""
    return [frame["task"]["ref"] for frame in await page.frames() if frame["type"] == "result"]


async def test_a_page_whose_connections_are_cut_misses_nothing(world: World, way: str) -> None:
    """Once the page gets through again, it resumes at its cursor and gets each result once, in order."""
    page = await world.opened(way, world.backend)
    await page.says("open")
    refs = await world.ended(3)
    await page.shows(refs)

    world.lose_network()
    await page.says(LOST[way])
    refs += await world.ended(5)
    world.network.refuses = False
    await page.shows(refs)

    refs += await world.ended()
    await page.shows(refs)
    assert await result_refs(page) == refs


async def test_a_browser_that_is_offline_for_a_while_misses_nothing(world: World, way: str) -> None:
    """The page misses nothing even if the browser itself reports that it is offline."""
    page = await world.opened(way, world.backend)
    await page.says("open")
    refs = await world.ended()
    await page.shows(refs)

    await world.browser.set_offline(True)
    world.network.cut()
    await page.says(LOST[way])
    refs += await world.ended(3)
    await world.browser.set_offline(False)

    await page.shows(refs)
    assert await result_refs(page) == refs


async def test_a_page_outlives_a_restart_of_the_receiver(world: World, way: str, tmp_path: Path) -> None:
    """The old ticket is no longer valid. The page gets another one and resumes at its cursor."""
    page = await world.opened(way, world.backend)
    await page.says("open")
    refs = await world.ended(2)
    await page.shows(refs)

    world.network.refuses = True
    await world.api.stop()
    async with running_receiver(
        tmp_path / "receiver.db", port=urlsplit(world.api.url).port or 0, allowed_origins=world.backend.origin
    ) as world.api:
        refs += await world.ended(3)
        world.network.refuses = False
        await page.shows(refs)
        refs += await world.ended()
        await page.shows(refs)

    assert await result_refs(page) == refs
    assert "goodbye" in [frame["type"] for frame in await page.frames()]


async def test_a_page_of_another_origin_is_refused(world: World, way: str) -> None:
    """Even with a valid ticket, that page gets nothing. The allowed page goes on."""
    async with backend(world.api.url) as other:
        allowed, refused = await world.opened(way, world.backend), await world.opened(way, other)
        await refused.says(REFUSED[way])
        await allowed.says("open")
        await allowed.shows(await world.ended(2))
        tried = other.tickets
        await eventually(lambda: other.tickets >= tried + 2)

        assert await refused.frames() == []
