"""`/healthz` (the process answers) and `/readyz` (it can store)."""

from __future__ import annotations

from aiohttp import web

from receiver.web.context import CONTEXT
from receiver.web.views import json_response

__all__ = ["healthz", "readyz"]


async def healthz(_request: web.Request) -> web.Response:
    """200 while the process lives."""
    return json_response({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """200 while the last commit, or the probe that is made every 5 s, succeeded; 503 with the reason otherwise."""
    failure = request.app[CONTEXT].inbox.failure
    if failure is not None:
        return json_response({"status": "not ready", "reason": failure}, 503)
    return json_response({"status": "ready"})
