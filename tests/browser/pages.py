"""The page, its own backend, and its results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from playwright.async_api import BrowserContext, Page, expect

from client.sandbox.serving import serving
from tests.contracts.check_streams import check_received
from tests.support import READ_ONLY

__all__ = ["Backend", "Shown", "backend", "opened"]

_PAGE = Path(__file__).parent / "page.html"
_MILLISECONDS = 15_000


@dataclass
class Backend:
    """The server of the page. It gets tickets from the receiver with a key, and the page never sees the key.

    `tickets` is how many it gave out.
    """

    receiver: str
    origin: str = ""
    tickets: int = 0

    async def page(self, _request: web.Request) -> web.FileResponse:
        """Return the page, for anyone."""
        return web.FileResponse(_PAGE)

    async def ticket(self, _request: web.Request) -> web.Response:
        """Return a ticket for a logged-in user. In the tests every visitor is logged in."""
        key = {"Authorization": f"Bearer {READ_ONLY}"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.receiver}/v1/tickets", headers=key, raise_for_status=True) as answer,
        ):
            self.tickets += 1
            return web.json_response({"ticket": (await answer.json())["ticket"]})


@asynccontextmanager
async def backend(receiver: str) -> AsyncIterator[Backend]:
    """Yield the page's backend. To a browser it is `localhost`, another host than the receiver's."""
    made = Backend(receiver)
    app = web.Application()
    app.router.add_get("/", made.page)
    app.router.add_post("/ticket", made.ticket)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
    async with serving(runner) as url:
        made.origin = url.replace("127.0.0.1", "localhost")
        yield made


@dataclass
class Shown:
    """An open page."""

    page: Page

    async def says(self, state: str) -> None:
        """Wait until the page shows this state of its connection."""
        await expect(self.page.locator("#state")).to_have_text(state, timeout=_MILLISECONDS)

    async def shows(self, refs: Sequence[str]) -> None:
        """Wait until the page shows exactly these results, in this order."""
        await expect(self.page.locator("#shown > li")).to_have_text(list(refs), timeout=_MILLISECONDS)

    async def frames(self) -> list[Any]:
        """Return all frames of the page, checked against the contract."""
        return [check_received(text) for text in await self.page.evaluate("received")]


async def opened(browser: BrowserContext, origin: str, *, way: str, receiver: str) -> Shown:
    """Return the page, reading from the receiver by "websocket" or by "events"."""
    page = await browser.new_page()
    async with asyncio.timeout(_MILLISECONDS / 1000):
        await page.goto(f"{origin}/?way={way}&receiver={receiver}")
    return Shown(page)
