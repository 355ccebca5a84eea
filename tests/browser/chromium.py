"""The installed Chromium, without a window."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import BrowserContext, async_playwright

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
    """Yield a new browser with an empty profile. If none is installed, skip the test, unless REQUIRE_BROWSER=1."""
    program = _program()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        try:
            yield await browser.new_context()
        finally:
            await browser.close()


def _program() -> str:
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        reason = f"no browser is installed, none of {', '.join(_NAMES)} is there (Debian's package is chromium)"
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(f"REQUIRE_BROWSER=1, but {reason}")
        pytest.skip(reason)
    return found
