"""The installed Chromium, without a window."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import BrowserContext, async_playwright

from tests.tools import tool

__all__ = ["browsing"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What Chromium does of itself would look for hosts of its maker's.
_ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)


@asynccontextmanager
async def browsing() -> AsyncIterator[BrowserContext]:
    """Yield a new browser with an empty profile. If none is installed, skip the test, unless REQUIRE_TOOLS=1."""
    program = tool(*_NAMES, package="chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        try:
            yield await browser.new_context()
        finally:
            await browser.close()
