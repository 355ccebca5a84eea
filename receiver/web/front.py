"""Callbacks before router, middleware and application, which cost as much as all other work for one.

Only a plain request that ends in the usual acknowledgement is answered here. The application answers all others. It
gets the response that is made already, so that it adds what it adds to every response.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from receiver.web.callbacks import RECEIVED, receive
from receiver.web.context import Runtime
from receiver.web.server.prebuilt import PrebuiltResponse

__all__ = ["Handler", "front"]

Handler = Callable[[Any], Awaitable[web.StreamResponse]]
"""A handler of the low-level `web.Server`."""

_PLAIN_PATH = re.compile(r"/callback/([a-z0-9]+)/([A-Za-z0-9_-]+)")
"""The spelling in our own URLs. The router knows the others."""


def front(runtime: Runtime, application: Handler) -> Handler:
    """Return the handler that takes plain callbacks and leaves everything else to `application`."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        path = _PLAIN_PATH.fullmatch(request.raw_path)
        if path is None or request.method != "POST" or "Expect" in request.headers:
            return await application(request)
        try:
            response = await receive(request, runtime, path[1], path[2])
        except Exception as error:
            request[RECEIVED] = error
        else:
            if isinstance(response, PrebuiltResponse):
                return response
            request[RECEIVED] = response
        return await application(request)

    return handle
