"""`GET /2captcha.txt`: proof that the host is the account's own.

2captcha asks for it at the root of the host before it calls back there (two independent implementations serve it;
PROVIDERS.md 2.2). Its name and its text are settings, because those of other services are not known.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

__all__ = ["verification"]


def verification(text: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler that answers with this text, as it is."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=text, content_type="text/plain", headers={"Cache-Control": "no-store"})

    return answer
